"""Displacement between two pictures, tile by tile: normalised cross-correlation."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
from scipy import fft

from wbcpipe.system.blas_threads import single_threaded_blas

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Surfaces", "correlate_pairs", "subpixel_peaks", "tile_centres", "window_side"]

#: For each pair of pictures its surfaces and their weights, see `correlate_pairs`.
Surfaces: TypeAlias = "dict[tuple[int, int], tuple[NDArray[np.float32], NDArray[np.float32]]]"


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


@single_threaded_blas
def correlate_pairs(
    pictures: Sequence[NDArray[np.float32]], centres: NDArray[np.intp], half: int, search: int
) -> Surfaces:
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
    taper, lags = window_side(half), 2 * search + 1
    side = fft.next_fast_len(2 * (half + search), real=True)
    templates = [_template(picture, centres, taper) for picture in pictures]
    spectra = [np.conj(fft.rfft2(tiles, (side, side))) for tiles, _ in templates[:-1]]
    scenes = [_scene(picture, centres, taper, search, side) for picture in pictures[1:]]
    surfaces = {}
    for i, j in combinations(range(len(pictures)), 2):
        (_, size), (scene, spread) = templates[i], scenes[j - 1]
        surface = _first_lags(spectra[i] * scene, side, lags) / (spread * size[:, None, None])
        weight = size * templates[j][1]
        surfaces[i, j] = np.clip(surface, -1, 1), np.asarray(weight / weight.sum(), np.float32)
    return surfaces


def _template(
    picture: NDArray[np.float32], centres: NDArray[np.intp], taper: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Tiles (T, 2 half, 2 half) under the window, without their mean; and the norm (T,) of each."""
    window = np.outer(taper, taper)
    tiles = _cut(picture, centres, len(taper) // 2)
    tiles = window * (tiles - (window * tiles).sum((1, 2), keepdims=True) / window.sum())
    return tiles, np.sqrt((tiles * tiles / np.maximum(window, 1e-6)).sum((1, 2)) + 1e-12)


def _scene(
    picture: NDArray[np.float32], centres: NDArray[np.intp], taper: NDArray[np.float32], search: int, side: int
) -> tuple[NDArray[np.complex64], NDArray[np.float32]]:
    """Spectra of what the templates are laid on; and its norm (T, lags, lags) under the window at each displacement."""
    scene = _cut(picture, centres, len(taper) // 2 + search)
    scene = scene - scene.mean((1, 2), keepdims=True)
    # The window is the product of its sides, so its sums need no transform.
    slid = np.zeros((2 * search + 1, scene.shape[1]), np.float32)
    for lag, row in enumerate(slid):
        row[lag : lag + len(taper)] = taper
    square = slid @ (scene * scene) @ slid.T
    variance = square - (slid @ scene @ slid.T) ** 2 / taper.sum() ** 2
    spread = np.sqrt(np.maximum(variance, 1e-3 * square.mean((1, 2), keepdims=True) + 1e-12))
    return fft.rfft2(scene, (side, side)), spread


def _first_lags(spectrum: NDArray[np.complex64], side: int, lags: int) -> NDArray[np.float32]:
    """The first rows and columns (..., lags, lags) of what has such a half spectrum (..., side, side // 2 + 1).

    So few of them are had sooner by a product than by an inverse transform.
    """
    down = np.exp(2j * np.pi / side * np.outer(np.arange(lags), np.arange(side)))
    half = side // 2 + 1
    # All frequencies but the first, and the last of an even side, stand for two.
    twice = np.full(half, 2.0)
    twice[0] = 1
    if side % 2 == 0:
        twice[-1] = 1
    across = down[:, :half].T * twice[:, None] / side**2
    rows = down.astype(np.complex64) @ spectrum  # (..., lags, half)
    return np.asarray((rows @ across.astype(np.complex64)).real, np.float32)


def window_side(half: int) -> NDArray[np.float32]:
    """A side (2 half,) of a tile's window: flat with a narrow rim.

    An outline may be a little wider in one light than in another. Half of it under a slope of the window would then
    pull the peak to one side, so few cells shall lie under a slope.
    """
    rim = max(1, min(_RIM_PX, half // 2))
    side = np.minimum(np.minimum(np.arange(2 * half), np.arange(2 * half)[::-1]) + 0.5, rim) / rim
    return np.asarray(np.sin(side * np.pi / 2) ** 2, np.float32)


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
