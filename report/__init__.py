"""Stage 4 of 4. In: classified ``cells.zarr``.

Out: ``differential.json``, ``report.html`` and ``cells.csv``.

``differential`` computes percentages and intervals from counts, ``gates`` checks the quality of the
sample, and ``document`` combines both in one record. ``html`` and ``tables`` display it.
``evaluate`` compares a sample with its ground truth.
"""

__all__: list[str] = []
