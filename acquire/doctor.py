"""Checks a scope file offline and against the live core; each check that fails says what to do."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from wbcpipe.acquire.calibration.compare import check_calibration
from wbcpipe.acquire.capture.frame_checks import is_changed_exposure
from wbcpipe.acquire.capture.sample_record import estimate_seconds
from wbcpipe.acquire.config.cfg_reader import read_config
from wbcpipe.acquire.config.micromanager_cfg import (
    configuration_problems,
    configuration_warnings,
    light_settings,
)
from wbcpipe.acquire.config.pixel_size import pixel_size_difference
from wbcpipe.acquire.config.policies import keyed
from wbcpipe.acquire.hardware.device_adapters import require_core
from wbcpipe.acquire.label.check import label_file_problems
from wbcpipe.acquire.loader.checks import live_loader_problems, loader_file_problems
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.acquire.procedures.checks import program_problem, property_problem, step_problems
from wbcpipe.errors import (
    ConfigError,
    HardwareError,
    InterruptedRunError,
    MissingPackageError,
    StageLimitError,
    WbcpipeError,
)
from wbcpipe.samples.fields import MODALITIES
from wbcpipe.system.child_process import ChildLostError, ChildProcess
from wbcpipe.system.power_settings import power_findings

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.core_link import CoreLink
    from wbcpipe.acquire.hardware.microscope import CoreMicroscope
    from wbcpipe.system.child_process import ParentLink

__all__ = ["Check", "check_live", "check_offline", "first_failure"]

_LIVE_TIMEOUT_S: Final = 120.0


@dataclass(frozen=True)
class Check:
    """Result of one check.

    Attributes:
        name: What was checked.
        status: ``ok``, ``warn`` (it works, but should be corrected) or ``fail``.
        detail: What was found and, unless ok, what to do.
        part: ``file``, ``hardware`` or ``package``.
    """

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    part: Literal["file", "hardware", "package"] = "file"


def first_failure(checks: list[Check]) -> WbcpipeError | None:
    """Return the error, with its exit code, that the failed checks amount to: that of the files
    before that of a package, and this before the hardware.
    """
    errors: dict[str, type[WbcpipeError]] = {
        "file": ConfigError,
        "package": MissingPackageError,
        "hardware": HardwareError,
    }
    for part, error in errors.items():
        failed = [check.name for check in checks if check.status == "fail" and check.part == part]
        if failed:
            return error(
                f"{len(failed)} of {len(checks)} checks failed: {', '.join(dict.fromkeys(failed))}."
            )
    return None


def check_offline(scope: Scope, slot: str, n_fields: int, data: Path) -> Iterator[Check]:
    """Check the scope file, its .cfg, its calibration, the scan area, the disk and the computer.

    No device is touched.

    Args:
        scope: Scope to check.
        slot: Slot whose scan area is checked.
        n_fields: Number of fields of a slide, for time and disk space.
        data: Data root.
    """
    yield Check("scope file", "ok", f"{scope.path}: {scope.title or scope.name}")
    yield from (Check("computer", found.status, found.detail) for found in power_findings())
    yield from _check_cfg(scope)
    if scope.staining.command:
        problem = program_problem("staining.command", scope.staining.command)
        yield Check(
            "staining",
            "fail" if problem else "ok",
            problem or f"{scope.staining.command[0]} can be started",
        )
    yield from _check_slides(scope)
    if scope.light.dark is not None:
        yield Check(
            "shutter",
            "warn",
            "none: each frame waits until its light is switched on and off, and if a driver "
            "crashes or hangs, the light stays on until another process sets 'light.dark'; name a "
            "shutter if the microscope has one",
        )
    yield from (
        Check(found.name, found.status, found.detail) for found in check_calibration(scope, data)
    )
    try:
        plan = AcquisitionPlan.from_scope(scope, slot)
    except (ConfigError, StageLimitError) as error:
        yield Check("scan area", "fail", str(error))
        return
    max_fields = plan.n_fields
    cells = max_fields * scope.expected_cells_per_field
    yield Check(
        "scan area", "ok", f"slot {slot} holds {max_fields} fields, about {cells:.0f} cells"
    )
    if n_fields > max_fields:
        yield Check(
            "fields",
            "warn",
            f"{n_fields} fields requested, the slot holds {max_fields}; request fewer, or enlarge "
            f"'slots.{slot}'",
        )
    fields, seconds = min(n_fields, max_fields), estimate_seconds(scope, plan, n_fields)
    yield Check(
        "time", "ok", f"about {_duration(seconds)} for {fields} fields (estimated, not measured)"
    )
    yield _check_disk(data, fields * scope.field_bytes(MODALITIES))


def _check_cfg(scope: Scope) -> Iterator[Check]:
    try:
        config = read_config(scope.config_path)
    except ConfigError as error:
        yield Check(".cfg file", "fail", str(error))
        return
    problems = configuration_problems(scope, config)
    yield from (Check(".cfg file", "fail", problem) for problem in problems)
    yield from (
        Check(".cfg file", "warn", warning) for warning in configuration_warnings(scope, config)
    )
    if not problems:
        yield Check(
            ".cfg file",
            "ok",
            f"{scope.config_path.name} has every device, group and preset of the scope file",
        )


def _check_slides(scope: Scope) -> Iterator[Check]:
    """Check what brings the slides and what reads their labels; the .cfg is checked elsewhere."""
    if scope.loader.method != "none":
        problems = loader_file_problems(scope)
        found = f"slides come to slot {scope.loader_slot} by {scope.loader.method}"
        yield Check("loader", "fail" if problems else "ok", "; ".join(problems) or found)
    if scope.label.method != "none":
        problems = label_file_problems(scope)
        by = (
            f"{scope.label.device} reads"
            if scope.label.method == "camera"
            else "the scan camera reads"
        )
        found = f"{by} {', '.join(scope.label.formats)}"
        yield Check("label", "fail" if problems else "ok", "; ".join(problems) or found)


def _check_disk(data: Path, needed_bytes: int) -> Check:
    free_bytes = shutil.disk_usage(
        next(folder for folder in (data, *data.parents) if folder.exists())
    ).free
    detail = f"{needed_bytes / 1e9:.1f} GB for a slide, {free_bytes / 1e9:.1f} GB free at {data}"
    if free_bytes < needed_bytes:
        return Check("disk", "fail", detail + "; free space or give another disk with --data")
    if free_bytes < 3 * needed_bytes:
        return Check("disk", "warn", detail + "; tight: free space before the next slides")
    return Check("disk", "ok", detail)


def check_live(scope: Scope) -> list[Check]:
    """Load the core in a child process and compare it with the scope.

    wbcpipe moves nothing, and the shutter stays closed.
    """
    try:
        require_core(scope)
    except MissingPackageError as error:
        return [Check("core", "fail", str(error), "package")]
    child: ChildProcess[Check] = ChildProcess(_check_in_child, scope, name="wbcpipe-doctor")
    checks: list[Check] = []
    try:
        with child:
            checks.extend(child.messages(_LIVE_TIMEOUT_S))
    except ChildLostError as lost:
        checks.append(
            _hardware(
                "core", f"the process {lost.reason}{_advice(lost.exit_code)}{_log_advice(scope)}"
            )
        )
    except WbcpipeError as error:
        checks.append(_hardware("core", str(error)))
    return checks


def _advice(exit_code: int | None) -> str:
    if exit_code is None:
        return "; restart the devices"
    if exit_code == 1:
        return ": it could not start; its traceback stands above"
    return (
        ": a device driver crashed, or the adapters use another device interface than pymmcore; "
        "load the .cfg in Micro-Manager itself to see which device it is"
    )


def _log_advice(scope: Scope) -> str:
    if scope.core_log is not None:
        return f"; the core's log: {scope.core_log}"
    return (
        "; --core-log FILE writes down what it did"
        if scope.micromanager.backend == "headless"
        else ""
    )


def _check_in_child(scope: Scope, parent: ParentLink) -> None:
    with contextlib.closing(_live_checks(scope)) as checks:
        for check in checks:
            if parent.stop_requested():
                raise InterruptedRunError("the checks were stopped.")
            parent.send(check)


def _hardware(name: str, problem: str = "", found: str = "") -> Check:
    """Return a check of the hardware: failed with a ``problem``, else ok."""
    return Check(name, "fail" if problem else "ok", problem or found, "hardware")


def _live_checks(scope: Scope) -> Generator[Check]:
    from wbcpipe.acquire.hardware.core_link import CoreLink
    from wbcpipe.acquire.hardware.device_adapters import adapter_folder, check_interface
    from wbcpipe.acquire.hardware.microscope import CoreMicroscope

    if scope.micromanager.backend == "headless":
        yield _hardware(
            "device interface",
            found=f"{check_interface(scope)}, adapters in {adapter_folder(scope)}",
        )
    link = CoreLink(scope)
    try:
        yield _hardware("core", found=f"{len(link.devices())} devices loaded")
        yield from _check_lights(scope, link)
        yield _check_exposures(scope, link)
        if scope.focus.method == "hardware":
            yield _check_focusing_device(scope, link)
        yield from _check_position(scope, link)
        if scope.staining.steps:
            steps = (*scope.staining.keyed_steps(), *scope.staining.keyed_safe_state())
            problems = "; ".join(step_problems(link, steps))
            yield _hardware(
                "staining", problems, "the devices accept every step; none was carried out"
            )
        if scope.loader.load:
            problems = "; ".join(live_loader_problems(scope, link))
            yield _hardware(
                "loader",
                problems,
                "the devices have every property of its steps; none was carried out",
            )
        if scope.label.lamp_on or scope.label.lamp_off:
            lamp = (
                *keyed("label.lamp_on", scope.label.lamp_on),
                *keyed("label.lamp_off", scope.label.lamp_off),
            )
            problems = "; ".join(step_problems(link, lamp))
            yield _hardware("label", problems, "the devices accept the settings of its lamp")
        yield from _check_camera(CoreMicroscope(scope, link))
    finally:
        link.close()


def _check_lights(scope: Scope, link: CoreLink) -> Iterator[Check]:
    """Set every property of each modality with the shutter closed."""
    config = read_config(scope.config_path)
    for name, modality in scope.modalities.items():
        problems = []
        for device, key, value in light_settings(scope, config, modality):
            if device == "Core":
                continue  # roles of devices: looked at offline
            if problem := property_problem(link, device, key, value):
                problems.append(problem)
            else:
                try:
                    link.set_property(device, key, value)
                    link.wait_for(
                        (device,), scope.reliability.switch_timeout_s, f"switching to {name}"
                    )
                except HardwareError as error:
                    problems.append(str(error))
        link.shutter.darken()
        dark = "shutter closed" if scope.light.shutter_device else "then set dark again"
        yield _hardware(f"light {name}", "; ".join(problems), f"switched, {dark}")


def _check_exposures(scope: Scope, link: CoreLink) -> Check:
    """Compare each exposure with the camera's limits, and with what the camera makes of it."""
    camera = scope.camera.device
    limits = link.limits(camera, "Exposure") if link.has_property(camera, "Exposure") else None
    allowed = (
        "the camera reports no limits"
        if limits is None
        else f"the camera takes {limits[0]:g} to {limits[1]:g} ms"
    )
    problems = []
    for name, modality in scope.modalities.items():
        key = f"modalities.{name}.exposure_ms = {modality.exposure_ms:g}"
        if limits is not None and not limits[0] <= modality.exposure_ms <= limits[1]:
            problems.append(key)
            continue
        link.call("set_exposure", modality.exposure_ms)
        actual_ms = float(link.call("get_exposure"))
        if is_changed_exposure(modality.exposure_ms, actual_ms):
            problems.append(f"{key} becomes {actual_ms:g} ms in the camera")
    return _hardware(
        "exposures", f"{'; '.join(problems)}; {allowed}: change it" if problems else "", allowed
    )


def _check_focusing_device(scope: Scope, link: CoreLink) -> Check:
    device = scope.focus.hardware_device
    try:
        link.call("set_auto_focus_device", device)
    except HardwareError as error:
        problem = f"{error} Name a focusing device of the .cfg in 'focus.hardware_device'."
        return _hardware("focusing device", problem)
    return _hardware(
        "focusing device",
        found=f"{device} is one; the first fields of a run show whether it finds cells",
    )


def _check_position(scope: Scope, link: CoreLink) -> Iterator[Check]:
    from wbcpipe.acquire.hardware.stages import CoreFocusDrive, CoreXYStage

    try:
        x_um, y_um = CoreXYStage(scope, link).xy_um()
        z_um, stage = CoreFocusDrive(scope, link).z_um(), scope.stage
    except HardwareError as error:
        yield _hardware("stage", str(error))
        return
    limits = ((x_um, stage.x_um), (y_um, stage.y_um), (z_um, stage.z_um))
    found = f"at x {x_um:.1f}, y {y_um:.1f}, z {z_um:.2f} um"
    if all(low <= value <= high for value, (low, high) in limits):
        yield _hardware("stage", found=found)
    else:
        yield Check(
            "stage", "warn", f"{found}: outside the scope's limits; home it first", "hardware"
        )
    affine = tuple(float(number) for number in link.call("get_pixel_size_affine"))
    known = (affine[0], affine[1], affine[3], affine[4]) if len(affine) == 6 else None
    # The core's own values hold for its present binning.
    binning = scope.camera.binning
    known = known and (
        known[0] / binning,
        known[1] / binning,
        known[2] / binning,
        known[3] / binning,
    )
    pixel_um = float(link.call("get_pixel_size_um")) / binning
    if difference := pixel_size_difference(scope.camera, pixel_um, known):
        yield Check("pixel size", "warn", f"Micro-Manager has {difference}", "hardware")


def _check_camera(microscope: CoreMicroscope) -> Iterator[Check]:
    """Set the camera up as for a run and expose one frame without light."""
    scope = microscope.scope
    height_px, width_px = scope.camera.image_px
    yield _hardware(
        "camera", found=f"{width_px} x {height_px} pixels of {scope.camera.image_pixel_um:g} um"
    )
    microscope.camera.send_exposure(scope.modalities.color1.exposure_ms)
    microscope.camera.snap(scope.reliability.camera_timeout_s)
    pixels = microscope.camera.image()
    bits = microscope.camera.bit_depth()
    found = f"{bits}-bit frame, mean {pixels.mean():.0f}"
    if bits == scope.camera.bits:
        yield _hardware("dark exposure", found=found)
        return
    advice = (
        f"{found}; 'camera.bits' says {scope.camera.bits}: write bits = {bits}, or correct "
        f"'camera.pixel_type'"
    )
    yield Check(
        "dark exposure",
        "warn",
        f"{advice}, unless the camera fills its words only so far",
        "hardware",
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
