"""Is a scope file right, offline and against the live core? Every check says what to do where it fails."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from wbcpipe.acquire.calibration.compare import check_calibration
from wbcpipe.acquire.capture.sample_record import time_estimate
from wbcpipe.acquire.config.micromanager_cfg import (
    configuration_problems,
    configuration_warnings,
    light_settings,
    read_config,
)
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.acquire.staining.checks import program_problem, step_problems
from wbcpipe.errors import ConfigError, HardwareError, InterruptedRunError, StageLimitError, WbcpipeError
from wbcpipe.system.child_process import ChildLostError, ChildProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.core_link import CoreLink
    from wbcpipe.acquire.hardware.microscope import CoreMicroscope
    from wbcpipe.system.child_process import ParentLink

__all__ = ["Check", "check_live", "check_offline", "first_failure"]

Status = Literal["ok", "warn", "fail"]
_LIVE_TIMEOUT_S: Final = 120.0


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        name: what.
        status: ``ok``, ``warn`` (works, but look at it) or ``fail``.
        detail: what was found and, unless ok, what to do.
        part: ``file`` or ``hardware``.
    """

    name: str
    status: Status
    detail: str
    part: Literal["file", "hardware"] = "file"


def first_failure(checks: list[Check]) -> ConfigError | HardwareError | None:
    """What the checks come to: an error with the exit code that belongs to it, the files' before the hardware's."""
    for part, error in (("file", ConfigError), ("hardware", HardwareError)):
        failed = [check.name for check in checks if check.status == "fail" and check.part == part]
        if failed:
            return error(f"{len(failed)} of {len(checks)} checks failed: {', '.join(dict.fromkeys(failed))}.")
    return None


def check_offline(scope: Scope, slot: str, n_fields: int, data: Path) -> Iterator[Check]:
    """Look at the scope file, its .cfg, its calibration, the scan area and the disk; no device is touched.

    Args:
        scope: loaded.
        slot: whose scan area is looked at.
        n_fields: of a slide, for time and disk.
        data: the data root.
    """
    yield Check("scope file", "ok", f"{scope.path}: {scope.title or scope.name}")
    oddities: list[str] = []
    try:
        config = read_config(scope.config_path)
        problems, oddities = configuration_problems(scope, config), configuration_warnings(scope, config)
    except ConfigError as error:
        problems = [str(error)]
    yield from (Check(".cfg file", "fail", problem) for problem in problems)
    yield from (Check(".cfg file", "warn", oddity) for oddity in oddities)
    if not problems:
        yield Check(".cfg file", "ok", f"{scope.config_path.name}: every device, group and preset named is there")
    if scope.staining.command:
        problem = program_problem(scope)
        yield Check("staining", "fail" if problem else "ok", problem or f"{scope.staining.command[0]} can be started")
    if scope.light.dark is not None:
        yield Check(
            "shutter",
            "warn",
            "none: each frame waits for its light to be switched on and off, and a driver that dies or hangs leaves it "
            "on until another process sets 'light.dark'; name a shutter if the microscope has one",
        )
    yield from (Check(found.name, found.status, found.detail) for found in check_calibration(scope, data))
    try:
        plan = AcquisitionPlan.from_scope(scope, slot)
    except (ConfigError, StageLimitError) as error:
        yield Check("scan area", "fail", str(error))
        return
    room = len(plan.fields())
    yield Check(
        "scan area",
        "ok",
        f"slot {slot} holds {room} fields, about {room * scope.expected_cells_per_field:.0f} cells",
    )
    if n_fields > room:
        yield Check("fields", "warn", f"{n_fields} fields asked for, the slot has room for {room}; enlarge its area")
    estimate = time_estimate(scope, plan, n_fields)
    yield Check(
        "time", "ok", f"about {_duration(estimate.seconds)} for {min(n_fields, room)} fields (estimated, not measured)"
    )
    yield _disk(data, estimate.disk_bytes)


def _disk(data: Path, needed: int) -> Check:
    there = data
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    detail = f"{needed / 1e9:.1f} GB for a slide, {free / 1e9:.1f} GB free at {data}"
    if free < needed:
        return Check("disk", "fail", detail + "; free space or give another disk with --data")
    return Check("disk", "warn" if free < 3 * needed else "ok", detail + ("; tight" if free < 3 * needed else ""))


def check_live(scope: Scope) -> list[Check]:
    """Load the core in a child process and compare it with the scope; nothing moves and the shutter stays closed."""
    child: ChildProcess[Check] = ChildProcess(_check_in_child, scope, name="wbcpipe-doctor")
    checks: list[Check] = []
    try:
        with child:
            for check in child.messages(_LIVE_TIMEOUT_S):
                checks.append(check)
    except ChildLostError as lost:
        checks.append(Check("core", "fail", f"the process {lost.reason}{_advice(lost.exit_code)}", "hardware"))
    except WbcpipeError as error:
        checks.append(Check("core", "fail", str(error), "hardware"))
    return checks


def _advice(exit_code: int | None) -> str:
    if exit_code is None:
        return "; restart the devices"
    if exit_code == 1:
        return ": it could not start; its traceback stands above"
    return (
        ": a device driver crashed, or the adapters use another device interface than pymmcore; load the .cfg in "
        "Micro-Manager itself to see which device it is"
    )


def _check_in_child(scope: Scope, parent: ParentLink) -> None:
    def tell(name: str, status: Status, detail: str) -> None:
        if parent.stop_requested():
            raise InterruptedRunError("the checks were stopped.")
        parent.send(Check(name, status, detail, "hardware"))

    _live(scope, tell)


def _live(scope: Scope, tell: Callable[[str, Status, str], None]) -> None:
    from wbcpipe.acquire.hardware.core_link import CoreLink
    from wbcpipe.acquire.hardware.device_adapters import adapter_folder, check_interface
    from wbcpipe.acquire.hardware.microscope import CoreMicroscope

    if scope.micromanager.backend == "headless":
        tell("device interface", "ok", f"{check_interface(scope)}, adapters in {adapter_folder(scope)}")
    link = CoreLink(scope)
    try:
        tell("core", "ok", f"{len(link.devices())} devices loaded")
        for check in _settings(scope, link):
            tell(*check)
        for check in _ranges(scope, link):
            tell(*check)
        if scope.staining.steps:
            problems = step_problems(scope, link)
            tell(
                "staining", "fail" if problems else "ok", "; ".join(problems) or "the devices take every step; none set"
            )
        for check in _camera(CoreMicroscope(scope, link)):
            tell(*check)
    finally:
        link.close()


def _settings(scope: Scope, link: CoreLink) -> Iterator[tuple[str, Status, str]]:
    """Every property that a modality sets: is it there, and does it take the value?"""
    config = read_config(scope.config_path)
    for name, modality in scope.modalities.items():
        bad = []
        for device, key, value in light_settings(scope, config, modality):
            if device not in (*link.devices(), "Core"):
                bad.append(f"device {device!r} is not loaded")
            elif not link.has_property(device, key):
                bad.append(f"{device!r} has no property {key!r}; it has {', '.join(link.properties(device))}")
            elif (allowed := link.allowed_values(device, key)) and value not in allowed:
                bad.append(f"{device}-{key} does not take {value!r}; it takes {', '.join(allowed)}")
            else:
                try:
                    link.set_property(device, key, value)
                    link.wait_for((device,), scope.reliability.switch_timeout_s, f"switching to {name}")
                except HardwareError as error:
                    bad.append(str(error))
        link.shutter.darken()
        dark = "shutter closed" if scope.light.shutter_device else "then set dark again"
        yield f"light {name}", "fail" if bad else "ok", "; ".join(bad) or f"switched, {dark}"


def _ranges(scope: Scope, link: CoreLink) -> Iterator[tuple[str, Status, str]]:
    camera = scope.camera.device
    limits = link.limits(camera, "Exposure") if link.has_property(camera, "Exposure") else None
    outside = [
        f"modalities.{name}.exposure_ms = {modality.exposure_ms:g}"
        for name, modality in scope.modalities.items()
        if limits and not limits[0] <= modality.exposure_ms <= limits[1]
    ]
    span = f"the camera takes {limits[0]:g} to {limits[1]:g} ms" if limits else "the camera names no limits"
    yield "exposures", "fail" if outside else "ok", "; ".join([*outside, span])
    if scope.focus.method == "hardware":
        yield "focusing device", *_focusing_device(scope, link)
    from wbcpipe.acquire.hardware.focus_drive import CoreFocusDrive
    from wbcpipe.acquire.hardware.xy_stage import CoreXYStage

    x_um, y_um = CoreXYStage(scope, link).xy_um()
    z_um = CoreFocusDrive(scope, link).z_um()
    stage = scope.stage
    inside = all(
        low <= value <= high for value, (low, high) in ((x_um, stage.x_um), (y_um, stage.y_um), (z_um, stage.z_um))
    )
    here = f"stands at x {x_um:.1f}, y {y_um:.1f}, z {z_um:.2f} um"
    yield "stage", "ok" if inside else "warn", here + ("" if inside else ": outside the scope's limits; home it first")


def _focusing_device(scope: Scope, link: CoreLink) -> tuple[Status, str]:
    from wbcpipe.acquire.hardware.focus_drive import choose_focusing_device

    try:
        choose_focusing_device(link, scope.focus.hardware_device)
    except HardwareError as error:
        return "fail", f"{error} Name a focusing device of the .cfg in 'focus.hardware_device'."
    return "ok", f"{scope.focus.hardware_device} is one; whether it finds the cells is seen at a run's first places"


def _camera(microscope: CoreMicroscope) -> Iterator[tuple[str, Status, str]]:
    """Set the camera up as for a run and expose once in the dark."""
    scope = microscope.scope
    height_px, width_px = scope.camera.image_px
    yield "camera", "ok", f"{width_px} x {height_px} pixels of {scope.camera.image_pixel_um:g} um"
    timeout_s = scope.reliability.camera_timeout_s
    microscope.camera.send_exposure(scope.modalities.color1.exposure_ms)
    microscope.camera.snap(timeout_s)
    pixels = microscope.camera.image()
    bits = 8 * pixels.dtype.itemsize
    fits = bits >= scope.camera.bits
    advice = "" if fits else f"; 'camera.bits' says {scope.camera.bits}, correct it or 'camera.pixel_type'"
    yield "dark exposure", "ok" if fits else "fail", f"{bits}-bit frame, mean {pixels.mean():.0f}{advice}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
