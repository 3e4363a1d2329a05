"""Measure the illumination of each modality.

Its shading, its lamp, and how well its exposure fits the camera.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from scipy import ndimage

from wbcpipe.acquire.config.calibration_record import FlatModality, FlatPart, LampStability
from wbcpipe.imaging.robust_surface import fit_surface

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from wbcpipe.acquire.calibration.microscope_probe import MicroscopeProbe

__all__ = [
    "BRIGHT_PERCENTILE",
    "BRIGHT_QUANTILE",
    "FLUORESCENCE_PERCENTILE",
    "Shading",
    "advise_exposure",
    "estimate_shading",
    "lamp_figures",
    "measure_flat",
    "tile_levels",
]

#: Side of the coarse grid, and the fewest pixels along a tile's side.
_GRID: Final = 32
_TILE_PX: Final = 8
_PLACES: Final = 24
#: Fewer in fluorescence: each place is bleached by its frame.
_FLUORESCENCE_PLACES: Final = 12
_STEADY_FRAMES: Final = 12
#: The empty background is the bright part of a bright-field tile, and the dark part of a
#: fluorescent one.
BRIGHT_PERCENTILE: Final = 85
FLUORESCENCE_PERCENTILE: Final = 35
#: Red cells fill a small tile in many bright-field frames; the upper quartile still shows it empty.
BRIGHT_QUANTILE: Final = 0.75
_ORDER: Final = 4
#: The background should use this share of the full scale; within the limits an exposure is left
#: alone.
_TARGET_SHARE: Final = 0.70
_MIN_SHARE: Final = 0.40
_MAX_SHARE: Final = 0.90
#: In fluorescence it is the brightest nuclei that must fit.
_NUCLEI_PERCENTILE: Final = 99.9


@dataclass(frozen=True)
class Shading:
    """Relative illumination, 1 at the middle tile of the sensor.

    Attributes:
        grid: (rows, columns) float64, of equal tiles.
        error: standard error of a tile before smoothing, as a part of 1; the typical tile's.
        levels: (N,) float64, the background of each frame in counts above dark, shading taken out.
    """

    grid: NDArray[np.float64]
    error: float
    levels: NDArray[np.float64]

    @property
    def falloff(self) -> float:
        """Share of light that the mean corner lacks, compared with the middle."""
        side = max(1, min(self.grid.shape) // 16)
        ends = slice(None, side), slice(-side, None)
        corners = [self.grid[rows, columns].mean() for rows in ends for columns in ends]
        return float(1.0 - np.mean(corners))


def tile_levels(frame: NDArray[np.uint16], percentile: float) -> NDArray[np.float64]:
    """Return a percentile of each of equal tiles of a frame (y, x), as (rows, columns) float64.

    A remainder is cut.
    """
    rows, columns = (max(1, min(_GRID, side // _TILE_PX)) for side in frame.shape)
    high, wide = frame.shape[0] // rows, frame.shape[1] // columns
    tiles = frame[: rows * high, : columns * wide].reshape(
        rows, high, columns, wide
    )  # (rows, high, columns, wide)
    return np.asarray(
        np.percentile(tiles.swapaxes(1, 2).reshape(rows, columns, high * wide), percentile, axis=-1)
    )


def estimate_shading(levels: NDArray[np.float64], quantile: float = 0.5) -> Shading:
    """Separate the shading that frames share from the brightness of each frame.

    Args:
        levels: (N, rows, columns) float64, background of each tile above dark; N at least 3.
        quantile: of the frames that decides on a tile: above a half where cells only darken it.
    """
    logs = np.log(np.maximum(levels, 1e-3))
    shading = np.zeros(logs.shape[1:])
    brightness = np.zeros(len(logs))
    # Rank one by quantiles in turn: a tile full of cells in some frames has no say.
    for _ in range(20):
        brightness = np.median(logs - shading, axis=(1, 2))
        shading = np.quantile(logs - brightness[:, None, None], quantile, axis=0)
    residual = logs - shading - brightness[:, None, None]
    spread = 1.4826 * np.median(np.abs(residual - np.median(residual, axis=0)), axis=0)
    # A robust quartic surface plus the blurred residual: dust stays, single tiles do not.
    fitted = fit_surface(shading, _ORDER, outlier_ratio=3.0).values
    smooth = np.exp(fitted + ndimage.gaussian_filter(shading - fitted, 1.0, mode="nearest"))
    middle = smooth[smooth.shape[0] // 2, smooth.shape[1] // 2]
    return Shading(
        grid=smooth / middle,
        # A quartile of N has 1.36 times the standard error of the mean, their median 1.25 times.
        error=float(1.36 * np.median(spread) / np.sqrt(len(levels))),
        levels=np.exp(brightness) * middle,
    )


def advise_exposure(
    exposure_ms: float, level: float, full: float
) -> tuple[Literal["keep", "shorten", "lengthen"], float]:
    """What to do with an exposure: ``keep``, ``shorten`` or ``lengthen``, and the better one in ms.

    Args:
        exposure_ms: present exposure.
        level: counts above dark that it gives.
        full: full scale above dark, in counts.
    """
    share = level / full
    if _MIN_SHARE <= share <= _MAX_SHARE:
        return "keep", exposure_ms
    better_ms = exposure_ms * _TARGET_SHARE / max(min(share, 1.0), 1e-3)
    return ("shorten" if share > _MAX_SHARE else "lengthen"), float(f"{better_ms:.2g}")


def measure_flat(probe: MicroscopeProbe, dark_level: dict[float, float]) -> FlatPart:
    """Measure every modality at places all over the slot.

    Args:
        probe: at the microscope.
        dark_level: exposure in ms to the camera's level without light, in counts.
    """
    probe.find_focus()
    seen: dict[str, list[_FrameLevels]] = {name: [] for name, _ in probe.scope.modalities.items()}
    places = probe.places(_PLACES)
    for number, (x_um, y_um) in enumerate(places, 1):
        probe.go(x_um, y_um)
        for name, frames in seen.items():
            if name != "fluorescence" or number <= _FLUORESCENCE_PLACES:
                frames.append(_measure_frame(probe, name))
        probe.progress("flat-field, places", number, len(places))
    return FlatPart(
        modalities={
            name: _modality_figures(probe, name, seen[name], dark_level[modality.exposure_ms])
            for name, modality in probe.scope.modalities.items()
        }
    )


@dataclass(frozen=True)
class _FrameLevels:
    """One frame, in counts: background of its tiles, level of its brightest part, share of
    saturated pixels.
    """

    levels: NDArray[np.float64]
    top: float
    saturated: float


def _measure_frame(probe: MicroscopeProbe, name: str) -> _FrameLevels:
    frame = probe.frame(name)
    percentile = FLUORESCENCE_PERCENTILE if name == "fluorescence" else BRIGHT_PERCENTILE
    saturated = float(np.mean(frame >= probe.scope.camera.saturation))
    return _FrameLevels(
        tile_levels(frame, percentile), float(np.percentile(frame, _NUCLEI_PERCENTILE)), saturated
    )


def _modality_figures(
    probe: MicroscopeProbe, name: str, seen: list[_FrameLevels], dark: float
) -> FlatModality:
    fluorescent = name == "fluorescence"
    full = probe.scope.camera.saturation
    levels = [entry.levels - dark for entry in seen]
    shading = estimate_shading(np.stack(levels), 0.5 if fluorescent else BRIGHT_QUANTILE)
    background = float(np.median(shading.levels))
    deciding = (
        max(entry.top for entry in seen) - dark
        if fluorescent
        else background * float(shading.grid.max())
    )
    exposure_ms = probe.scope.modalities.named(name).exposure_ms
    advice, better_ms = advise_exposure(exposure_ms, deciding, full - dark)
    return FlatModality(
        shading=tuple(map(tuple, np.round(shading.grid, 4).tolist())),
        shading_se=round(shading.error, 5),
        falloff=round(shading.falloff, 4),
        background=round(background, 1),
        exposure_ms=exposure_ms,
        used_of_full_scale=round(deciding / (full - dark), 4),
        saturated_share=round(float(np.median([entry.saturated for entry in seen])), 7),
        exposure_advice=advice,
        better_exposure_ms=better_ms,
        dark_level=round(dark, 2),
        places=len(seen),
        # The lamp is watched in bright field only: fluorescence fades by itself.
        lamp=None if fluorescent else _watch_lamp(probe, name, dark),
    )


def _watch_lamp(probe: MicroscopeProbe, name: str, dark: float) -> LampStability:
    """Mean of frames taken one after another at one place: their scatter, and their drift per
    minute.
    """
    means: list[float] = []
    times_s: list[float] = []
    start_s = time.monotonic()
    for _ in range(_STEADY_FRAMES):
        frame = probe.frame(name)
        times_s.append(time.monotonic() - start_s)
        means.append(float(frame.mean()) - dark)
    return lamp_figures(np.array(times_s), np.array(means))


def lamp_figures(
    times_s: Sequence[float] | NDArray[np.float64], levels: NDArray[np.float64]
) -> LampStability:
    """Scatter about a straight line, and its slope, relative to the mean level.

    Args:
        times_s: (N,) of the exposures.
        levels: (N,) above dark.
    """
    moments = np.asarray(times_s) - np.mean(times_s)
    mean = float(np.mean(levels))
    slope = float(moments @ (levels - mean) / max(float(moments @ moments), 1e-12))
    scatter = float(np.std(levels - mean - slope * moments, ddof=2))
    return LampStability(
        relative_sd=round(scatter / mean, 6),
        drift_per_minute=round(60.0 * slope / mean, 6),
        drift_se=round(60.0 * scatter / mean / max(float(np.sqrt(moments @ moments)), 1e-6), 6),
        seconds=round(float(np.ptp(times_s)), 2),
        frames=len(levels),
    )
