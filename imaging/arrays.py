"""Small array helpers that several steps share: block means, a threshold, a typed door to scikit-image's watershed."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy import ndimage
from skimage import segmentation

from wbcpipe.system.blas_threads import single_threaded_blas

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["between", "box_around", "enlarge_grid", "flood", "otsu_threshold", "percentiles", "shrink", "without_holes"]

#: Boxes are so many pixels wide or a multiple of it, so that filters of few sizes do for all.
_BOX_PX: Final = 16


def box_around(part: NDArray[np.bool_], margin: int) -> tuple[slice, slice]:
    """The rows and columns that hold a mask (Y, X), not empty, and at least ``margin`` pixels around, if there are."""
    return _rounded(np.flatnonzero(part.any(1)), margin, part.shape[0]), _rounded(
        np.flatnonzero(part.any(0)), margin, part.shape[1]
    )


def _rounded(places: NDArray[np.intp], margin: int, length: int) -> slice:
    start, stop = max(0, int(places[0]) - margin), min(length, int(places[-1]) + margin + 1)
    wide = min(length, -(-(stop - start) // _BOX_PX) * _BOX_PX)
    start = min(start, length - wide)
    return slice(start, start + wide)


def shrink(image: NDArray[Any], factor: int) -> NDArray[np.float32]:
    """Mean over ``factor`` x ``factor`` blocks; a short last block is filled up with its edge.

    Args:
        image: (..., Y, X), any numeric or bool type.
        factor: whole number, at least 1.

    Returns:
        (..., ceil(Y / factor), ceil(X / factor)) float32.

    >>> shrink(np.arange(6).reshape(2, 3), 2).tolist()
    [[2.0, 3.5]]
    """
    *several, height, width = image.shape
    (down, short), (across, narrow) = (divmod(side, factor) for side in (height, width))
    # Whole rows first: they are added without a stride.
    rows = np.empty((*several, -(-height // factor), width), np.float32)
    blocks = image[..., : down * factor, :].reshape(*several, down, factor, width)
    np.add.reduce(blocks, axis=-2, dtype=np.float32, out=rows[..., :down, :])
    if short:
        last = image[..., down * factor :, :].sum(axis=-2, dtype=np.float32)
        rows[..., down, :] = last + np.float32(factor - short) * image[..., -1, :]
    total = np.zeros((*rows.shape[:-1], -(-width // factor)), np.float32)
    for column in range(factor):
        total[..., :across] += rows[..., column : across * factor : factor]
    if narrow:
        last = rows[..., across * factor :].sum(axis=-1)
        total[..., across] = last + np.float32(factor - narrow) * rows[..., -1]
    total /= np.float32(factor**2)
    return np.asarray(total, np.float32)


@single_threaded_blas
def enlarge_grid(grid: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Interpolate a coarse grid, whose nodes are the centres of equal tiles, to ``shape``.

    Args:
        grid: (rows, columns) float32.
        shape: (Y, X) to fill.

    Returns:
        (Y, X) float32, bilinear inside and constant beyond the outermost centres.

    >>> enlarge_grid(np.array([[0, 4]], np.float32), (1, 4)).tolist()
    [[0.0, 1.0, 3.0, 4.0]]
    """
    down, across = (_between(n, length) for n, length in zip(grid.shape, shape, strict=True))
    return np.asarray(down @ np.asarray(grid, np.float32) @ across.T, np.float32)


@lru_cache(maxsize=32)
def _between(nodes: int, length: int) -> NDArray[np.float32]:
    """Weights (length, nodes): how much each of ``length`` places has of each node."""
    return between(np.arange(length), np.arange(nodes), nodes, length)


def between(places: NDArray[Any], wanted: NDArray[np.intp], nodes: int, length: int) -> NDArray[np.float32]:
    """Weights (n, m) of linear interpolation at n ``places`` of a side of ``length`` pixels, for m of its ``nodes``."""
    at = np.clip((places + 0.5) * (nodes / length) - 0.5, 0, nodes - 1)
    return np.asarray(np.maximum(1 - np.abs(at[:, None] - wanted), 0), np.float32)


def otsu_threshold(values: NDArray[Any]) -> float:
    """Threshold that best parts ``values`` (any shape) into two classes; 256 bins.

    N. Otsu, IEEE Trans. SMC 9 (1979) 62, doi:10.1109/TSMC.1979.4310076, equation 12.

    >>> 1 < otsu_threshold(np.array([0.0, 1, 9, 10])) < 9
    True
    """
    least, most = float(values.min()), float(values.max())
    if least == most:
        return least
    bins = ((values - least) * (256 / (most - least))).astype(np.intp).ravel()
    counts = np.bincount(np.minimum(bins, 255), minlength=256)
    centres = least + (np.arange(256) + 0.5) * ((most - least) / 256)
    below = np.cumsum(counts)
    above = below[-1] - below
    weighted = np.cumsum(counts * centres)
    # The last bin ends the upper class; every other one leaves something on both sides.
    below, above, under = below[:-1], above[:-1], weighted[:-1]
    variance = below * above * (under / below - (weighted[-1] - under) / above) ** 2
    best = np.flatnonzero(variance >= variance.max() * (1 - 1e-9))
    return float(centres[best].mean())


def percentiles(values: NDArray[Any], *percent: float) -> list[float]:
    """The percentiles of ``values`` (any shape), linear between the two nearest, as ``numpy.percentile`` gives them.

    >>> percentiles(np.array([1.0, 2.0, 4.0]), 50, 75)
    [2.0, 3.0]
    """
    ordered = values.flatten()
    found = []
    for one in percent:
        place = (ordered.size - 1) * one / 100
        low = int(place)
        # One at a time: that is vectorised, several at once are not.
        ordered.partition(low)
        value, share = float(ordered[low]), place - low
        found.append(value + share * (float(ordered[low + 1 :].min()) - value) if share else value)
    return found


def without_holes(mask: NDArray[np.bool_], largest_px: float = np.inf) -> NDArray[np.bool_]:
    """A mask (Y, X) whose holes of up to ``largest_px`` pixels are filled; what touches the border is no hole."""
    gaps, count = ndimage.label(~mask)
    if count == 1 and gaps[0].any():
        return mask
    hole = np.bincount(gaps.ravel(), minlength=count + 1) <= largest_px
    for edge in (gaps[0], gaps[-1], gaps[:, 0], gaps[:, -1]):
        hole[edge] = False
    hole[0] = False
    return np.asarray(mask | hole[gaps], bool)


def flood(height: NDArray[Any], markers: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> NDArray[np.int32]:
    """Watershed of ``height`` (Y, X) from ``markers`` (Y, X) int, 0 where unmarked; (Y, X) int32."""
    return np.asarray(segmentation.watershed(height, markers, mask=mask), np.int32)  # type: ignore[no-untyped-call]
