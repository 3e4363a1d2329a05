"""Compares a calibration with the scope file, and says what to write there."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from wbcpipe.acquire.config.calibration_file import PARTS, calibration_path, setup_sha256
from wbcpipe.acquire.config.calibration_record import CalibrationRecord
from wbcpipe.errors import ConfigError, SampleStateError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from wbcpipe.acquire.config.calibration_record import (
        CalibrationParts,
        DarkPart,
        FlatPart,
        GeometryPart,
        OffsetsPart,
    )
    from wbcpipe.acquire.config.scope import Scope

__all__ = ["Finding", "check_calibration", "compare"]

#: Differences between figure and file that are accepted.
_PIXEL_SHARE: Final = 0.01
_AFFINE: Final = 0.01
_OFFSET_UM: Final = 0.5
#: Of the camera's offset, in deviations of its read noise.
_OFFSET_NOISE: Final = 1.0
#: Above these the figure itself is a warning.
_BACKLASH_UM: Final = 5.0
_SKEW_DEG: Final = 0.5
_LAMP_SD: Final = 0.01
_HOT_SHARE: Final = 0.001


@dataclass(frozen=True)
class Finding:
    """Result of the comparison of one figure.

    Attributes:
        name: Name of the figure.
        status: ``ok`` or ``warn``.
        detail: The figure and, unless ok, what to write or do.
    """

    name: str
    status: Literal["ok", "warn"]
    detail: str


def check_calibration(scope: Scope, data: Path, now: datetime | None = None) -> Iterator[Finding]:
    """Check the age and the setup of a scope's calibration, and compare it with the scope file.

    Args:
        scope: Microscope.
        data: Data root.
        now: Time for the age; the present by default.
    """
    path = calibration_path(scope, data)
    command = f"`wbcpipe calibrate {scope.option}`"
    try:
        record = CalibrationRecord.read_if_present(path)
    except SampleStateError as error:
        yield Finding("calibration", "warn", str(error))
        return
    if record is None:
        if scope.virtual:
            yield Finding(
                "calibration",
                "ok",
                f"none; a virtual scope needs none ({command} shows what one is)",
            )
        else:
            yield Finding(
                "calibration",
                "warn",
                f"none at {path}; lay a stained slide in a slot and run {command}",
            )
        return
    yield _age(scope, record, path, command, now or datetime.now(UTC))
    yield from _setup(scope, record, command)
    figures = list(compare(scope, record.parts))
    yield from (found for found in figures if found.status == "warn")
    agree = [found.name for found in figures if found.status == "ok"]
    if agree:
        yield Finding(
            "calibrated figures",
            "ok",
            f"agree with the scope file: {', '.join(dict.fromkeys(agree))}",
        )


def _age(
    scope: Scope, record: CalibrationRecord, path: Path, command: str, now: datetime
) -> Finding:
    measured = record.parts.measured()
    missing = [name for name in PARTS if name not in measured]
    try:
        age_days = (
            now - min(datetime.fromisoformat(part.date) for part in measured.values())
        ).total_seconds() / 86400
    except ValueError:
        return Finding(
            "calibration", "warn", f"{path}: dates are missing or not readable; run {command}"
        )
    text = f"{path}: {age_days:.0f} days old"
    if missing:
        return Finding(
            "calibration", "warn", f"{text}, without {', '.join(missing)}; run {command}"
        )
    if age_days > scope.calibration.max_age_days:
        limit = f"'calibration.max_age_days' allows {scope.calibration.max_age_days:g}"
        return Finding("calibration", "warn", f"{text}, {limit}; run {command}")
    return Finding("calibration", "ok", text)


def _setup(scope: Scope, record: CalibrationRecord, command: str) -> Iterator[Finding]:
    """Yield a warning if devices, lights or the objective have changed since."""
    if record.objective != scope.calibration.objective:
        what = (
            f"made with the objective {record.objective!r}, the scope file says "
            f"{scope.calibration.objective!r}"
        )
        yield Finding("calibrated setup", "warn", f"{what}; run {command}")
        return
    with contextlib.suppress(ConfigError):  # the check of the .cfg reports it
        here = setup_sha256(scope)
        if any(part.setup_sha256 != here for part in record.parts.measured().values()):
            what = "devices, camera or lights have changed in the scope file or its .cfg since"
            yield Finding("calibrated setup", "warn", f"{what}; run {command}")


def compare(scope: Scope, parts: CalibrationParts) -> Iterator[Finding]:
    """Yield the comparison of each measured part with the scope file."""
    if parts.dark is not None:
        yield from _dark(scope, parts.dark)
    if parts.flat is not None:
        yield from _flat(parts.flat)
    if parts.geometry is not None:
        yield from _geometry(scope, parts.geometry)
    if parts.offsets is not None:
        yield from _offsets(scope, parts.offsets)


def _dark(scope: Scope, part: DarkPart) -> Iterator[Finding]:
    level, file = (
        float(np.median([entry.level for entry in part.exposures])),
        scope.frame_checks.camera_offset,
    )
    text = f"{level:.1f} in the dark, the file says {file:g}"
    off = abs(level - file) > max(
        _OFFSET_NOISE * max(entry.read_noise for entry in part.exposures), 1.0
    )
    advice = f"; write frame_checks.camera_offset = {level:.1f}" if off else ""
    yield Finding("camera offset", "warn" if off else "ok", text + advice)
    for entry in part.exposures:
        text = (
            f"{entry.exposure_ms:g} ms: level {entry.level:.1f}, read noise "
            f"{entry.read_noise:.2f}, {entry.hot_pixels} hot pixels"
        )
        many = entry.hot_share > _HOT_SHARE
        yield Finding(
            "dark",
            "warn" if many else "ok",
            text + ("; cool the camera or look for stray light" * many),
        )


def _flat(part: FlatPart) -> Iterator[Finding]:
    for name, entry in part.modalities.items():
        text = (
            f"corners lack {100 * entry.falloff:.0f} %, {100 * entry.used_of_full_scale:.0f} % "
            f"of full scale used"
        )
        advice = []
        if entry.exposure_advice != "keep":
            advice.append(
                f"{entry.exposure_advice}: write modalities.{name}.exposure_ms = "
                f"{entry.better_exposure_ms:g}, or change the lamp"
            )
        lamp = entry.lamp
        if lamp is not None:
            text += f", lamp steady to {100 * lamp.relative_sd:.2f} %"
            if lamp.relative_sd > _LAMP_SD:
                advice.append(
                    "the lamp flickers: warm it up, or expose for full periods of its supply"
                )
        yield Finding(f"flat-field {name}", "warn" if advice else "ok", "; ".join([text, *advice]))


def _geometry(scope: Scope, part: GeometryPart) -> Iterator[Finding]:
    pixel_um, file_um = part.pixel_um, scope.camera.pixel_um
    error_um = part.pixel_um_se
    text = f"{pixel_um:.5f} +- {error_um:.1g} um, the file says {file_um:g}"
    off = abs(pixel_um / file_um - 1) > _PIXEL_SHARE
    advice = f"; write camera.pixel_um = {pixel_um:.5f}" if off else ""
    yield Finding("pixel size", "warn" if off else "ok", text + advice)
    yield _affine(scope, part)
    backlash = part.backlash
    if backlash.x_um is not None and backlash.y_um is not None:
        text = (
            f"{backlash.x_um:+.2f} um in x, {backlash.y_um:+.2f} um in y; returns to a position "
            f"within {backlash.repeatability_um or 0:.2f} um"
        )
        wide = max(abs(backlash.x_um), abs(backlash.y_um)) > _BACKLASH_UM
        advice = "; switch on the stage's backlash compensation" if wide else ""
        yield Finding("backlash", "warn" if wide else "ok", text + advice)


def _affine(scope: Scope, part: GeometryPart) -> Finding:
    measured, file = np.array(part.stage_affine), np.array(scope.camera.stage_affine)
    text = f"turned by {part.turn_deg:+.2f} deg, skewed by {part.skew_deg:+.2f} deg"
    if np.abs(measured - file).max() <= _AFFINE:
        skewed = abs(part.skew_deg) > _SKEW_DEG
        advice = "; the stage's axes are not square, or its steps differ" if skewed else ""
        return Finding("stage affine", "warn" if skewed else "ok", text + advice)
    rows = ", ".join(f"[{row[0]:.4f}, {row[1]:.4f}]" for row in measured)
    if np.abs(np.abs(measured) - np.round(np.abs(measured))).max() > 0.05:
        return Finding(
            "stage affine", "warn", f"{text}; turn the camera by that angle and calibrate again"
        )
    what = (
        "flipped or turned against the stage"
        if (np.round(measured) != np.round(file)).any()
        else text
    )
    return Finding("stage affine", "warn", f"{what}; write camera.stage_affine = [{rows}]")


def _offsets(scope: Scope, part: OffsetsPart) -> Iterator[Finding]:
    for name, offset_um in part.z_offset_um.items():
        if name == part.reference:
            continue
        figures = part.from_reference_um.get(name)
        if offset_um is None or figures is None or part.focus_offset_um is None:
            yield Finding(
                f"focus of {name}", "warn", "could not be measured; try a slide with more cells"
            )
            continue
        title, what, key = f"focus of {name}", "", f"modalities.{name}.z_offset_um"
        file_um = scope.modalities.named(name).z_offset_um
        if name == "fluorescence":  # nuclei are sharpest in fluorescence at the best focus
            title, what, key = "focus offset", "nuclei ", "focus.offset_um"
            offset_um, file_um = part.focus_offset_um - file_um, scope.focus.offset_um
        text = (
            f"{what}sharpest {offset_um:+.2f} um from {part.reference}, the file says "
            f"{file_um:+.2f}"
        )
        if not figures.reliable:
            yield Finding(
                title, "warn", f"{text}; places disagree: measure again on a slide with more cells"
            )
        elif abs(offset_um - file_um) > max(_OFFSET_UM, 2 * (figures.se_um or 0.0)):
            yield Finding(title, "warn", f"{text}; write {key} = {offset_um:.2f}")
        else:
            yield Finding(title, "ok", text)
