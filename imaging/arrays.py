"""Array functions that several steps share.

Block means, thresholds and percentiles.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "bin_2x2",
    "block_mean",
    "bounding_box",
    "enlarge_grid",
    "linear_weights",
    "median",
    "otsu_threshold",
    "percentiles",
    "row_percentiles",
]

#: Sides of boxes are multiples of this, so that a few cached filters serve all.
_BOX_PX: Final = 16
#: Values that are sorted to find bounds of a percentile, and ranks between it and the bounds.
_SAMPLE: Final = 512
_SAMPLE_MARGIN: Final = 24


def bounding_box(mask: NDArray[np.bool_], margin: int) -> tuple[slice, slice]:
    """Return the rows and columns that hold a mask and a margin around it.

    Args:
        mask: (Y, X) bool, not empty.
        margin: pixels to each side, at least; fewer where the border is nearer. Sides are rounded
            up to multiples of 16 pixels.
    """
    rows, columns = (
        _padded_slice(np.flatnonzero(mask.any(axis)), margin, mask.shape[1 - axis])
        for axis in (1, 0)
    )
    return rows, columns


def _padded_slice(indices: NDArray[np.intp], margin: int, length: int) -> slice:
    start, stop = max(0, int(indices[0]) - margin), min(length, int(indices[-1]) + margin + 1)
    wide = min(length, -(-(stop - start) // _BOX_PX) * _BOX_PX)
    start = min(start, length - wide)
    return slice(start, start + wide)


def block_mean(image: NDArray[Any], factor: int) -> NDArray[np.float32]:
    """Return the means of ``factor`` x ``factor`` blocks.

    An incomplete last block is padded with its edge.

    Args:
        image: (..., Y, X), any numeric or bool type.
        factor: integer, at least 1.

    Returns:
        (..., ceil(Y / factor), ceil(X / factor)) float32.

    >>> block_mean(np.arange(6).reshape(2, 3), 2).tolist()
    [[2.0, 3.5]]
    """
    *several, height, width = image.shape
    (down, short), (across, narrow) = (divmod(side, factor) for side in (height, width))
    # Rows first: complete rows are added without a stride.
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


def bin_2x2(images: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Return the means of 2 x 2 pixels, rounded half up.

    Two neighbours are added as the halves of one uint32, image by image, so that all stays in the
    processor's cache.

    Args:
        images: (N, C, S, S) uint16, S even.

    Returns:
        (N, C, S / 2, S / 2) uint16.
    """
    low = np.uint32(0xFFFF)
    count, channels, height, width = images.shape
    found = np.empty((count, channels, height // 2, width // 2), np.uint16)
    total, part = np.empty((2, *found.shape[1:]), np.uint32)
    for image, binned in zip(images, found, strict=True):
        pairs = np.ascontiguousarray(image).view(np.uint32)  # (C, S, S / 2)
        upper, lower = pairs[:, 0::2], pairs[:, 1::2]
        np.bitwise_and(upper, low, out=total)
        total += np.right_shift(upper, 16, out=part)
        total += np.bitwise_and(lower, low, out=part)
        total += np.right_shift(lower, 16, out=part)
        total += np.uint32(2)
        total >>= np.uint32(2)
        binned[...] = total
    return found


def enlarge_grid(grid: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Interpolate a coarse grid, whose nodes are the centres of equal tiles, to the pixels of an
    image.

    Args:
        grid: (rows, columns) float32.
        shape: (Y, X) of the image.

    Returns:
        (Y, X) float32, bilinear inside and constant beyond the outermost centres.

    >>> enlarge_grid(np.array([[0, 4]], np.float32), (1, 4)).tolist()
    [[0.0, 1.0, 3.0, 4.0]]
    """
    down, across = (_axis_weights(n, length) for n, length in zip(grid.shape, shape, strict=True))
    return np.asarray(down @ np.asarray(grid, np.float32) @ across.T, np.float32)


@lru_cache(maxsize=32)
def _axis_weights(nodes: int, length: int) -> NDArray[np.float32]:
    """Return the weight of every node at every pixel of an axis: (length, nodes)."""
    return linear_weights(np.arange(length), np.arange(nodes), nodes, length)


def linear_weights(
    positions_px: NDArray[Any], selected: NDArray[np.intp], nodes: int, length: int
) -> NDArray[np.float32]:
    """Return the weights of linear interpolation along one axis.

    Args:
        positions_px: (n,) pixel coordinates.
        selected: (m,) indices of the nodes to weight.
        nodes: number of nodes of the axis, the centres of equal tiles.
        length: pixels of the axis.

    Returns:
        (n, m) float32.
    """
    node_positions = np.clip((positions_px + 0.5) * (nodes / length) - 0.5, 0, nodes - 1)
    return np.asarray(np.maximum(1 - np.abs(node_positions[:, None] - selected), 0), np.float32)


def otsu_threshold(values: NDArray[Any]) -> float:
    """Return the threshold that best separates ``values`` (any shape) into two classes; 256 bins.

    N. Otsu, IEEE Trans. SMC 9 (1979) 62, doi:10.1109/TSMC.1979.4310076, equation 12.

    >>> 1 < otsu_threshold(np.array([0.0, 1, 9, 10])) < 9
    True
    """
    low, high = float(values.min()), float(values.max())
    if low == high:
        return low
    bins = ((values - low) * (256 / (high - low))).astype(np.intp).ravel()
    counts = np.bincount(np.minimum(bins, 255), minlength=256)
    centres = low + (np.arange(256) + 0.5) * ((high - low) / 256)
    below = np.cumsum(counts)
    above = below[-1] - below
    weighted = np.cumsum(counts * centres)
    # Behind the last bin the upper class is empty; behind every other bin neither class is.
    below, above, lower_sum = below[:-1], above[:-1], weighted[:-1]
    variance = below * above * (lower_sum / below - (weighted[-1] - lower_sum) / above) ** 2
    best = np.flatnonzero(variance >= variance.max() * (1 - 1e-9))
    return float(centres[best].mean())


def percentiles(values: NDArray[Any], *percent: float) -> list[float]:
    """Return percentiles of ``values`` (any shape, no NaN), equal to those of ``numpy.percentile``
    but faster.

    >>> percentiles(np.array([1.0, 2.0, 4.0]), 50, 75)
    [2.0, 3.0]
    """
    flat = values.ravel()
    sample = _sorted_sample(flat)
    found = []
    for percentage in percent:
        position = (flat.size - 1) * percentage / 100
        low = int(position)
        above, fraction = _from_rank(flat, low, sample), position - low
        value = float(above[0])
        found.append(value + fraction * (float(above[1:].min()) - value) if fraction else value)
    return found


def row_percentiles(values: NDArray[np.float32], percentage: float) -> NDArray[np.float32]:
    """Return a percentile along the last axis of ``values`` (..., n): the very numbers of
    ``numpy.percentile``, but faster for short rows.
    """
    position = (values.shape[-1] - 1) * (percentage / 100)
    low = int(position)
    ordered, fraction = np.sort(values, axis=-1), position - low
    first, second = ordered[..., low], ordered[..., min(low + 1, values.shape[-1] - 1)]
    step = second - first
    between = first + step * fraction if fraction < 0.5 else second - step * (1 - fraction)
    return np.asarray(between, np.float32)


def median(values: NDArray[Any]) -> float:
    """Return the median of ``values`` (any shape, no NaN): the very number of ``numpy.median``,
    but faster.

    >>> median(np.array([4, 1, 2, 3]))
    2.5
    """
    flat = values.ravel()
    above = _from_rank(flat, (flat.size - 1) // 2, _sorted_sample(flat))
    if flat.size % 2:
        return float(above[0])
    low, high = above[0], above[1:].min()
    return float((low + high) / 2 if flat.dtype.kind == "f" else (float(low) + float(high)) / 2)


def _sorted_sample(values: NDArray[Any]) -> NDArray[Any]:
    """Return some of many values (n,) in ascending order, none of few."""
    few = values.size <= 4 * _SAMPLE
    return values[:0] if few else np.sort(values[:: values.size // _SAMPLE])


def _from_rank(values: NDArray[Any], rank: int, sample: NDArray[Any]) -> NDArray[Any]:
    """Return the value of a rank, followed by larger ones: all, or at least the next.

    The bounds between which they are looked for are taken from a sorted sample of the values (n,);
    where these miss the rank, all values are parted. R. W. Floyd, R. L. Rivest, Commun. ACM 18
    (1975) 165, doi:10.1145/360680.360691.
    """
    before, some = 0, values
    if sample.size:
        middle = rank * sample.size // values.size
        first, last = middle - _SAMPLE_MARGIN, middle + _SAMPLE_MARGIN
        within: NDArray[np.bool_] | slice = np.s_[:]
        if first > 0:
            within = values >= sample[first]
            before = int(np.count_nonzero(values < sample[first]))
        if last < sample.size:
            within = (values <= sample[last]) & (within if first > 0 else True)
        some = values[within]
        if not before <= rank or min(rank + 1, values.size - 1) >= before + some.size:
            before, some = 0, values
    # One rank at a time: numpy vectorises a partition at one index, not at several.
    return np.partition(some, rank - before)[rank - before :]
