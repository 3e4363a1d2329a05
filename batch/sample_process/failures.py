"""What a failure of a sample means for the batch."""

from __future__ import annotations

from typing import Final

import wbcpipe.errors
from wbcpipe.errors import HardwareError

__all__ = [
    "BUSY",
    "DISK_FULL",
    "MAX_SAME_FAULTS",
    "MicroscopeFaults",
    "is_hardware_error",
    "is_permanent",
]

#: Errors that another attempt of the same row cannot mend.
_PERMANENT: Final = frozenset(
    {
        "BundleError",
        "ConfigError",
        "IdentityError",
        "ImportDataError",
        "NoCellsError",
        "SampleNameError",
        "SampleStateError",
        "ScopeNotFoundError",
        "StageLimitError",
        "WorklistError",
    }
)
#: Errors of another program that uses the same thing: the next attempt waits a little.
BUSY: Final = frozenset({"SampleBusyError", "HardwareBusyError"})
DISK_FULL: Final = "DiskFullError"
#: A slide may be half loaded: only a person can tell, and no other slide can be brought before.
LOADER: Final = "LoaderStateError"
#: So many samples in a row with the same hardware error stop the scanning.
MAX_SAME_FAULTS: Final = 3


def is_permanent(error: str) -> bool:
    """Return whether another attempt cannot mend an error, given its class."""
    return error in _PERMANENT


def is_hardware_error(error: str) -> bool:
    """Return whether an error, given its class, is of the microscope.

    >>> [is_hardware_error(name) for name in ("DeviceTimeoutError", "NoCellsError", "KeyError")]
    [True, False, False]
    """
    found = getattr(wbcpipe.errors, error, None) if error in wbcpipe.errors.__all__ else None
    return found is not None and issubclass(found, HardwareError)


class MicroscopeFaults:
    """Counts the samples in a row that failed with the same hardware error."""

    def __init__(self) -> None:
        self._error = ""
        self._samples: list[str] = []

    def scanned(self) -> None:
        """Note that a sample was scanned: the microscope works."""
        self._error, self._samples = "", []

    def failed(self, sample: str, error: str) -> bool:
        """Note that a sample failed; return whether the scanning must stop.

        Args:
            sample: its name; attempts of the same one count once.
            error: its class. One that is not of the microscope says nothing about it.
        """
        if not is_hardware_error(error):
            return False
        if error == LOADER:
            return True
        if error != self._error:
            self._error, self._samples = error, []
        if sample not in self._samples:
            self._samples.append(sample)
        return len(self._samples) >= MAX_SAME_FAULTS
