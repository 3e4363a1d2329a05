"""Stage 2 of 4. In: fields of view, ``raw/<pass>/field_*.ome.tif``. Out: the white cells, ``cells.zarr``.

Flat-field, register the frames of a field to each other, find the nucleated cells, cut them out at the model's pixel
size, measure their quality. Pictures made elsewhere come in through ``imports``.
"""

__all__: list[str] = []
