"""Displacement between two pictures, tile by tile: normalised cross-correlation."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy import fft

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["correlate_pairs", "subpixel_peaks", "tile_centres"]


#: Width of the rim of a tile's window, in pixels.
_RIM_PX: Final = 16


def tile_centres(shape: tuple[int, ...], half: int, search: int, step: int) -> NDArray[np.intp]:
    """Centres (T, 2) of tiles of ``2 half`` pixels with ``search`` pixels of room around, about ``step`` apart.

    A centre c stands for the point c - 0.5: tiles have an even number of pixels.

    >>> tile_centres((16, 10), 4, 1, 6).tolist()
    [[5, 5], [11, 5]]
    """
    wide = half + search
    axes = [np.linspace(wide, side - wide, 1 + (side - 2 * wide) // step).astype(int) for side in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)


def correlate_pairs(
    pictures: Sequence[NDArray[np.float32]], centres: NDArray[np.intp], half: int, search: int
) -> dict[tuple[int, int], tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Correlate every pair of pictures, tile by tile.

    The template is windowed; what it is laid on is not, and its mean and variance are taken under the window at every
    displacement. Without this, cells at one side of a tile, where the window falls off, would draw the peak inwards.

    Args:
        pictures: M arrays (Y, X) float32.
        centres: (T, 2) from `tile_centres`.
        half: half the side of a tile.
        search: greatest displacement.

    Returns:
        For each pair (i, j), i < j, the surfaces (T, 2 search + 1, 2 search + 1), normalised correlation for
        displacements -search to search in y and x, and the weight (T,) of each tile: how much there is to see, all
        together 1. A peak at d means that j shows at p + d what i shows at p.
    """
    window = _window(half)
    side = fft.next_fast_len(2 * (half + search), real=True)
    lags = 2 * search + 1

    def laid_on(template: NDArray[Any], scene: NDArray[Any]) -> NDArray[np.float32]:
        return np.asarray(fft.irfft2(np.conj(template) * scene, (side, side))[:, :lags, :lags], np.float32)

    flat = fft.rfft2(window, (side, side))
    templates, scenes, spreads, sizes = [], [], [], []
    for picture in pictures:
        tiles = _cut(picture, centres, half)
        tiles = window * (tiles - (window * tiles).sum((1, 2), keepdims=True) / window.sum())
        scene = _cut(picture, centres, half + search)
        scene = scene - scene.mean((1, 2), keepdims=True)
        templates.append(fft.rfft2(tiles, (side, side)))
        scenes.append(fft.rfft2(scene, (side, side)))
        square = laid_on(flat, fft.rfft2(scene * scene, (side, side)))
        variance = square - laid_on(flat, scenes[-1]) ** 2 / window.sum()
        spreads.append(np.sqrt(np.maximum(variance, 1e-3 * square.mean((1, 2), keepdims=True) + 1e-12)))
        sizes.append(np.sqrt((tiles * tiles / np.maximum(window, 1e-6)).sum((1, 2)) + 1e-12))
    surfaces = {}
    for i, j in combinations(range(len(pictures)), 2):
        surface = laid_on(templates[i], scenes[j]) / (spreads[j] * sizes[i][:, None, None])
        weight = sizes[i] * sizes[j]
        surfaces[i, j] = np.clip(surface, -1, 1), np.asarray(weight / weight.sum(), np.float32)
    return surfaces


def _window(half: int) -> NDArray[np.float32]:
    """Flat with a narrow rim, (2 half, 2 half).

    An outline may be a little wider in one light than in another. Half of it under a slope of the window would then
    pull the peak to one side, so few cells shall lie under a slope.
    """
    rim = max(1, min(_RIM_PX, half // 2))
    side = np.minimum(np.minimum(np.arange(2 * half), np.arange(2 * half)[::-1]) + 0.5, rim) / rim
    taper = np.sin(side * np.pi / 2) ** 2
    return np.outer(taper, taper).astype(np.float32)


def _cut(picture: NDArray[np.float32], centres: NDArray[np.intp], half: int) -> NDArray[np.float32]:
    """Squares of ``2 half`` pixels around T centres, (T, 2 half, 2 half)."""
    return np.stack([picture[y - half : y + half, x - half : x + half] for y, x in centres])


def subpixel_peaks(
    surfaces: NDArray[np.float32],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Highest point of each surface, between pixels by a quadratic fitted to the 3 x 3 around it.

    Args:
        surfaces: (T, 2 S + 1, 2 S + 1) float32.

    Returns:
        Displacement (T, 2), NaN where the peak lies on the rim; height (T,); prominence (T,) over the highest
        point more than 3 pixels away.
    """
    side = surfaces.shape[-1]
    places, heights, prominences = np.full((len(surfaces), 2), np.nan), np.zeros(len(surfaces)), np.zeros(len(surfaces))
    y, x = np.ogrid[:side, :side]
    for k, surface in enumerate(surfaces):
        row, column = np.unravel_index(int(np.argmax(surface)), surface.shape)
        heights[k] = surface[row, column]
        elsewhere = surface[np.maximum(abs(y - row), abs(x - column)) > 3]
        prominences[k] = heights[k] - elsewhere.max() if elsewhere.size else 0.0
        if 0 < row < side - 1 and 0 < column < side - 1:
            offset = _quadratic_peak(surface[row - 1 : row + 2, column - 1 : column + 2].astype(float))
            places[k] = np.array([row, column]) + offset - side // 2
    return places, heights, prominences


def _quadratic_peak(around: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least-squares quadratic through 3 x 3 values: offset (2,) of its peak from the middle, within one pixel."""
    gradient = np.array([(around[2] - around[0]).sum(), (around[:, 2] - around[:, 0]).sum()]) / 6
    yy = (around[0] + around[2] - 2 * around[1]).sum() / 3
    xx = (around[:, 0] + around[:, 2] - 2 * around[:, 1]).sum() / 3
    xy = (around[2, 2] + around[0, 0] - around[0, 2] - around[2, 0]) / 4
    determinant = yy * xx - xy * xy
    if determinant <= 0 or yy >= 0:
        return np.zeros(2)
    offset = np.array([xy * gradient[1] - xx * gradient[0], xy * gradient[0] - yy * gradient[1]]) / determinant
    return np.asarray(np.clip(offset, -1, 1))
