"""Displacement between two pictures, tile by tile: normalised cross-correlation."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from scipy import fft

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["correlate_pairs", "subpixel_peaks", "tile_centres"]


def tile_centres(shape: tuple[int, ...], half: int, step: int) -> NDArray[np.intp]:
    """Centres (T, 2) of tiles of ``2 half`` pixels that fill a picture of ``shape``, about ``step`` apart.

    A centre c stands for the point c - 0.5: tiles have an even number of pixels.

    >>> tile_centres((16, 8), 4, 8).tolist()
    [[4, 4], [12, 4]]
    """
    axes = [np.linspace(half, side - half, 1 + (side - 2 * half) // step).astype(int) for side in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)


def correlate_pairs(
    pictures: Sequence[NDArray[np.float32]], centres: NDArray[np.intp], half: int, search: int
) -> dict[tuple[int, int], tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Correlate every pair of pictures, tile by tile.

    Both tiles are windowed: a displacement d is drawn towards zero by about (width of an edge / width of a tile)^2 of
    itself, so a second round around the first result leaves no error.

    Args:
        pictures: M arrays (Y, X) float32.
        centres: (T, 2) from `tile_centres`.
        half: half the side of a tile.
        search: greatest displacement, less than ``half``.

    Returns:
        For each pair (i, j), i < j, the surfaces (T, 2 search + 1, 2 search + 1), normalised correlation for
        displacements -search to search in y and x, and the weight (T,) of each tile: how much there is to see, all
        together 1. A peak at d means that j shows at p + d what i shows at p.
    """
    taper = np.hanning(2 * half + 2)[1:-1].astype(np.float32)
    window = np.sqrt(np.outer(taper, taper))
    side = fft.next_fast_len(2 * half + search, real=True)
    lags = np.arange(-search, search + 1)
    spectra, sizes = [], []
    for picture in pictures:
        tiles = np.stack([picture[y - half : y + half, x - half : x + half] for y, x in centres])  # (T, 2h, 2h)
        tiles = window * (tiles - (window * tiles).sum((1, 2), keepdims=True) / window.sum())
        sizes.append(np.sqrt((tiles * tiles).sum((1, 2))))
        spectra.append(fft.rfft2(tiles, (side, side)))
    surfaces = {}
    for i, j in combinations(range(len(pictures)), 2):
        cross = fft.irfft2(np.conj(spectra[i]) * spectra[j], (side, side))[:, lags[:, None], lags]
        norm = np.maximum(sizes[i] * sizes[j], 1e-12)
        surfaces[i, j] = np.asarray(cross / norm[:, None, None], np.float32), np.asarray(norm / norm.sum(), np.float32)
    return surfaces


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
