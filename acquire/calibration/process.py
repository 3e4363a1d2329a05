"""Calibration in a process of its own: a driver that crashes is reported, and the shutter closes on every way out."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import wbcpipe.errors
from wbcpipe.acquire.supervise.restart_policy import close_shutter_in_subprocess, death_of, shutter_message
from wbcpipe.errors import DeviceCrashError, DeviceTimeoutError, HardwareError, InterruptedRunError, WbcpipeError
from wbcpipe.system.signals import ignore_sigint_in_children

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

    from wbcpipe.acquire.calibration.microscope_probe import Bench
    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan

__all__ = ["CalibrationRequest", "measure", "run_calibration"]

#: Beyond the scope's own deadlines: loading the core, and working out a figure.
_SPARE_S: Final = 120.0
#: How long the child may take to close the devices.
_END_S: Final = 20.0
_DARK_GUESS: Final = 0.0


@dataclass(frozen=True)
class CalibrationRequest:
    """What to measure.

    Attributes:
        scope: loaded.
        slot: where the slide lies.
        parts: names of `record.PARTS`.
        specimen: on a virtual scope, what lies on the stage.
    """

    scope: Scope
    slot: str
    parts: tuple[str, ...]
    specimen: SpecimenPlan | None = None


@dataclass(frozen=True)
class _Done:
    """How much of a task is done."""

    task: str
    done: int
    total: int


@dataclass(frozen=True)
class _Failed:
    """The child ended with an error: its class's name and its text."""

    name: str
    text: str


def measure(bench: Bench, parts: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Measure the parts asked for, in the order that bleaches last; name to figures.

    Raises:
        HardwareError: a device failed, or the slot shows nothing to measure by.
    """
    from wbcpipe.acquire.calibration.dark import measure_dark
    from wbcpipe.acquire.calibration.flat import measure_flat
    from wbcpipe.acquire.calibration.offsets import measure_offsets
    from wbcpipe.acquire.calibration.travel import measure_geometry

    result: dict[str, dict[str, Any]] = {}
    levels = {modality.exposure_ms: _DARK_GUESS for _, modality in bench.scope.modalities.items()}
    if "dark" in parts or "flat" in parts:
        dark = measure_dark(bench)
        levels = {entry["exposure_ms"]: entry["level"] for entry in dark["exposures"]}
        if "dark" in parts:
            result["dark"] = dark
    if "geometry" in parts:
        result["geometry"] = measure_geometry(bench)
    if "offsets" in parts:
        result["offsets"] = measure_offsets(bench)
    if "flat" in parts:
        result["flat"] = measure_flat(bench, levels)
    return result


def run_calibration(
    request: CalibrationRequest, progress: Callable[[str, int, int], None]
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Measure in a child process; gives the parts' figures and the light they took.

    Raises:
        DeviceCrashError: a driver took the process down.
        DeviceTimeoutError: no word from it for longer than any deadline of the scope.
        WbcpipeError: what the child met.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_child_main, args=(request, there), name="wbcpipe-calibrate")
    with ignore_sigint_in_children():
        process.start()
    there.close()
    policy = request.scope.reliability
    longest_ms = max(modality.exposure_ms for _, modality in request.scope.modalities.items())
    quiet_s = _SPARE_S + policy.move_timeout_s + policy.camera_timeout_s + policy.switch_timeout_s + longest_ms / 1000
    try:
        while here.poll(quiet_s):
            try:
                message = here.recv()
            except EOFError:
                raise DeviceCrashError(
                    f"the calibration's process died ({_ended(process)}): a device driver crashed. "
                    f"{shutter_message(close_shutter_in_subprocess(request.scope))} Run `wbcpipe doctor --scope "
                    f"{request.scope.name}` to see which device it is."
                ) from None
            if isinstance(message, _Failed):
                raise getattr(wbcpipe.errors, message.name, HardwareError)(message.text)
            if isinstance(message, _Done):
                progress(message.task, message.done, message.total)
                continue
            return message  # type: ignore[no-any-return]
        process.kill()
        _ended(process)
        dark = shutter_message(close_shutter_in_subprocess(request.scope))
        raise DeviceTimeoutError(f"the microscope gave no sign for {quiet_s:.0f} s; restart its devices. {dark}")
    finally:
        here.close()  # the child sees it before its next frame, closes the shutter and ends
        if process.is_alive() and _ended(process) != "exit code 0":
            close_shutter_in_subprocess(request.scope)


def _ended(process: BaseProcess) -> str:
    """Have a process end, and say how it did."""
    process.join(_END_S)
    if process.is_alive():
        process.kill()
        process.join()
    return death_of(process.exitcode)


def _child_main(request: CalibrationRequest, pipe: Connection) -> None:
    """The child: open the microscope, measure, tell, close; the parent's end of the pipe is its life line."""
    # Ctrl-C at the terminal reaches both processes; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        outcome: Any = _measure_here(request, pipe)
    except InterruptedRunError:
        return
    except WbcpipeError as error:
        outcome = _Failed(type(error).__name__, str(error))
    try:
        pipe.send(outcome)
    except OSError:
        return  # nobody waits for it any more


def _measure_here(request: CalibrationRequest, pipe: Connection) -> tuple[dict[str, Any], dict[str, Any]]:
    from wbcpipe.acquire.calibration.microscope_probe import Bench
    from wbcpipe.acquire.open_microscope import open_microscope

    def check() -> None:
        if pipe.poll():  # nothing is ever sent this way: it can only have been closed
            raise InterruptedRunError("calibration stopped.")

    def tell(task: str, done: int, total: int) -> None:
        try:
            pipe.send(_Done(task, done, total))
        except OSError as error:
            raise InterruptedRunError("calibration stopped.") from error

    microscope = open_microscope(request.scope, request.specimen)
    try:
        bench = Bench(microscope, request.scope, request.slot, progress=tell, check=check)
        began_s = time.monotonic()
        figures = measure(bench, request.parts)
        return figures, {**bench.dose(), "seconds": round(time.monotonic() - began_s, 1)}
    finally:
        microscope.close()
