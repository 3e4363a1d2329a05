"""Stage 1 of 4. In: a slide on a microscope. Out: one OME-TIFF per field, under ``raw/<pass>``.

The plan says where the fields lie, the scope file what the microscope is; a worker process drives
it.
"""

__all__: list[str] = []
