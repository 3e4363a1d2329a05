"""Find the sharpest Z from images alone, on a callable z -> image.

The image is divided into tiles, and each tile is weighted by its own maximum: a bright particle of
dirt counts no more than the few tiles that it covers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import ndimage

from wbcpipe.acquire.config.policies import MAX_FOCUS_FRAMES, max_climb_frames
from wbcpipe.imaging.peaks import gaussian_vertex

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["FocusResult", "hill_climb", "search_focus", "sharpness"]

#: One step beside the peak, the mean sharpness of both sides must fall to this fraction; else
#: nothing was in view.
_FALL: Final = 0.97
#: Pixels binned along each side: for the climb, and for the coarse steps of a wide search.
_FINE_MERGE: Final = 2
_BROAD_MERGE: Final = 8
#: Standard deviations, in binned pixels, of the two Gaussians whose difference is the detail.
_FINE_PX: Final = 1.5
_COARSE_PX: Final = 3.0
#: Fraction of the energy of white noise that the difference passes: the integral of its squared
#: kernel.
_NOISE_PASSED: Final = (1 / _FINE_PX**2 + 1 / _COARSE_PX**2 - 4 / (_FINE_PX**2 + _COARSE_PX**2)) / (
    4 * math.pi
)
#: Tiles along each side of an image, and the smallest side of a tile in binned pixels.
_TILES: Final = 8
_TILE_PX: Final = 12
#: A tile shows something if its detail has this many times the noise's energy: noise alone, with
#: about 14 independent patches in a tile, reaches it once in thousands.
_SIGNAL: Final = 3.0
#: Fraction and smallest number of tiles that must show something beside the strongest and its
#: neighbours: one particle is not a specimen.
_MIN_SHARE: Final = 0.08
_MIN_TILES: Final = 3


@dataclass(frozen=True)
class FocusResult:
    """The sharpest Z.

    Attributes:
        z_um: interpolated between the steps of the search.
        frames: number taken.
    """

    z_um: float
    frames: int


@dataclass(frozen=True)
class _Detail:
    """The detail in the T tiles of an image.

    Attributes:
        energy: (T,) float64, row by row, of the detail above the noise's, relative to the image's
            squared mean; may be negative by chance.
        shown: (T,) bool, true where it exceeds the noise.
        columns: of tiles.
    """

    energy: NDArray[np.float64]
    shown: NDArray[np.bool_]
    columns: int

    def is_specimen(self) -> bool:
        """Return whether the image shows more than one particle and its halo."""
        row, column = divmod(int(self.energy.argmax()), self.columns)
        shown = self.shown.reshape(-1, self.columns).copy()
        shown[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = False
        return bool(shown.sum() >= max(_MIN_SHARE * shown.size, _MIN_TILES))


def sharpness(image: NDArray[np.uint16]) -> float:
    """Return the energy of an image's detail of 3 to 6 pixels above the noise, relative to its
    squared mean.

    A difference of Gaussians removes most shot noise (finer) and uneven light (coarser); division
    by the mean removes the lamp's drift. An image of noise alone gives 0.

    Args:
        image: (y, x) uint16.
    """
    detail = _detail(image, _FINE_MERGE)
    return float(np.where(detail.shown, detail.energy, 0.0).mean())


def _detail(image: NDArray[np.uint16], merge: int) -> _Detail:
    merge = max(min(merge, min(image.shape) // _TILE_PX), 1)
    rows, columns = (side // merge for side in image.shape)
    cut = image[: rows * merge, : columns * merge]
    merged = cut.reshape(rows, merge, columns, merge).mean(axis=(1, 3), dtype=np.float32)  # (y, x)
    side = max(min(rows, columns) // _TILES, min(_TILE_PX, rows, columns))
    down, right = rows // side, columns // side
    mean = float(merged.mean())
    if mean <= 0:
        return _Detail(np.zeros(down * right), np.zeros(down * right, np.bool_), right)
    band = ndimage.gaussian_filter(merged, _FINE_PX) - ndimage.gaussian_filter(merged, _COARSE_PX)
    tiles = np.square(band)[: down * side, : right * side].reshape(
        down, side, right, side
    )  # (rows, y, columns, x)
    energy = tiles.mean(axis=(1, 3), dtype=np.float64).ravel()
    # The median difference of neighbours measures the noise, not the few pixels at edges.
    noise = 1.4826 * float(np.median(np.abs(np.diff(merged, axis=1)))) / math.sqrt(2)
    noise_energy = _NOISE_PASSED * noise**2
    return _Detail((energy - noise_energy) / mean**2, energy > _SIGNAL * noise_energy, right)


@dataclass
class _Curve:
    """The detail at each integer step of Z, each taken once, and the sharpness of each step."""

    take_image: Callable[[float], NDArray[np.uint16]]
    origin_um: float
    step_um: float
    limits_um: tuple[float, float]
    merge: int = _FINE_MERGE
    seen: dict[int, _Detail] = field(default_factory=dict)
    out_of_range: set[int] = field(default_factory=set)

    def z_um(self, step: float) -> float:
        return round(self.origin_um + step * self.step_um, 3)

    def take(self, step: int) -> None:
        """Take the frame of a step, unless it was taken or is beyond the limits."""
        if step in self.seen or step in self.out_of_range:
            return
        if self.limits_um[0] <= self.z_um(step) <= self.limits_um[1]:
            self.seen[step] = _detail(self.take_image(self.z_um(step)), self.merge)
        else:
            self.out_of_range.add(step)

    def values(self, *, all_tiles: bool = False) -> dict[int, float]:
        """Return the sharpness by step: the sum over the tiles that show something, each relative
        to its own maximum.

        ``all_tiles``: use all tiles; for images so blurred that their detail does not exceed the
        noise.
        """
        steps = sorted(self.seen)
        if not steps:
            return {}
        energy = np.array([self.seen[step].energy for step in steps])  # (S, T)
        shown = np.ones(energy.shape[1], np.bool_)
        if not all_tiles:
            shown = np.any([self.seen[step].shown for step in steps], axis=0)
        if not shown.any():
            return dict.fromkeys(steps, 0.0)
        best = np.maximum(energy[:, shown].max(axis=0), 0.0)  # (T,)
        # The median is added so that a tile with almost no detail does not get the weight of the
        # others.
        typical = max(float(np.median(best)), np.finfo(np.float64).tiny)
        curve = (energy[:, shown] / (best + typical)).sum(axis=1) / energy.shape[1]
        return dict(zip(steps, (max(float(value), 0.0) for value in curve), strict=True))


def hill_climb(
    take: Callable[[float], NDArray[np.uint16]],
    start_um: float,
    step_um: float,
    limits_um: tuple[float, float],
    max_frames: int = MAX_FOCUS_FRAMES,
) -> FocusResult | None:
    """Climb from a Z near the focus to the peak of sharpness, and interpolate it.

    Args:
        take: returns the image (y, x) uint16 at a Z in micrometres.
        start_um: within some steps of the focus.
        step_um: between two images; the result is finer, about a tenth of it.
        limits_um: soft limits of Z.
        max_frames: largest number of frames.

    Returns: The focus, or ``None`` where the images show no peak (nothing in view, a single
        particle, or too far away).
    """
    curve = _Curve(take, start_um, step_um, limits_um)
    for step in (0, -1, 1):
        curve.take(step)
    while True:
        values = curve.values()
        if not values:
            return None
        peak = max(values, key=lambda step: (values[step], -abs(step)))
        wanted = [step for step in (peak - 1, peak + 1) if step not in curve.seen]
        if not wanted:
            break
        if len(curve.seen) + len(wanted) > max_frames or curve.out_of_range.intersection(wanted):
            return None
        for step in wanted:
            curve.take(step)
    detail = curve.seen[peak]
    offset = gaussian_vertex(values[peak - 1], values[peak], values[peak + 1])
    flat = values[peak - 1] + values[peak + 1] > 2 * _FALL * values[peak]
    if offset is None or flat or not detail.is_specimen():
        return None
    return FocusResult(curve.z_um(peak + offset), len(curve.seen))


def search_focus(
    take: Callable[[float], NDArray[np.uint16]],
    start_um: float,
    range_um: float,
    coarse_step_um: float,
    step_um: float,
    limits_um: tuple[float, float],
) -> FocusResult | None:
    """Search a wide range of Z in coarse steps by coarse detail, then climb from the sharpest step.

    Coarse detail survives defocus, so the steps may be wide. With a third of ``range_um`` or more
    they are 7 frames, and 5 are left for the climb: 12 in all.

    Args:
        take, start_um, step_um, limits_um: see `hill_climb`.
        range_um: of the search, to each side of ``start_um``.
        coarse_step_um: less than the depth over which the specimen is recognisable.
    """
    curve = _Curve(take, start_um, coarse_step_um, limits_um, _BROAD_MERGE)
    steps = math.ceil(range_um / coarse_step_um)
    for step in range(-steps, steps + 1):
        curve.take(step)
    values = curve.values(all_tiles=True)
    if not values:
        return None
    peak = max(values, key=lambda step: (values[step], -abs(step)))
    near = [values.get(step, 0.0) for step in (peak - 1, peak, peak + 1)]
    # At an end of the range the focus is in the half step within it: from its middle the climb is
    # shortest.
    inwards = 0.25 * ((peak - 1 in values) - (peak + 1 in values))
    offset = -inwards if inwards else gaussian_vertex(*near) or 0.0
    left = max_climb_frames(len(curve.seen))
    found = hill_climb(take, curve.z_um(peak + offset), step_um, limits_um, left)
    if found is None:
        return None
    return FocusResult(found.z_um, found.frames + len(curve.seen))
