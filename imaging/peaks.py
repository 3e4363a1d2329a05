"""Find peaks between the samples of a curve or an image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = [
    "fit_log_parabola",
    "gaussian_vertex",
    "interpolate_peak",
    "parabola_vertex",
    "subpixel_peaks",
]


def parabola_vertex(left: float, middle: float, right: float) -> float:
    """Return the offset, in steps from the middle, of the maximum of a parabola through three
    samples.

    At most half a step; 0 where the samples have no maximum.

    >>> parabola_vertex(0.0, 3.0, 2.0)
    0.25
    """
    bend = left - 2 * middle + right
    return min(max(0.5 * (left - right) / bend, -0.5), 0.5) if bend < 0 else 0.0


def gaussian_vertex(left: float, middle: float, right: float) -> float | None:
    """Return the same for a parabola through the logarithms, exact for a Gaussian; ``None`` unless
    all are positive.
    """
    if min(left, middle, right) <= 0:
        return None
    return parabola_vertex(math.log(left), math.log(middle), math.log(right))


def interpolate_peak(samples: Sequence[float], index: int) -> float:
    """Return the offset of the peak near ``samples[index]`` in steps, see `parabola_vertex`; 0 at
    either end.
    """
    if not 0 < index < len(samples) - 1:
        return 0.0
    left, middle, right = samples[index - 1 : index + 2]
    return parabola_vertex(left, middle, right)


def fit_log_parabola(
    x: NDArray[np.float64], y: NDArray[np.float64], min_ratio: float
) -> tuple[float, float] | None:
    """Fit a parabola to the logarithm of a curve around its highest sample.

    Args:
        x: (N,) float64, rising.
        y: (N,) float64.
        min_ratio: samples next to the highest one are fitted while they are at least so high, as a
            part of it.

    Returns:
        The peak's x and its standard error; ``None`` where there is no peak within the curve.
    """
    top = int(np.argmax(y))
    if y[top] <= 0:
        return None
    low, high = top, top
    while low > 0 and y[low - 1] >= min_ratio * y[top]:
        low -= 1
    while high < len(y) - 1 and y[high + 1] >= min_ratio * y[top]:
        high += 1
    if high - low < 3:
        low, high = max(top - 2, 0), min(top + 2, len(y) - 1)
    near = slice(low, high + 1)
    offsets, logs = x[near] - x[top], np.log(np.maximum(y[near], 1e-12))
    if len(offsets) < 4:
        return None
    terms, covariance = np.polyfit(offsets, logs, 2, cov="unscaled")
    residual = logs - np.polyval(terms, offsets)
    covariance = covariance * float(residual @ residual) / max(len(offsets) - 3, 1)
    bend, slope = float(terms[0]), float(terms[1])
    if bend >= 0:
        return None
    peak = -slope / (2 * bend)
    if not offsets[0] <= peak <= offsets[-1]:
        return None
    gradient = np.array([slope / (2 * bend**2), -1 / (2 * bend), 0.0])
    return x[top] + peak, float(np.sqrt(max(gradient @ covariance @ gradient, 0.0)))


def subpixel_peaks(
    surfaces: NDArray[np.float32],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Find the highest point of each surface, between pixels by a quadratic fitted to the 3 x 3
    around it.

    Args:
        surfaces: (T, 2 S + 1, 2 S + 1) float32.

    Returns: Displacement (T, 2) from the middle, NaN where the peak lies on the border; height
        (T,); prominence (T,) over the highest point more than 3 pixels away.
    """
    side = surfaces.shape[-1]
    shifts, heights, prominences = (
        np.full((len(surfaces), 2), np.nan),
        np.zeros(len(surfaces)),
        np.zeros(len(surfaces)),
    )
    y, x = np.ogrid[:side, :side]
    for k, surface in enumerate(surfaces):
        row, column = np.unravel_index(int(np.argmax(surface)), surface.shape)
        heights[k] = surface[row, column]
        elsewhere = surface[np.maximum(abs(y - row), abs(x - column)) > 3]
        prominences[k] = heights[k] - elsewhere.max() if elsewhere.size else 0.0
        if 0 < row < side - 1 and 0 < column < side - 1:
            offset = _quadratic_peak(
                surface[row - 1 : row + 2, column - 1 : column + 2].astype(float)
            )
            shifts[k] = np.array([row, column]) + offset - side // 2
    return shifts, heights, prominences


def _quadratic_peak(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fit a quadratic to 3 x 3 samples and return the offset (2,) of its peak from the middle,
    within one pixel.
    """
    gradient = (
        np.array([(samples[2] - samples[0]).sum(), (samples[:, 2] - samples[:, 0]).sum()]) / 6
    )
    yy = (samples[0] + samples[2] - 2 * samples[1]).sum() / 3
    xx = (samples[:, 0] + samples[:, 2] - 2 * samples[:, 1]).sum() / 3
    xy = (samples[2, 2] + samples[0, 0] - samples[0, 2] - samples[2, 0]) / 4
    determinant = yy * xx - xy * xy
    if determinant <= 0 or yy >= 0:
        return np.zeros(2)
    offset = (
        np.array([xy * gradient[1] - xx * gradient[0], xy * gradient[0] - yy * gradient[1]])
        / determinant
    )
    return np.asarray(np.clip(offset, -1, 1))
