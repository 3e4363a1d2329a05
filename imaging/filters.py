"""Filters that every cell and every frame needs, as matrix products and shifted rows.

The results are those of ``scipy.ndimage``, to rounding: a Gaussian is a band of weights times the picture, and BLAS
multiplies several times faster than a general filter walks; what lies within a radius of a mask is the union of its
shifts, a byte a pixel.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from wbcpipe.imaging.arrays import shrink
from wbcpipe.system.blas_threads import single_threaded_blas

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "diamond",
    "disk",
    "gaussian",
    "gaussian_taps",
    "gradient_magnitude",
    "grown",
    "opened",
    "shrunk",
    "smoothed_means",
]

#: Rows that are made at a time where a picture is larger than its filter.
_BLOCK: Final = 16
#: Up to this many pixels a side one product of the whole is as fast.
_WHOLE_PX: Final = 96


class _Band(NamedTuple):
    """Weights of a filter along one axis: the first rows, a block of inner rows, and the last rows."""

    head: NDArray[np.float32]
    block: NDArray[np.float32]
    tail: NDArray[np.float32]


class _Filter(NamedTuple):
    """One axis of a Gaussian: see `gaussian`; ``slope`` for its first derivative."""

    sigma_px: float
    truncate: float = 4.0
    mirror: bool = True
    slope: bool = False


def gaussian(
    values: NDArray[Any], sigma_px: float, truncate: float = 4.0, *, mirror: bool = True
) -> NDArray[np.float32]:
    """Gaussian filter of the last two axes.

    Args:
        values: (..., Y, X), any number type.
        sigma_px: standard deviation.
        truncate: standard deviations at which the weights end.
        mirror: beyond the border a picture goes on as in a mirror; otherwise it is 0 there.

    Returns:
        (..., Y, X) float32.

    >>> gaussian(np.full((2, 3), 7.0), 1.5).round(4).tolist()
    [[7.0, 7.0, 7.0], [7.0, 7.0, 7.0]]
    """
    both = _Filter(sigma_px, truncate, mirror)
    return _filtered(values, both, both)


def smoothed_means(frame: NDArray[np.uint16], factor: int, sigma_px: float) -> NDArray[np.float32]:
    """Means over ``factor`` x ``factor`` blocks of a frame (Y, X), under a Gaussian: (y, x) float32."""
    return gaussian(shrink(frame, factor), sigma_px)


def gradient_magnitude(values: NDArray[Any], sigma_px: float) -> NDArray[np.float32]:
    """Length of the gradient, counts a pixel, of a picture (Y, X) under a Gaussian: (Y, X) float32."""
    plain, steep = _Filter(sigma_px), _Filter(sigma_px, slope=True)
    down, across = _filtered(values, steep, plain), _filtered(values, plain, steep)
    return np.asarray(np.sqrt(down * down + across * across), np.float32)


@single_threaded_blas
def _filtered(values: NDArray[Any], rows: _Filter, columns: _Filter) -> NDArray[np.float32]:
    values = np.asarray(values, np.float32)
    *several, height, width = values.shape
    down = _multiplied(values, _weights(height, rows))
    # Rows of one picture after those of the other: one product for all.
    flat = down.reshape(-1, width)
    return _multiplied(flat.T, _weights(width, columns)).T.reshape(*several, height, width)


def _multiplied(values: NDArray[np.float32], weights: _Band | NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights times (..., n, m) along its last axis but one."""
    if not isinstance(weights, _Band):
        return np.asarray(np.matmul(weights, values), np.float32)
    length = values.shape[-2]
    # As the values lie in memory, so shall the result.
    result = np.empty_like(values)
    first, last, (step, wide) = len(weights.head), len(weights.tail), weights.block.shape
    np.matmul(weights.head, values[..., : weights.head.shape[1], :], out=result[..., :first, :])
    np.matmul(weights.tail, values[..., length - weights.tail.shape[1] :, :], out=result[..., length - last :, :])
    blocks = (length - first - last) // step
    windows = _blocks(values, blocks, step, wide)
    np.matmul(weights.block, windows, out=_blocks(result[..., first:, :], blocks, step, step))
    return result


def _blocks(values: NDArray[np.float32], count: int, step: int, rows: int) -> NDArray[np.float32]:
    """(..., count, rows, m) views of (..., n, m), ``step`` rows apart."""
    *before, down, across = values.strides
    shape = (*values.shape[:-2], count, rows, values.shape[-1])
    return as_strided(values, shape, (*before, step * down, down, across))


@lru_cache(maxsize=256)
def _weights(length: int, form: _Filter) -> _Band | NDArray[np.float32]:
    """Of a filter, for so many pixels."""
    taps = gaussian_taps(form.sigma_px, form.truncate)
    reach = len(taps) // 2
    if form.slope:
        taps = taps * np.arange(-reach, reach + 1) / form.sigma_px**2
    if length <= max(_WHOLE_PX, 4 * reach + _BLOCK):
        return _whole(length, taps, form.mirror)
    inner = (length - 2 * reach) // _BLOCK * _BLOCK
    last = length - reach - inner
    block = np.zeros((_BLOCK, _BLOCK + 2 * reach), np.float32)
    for row in range(_BLOCK):
        block[row, row : row + len(taps)] = taps
    return _Band(_whole(2 * reach, taps, form.mirror)[:reach], block, _whole(last + reach, taps, form.mirror)[reach:])


def _whole(length: int, taps: NDArray[np.float64], mirror: bool) -> NDArray[np.float32]:
    """All weights (length, length)."""
    weights = np.zeros((length, length))
    rows, offsets = np.arange(length)[:, None], np.arange(len(taps)) - len(taps) // 2
    places = rows + offsets
    if mirror:
        turned = places % (2 * length)
        np.add.at(weights, (rows, np.minimum(turned, 2 * length - 1 - turned)), taps)
    else:
        within = (places >= 0) & (places < length)
        weights[np.broadcast_to(rows, places.shape)[within], places[within]] = np.broadcast_to(taps, places.shape)[
            within
        ]
    return weights.astype(np.float32)


def gaussian_taps(sigma_px: float, truncate: float = 4.0) -> NDArray[np.float64]:
    """Weights of the pixels around, an odd number, together 1."""
    reach = int(truncate * sigma_px + 0.5)
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma_px) ** 2)
    return np.asarray(taps / taps.sum())


def disk(radius_px: float) -> tuple[int, ...]:
    """Half widths of the rows of a disk, from the middle row outwards: what lies within a radius.

    >>> disk(2.0)
    (2, 1, 0)
    """
    square = radius_px**2 + 1e-9
    return tuple(int(np.sqrt(square - row**2)) for row in range(int(np.sqrt(square)) + 1))


def diamond(steps: int) -> tuple[int, ...]:
    """The same of what lies within so many steps to a side neighbour."""
    return tuple(range(steps, -1, -1))


def grown(mask: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Where a mask (Y, X) lies under ``shape``, from `disk` or `diamond`; (Y, X) bool. Nothing lies beyond the border.

    >>> grown(np.array([[False, True, False]]), disk(1.0)).tolist()
    [[True, True, True]]
    """
    reach = len(shape) - 1
    height, width = mask.shape
    # Rows one after the other, with so much room between that none reaches into the next.
    stride = width + shape[0]
    size = height * stride
    source = np.zeros(size + 2 * shape[0], np.uint8)
    middle = source[shape[0] : shape[0] + size]
    middle.reshape(height, stride)[:, :width] = mask
    run = middle.copy()
    result = np.zeros(size + 2 * reach * stride, np.uint8)
    done = 0
    for row in range(reach, -1, -1):
        for offset in range(done + 1, shape[row] + 1):
            run |= source[shape[0] - offset : shape[0] - offset + size]
            run |= source[shape[0] + offset : shape[0] + offset + size]
        done = shape[row]
        for start in {(reach - row) * stride, (reach + row) * stride}:
            result[start : start + size] |= run
    inner = result[reach * stride : reach * stride + size].reshape(height, stride)[:, :width]
    return np.ascontiguousarray(inner).view(bool)


def shrunk(mask: NDArray[np.bool_], shape: tuple[int, ...], *, beyond: bool = False) -> NDArray[np.bool_]:
    """Where ``shape`` lies within a mask (Y, X); ``beyond``: whether the mask goes on beyond the border."""
    if beyond:
        return ~grown(~mask, shape)
    reach = max(len(shape) - 1, shape[0])
    wide = np.ones((mask.shape[0] + 2 * reach, mask.shape[1] + 2 * reach), bool)
    inner = (slice(reach, reach + mask.shape[0]), slice(reach, reach + mask.shape[1]))
    wide[inner] = ~mask
    return ~grown(wide, shape)[inner]


def opened(mask: NDArray[np.bool_], shape: tuple[int, ...], *, beyond: bool = False) -> NDArray[np.bool_]:
    """A mask (Y, X) without what is narrower than ``shape``; ``beyond`` as for `shrunk`."""
    return grown(shrunk(mask, shape, beyond=beyond), shape)
