"""Cut a cell out of its field.

All modalities registered, at the model's pixel size, interpolated once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import ndimage

from wbcpipe.imaging.arrays import linear_weights

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from wbcpipe.segment.flatfield import FlatField
    from wbcpipe.segment.registration.register import Alignment

__all__ = ["CropGrid", "crop_cell", "crop_frame", "outside_field"]

#: Rows of a crop per matrix product.
_BLOCK: Final = 32
#: A rotation that moves the corner of a crop by less than this (pixels) is ignored, so that axes
#: are separable.
_ROTATION_FREE_PX: Final = 0.03


@dataclass(frozen=True)
class CropGrid:
    """The pixels of a crop.

    Attributes:
        ratio: frame pixels per crop pixel.
        side_px: side of the crop.
    """

    ratio: float
    side_px: int


def crop_cell(
    frames: NDArray[np.uint16],
    alignment: Alignment,
    flatfield: FlatField,
    centre_px: NDArray[np.float64],
    grid: CropGrid,
    *,
    empty: NDArray[np.float32],
) -> NDArray[np.uint16]:
    """Crop all modalities around a point of the reference frame.

    Args:
        frames: (M, Y, X) uint16, as the camera gave them.
        alignment: of this field.
        flatfield: of this run.
        centre_px: (2,) point (y, x) of the reference frame.
        grid: of the crops.
        empty: (M,) the value of a corrected frame's empty background.

    Returns:
        (M, side_px, side_px) uint16; ``empty`` beyond the border of a field.
    """
    ratio, side_px = grid.ratio, grid.side_px
    crops = np.empty((len(frames), side_px, side_px), np.uint16)
    for k, frame in enumerate(frames):
        centre = alignment.to_modality(k, centre_px[None])[0]
        linear = alignment.linear[k] * ratio
        values = crop_frame(frame, centre, linear, side_px)
        y, x = (
            centre[axis] + linear[axis, axis] * (np.arange(side_px) - (side_px - 1) / 2)
            for axis in (0, 1)
        )
        if flatfield.dark[k].any():
            values -= _at(flatfield.dark[k], y, x, frame.shape)
        values *= _at(flatfield.gain[k], y, x, frame.shape)
        values += flatfield.base[k]
        below, right = _outside(y, frame.shape[0]), _outside(x, frame.shape[1])
        if below.any() or right.any():
            values[below], values[:, right] = empty[k], empty[k]
        values += np.float32(0.5)
        crops[k] = np.clip(values, 0, 65535, out=values)
    return crops


def outside_field(
    centre_px: NDArray[np.float64], ratio: float, side_px: int, shape: tuple[int, ...]
) -> NDArray[np.bool_] | None:
    """Return which pixels of a crop lie outside the reference frame, (side_px, side_px) bool;
    ``None`` if none does.
    """
    steps = (np.arange(side_px) - (side_px - 1) / 2) * ratio
    below, right = (_outside(centre_px[axis] + steps, shape[axis]) for axis in (0, 1))
    return np.asarray(below[:, None] | right) if below.any() or right.any() else None


def _outside(at: NDArray[np.float64], length: int) -> NDArray[np.bool_]:
    return np.asarray((at < -0.5) | (at > length - 0.5))


def crop_frame(
    frame: NDArray[np.uint16],
    centre_px: NDArray[np.float64],
    linear: NDArray[np.float64],
    side_px: int,
) -> NDArray[np.float32]:
    """Sample a square of a frame with cubic convolution.

    R. Keys, IEEE Trans. ASSP 29 (1981) 1153, doi:10.1109/TASSP.1981.1163711, equation 4; the kernel
    is widened where the crop is coarser than the frame.

    Args:
        frame: (Y, X) uint16.
        centre_px: (2,) the frame's point (y, x) in the middle of the crop.
        linear: (2, 2) frame pixels per crop pixel.
        side_px: side of the crop.

    Returns:
        (side_px, side_px) float32.
    """
    turned = max(abs(linear[0, 1]), abs(linear[1, 0])) * side_px / 2
    steps = np.arange(side_px, dtype=np.float64) - (side_px - 1) / 2
    if turned > _ROTATION_FREE_PX:
        return _rotated(frame, centre_px, linear, steps)
    corner = centre_px + linear @ steps[[0, 0]]
    if np.array_equal(linear, np.eye(2)) and np.array_equal(corner, np.floor(corner)):
        return _copied(frame, corner.astype(np.intp), side_px)
    rows, columns = (
        _taps(centre_px[k] + linear[k, k] * steps, linear[k, k], frame.shape[k]) for k in (0, 1)
    )
    window = frame[
        rows[0].min() : rows[0].max() + 1, columns[0].min() : columns[0].max() + 1
    ].astype(np.float32)
    crop = np.empty((side_px, side_px), np.float32)
    across = np.empty((side_px, window.shape[1]), np.float32)
    for made, used, weights in _products(*rows):
        np.matmul(weights, window[used], out=across[made])
    for made, used, weights in _products(*columns):
        np.matmul(across[:, used], weights.T, out=crop[:, made])
    return crop


def _copied(
    frame: NDArray[np.uint16], corner: NDArray[np.intp], side_px: int
) -> NDArray[np.float32]:
    """Cut a square without interpolation; edges are repeated."""
    rows, columns = (
        np.clip(at + np.arange(side_px), 0, length - 1)
        for at, length in zip(corner, frame.shape, strict=True)
    )
    if rows[-1] - rows[0] == columns[-1] - columns[0] == side_px - 1:
        return np.asarray(frame[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], np.float32)
    return np.asarray(frame[rows[:, None], columns], np.float32)


def _products(
    taps: NDArray[np.intp], weights: NDArray[np.float32]
) -> Iterator[tuple[slice, slice, NDArray[np.float32]]]:
    """Split resampling along one axis into matrix products of `_BLOCK` positions.

    Args:
        taps: (n, taps) pixels that contribute to each of n positions, in order.
        weights: (n, taps) of these.

    Yields: Positions, the pixels from the first to the last that contribute, and their weights
        (positions, pixels).
    """
    taps = taps - taps[0, 0]
    firsts = np.repeat(taps[::_BLOCK, 0], _BLOCK)[: len(taps), None]
    width = int((taps - firsts).max()) + 1
    # Beyond an edge several taps are the same pixel: their weights add up.
    cells = taps - firsts + width * np.arange(len(taps))[:, None]
    matrix = (
        np.bincount(cells.ravel(), weights.ravel(), width * len(taps))
        .reshape(-1, width)
        .astype(np.float32)
    )
    for start in range(0, len(taps), _BLOCK):
        stop = min(start + _BLOCK, len(taps))
        wide = int(taps[stop - 1, -1] - taps[start, 0]) + 1
        used = slice(int(taps[start, 0]), int(taps[start, 0]) + wide)
        yield slice(start, stop), used, matrix[start:stop, :wide]


def _taps(
    at: NDArray[np.float64], scale: float, length: int
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return the pixels (n, taps) that contribute to each position and their weights, of sum 1.

    Edges are repeated.
    """
    wide = max(1.0, abs(scale))
    reach = int(np.ceil(2 * wide))
    first = np.floor(at).astype(np.intp) - reach + 1
    taps = first[:, None] + np.arange(2 * reach)
    distance = np.abs(taps - at[:, None]) / wide
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    weights /= weights.sum(1, keepdims=True)
    return np.clip(taps, 0, length - 1), weights.astype(np.float32)


def _rotated(
    frame: NDArray[np.uint16],
    centre_px: NDArray[np.float64],
    linear: NDArray[np.float64],
    steps: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Sample as `crop_frame` a square that is rotated against the frame."""
    grid = np.stack(np.meshgrid(steps, steps, indexing="ij"))  # (2, side, side)
    points = np.einsum("ij,jyx->iyx", linear, grid) + centre_px[:, None, None]
    corner = np.floor(points.min((1, 2))).astype(int) - 8
    stop = np.ceil(points.max((1, 2))).astype(int) + 9
    rows, columns = (
        np.clip(np.arange(corner[axis], stop[axis]), 0, frame.shape[axis] - 1) for axis in (0, 1)
    )
    window = frame[rows[:, None], columns].astype(np.float32)
    coarser = float(np.sqrt(abs(np.linalg.det(linear))))
    if coarser > 1:
        window = ndimage.gaussian_filter(window, 0.5 * np.sqrt(coarser**2 - 1))
    sampled = ndimage.map_coordinates(
        window, points - corner[:, None, None], order=3, mode="nearest"
    )
    return np.asarray(sampled, np.float32)


def _at(
    grid: NDArray[np.float32],
    y: NDArray[np.float64],
    x: NDArray[np.float64],
    shape: tuple[int, ...],
) -> NDArray[np.float32]:
    """Interpolate a coarse grid of tiles at the coordinates y (n,) and x (m,) of a frame: (n, m)
    float32.
    """
    weights = []
    for at, nodes, length in ((y, grid.shape[0], shape[0]), (x, grid.shape[1], shape[1])):
        low, high = (int(max((end + 0.5) * nodes / length - 0.5, 0)) for end in (at[0], at[-1]))
        near = np.arange(min(low, nodes - 1), min(high + 2, nodes))
        weights.append((near, linear_weights(at, near, nodes, length)))
    (rows, down), (columns, across) = weights
    return np.asarray(down @ grid[rows[:, None], columns] @ across.T, np.float32)
