"""Measure a microscope in a child process.

A driver that crashes is reported, the shutter closes at every end.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from wbcpipe.acquire.config.calibration_record import CalibrationParts, DarkPart
from wbcpipe.acquire.hardware.safe_dark import (
    close_shutter_after_this_process,
    close_shutter_in_subprocess,
    shutter_message,
)
from wbcpipe.errors import DeviceCrashError, DeviceTimeoutError, InterruptedRunError
from wbcpipe.system.child_process import ChildLostError, ChildProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.acquire.calibration.microscope_probe import MicroscopeProbe
    from wbcpipe.acquire.config.calibration_record import LightDose
    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
    from wbcpipe.system.child_process import ParentLink

__all__ = ["CalibrationRequest", "CalibrationResult", "measure", "run_calibration", "run_in_child"]

#: On top of the scope's own time limits: loading the core, and computing a figure.
_SPARE_S: Final = 120.0
#: A task, its steps done, and its steps in all.
_Progress = tuple[str, int, int]


class ProbeRequest(Protocol):
    """What every measurement names: the scope, the slot of the slide, and a virtual scope's
    specimen.
    """

    @property
    def scope(self) -> Scope: ...

    @property
    def slot(self) -> str: ...

    @property
    def specimen(self) -> SpecimenPlan | None: ...


RequestT = TypeVar("RequestT", bound=ProbeRequest)
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class CalibrationRequest:
    """What to measure.

    Attributes:
        scope: loaded.
        slot: where the slide lies.
        parts: names of `calibration_file.PARTS`.
        specimen: on a virtual scope, what lies on the stage.
    """

    scope: Scope
    slot: str
    parts: tuple[str, ...]
    specimen: SpecimenPlan | None = None


@dataclass(frozen=True)
class CalibrationResult:
    """The measured parts, the light used in each modality, and the duration."""

    parts: CalibrationParts
    light: dict[str, LightDose]
    seconds: float


def measure(probe: MicroscopeProbe, parts: tuple[str, ...]) -> CalibrationParts:
    """Measure the requested parts; those that bleach come last.

    Raises:
        HardwareError: a device failed, or the slot shows nothing to measure.
    """
    from wbcpipe.acquire.calibration.dark import measure_dark
    from wbcpipe.acquire.calibration.flat import measure_flat
    from wbcpipe.acquire.calibration.offsets import measure_offsets
    from wbcpipe.acquire.calibration.travel import measure_geometry

    dark = measure_dark(probe) if "dark" in parts or "flat" in parts else DarkPart(exposures=())
    geometry = measure_geometry(probe) if "geometry" in parts else None
    offsets = measure_offsets(probe) if "offsets" in parts else None
    levels = {entry.exposure_ms: entry.level for entry in dark.exposures}
    flat = measure_flat(probe, levels) if "flat" in parts else None
    return CalibrationParts(
        dark=dark if "dark" in parts else None, flat=flat, geometry=geometry, offsets=offsets
    )


def run_calibration(
    request: CalibrationRequest, progress: Callable[[str, int, int], None]
) -> CalibrationResult:
    """Measure in a child process; see `run_in_child` for the errors."""
    return run_in_child(_measure_parts, request, progress, name="wbcpipe-calibrate")


def run_in_child(
    measure: Callable[[MicroscopeProbe, RequestT], ResultT],
    request: RequestT,
    progress: Callable[[str, int, int], None],
    *,
    name: str,
) -> ResultT:
    """Open the microscope in a child process, measure there, and close it.

    Args:
        measure: function of a module; it is called in the child, and its result is pickled.
        request: for ``measure``; it names the scope, the slot and the specimen.
        progress: called with a task, its steps done, and its steps in all.
        name: of the process.

    Raises:
        DeviceCrashError: a driver crashed the process.
        DeviceTimeoutError: the process sent nothing for longer than any time limit of the scope.
        WbcpipeError: the error that ended the child.
    """
    policy = request.scope.reliability
    longest_ms = max(modality.exposure_ms for _, modality in request.scope.modalities.items())
    limits_s = (
        policy.move_timeout_s
        + policy.camera_timeout_s
        + policy.switch_timeout_s
        + longest_ms / 1000
    )
    child: ChildProcess[_Progress | _Measured[ResultT]] = ChildProcess(
        _measure_in_child, measure, request, name=name
    )
    is_dark = False
    try:
        # At its end the child sees the pipe close before its next frame, closes the shutter and
        # exits.
        with child:
            while isinstance(message := child.receive(_SPARE_S + limits_s), tuple):
                progress(*message)
            return message.result
    except ChildLostError as lost:
        is_dark = True
        shutter = shutter_message(close_shutter_in_subprocess(request.scope))
        if lost.exit_code is None:
            raise DeviceTimeoutError(
                f"the microscope {lost.reason}; restart its devices. {shutter}"
            ) from None
        raise DeviceCrashError(
            f"the process {name} {lost.reason}: a device driver crashed. {shutter} Run `wbcpipe "
            f"doctor {request.scope.option}` to see which device it is."
        ) from None
    finally:
        if child.exit_code not in (0, None) and not is_dark:
            close_shutter_in_subprocess(request.scope)


@dataclass(frozen=True)
class _Measured(Generic[ResultT]):
    """The child's last message."""

    result: ResultT


def _measure_parts(probe: MicroscopeProbe, request: CalibrationRequest) -> CalibrationResult:
    start_s = time.monotonic()
    figures = measure(probe, request.parts)
    return CalibrationResult(figures, probe.dose(), round(time.monotonic() - start_s, 1))


def _measure_in_child(
    measure: Callable[[MicroscopeProbe, RequestT], object], request: RequestT, parent: ParentLink
) -> None:
    """Open the microscope, measure, report and close; the target of the child process."""
    from wbcpipe.acquire.calibration.microscope_probe import MicroscopeProbe
    from wbcpipe.acquire.open_microscope import open_microscope

    def check() -> None:
        if parent.stop_requested():
            raise InterruptedRunError("the measurement was stopped.")

    parent.if_hung = functools.partial(close_shutter_after_this_process, request.scope)
    microscope = open_microscope(request.scope, request.specimen)
    try:
        probe = MicroscopeProbe(
            microscope,
            request.scope,
            request.slot,
            progress=lambda *step: parent.send(step),
            check=check,
        )
        result = measure(probe, request)
    finally:
        microscope.close()
    parent.send(_Measured(result))
