"""Measure the camera without light: level, read noise, hot pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from wbcpipe.acquire.config.calibration_record import DarkExposure, DarkFigures, DarkPart

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wbcpipe.acquire.calibration.microscope_probe import MicroscopeProbe

__all__ = ["dark_figures", "measure_dark"]

_FRAMES: Final = 6
#: A pixel is hot when it exceeds the level by this many times the read noise, and this share of the
#: full scale.
_HOT_NOISE: Final = 10.0
_HOT_SHARE: Final = 0.001
_LISTED: Final = 500


def dark_figures(frames: NDArray[np.uint16], full_scale: int) -> DarkFigures:
    """Describe dark frames.

    Args:
        frames: (N, Y, X) uint16, N at least 2.
        full_scale: value at which a pixel saturates.
    """
    typical = np.median(frames, axis=0)  # (Y, X)
    level = float(np.mean(typical[_inliers(typical)]))
    counts = frames.astype(np.int32)
    differences = counts[1:] - counts[:-1]  # (N - 1, Y, X)
    sampled = differences.ravel()[:: max(differences.size // 2_000_000, 1)].astype(np.float64)
    read_noise = float(sampled[_inliers(sampled)].std()) / np.sqrt(2.0)
    limit = level + max(_HOT_NOISE * read_noise, _HOT_SHARE * full_scale)
    hot = typical > limit
    levels = frames[:, ~hot].mean(axis=1, dtype=np.float64)  # (N,)
    # What stays is the variance of the mean frame, less what the noise of N frames leaves in it.
    mean = frames.mean(axis=0, dtype=np.float64)[~hot]
    left = float(np.var(mean)) - read_noise**2 / len(frames)
    rows, columns = np.nonzero(hot)
    return DarkFigures(
        level=round(level, 3),
        level_se=round(float(levels.std(ddof=1) / np.sqrt(len(frames))), 4),
        read_noise=round(float(read_noise), 3),
        pattern=round(float(np.sqrt(max(left, 0.0))), 3),
        hot_pixels=int(hot.sum()),
        hot_share=round(float(hot.mean()), 8),
        hot=tuple(zip(rows[:_LISTED].tolist(), columns[:_LISTED].tolist(), strict=True)),
        frames=len(frames),
    )


def _inliers(values: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return the mask of values within five robust standard deviations (at least one count) of the
    median.
    """
    middle = np.median(values)
    spread = max(1.4826 * float(np.median(np.abs(values - middle))), 1.0)
    return np.asarray(np.abs(values - middle) <= 5 * spread)


def measure_dark(probe: MicroscopeProbe) -> DarkPart:
    """Measure each exposure that a modality uses, with the shutter closed."""
    exposures: dict[float, list[str]] = {}
    for name, modality in probe.scope.modalities.items():
        exposures.setdefault(modality.exposure_ms, []).append(name)
    result: list[DarkExposure] = []
    for exposure_ms, names in exposures.items():
        frames: list[NDArray[np.uint16]] = []
        for x_um, y_um in probe.places(_FRAMES):
            # Stray light would differ from place to place; and a virtual camera's noise belongs to
            # the place.
            probe.go(x_um, y_um)
            frames.append(probe.dark(exposure_ms))
            probe.progress(
                "dark frames", len(result) * _FRAMES + len(frames), len(exposures) * _FRAMES
            )
        figures = dark_figures(np.stack(frames), probe.scope.camera.saturation)
        result.append(
            DarkExposure(exposure_ms=exposure_ms, modalities=tuple(names), **dict(figures))
        )
    return DarkPart(exposures=tuple(result))
