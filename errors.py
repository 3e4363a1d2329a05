"""Every failure a user can cause or meet: one class, one line of text, one exit code.

The message says what happened, where, and what to do. Exit codes are listed in the README; ``0`` is success,
``1`` is a defect in wbcpipe itself (a traceback is shown with ``--debug``), ``2`` a mistake in the command line.
"""

from typing import ClassVar

__all__ = [
    "AcquisitionError",
    "BundleError",
    "ConfigError",
    "CoreLostError",
    "DeviceCrashError",
    "DeviceTimeoutError",
    "DiskFullError",
    "DroppedFrameError",
    "FrameFileError",
    "HardwareBusyError",
    "HardwareError",
    "ImportDataError",
    "InterruptedRunError",
    "NoCellsError",
    "SampleBusyError",
    "SampleNameError",
    "SampleStateError",
    "ScopeNotFoundError",
    "StageLimitError",
    "TrainingDataError",
    "WbcpipeError",
]


class WbcpipeError(Exception):
    """Base of all errors with a meaning for the user; never raised itself."""

    exit_code: ClassVar[int] = 1


class SampleNameError(WbcpipeError, ValueError):
    """A sample name with characters or a form that is refused."""

    exit_code = 10


class SampleStateError(WbcpipeError, RuntimeError):
    """The sample directory lacks what a stage needs, or holds what contradicts the command."""

    exit_code = 11


class SampleBusyError(WbcpipeError, RuntimeError):
    """Another process works on the sample."""

    exit_code = 12


class DiskFullError(WbcpipeError, OSError):
    """The disk has no room for what the stage would write."""

    exit_code = 13


class ScopeNotFoundError(WbcpipeError, LookupError):
    """No scope file of that name."""

    exit_code = 20


class ConfigError(WbcpipeError, ValueError):
    """A scope file, a plan or an option that does not hold."""

    exit_code = 21


class StageLimitError(WbcpipeError, ValueError):
    """A stage or focus position outside the scope's limits."""

    exit_code = 22


class HardwareError(WbcpipeError, RuntimeError):
    """A device or the core refused, failed, or is missing."""

    exit_code = 23


class DeviceTimeoutError(HardwareError, TimeoutError):
    """A device did not finish before its deadline."""

    exit_code = 24


class DeviceCrashError(HardwareError):
    """A driver took down the process that talks to the core."""

    exit_code = 25


class DroppedFrameError(HardwareError):
    """The camera gave fewer frames than it was asked for."""

    exit_code = 27


class AcquisitionError(WbcpipeError, RuntimeError):
    """Acquisition ended without the fields it was asked for."""

    exit_code = 26


class CoreLostError(DeviceCrashError):
    """The Micro-Manager core answers no more, or its devices do not come back; another process may reach them."""

    exit_code = 28


class HardwareBusyError(HardwareError):
    """Another process drives the microscope."""

    exit_code = 29


class FrameFileError(WbcpipeError, ValueError):
    """A raw image file that is truncated, damaged or not ours."""

    exit_code = 30


class NoCellsError(WbcpipeError, RuntimeError):
    """Nothing to segment, classify or report."""

    exit_code = 31


class ImportDataError(WbcpipeError, ValueError):
    """Pictures given to ``import`` that cannot be used."""

    exit_code = 32


class BundleError(WbcpipeError, ValueError):
    """A model bundle that is missing, damaged, or does not fit the cells."""

    exit_code = 40


class TrainingDataError(WbcpipeError, ValueError):
    """Labelled cells that cannot train the network asked for."""

    exit_code = 41


class InterruptedRunError(WbcpipeError, RuntimeError):
    """The operator stopped the run; the same command goes on."""

    exit_code = 130
