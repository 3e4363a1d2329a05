"""Stage 4 of 4. In: classified ``cells.zarr``. Out: ``differential.json``, ``report.html`` and ``cells.csv``.

``differential`` computes percentages and intervals from counts, ``gates`` checks the quality of the sample, and
``document`` combines both in one record. ``html`` and ``tables`` display it. ``evaluate`` compares a sample with its
ground truth.
"""

__all__ = ["evaluate_sample", "write_report"]


def __getattr__(name: str) -> object:
    # Imported on first use: zarr must not load for `wbcpipe --help`.
    if name == "write_report":
        from wbcpipe.report.stage import write_report

        return write_report
    if name == "evaluate_sample":
        from wbcpipe.report.evaluate import evaluate_sample

        return evaluate_sample
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
