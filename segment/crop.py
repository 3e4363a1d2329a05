"""Cut a cell out of its field: every modality in register, at the model's pixel size, interpolated once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wbcpipe.segment.flatfield import FlatField
    from wbcpipe.segment.register import Alignment

__all__ = ["crop_cell", "crop_frame", "outside_field"]

#: Rotation that moves the corner of a crop by less than this (pixels) is left out, so that rows and columns part.
_ROTATION_FREE_PX: Final = 0.03


def crop_cell(
    frames: NDArray[np.uint16],
    alignment: Alignment,
    flatfield: FlatField,
    centre_px: NDArray[np.float64],
    *,
    ratio: float,
    side_px: int,
    empty: NDArray[np.float32],
) -> NDArray[np.uint16]:
    """Crop all modalities around a point of the reference frame.

    Args:
        frames: (M, Y, X) uint16, as the camera gave them.
        alignment: of this field.
        flatfield: of this run.
        centre_px: (2,) point (y, x) of the reference frame.
        ratio: frame pixels per crop pixel.
        side_px: side of the crop.
        empty: (M,) what a corrected frame shows where nothing lies.

    Returns:
        (M, side_px, side_px) uint16; ``empty`` beyond the border of a field.
    """
    crops = np.empty((len(frames), side_px, side_px), np.uint16)
    for k, frame in enumerate(frames):
        centre = alignment.to_modality(k, centre_px[None])[0]
        linear = alignment.linear[k] * ratio
        values = crop_frame(frame, centre, linear, side_px)
        y, x = (centre[axis] + linear[axis, axis] * (np.arange(side_px) - (side_px - 1) / 2) for axis in (0, 1))
        dark, gain = (_at(grid[k], y, x, frame.shape) for grid in (flatfield.dark, flatfield.gain))
        outside = _outside(y, frame.shape[0])[:, None] | _outside(x, frame.shape[1])
        values = (values - dark) * gain + flatfield.base[k]
        crops[k] = np.clip(np.where(outside, empty[k], values) + np.float32(0.5), 0, 65535)
    return crops


def outside_field(
    centre_px: NDArray[np.float64], ratio: float, side_px: int, shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Which pixels of a crop lie beyond the border of the reference frame, (side_px, side_px) bool."""
    steps = (np.arange(side_px) - (side_px - 1) / 2) * ratio
    return np.asarray(_outside(centre_px[0] + steps, shape[0])[:, None] | _outside(centre_px[1] + steps, shape[1]))


def _outside(at: NDArray[np.float64], length: int) -> NDArray[np.bool_]:
    return np.asarray((at < -0.5) | (at > length - 0.5))


def crop_frame(
    frame: NDArray[np.uint16], centre_px: NDArray[np.float64], linear: NDArray[np.float64], side_px: int
) -> NDArray[np.float32]:
    """Sample a square of a frame with cubic convolution.

    R. Keys, IEEE Trans. ASSP 29 (1981) 1153, doi:10.1109/TASSP.1981.1163711, equation 4; the kernel is widened where
    the crop is coarser than the frame.

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
        return _turned(frame, centre_px, linear, steps)
    rows, row_weights = _taps(centre_px[0] + linear[0, 0] * steps, linear[0, 0], frame.shape[0])
    columns, column_weights = _taps(centre_px[1] + linear[1, 1] * steps, linear[1, 1], frame.shape[1])
    left, right = int(columns.min()), int(columns.max()) + 1
    top, bottom = int(rows.min()), int(rows.max()) + 1
    window = frame[top:bottom, left:right].astype(np.float32)
    across = np.zeros((bottom - top, side_px), np.float32)
    for k in range(columns.shape[1]):
        across += window[:, columns[:, k] - left] * column_weights[:, k]
    crop = np.zeros((side_px, side_px), np.float32)
    for k in range(rows.shape[1]):
        crop += across[rows[:, k] - top] * row_weights[:, k, None]
    return crop


def _taps(at: NDArray[np.float64], scale: float, length: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Pixels (n, taps) that contribute to each place and their weights, which sum to 1; edges are repeated."""
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


def _turned(
    frame: NDArray[np.uint16], centre_px: NDArray[np.float64], linear: NDArray[np.float64], steps: NDArray[np.float64]
) -> NDArray[np.float32]:
    """As `crop_frame`, for a crop that is turned against the frame."""
    grid = np.stack(np.meshgrid(steps, steps, indexing="ij"))  # (2, side, side)
    places = np.einsum("ij,jyx->iyx", linear, grid) + centre_px[:, None, None]
    corner = np.floor(places.min((1, 2))).astype(int) - 8
    stop = np.ceil(places.max((1, 2))).astype(int) + 9
    rows, columns = (np.clip(np.arange(corner[axis], stop[axis]), 0, frame.shape[axis] - 1) for axis in (0, 1))
    window = frame[rows[:, None], columns].astype(np.float32)
    coarser = float(np.sqrt(abs(np.linalg.det(linear))))
    if coarser > 1:
        window = ndimage.gaussian_filter(window, 0.5 * np.sqrt(coarser**2 - 1))
    sampled = ndimage.map_coordinates(window, places - corner[:, None, None], order=3, mode="nearest")
    return np.asarray(sampled, np.float32)


def _at(
    grid: NDArray[np.float32], y: NDArray[np.float64], x: NDArray[np.float64], shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """A coarse grid of tiles, interpolated to the places ``y`` (n,) and ``x`` (m,) of a frame: (n, m) float32."""
    weights = []
    for at, nodes, length in ((y, grid.shape[0], shape[0]), (x, grid.shape[1], shape[1])):
        node = np.clip((at + 0.5) * nodes / length - 0.5, 0, nodes - 1)
        low = np.minimum(np.floor(node).astype(np.intp), max(nodes - 2, 0))
        weights.append((low, np.minimum(low + 1, nodes - 1), (node - low).astype(np.float32)))
    (top, bottom, down), (left, right, across) = weights
    upper = grid[top][:, left] * (1 - across) + grid[top][:, right] * across
    lower = grid[bottom][:, left] * (1 - across) + grid[bottom][:, right] * across
    return np.asarray(upper * (1 - down[:, None]) + lower * down[:, None], np.float32)
