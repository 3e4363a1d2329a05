"""What a microscope is by measurement: ``wbcpipe calibrate``.

In: an opened microscope with a stained slide on it. Out: one JSON file below ``<data root>/calibration`` with figures
and their uncertainties, which `wbcpipe doctor` holds against the scope file.
"""

from wbcpipe.acquire.calibration.compare import Finding, check_calibration, compare
from wbcpipe.acquire.calibration.record import calibration_path, calibration_reference, load_calibration

__all__ = [
    "Finding",
    "calibration_path",
    "calibration_reference",
    "check_calibration",
    "compare",
    "load_calibration",
]
