"""What to do about an error, a failed gate or an event: one table each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wbcpipe.samples.differential_record import GateName

__all__ = [
    "ERROR_ADVICE",
    "EVENT_ADVICE",
    "GATE_ADVICE",
    "NO_SAMPLE_ERRORS",
    "QC_ADVICE",
    "advice_for",
]

#: Errors of a command line, a batch or another command: no sample can be quarantined for one.
NO_SAMPLE_ERRORS: Final = frozenset(
    {
        "WbcpipeError",
        "InterruptedRunError",
        "TrainingDataError",
        "WorklistError",
        "BatchIncompleteError",
        "BatchFailedError",
        "BatchBusyError",
        "BatchCheckError",
        "DamagedDataError",
        "DeliveryError",
        "DocumentError",
        "RemoteStorageError",
        "BucketNotFoundError",
        "CredentialsError",
        "RemotePermissionError",
        "IncompleteUploadError",
        "CorruptObjectError",
        "ClusterError",
        "ProcessIncompleteError",
        "ProcessFailedError",
        "BundleMismatchError",
    }
)

_RETRY: Final = "then `wbcpipe batch retry {sample}`"
#: Name of an error class, or of what the supervisor calls the end of a process, to what the
#: operator should do; ``{sample}`` is replaced.
ERROR_ADVICE: Final[Mapping[str, str]] = {
    "AcquisitionError": "Look at the slide: dry smear, oil and label side up? Check the scan area "
    f"of the slot and the focus at one corner, {_RETRY}.",
    "BundleError": "Check the bundle's name in the worklist with `wbcpipe bundles`, and its file "
    f"with `wbcpipe bundles verify`, {_RETRY}.",
    "ConfigError": f"Correct the scope file or the worklist as the text says; `wbcpipe doctor` "
    f"checks it; {_RETRY}.",
    "CoreLostError": f"Switch the microscope and its camera off and on, run `wbcpipe doctor`, "
    f"{_RETRY}.",
    "DeviceCrashError": "A device driver crashed repeatedly. Update it or its adapter, run "
    f"`wbcpipe doctor`, {_RETRY}. Fields already taken are kept.",
    "DeviceTimeoutError": "Check the device's power and cable (a USB hub without its own power is "
    f"a common cause), run `wbcpipe doctor`, {_RETRY}.",
    "DiskFullError": f"Free space at the data folder, {_RETRY}; nothing that was written is lost.",
    "DroppedFrameError": "The computer or the USB bus was too slow for the camera: give the "
    "camera a port of its own, "
    f'or set `sequencing = "off"` in the scope file, {_RETRY}.',
    "FieldsFreedError": "Bring the sample's fields back with `wbcpipe sync {sample} --from`, "
    f"{_RETRY}.",
    "FrameFileError": "Check the disk (a raw image is damaged). Move the file that the text names "
    f"out of raw/, {_RETRY}: the field is taken again.",
    "HardwareBusyError": f"Close the other program that drives the microscope, {_RETRY}.",
    "HardwareError": f"Check the device that the text names, run `wbcpipe doctor`, {_RETRY}.",
    "IdentityError": "Compare the slide in this slot with the worklist. If the slide is right and "
    f"its label is unreadable, clean or replace the label, {_RETRY}. If slides were mixed up, "
    f"check the neighbouring slots too.",
    "ImportDataError": f"Check the imported images that the text names, {_RETRY}.",
    "LoaderStateError": "See where the slide is, put it right by hand, and state what lies on the "
    f"stage with `wbcpipe loader state --slide ID` or `--empty`, {_RETRY}.",
    "MissingPackageError": f"Install the package as the text says, {_RETRY}.",
    "NoCellsError": "Look at the slide: is it stained, in focus, and are there white cells in the "
    "scan area? If only the first fields are empty, raise `fields` or `cells` of its row in the "
    f"worklist, {_RETRY} and the same `wbcpipe batch run`. For another area or a new smear, add it "
    "under another sample name with `wbcpipe batch add`, and take this one out with `wbcpipe "
    "batch skip {sample}`.",
    "SampleBusyError": f"Another wbcpipe process uses this sample: end it, {_RETRY}.",
    "SampleNameError": "Correct the sample's name in the worklist, and add the slide again with "
    "`wbcpipe batch add`.",
    "SampleStateError": "The sample's folder contradicts the worklist or has a damaged file: do "
    f"what the text says, {_RETRY}.",
    "ScopeNotFoundError": f"Put the scope file into the folder that WBCPIPE_SCOPES names, "
    f"{_RETRY}.",
    "StorageError": "Check the disk or the network share that the text names, and that the "
    f"program may write there, {_RETRY}; nothing that was written is lost.",
    "DeadlineError": "Its deadline passed before its turn: give it a later one or a higher "
    f"priority in the worklist, {_RETRY}.",
    "MemoryLimitError": f"Close other programs, or raise --memory-limit, {_RETRY}.",
    "OutOfMemoryError": f"The computer needs more memory, or fewer programs beside wbcpipe; "
    f"{_RETRY}.",
    "ProcessCrashError": "Most often a device driver crashes: update it, run `wbcpipe doctor`, "
    f"{_RETRY}. Fields already taken are kept.",
    "ProcessHungError": "A device or its driver hangs: switch the microscope off and on, run "
    f"`wbcpipe doctor`, {_RETRY}.",
    "ProcessKilledError": f"Ask who ended the process, and look at the computer's memory; "
    f"{_RETRY}.",
    "StageLimitError": f"Correct the slot's scan area, or the stage's limits, in the scope file, "
    f"{_RETRY}.",
}
_UNKNOWN: Final = (
    "Run `wbcpipe run --sample {sample} --debug` for the details, and report it as "
    "a defect of wbcpipe."
)

#: Name of a quality gate to what the operator should do.
GATE_ADVICE: Final[Mapping[GateName, str]] = {
    "cells_counted": "Too few cells: ask for more cells or a later deadline, or scan an area with "
    "more white cells.",
    "unidentified_percent": "Look at the unidentified cells in the report: focus, stain, or cells "
    "that the model does not know.",
    "blurred_percent": "Check that the slide lies flat, and clean the objective; then scan the "
    "slide again.",
    "unregistered_percent": "Check the stage and the lamps: did the slide move between the frames "
    "of a field?",
    "saturated_cells_percent": "Shorten the exposure of the modality that saturates, or run "
    "`wbcpipe calibrate`.",
    "doublets_percent": "The smear is too thick there: choose another scan area.",
    "missing_fields_percent": "See the reasons of the missing fields in the report; `wbcpipe "
    "batch retry` takes them again.",
    "head_disagreement": "Check registration and lamps: the modalities contradict each other. If "
    "both are in order, the model does not know this stain: label cells and train a bundle.",
    "accepted_percent": "Much debris or many cut cells: check the smear, and the scan area's "
    "borders.",
    "failed_fields_percent": "See the fields beyond a limit in the report: part of the slide may "
    "be dirty or out of focus.",
    "blur_um": "Check focus and clean the objective; run `wbcpipe calibrate` if other slides are "
    "blurred too.",
    "saturated_percent": "Shorten the exposure, or look for a bubble or a scratch on the slide.",
    "residual_px": "Run `wbcpipe calibrate`: the modalities do not lie on one another.",
    "nuclear_contrast_percent": "Weak stain or weak lamp: check the Acridine Orange and the "
    "fluorescence lamp.",
    "nucleus_cytoplasm_contrast_ratio": "Check the stain's concentration and time of incubation.",
    "red_cover_percent": "The smear is too thick there: choose another scan area.",
    "light_drift_percent": "A lamp drifts: let it warm up, check its age with `wbcpipe qc`.",
    "error_bound_percent": "See the warnings of the report; if there is none, the bundle was "
    "tested on too few cells: label more cells and train it again.",
    "clumps_percent": "Many white cells lie on one another: dilute the sample, or choose another "
    "scan area.",
    "cells_per_mm2": "More white cells than blood has on a film: check the pixel size, and "
    "whether red cells or dirt are taken for white cells; of a buffy coat, set the limit in "
    "`[quality]`.",
    "white_per_100_red": "More white cells than blood has: red cells may be taken for white ones; "
    "look at the cells in the report, and at the stain.",
    "min_nucleus_um2": "Nuclei smaller than those of blood: check the pixel size, and whether "
    "platelets or dirt are taken for white cells.",
    "max_nucleus_um2": "Nuclei larger than those of blood: check the pixel size, and whether "
    "cells lie on one another.",
    "unassigned_fluorescence_percent": "White cells may be missed: look at these fields with "
    "`wbcpipe view`; the sample may be too crowded.",
}
#: Event of the batch to what the operator should do.
EVENT_ADVICE: Final[Mapping[str, str]] = {
    "scanning_stopped": "The microscope was stopped. Do what the reason says, run `wbcpipe "
    "doctor`, and start the same `wbcpipe batch run` again: it goes on with what is left.",
    "check_failed": "Run `wbcpipe doctor` and `wbcpipe qc`; calibrate, or replace the lamp, "
    "before the next slide.",
    "computer_slept": "Switch sleep off in the power settings; `wbcpipe doctor` shows them.",
    "clock_changed": "Times on this page before and after the change cannot be compared.",
    "may_sleep": "Switch sleep off in the power settings of this computer, or do what the reason "
    "says, before the next night.",
    "unload_failed": "Look at the stage and the loader, take the slide away by hand, and do what "
    "the reason says.",
    "incubation_exceeded": "Look at the stain in the reports of these samples: it faded, or was "
    "too strong.",
    "disk_low": "Free space at the data folder, or give another disk with --data.",
    "command_refused": "Correct the command as the reason says, and give it again.",
    "alert_failed": "Test the alerts with `wbcpipe batch test-alert`.",
}

#: What to do about a control rule that is broken.
QC_ADVICE: Final = (
    "Do not release the results of this scope before the cause is known: see `wbcpipe qc`, clean "
    "and warm up the lamp, run `wbcpipe calibrate`, and scan a control slide again."
)


def advice_for(error: str, sample: str) -> str:
    """Return what to do about a sample that failed.

    Args:
        error: name of the error's class.
        sample: its name.

    >>> advice_for("DiskFullError", "S1")  # doctest: +NORMALIZE_WHITESPACE
    'Free space at the data folder, then `wbcpipe batch retry S1`; nothing that was written is
    lost.'
    """
    return ERROR_ADVICE.get(error, _UNKNOWN).replace("{sample}", sample)
