"""Compare the figures of a night's check with the calibration, or with the first checks, and with
the limits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from wbcpipe.acquire.calibration.night_check import coarse_grid
from wbcpipe.acquire.config.calibration_file import calibration_path, setup_sha256
from wbcpipe.acquire.config.calibration_record import CalibrationRecord
from wbcpipe.batch.qc.figures import describe
from wbcpipe.batch.qc.records import CheckFinding
from wbcpipe.errors import ConfigError, SampleStateError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.acquire.calibration.night_check import NightFigures
    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.batch.qc.records import FindingStatus, QcEntry

__all__ = ["Reference", "compare_with_limits", "find_reference", "flat_figures"]

_Grid = tuple[tuple[float, ...], ...]
#: What to do about a figure beyond its limit.
_ADVICE: Final = {
    "light": "see that the lamp is on and warm, and its path clean; after a change of the lamp "
    "run `wbcpipe calibrate`",
    "flat": "clean the optics and align the lamp; then run `wbcpipe calibrate --only dark,flat`",
    "lamp_sd": "let the lamp warm up, or replace it",
    "dark_level": "see that the camera is cooled and no stray light reaches it",
    "read_noise": "see that the camera is cooled and its read-out mode is that of the calibration",
    "hot_pixels": "see that the camera is cooled; run `wbcpipe calibrate --only dark,flat`",
    "focus_repeat_um": "look for a loose slide or focus drive, and for vibration",
    "focus_um": "see that the slide lies flat in its slot; correct 'focus.fixed_um' if all slides "
    "lie there",
    "sharpness": "clean the objective and the slide; see that the immersion is right",
    "stage_return_um": "look for a loose insert, and home the stage",
}


@dataclass(frozen=True)
class Reference:
    """What the figures are compared with.

    Attributes:
        figures, shading: as of `NightFigures`; those without a reference are left out.
        source: of each, for people.
        collected: number of checks so far that make the reference where there is no calibration.
    """

    figures: dict[str, float] = field(default_factory=dict)
    shading: dict[str, _Grid] = field(default_factory=dict)
    source: dict[str, str] = field(default_factory=dict)
    collected: int = 0


def find_reference(scope: Scope, data: Path, checks: Sequence[QcEntry]) -> Reference:
    """Return the reference: the scope's calibration, and the first checks for what it does not
    hold.

    Args:
        scope: checked.
        data: data root.
        checks: earlier checks of the present period, the oldest first.
    """
    wanted = scope.night_check.baseline_checks
    figures: dict[str, float] = {}
    shading: dict[str, _Grid] = {}
    source: dict[str, str] = {}
    if len(checks) >= wanted:
        first = checks[:wanted]
        for name in {name for entry in first for name in entry.figures}:
            figures[name] = float(
                np.median([entry.figures[name] for entry in first if name in entry.figures])
            )
        for name in {name for entry in first for name in entry.shading}:
            grids = [np.array(entry.shading[name]) for entry in first if name in entry.shading]
            same = [grid for grid in grids if grid.shape == grids[0].shape]
            shading[name] = _as_grid(np.median(same, axis=0))
        made = "the first check" if wanted == 1 else f"the first {wanted} checks"
        source = dict.fromkeys([*figures, *(f"flat.{name}" for name in shading)], made)
    calibrated = _from_calibration(scope, data)
    return Reference(
        {**figures, **calibrated.figures},
        {**shading, **calibrated.shading},
        {**source, **calibrated.source},
        len(checks),
    )


def _from_calibration(scope: Scope, data: Path) -> Reference:
    """Return what a valid calibration of this setup holds."""
    try:
        record = CalibrationRecord.read_if_present(calibration_path(scope, data))
        setup = setup_sha256(scope)
    except (SampleStateError, ConfigError):
        return Reference()  # doctor reports it
    if record is None or record.objective != scope.calibration.objective:
        return Reference()
    figures: dict[str, float] = {}
    shading: dict[str, _Grid] = {}
    dark, flat = record.parts.dark, record.parts.flat
    if dark is not None and dark.setup_sha256 == setup:
        for entry in dark.exposures:
            figures[f"dark_level.{entry.exposure_ms:g}ms"] = entry.level
            figures[f"read_noise.{entry.exposure_ms:g}ms"] = entry.read_noise
            figures[f"hot_pixels.{entry.exposure_ms:g}ms"] = float(entry.hot_pixels)
    if flat is not None and flat.setup_sha256 == setup:
        for name, modality in flat.modalities.items():
            if modality.exposure_ms != scope.modalities.named(name).exposure_ms:
                continue
            figures[f"light.{name}"] = modality.background
            if name != "fluorescence":
                shading[name] = _as_grid(coarse_grid(np.array(modality.shading)))
    text = f"the calibration of {record.date[:10]}"
    return Reference(
        figures, shading, dict.fromkeys([*figures, *(f"flat.{name}" for name in shading)], text)
    )


def _as_grid(grid: NDArray[np.float64]) -> _Grid:
    return tuple(map(tuple, np.round(grid, 5).tolist()))


def flat_figures(measured: NightFigures, reference: Reference) -> dict[str, float]:
    """Return, as ``flat.<modality>``, by how many per cent the shape of the illumination has
    changed.

    It is the largest change of an 8 x 8 tile, relative to the median tile, so that the lamp's power
    plays no part.
    """
    figures = {}
    for name, grid in measured.shading.items():
        now, before = np.array(grid), np.array(reference.shading.get(name, ()))
        if now.shape == before.shape:
            ratio = now / np.maximum(before, 1e-6)
            figures[f"flat.{name}"] = round(
                100 * float(np.abs(ratio / np.median(ratio) - 1).max()), 3
            )
    return figures


def compare_with_limits(
    scope: Scope, figures: dict[str, float], reference: Reference
) -> Iterator[CheckFinding]:
    """Yield a finding for each figure of a check that has a limit.

    Args:
        scope: its ``[night_check]`` holds the limits.
        figures: measured, with those of `flat_figures`.
        reference: to compare with.
    """
    for name, value in figures.items():
        yield _compare(scope, name, value, reference)


@dataclass(frozen=True)
class _Limit:
    """How far a figure is from its reference, its limit, the unit of both, and to which side the
    limit holds.
    """

    away: float
    limit: float
    unit: str
    side: Literal["most", "least", "both"] = "most"

    @property
    def passed(self) -> bool:
        if self.side == "least":
            return self.away >= self.limit
        return (abs(self.away) if self.side == "both" else self.away) <= self.limit


def _compare(scope: Scope, name: str, value: float, reference: Reference) -> CheckFinding:
    info = describe(name)
    shown = f"{value:.{info.decimals}f} {info.unit}".strip()
    before = reference.figures.get(name)
    limit = _absolute(scope, name, value)
    against = ""
    if limit is None and before is not None:
        limit = _relative(scope, name, value, before)
        against = f", {before:.{info.decimals}f} in {reference.source[name]}"
    elif name.startswith("flat."):
        against = f" against {reference.source[name]}"
    if limit is None:
        wanted = scope.night_check.baseline_checks
        count = f"check {reference.collected + 1} of {wanted} that make the reference"
        return CheckFinding(
            name=info.title, status="baseline", figure=value, detail=f"{shown}; {count}"
        )
    status: FindingStatus = "ok" if limit.passed else "drift"
    allowed = (
        f"{'at least' if limit.side == 'least' else 'at most'} {limit.limit:g} "
        f"{limit.unit}".rstrip()
    )
    detail = f"{shown}{against}"
    if status == "drift":
        detail += (
            f": {limit.away:+.3g} {limit.unit} where {allowed} is allowed; "
            f"{_ADVICE[name.partition('.')[0]]}"
        )
    return CheckFinding(
        name=info.title,
        status=status,
        figure=round(limit.away, 4),
        limit=limit.limit,
        detail=detail,
    )


def _absolute(scope: Scope, name: str, value: float) -> _Limit | None:
    """Return the limit of a figure that needs no reference."""
    policy = scope.night_check
    match name.partition(".")[0]:
        case "flat":
            return _Limit(value, policy.flat_field_percent, "%")
        case "lamp_sd":
            return _Limit(value, policy.lamp_percent, "%")
        case "focus_repeat_um":
            return _Limit(value, policy.focus_um, "um")
        case "focus_um":
            return _Limit(value - scope.focus.fixed_um, policy.focus_shift_um, "um", "both")
        case "stage_return_um":
            return _Limit(value, policy.stage_return_um, "um")
    return None


def _relative(scope: Scope, name: str, value: float, before: float) -> _Limit | None:
    policy = scope.night_check
    percent = 100 * (value / before - 1) if before else 0.0
    match name.partition(".")[0]:
        case "light":
            fluorescent = name == "light.fluorescence"
            limit = policy.fluorescence_drift_percent if fluorescent else policy.light_drift_percent
            return _Limit(percent, limit, "%", "both")
        case "dark_level":
            return _Limit(value - before, policy.dark_levels, "counts", "both")
        case "read_noise":
            return _Limit(percent, policy.read_noise_percent, "%")
        case "hot_pixels":
            megapixels = scope.camera.image_px[0] * scope.camera.image_px[1] / 1e6
            return _Limit(
                (value - before) / megapixels,
                policy.hot_pixels_per_megapixel,
                "new ones per megapixel",
            )
        case "sharpness":
            return _Limit(100 + percent, policy.sharpness_percent, "%", "least")
    return None
