"""Give fields and cells to other programs: OME-Zarr for viewers, AnnData for analysis, GeoJSON for
QuPath.
"""
