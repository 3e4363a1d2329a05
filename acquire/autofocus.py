"""Find the sharpest Z from images alone; works on a callable z -> image and moves nothing itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["FocusResult", "climb_to_focus", "search_focus", "sharpness"]

#: One step beside its peak the curve of sharpness must fall to this part of it, on average of the two sides; else
#: nothing was in view.
_FALL: Final = 0.97
_SIDE: Final = 1
#: Standard deviations, in pixels, of the two Gaussians whose difference is the detail looked at.
_FINE_PX: Final = 1.5
_COARSE_PX: Final = 3.0
#: What that difference passes of the energy of white noise: the integral of its squared kernel.
_NOISE_PASSED: Final = (1 / _FINE_PX**2 + 1 / _COARSE_PX**2 - 4 / (_FINE_PX**2 + _COARSE_PX**2)) / (4 * math.pi)
#: Detail must exceed the noise's by this part of it, else the image is taken for empty.
_LEAST_SIGNAL: Final = 0.3
_MOST_STEPS: Final = 12


@dataclass(frozen=True)
class FocusResult:
    """Where an image is sharpest.

    Attributes:
        z_um: the position, between the steps of the search.
        sharpness: see `sharpness`, at the sharpest frame.
        frames: how many were taken.
    """

    z_um: float
    sharpness: float
    frames: int


def sharpness(image: NDArray[np.uint16]) -> float:
    """Energy of the image's detail of 3 to 6 pixels above the noise's, relative to its squared mean; free of units.

    A difference of Gaussians leaves out most shot noise (finer) and uneven light (coarser); dividing by the mean takes
    out the lamp's drift. An image of noise alone gives 0.

    Args:
        image: (y, x) uint16.
    """
    rows, columns = (side // 2 * 2 for side in image.shape)
    binned = image[:rows, :columns].reshape(rows // 2, 2, columns // 2, 2).mean(axis=(1, 3), dtype=np.float32)
    mean = float(binned.mean())
    if mean <= 0:
        return 0.0
    detail = ndimage.gaussian_filter(binned, _FINE_PX) - ndimage.gaussian_filter(binned, _COARSE_PX)
    energy = float(np.square(detail).mean())
    # The median difference of neighbours sees the noise and not the few pixels at edges.
    noise = 1.4826 * float(np.median(np.abs(np.diff(binned, axis=1)))) / math.sqrt(2)
    noise_energy = _NOISE_PASSED * noise**2
    signal = energy - noise_energy
    return signal / mean**2 if signal > _LEAST_SIGNAL * noise_energy else 0.0


class _Curve:
    """Sharpness by whole steps of Z, each taken once."""

    def __init__(
        self,
        take: Callable[[float], NDArray[np.uint16]],
        origin_um: float,
        step_um: float,
        limits_um: tuple[float, float],
    ) -> None:
        self._take = take
        self._origin_um = origin_um
        self.step_um = step_um
        self._limits_um = limits_um
        self.values: dict[int, float] = {}

    def z_um(self, step: float) -> float:
        return round(self._origin_um + step * self.step_um, 3)

    def allowed(self, step: int) -> bool:
        return self._limits_um[0] <= self.z_um(step) <= self._limits_um[1]

    def at(self, step: int) -> float:
        if step not in self.values:
            self.values[step] = sharpness(self._take(self.z_um(step))) if self.allowed(step) else 0.0
        return self.values[step]

    def peak(self) -> int:
        return max(self.values, key=lambda step: (self.values[step], -abs(step)))


def climb_to_focus(
    take: Callable[[float], NDArray[np.uint16]],
    start_um: float,
    step_um: float,
    limits_um: tuple[float, float],
) -> FocusResult | None:
    """Climb from a Z near the focus to the peak of sharpness, and interpolate it.

    Args:
        take: gives the image (y, x) uint16 at a Z in micrometres.
        start_um: where to begin, within some steps of the focus.
        step_um: between two images; the result is finer, about a tenth of it.
        limits_um: soft limits of Z, never left.

    Returns:
        The focus, or ``None`` where the images show no peak (an empty place, or too far away).
    """
    curve = _Curve(take, start_um, step_um, limits_um)
    for step in (0, -1, 1):
        curve.at(step)
    while True:
        peak = curve.peak()
        wanted = [step for step in range(peak - _SIDE, peak + _SIDE + 1) if step not in curve.values]
        if not wanted:
            break
        if abs(peak) > _MOST_STEPS:
            return None
        for step in wanted:
            curve.at(step)
    near = [curve.values[peak + side] for side in (-_SIDE, 0, _SIDE)]
    if min(near) <= 0 or sum(near) - near[1] > 2 * _FALL * near[1]:
        return None
    # A parabola through the logarithm: exact where the peak is a Gaussian.
    left, middle, right = (math.log(value) for value in near)
    bend = left - 2 * middle + right
    offset = 0.5 * (left - right) / bend if bend < 0 else 0.0
    return FocusResult(curve.z_um(peak + offset), near[1], sum(curve.allowed(step) for step in curve.values))


def search_focus(
    take: Callable[[float], NDArray[np.uint16]],
    start_um: float,
    range_um: float,
    coarse_step_um: float,
    step_um: float,
    limits_um: tuple[float, float],
) -> FocusResult | None:
    """Look through a wide range of Z in coarse steps, then climb from the sharpest of them.

    Args:
        take, start_um, step_um, limits_um: see `climb_to_focus`.
        range_um: how far to look to each side of ``start_um``.
        coarse_step_um: of the first look; less than the depth over which the specimen is recognisable.
    """
    curve = _Curve(take, start_um, coarse_step_um, limits_um)
    steps = math.ceil(range_um / coarse_step_um)
    for step in range(-steps, steps + 1):
        curve.at(step)
    found = climb_to_focus(take, curve.z_um(curve.peak()), step_um, limits_um)
    if found is None:
        return None
    return FocusResult(found.z_um, found.sharpness, found.frames + sum(curve.allowed(step) for step in curve.values))
