"""Measure the translation between two images, by phase correlation or tile by tile by
cross-correlation.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from scipy import fft, ndimage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = [
    "Surfaces",
    "correlate_pairs",
    "measure_translation",
    "registered_correlation",
    "tile_centres",
]

#: For each pair of images its surfaces and their weights, see `correlate_pairs`.
Surfaces: TypeAlias = "dict[tuple[int, int], tuple[NDArray[np.float32], NDArray[np.float32]]]"
#: Width of the rim of a tile's window, in pixels.
_RIM_PX: Final = 16
#: Share of the image that must overlap for a correlation.
_MIN_OVERLAP: Final = 0.2


def measure_translation(
    reference: NDArray[np.floating], moved: NDArray[np.floating], upsampling: int
) -> tuple[float, float]:
    """Measure by how much the content of one image lies down and right of that of another, in
    pixels.

    Args:
        reference, moved: (Y, X) floating.
        upsampling: the result is a multiple of 1 / upsampling.
    """
    # Imported here: scikit-image takes a second to load, and most commands need none of it.
    from skimage import registration

    measure: Any = registration.phase_cross_correlation  # the library is untyped
    shift, _, _ = measure(reference, moved, upsample_factor=upsampling, normalization=None)
    return -float(shift[0]), -float(shift[1])


def registered_correlation(
    reference: NDArray[np.floating], moved: NDArray[np.floating], shift_px: tuple[float, float]
) -> float:
    """Return the correlation of two images once ``moved`` is shifted back; 0 where they overlap too
    little.

    Args:
        reference, moved: (Y, X) floating.
        shift_px: (down, right) of `measure_translation`.
    """
    back = ndimage.shift(moved, (-shift_px[0], -shift_px[1]), order=1, cval=np.nan)
    both = np.isfinite(back)
    if both.sum() < _MIN_OVERLAP * both.size or not reference[both].std() or not back[both].std():
        return 0.0
    return float(np.corrcoef(reference[both], back[both])[0, 1])


def tile_centres(shape: tuple[int, ...], half: int, search: int, step: int) -> NDArray[np.intp]:
    """Return the centres (T, 2) of tiles of ``2 half`` pixels with a margin of ``search``, about
    ``step`` apart.

    A centre c stands for the point c - 0.5: tiles have an even number of pixels.

    >>> tile_centres((16, 10), 4, 1, 6).tolist()
    [[5, 5], [11, 5]]
    """
    wide = half + search
    axes = [
        np.linspace(wide, side - wide, 1 + (side - 2 * wide) // step).astype(int) for side in shape
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)


def correlate_pairs(
    images: Sequence[NDArray[np.float32]], centres: NDArray[np.intp], half: int, search: int
) -> Surfaces:
    """Correlate every pair of images, tile by tile.

    The template is windowed; the searched image is not, and its mean and variance are taken under
    the window at every displacement. Without this, cells at one side of a tile, where the window
    falls off, would draw the peak inwards.

    Args:
        images: M arrays (Y, X) float32.
        centres: (T, 2) from `tile_centres`.
        half: half the side of a tile.
        search: greatest displacement.

    Returns: For each pair (i, j), i < j, the surfaces (T, 2 search + 1, 2 search + 1), normalised
        correlation for displacements -search to search in y and x, and the weight (T,) of each tile
        by its contrast, with sum 1. A peak at d means that j shows at p + d what i shows at p.
    """
    taper, lags = _window_side(half), 2 * search + 1
    side = fft.next_fast_len(2 * (half + search), real=True)
    templates = [_template(image, centres, taper) for image in images]
    spectra = [np.conj(fft.rfft2(tiles, (side, side))) for tiles, _ in templates[:-1]]
    scenes = [_scene(image, centres, taper, search, side) for image in images[1:]]
    surfaces = {}
    for i, j in combinations(range(len(images)), 2):
        (_, size), (scene, spread) = templates[i], scenes[j - 1]
        surface = _first_lags(spectra[i] * scene, side, lags) / (spread * size[:, None, None])
        weight = size * templates[j][1]
        surfaces[i, j] = np.clip(surface, -1, 1), np.asarray(weight / weight.sum(), np.float32)
    return surfaces


def _template(
    image: NDArray[np.float32], centres: NDArray[np.intp], taper: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return tiles (T, 2 half, 2 half) under the window, without their mean.

    And the norm (T,) of each.
    """
    window = np.outer(taper, taper)
    tiles = _cut(image, centres, len(taper) // 2)
    tiles = window * (tiles - (window * tiles).sum((1, 2), keepdims=True) / window.sum())
    return tiles, np.sqrt((tiles * tiles / np.maximum(window, 1e-6)).sum((1, 2)) + 1e-12)


def _scene(
    image: NDArray[np.float32],
    centres: NDArray[np.intp],
    taper: NDArray[np.float32],
    search: int,
    side: int,
) -> tuple[NDArray[np.complex64], NDArray[np.float32]]:
    """Return spectra of the searched tiles, and their norm (T, lags, lags) under the window at each
    displacement.
    """
    scene = _cut(image, centres, len(taper) // 2 + search)
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
    """Return the first rows and columns (..., lags, lags) of the inverse transform of (..., side,
    side // 2 + 1).

    For so few of them a matrix product is faster than an inverse transform.
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


def _window_side(half: int) -> NDArray[np.float32]:
    """Return one side (2 half,) of a tile's window: flat with a narrow rim.

    An outline may be a little wider in one modality than in another. Half of it under a slope of
    the window would pull the peak to one side, so few cells shall lie under a slope.
    """
    rim = max(1, min(_RIM_PX, half // 2))
    side = np.minimum(np.minimum(np.arange(2 * half), np.arange(2 * half)[::-1]) + 0.5, rim) / rim
    return np.asarray(np.sin(side * np.pi / 2) ** 2, np.float32)


def _cut(image: NDArray[np.float32], centres: NDArray[np.intp], half: int) -> NDArray[np.float32]:
    """Cut squares of ``2 half`` pixels around T centres: (T, 2 half, 2 half)."""
    return np.stack([image[y - half : y + half, x - half : x + half] for y, x in centres])
