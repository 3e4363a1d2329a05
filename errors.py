"""Errors with a meaning for the user: one class, one line of text, one exit code.

The message says what happened, where, and what to do. The documentation lists the exit codes from
this module; ``0`` is success, ``1`` is a defect in wbcpipe itself (a traceback is shown with
``--debug``), ``2`` a mistake in the command line.
"""

from typing import ClassVar

__all__ = [
    "AcquisitionError",
    "BatchBusyError",
    "BatchCheckError",
    "BatchFailedError",
    "BatchIncompleteError",
    "BucketNotFoundError",
    "BundleError",
    "BundleMismatchError",
    "ClusterError",
    "ConfigError",
    "CoreLostError",
    "CorruptObjectError",
    "CredentialsError",
    "DamagedDataError",
    "DeliveryError",
    "DeviceCrashError",
    "DeviceTimeoutError",
    "DiskFullError",
    "DocumentError",
    "DroppedFrameError",
    "FieldsFreedError",
    "FrameFileError",
    "HardwareBusyError",
    "HardwareError",
    "IdentityError",
    "ImportDataError",
    "IncompleteUploadError",
    "InterruptedRunError",
    "LoaderStateError",
    "MissingPackageError",
    "NoCellsError",
    "ProcessFailedError",
    "ProcessIncompleteError",
    "RemotePermissionError",
    "RemoteStorageError",
    "SampleBusyError",
    "SampleNameError",
    "SampleStateError",
    "ScopeNotFoundError",
    "StageLimitError",
    "StorageError",
    "TrainingDataError",
    "WbcpipeError",
    "WorklistError",
]


class WbcpipeError(Exception):
    """Base of all errors with a meaning for the user; never raised directly."""

    exit_code: ClassVar[int] = 1


class SampleNameError(WbcpipeError, ValueError):
    """The sample name has characters or a form that are not allowed."""

    exit_code = 10


class SampleStateError(WbcpipeError, RuntimeError):
    """The sample lacks a file that a stage needs, has a damaged file, or contradicts the
    command.
    """

    exit_code = 11


class SampleBusyError(WbcpipeError, RuntimeError):
    """Another process uses the sample."""

    exit_code = 12


class DiskFullError(WbcpipeError, OSError):
    """The disk is full, or too small for the files of a stage."""

    exit_code = 13


class StorageError(WbcpipeError, OSError):
    """The storage refuses a file, or does not answer, for longer than it is waited for."""

    exit_code = 15


class DamagedDataError(WbcpipeError, RuntimeError):
    """`wbcpipe verify` found damaged or missing files."""

    exit_code = 14


class ScopeNotFoundError(WbcpipeError, LookupError):
    """There is no scope file of that name."""

    exit_code = 20


class ConfigError(WbcpipeError, ValueError):
    """A scope file, a plan or an option is not valid."""

    exit_code = 21


class MissingPackageError(ConfigError, ImportError):
    """A package that the command needs is not installed; the text says how to install it."""

    exit_code = 3


class StageLimitError(WbcpipeError, ValueError):
    """A stage or focus position is outside the limits of the scope."""

    exit_code = 22


class HardwareError(WbcpipeError, RuntimeError):
    """A device or the core reported an error, or is missing."""

    exit_code = 23


class DeviceTimeoutError(HardwareError, TimeoutError):
    """A device missed its deadline."""

    exit_code = 24


class DeviceCrashError(HardwareError):
    """A device driver crashed the process that controls the core."""

    exit_code = 25


class DroppedFrameError(HardwareError):
    """The camera gave fewer frames than it was asked for."""

    exit_code = 27


class AcquisitionError(WbcpipeError, RuntimeError):
    """Acquisition ended without the fields that were asked for."""

    exit_code = 26


class CoreLostError(DeviceCrashError):
    """The Micro-Manager core does not answer, or its devices cannot be initialised again in this
    process.
    """

    exit_code = 28


class HardwareBusyError(HardwareError):
    """Another process drives the microscope."""

    exit_code = 29


class FrameFileError(WbcpipeError, ValueError):
    """A raw image file is truncated, damaged or from another program."""

    exit_code = 30


class NoCellsError(WbcpipeError, RuntimeError):
    """There is no cell to segment, classify or report."""

    exit_code = 31


class ImportDataError(WbcpipeError, ValueError):
    """The images cannot be imported."""

    exit_code = 32


class BundleError(WbcpipeError, ValueError):
    """A model bundle is missing, damaged, or does not fit the cells."""

    exit_code = 40


class TrainingDataError(WbcpipeError, ValueError):
    """The labelled cells cannot train the network."""

    exit_code = 41


class WorklistError(WbcpipeError, ValueError):
    """A worklist cannot be read, or asks for something that is not possible.

    The text has every line number.
    """

    exit_code = 50


class BatchIncompleteError(WbcpipeError, RuntimeError):
    """A batch ended, and some of its samples have no result."""

    exit_code = 51


class BatchFailedError(WbcpipeError, RuntimeError):
    """A batch ended, and none of its samples has a result."""

    exit_code = 52


class BatchBusyError(WbcpipeError, RuntimeError):
    """Another process runs the batch."""

    exit_code = 53


class BatchCheckError(WbcpipeError, RuntimeError):
    """The check before the first slide failed: nothing was scanned."""

    exit_code = 54


class IdentityError(WbcpipeError, RuntimeError):
    """The label of the slide on the stage is not that of the sample, or cannot be read."""

    exit_code = 55


class LoaderStateError(HardwareError):
    """A slide may be half loaded: only a person at the microscope can tell."""

    exit_code = 56


class DocumentError(WbcpipeError, ValueError):
    """A document for a laboratory system is not valid; the text names its line."""

    exit_code = 60


class DeliveryError(WbcpipeError, RuntimeError):
    """A message waits: the laboratory system did not answer, or refused it."""

    exit_code = 61


class ClusterError(WbcpipeError, RuntimeError):
    """The scheduler of a cluster does not answer or was lost, or its workers cannot be used."""

    exit_code = 77


class ProcessIncompleteError(WbcpipeError, RuntimeError):
    """`wbcpipe process` ended, and some of the samples have no result."""

    exit_code = 78


class ProcessFailedError(WbcpipeError, RuntimeError):
    """`wbcpipe process` ended, and none of the samples has a result, for several reasons."""

    exit_code = 79


class BundleMismatchError(BundleError):
    """A bundle fits none of the samples."""

    exit_code = 80


class InterruptedRunError(WbcpipeError, RuntimeError):
    """The operator or a signal stopped the run; the same command resumes it.

    The command ends with 130 after Ctrl-C, 143 after SIGTERM and 129 after SIGHUP.
    """

    exit_code = 130


class RemoteStorageError(WbcpipeError, OSError):
    """The object storage cannot be reached, or answers with an error."""

    exit_code = 70


class BucketNotFoundError(RemoteStorageError):
    """There is no bucket of that name."""

    exit_code = 71


class CredentialsError(RemoteStorageError):
    """The object storage refuses the credentials, or there are none."""

    exit_code = 72


class RemotePermissionError(RemoteStorageError):
    """The credentials do not allow the request."""

    exit_code = 73


class IncompleteUploadError(WbcpipeError, RuntimeError):
    """A sample is not in the bucket, or not all of it."""

    exit_code = 74


class CorruptObjectError(WbcpipeError, ValueError):
    """An object is missing, cut short, or not what its manifest says."""

    exit_code = 75


class FieldsFreedError(SampleStateError):
    """The raw fields of a sample were freed here; they are in a bucket."""

    exit_code = 76
