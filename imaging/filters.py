"""Gaussian and morphological filters, faster than those of ``scipy.ndimage`` and equal to them up
to rounding.

A Gaussian is a band matrix times the image, which BLAS multiplies several times faster than a
general filter runs. A dilation is the union of shifted copies of the mask, one byte per pixel.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "diamond",
    "dilation",
    "disk",
    "erosion",
    "gaussian",
    "gradient_magnitude",
    "opening",
]

#: Rows per matrix product where an image is larger than its filter.
_BLOCK: Final = 16
#: Up to this many pixels per side, one product with the full matrix is as fast.
_FULL_MATRIX_PX: Final = 96


class _Band(NamedTuple):
    """The weights of a filter along one axis: the first rows, a block of inner rows, and the last
    rows.
    """

    head: NDArray[np.float32]
    block: NDArray[np.float32]
    tail: NDArray[np.float32]


class _Filter(NamedTuple):
    """One axis of a Gaussian, see `gaussian`; ``derivative`` for its first derivative."""

    sigma_px: float
    truncate: float = 4.0
    mirror: bool = True
    derivative: bool = False


def gaussian(
    values: NDArray[Any], sigma_px: float, truncate: float = 4.0, *, mirror: bool = True
) -> NDArray[np.float32]:
    """Apply a Gaussian filter to the last two axes.

    Args:
        values: (..., Y, X), any number type.
        sigma_px: standard deviation.
        truncate: standard deviations at which the weights end.
        mirror: extend the image beyond its border by reflection; otherwise by zeros.

    Returns:
        (..., Y, X) float32.

    >>> gaussian(np.full((2, 3), 7.0), 1.5).round(4).tolist()
    [[7.0, 7.0, 7.0], [7.0, 7.0, 7.0]]
    """
    both = _Filter(sigma_px, truncate, mirror)
    return _filtered(values, both, both)


def gradient_magnitude(values: NDArray[Any], sigma_px: float) -> NDArray[np.float32]:
    """Return the magnitude of an image's Gaussian gradient, (Y, X) float32, in counts per pixel."""
    smooth, derivative = _Filter(sigma_px), _Filter(sigma_px, derivative=True)
    down, across = _filtered(values, derivative, smooth), _filtered(values, smooth, derivative)
    return np.asarray(np.sqrt(down * down + across * across), np.float32)


def _filtered(values: NDArray[Any], rows: _Filter, columns: _Filter) -> NDArray[np.float32]:
    values = np.asarray(values, np.float32)
    *several, height, width = values.shape
    down = _multiplied(values, _weights(height, rows))
    # The rows of all images below each other: one product for all.
    flat = down.reshape(-1, width)
    return _multiplied(flat.T, _weights(width, columns)).T.reshape(*several, height, width)


def _multiplied(
    values: NDArray[np.float32], weights: _Band | NDArray[np.float32]
) -> NDArray[np.float32]:
    """Multiply weights with (..., n, m) along its last axis but one."""
    if not isinstance(weights, _Band):
        return np.asarray(np.matmul(weights, values), np.float32)
    length = values.shape[-2]
    # Keep the memory layout of the values.
    result = np.empty_like(values)
    first, last, (step, wide) = len(weights.head), len(weights.tail), weights.block.shape
    np.matmul(weights.head, values[..., : weights.head.shape[1], :], out=result[..., :first, :])
    np.matmul(
        weights.tail,
        values[..., length - weights.tail.shape[1] :, :],
        out=result[..., length - last :, :],
    )
    blocks = (length - first - last) // step
    windows = _blocks(values, blocks, step, wide)
    np.matmul(weights.block, windows, out=_blocks(result[..., first:, :], blocks, step, step))
    return result


def _blocks(values: NDArray[np.float32], count: int, step: int, rows: int) -> NDArray[np.float32]:
    """Return views (..., count, rows, m) of (..., n, m), ``step`` rows apart."""
    *before, down, across = values.strides
    shape = (*values.shape[:-2], count, rows, values.shape[-1])
    return as_strided(values, shape, (*before, step * down, down, across))


@lru_cache(maxsize=256)
def _weights(length: int, form: _Filter) -> _Band | NDArray[np.float32]:
    """Return the weights of a filter for an axis of ``length`` pixels."""
    taps = gaussian_taps(form.sigma_px, form.truncate)
    reach = len(taps) // 2
    if form.derivative:
        taps = taps * np.arange(-reach, reach + 1) / form.sigma_px**2
    if length <= max(_FULL_MATRIX_PX, 4 * reach + _BLOCK):
        return _full_matrix(length, taps, form.mirror)
    inner = (length - 2 * reach) // _BLOCK * _BLOCK
    last = length - reach - inner
    block = np.zeros((_BLOCK, _BLOCK + 2 * reach), np.float32)
    for row in range(_BLOCK):
        block[row, row : row + len(taps)] = taps
    return _Band(
        _full_matrix(2 * reach, taps, form.mirror)[:reach],
        block,
        _full_matrix(last + reach, taps, form.mirror)[reach:],
    )


def _full_matrix(length: int, taps: NDArray[np.float64], mirror: bool) -> NDArray[np.float32]:
    """Return the weight matrix (length, length) of a filter."""
    weights = np.zeros((length, length))
    rows, offsets = np.arange(length)[:, None], np.arange(len(taps)) - len(taps) // 2
    columns = rows + offsets
    if mirror:
        folded = columns % (2 * length)
        np.add.at(weights, (rows, np.minimum(folded, 2 * length - 1 - folded)), taps)
    else:
        inside = (columns >= 0) & (columns < length)
        weights[np.broadcast_to(rows, columns.shape)[inside], columns[inside]] = np.broadcast_to(
            taps, columns.shape
        )[inside]
    return weights.astype(np.float32)


def gaussian_taps(sigma_px: float, truncate: float = 4.0) -> NDArray[np.float64]:
    """Return the weights of a sampled Gaussian: an odd number, with sum 1."""
    reach = int(truncate * sigma_px + 0.5)
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma_px) ** 2)
    return np.asarray(taps / taps.sum())


def disk(radius_px: float) -> tuple[int, ...]:
    """Return the footprint of a disk: the half widths of its rows, from the middle row outwards.

    >>> disk(2.0)
    (2, 1, 0)
    """
    square = radius_px**2 + 1e-9
    return tuple(int(np.sqrt(square - row**2)) for row in range(int(np.sqrt(square)) + 1))


def diamond(radius_px: int) -> tuple[int, ...]:
    """Return the footprint of a diamond: all pixels within ``radius_px`` steps to a side
    neighbour.
    """
    return tuple(range(radius_px, -1, -1))


def dilation(mask: NDArray[np.bool_], footprint: tuple[int, ...]) -> NDArray[np.bool_]:
    """Dilate a mask (Y, X) by a `disk` or `diamond`; beyond the border the mask is False.

    >>> dilation(np.array([[False, True, False]]), disk(1.0)).tolist()
    [[True, True, True]]
    """
    reach = len(footprint) - 1
    height, width = mask.shape
    # Rows below each other in one array, with gaps so wide that no shift reaches the next row.
    stride = width + footprint[0]
    size = height * stride
    source = np.zeros(size + 2 * footprint[0], np.uint8)
    middle = source[footprint[0] : footprint[0] + size]
    middle.reshape(height, stride)[:, :width] = mask
    run = middle.copy()
    result = np.zeros(size + 2 * reach * stride, np.uint8)
    done = 0
    for row in range(reach, -1, -1):
        for offset in range(done + 1, footprint[row] + 1):
            run |= source[footprint[0] - offset : footprint[0] - offset + size]
            run |= source[footprint[0] + offset : footprint[0] + offset + size]
        done = footprint[row]
        for start in {(reach - row) * stride, (reach + row) * stride}:
            result[start : start + size] |= run
    inner = result[reach * stride : reach * stride + size].reshape(height, stride)[:, :width]
    return np.ascontiguousarray(inner).view(bool)


def erosion(
    mask: NDArray[np.bool_], footprint: tuple[int, ...], *, border_value: bool = False
) -> NDArray[np.bool_]:
    """Erode a mask (Y, X) by a `disk` or `diamond`; ``border_value``: the mask's value beyond the
    border.
    """
    if border_value:
        return ~dilation(~mask, footprint)
    return ~dilation(np.pad(~mask, 1, constant_values=True), footprint)[1:-1, 1:-1]


def opening(
    mask: NDArray[np.bool_], footprint: tuple[int, ...], *, border_value: bool = False
) -> NDArray[np.bool_]:
    """Open a mask (Y, X): an erosion, then a dilation; ``border_value`` as for `erosion`."""
    return dilation(erosion(mask, footprint, border_value=border_value), footprint)
