"""Stage 2 of 4. In: fields of view, ``raw/<pass>/field_*.ome.tif``.

Out: the white cells, ``cells.zarr``.
"""

__all__: list[str] = []
