"""Take the image of a slide's label.

By the label camera, or by the scan camera with frames beside one another.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.protocols import Microscope

__all__ = ["crop", "take_label_image"]

#: A label of many frames is kept at this many pixels along its longer side: the modules of a
#: barcode are large.
_MAX_SIDE_PX: Final = 2048


def take_label_image(
    microscope: Microscope, scope: Scope, slot: str, exposure_ms: float
) -> NDArray[np.unsignedinteger]:
    """Take an image (y, x) of the label of the slide in a slot.

    Raises as the roles of `protocols.Microscope` do.
    """
    label = scope.label
    position_um = label.positions_um.get(slot)
    if position_um is not None:
        if label.z_um is not None:
            microscope.move_z(label.z_um)
        if label.method == "camera":
            microscope.move_xy(*position_um)
    if label.method == "camera" or position_um is None:
        return microscope.label_camera.snap(exposure_ms)
    return _mosaic(microscope, scope, position_um, exposure_ms)


def _mosaic(
    microscope: Microscope, scope: Scope, position_um: tuple[float, float], exposure_ms: float
) -> NDArray[np.uint16]:
    """Take frames beside one another around a position, row by row; return them as one image."""
    height_px, width_px = scope.camera.image_px
    width_um, height_um = scope.field_um
    area_um = scope.label.area_um or (width_um, height_um)
    columns, rows = math.ceil(area_um[0] / width_um), math.ceil(area_um[1] / height_um)
    step = max(math.ceil(max(columns * width_px, rows * height_px) / _MAX_SIDE_PX), 1)
    microscope.switch_light(scope.label.modality)
    frame = np.empty((height_px, width_px), np.uint16)
    tile_px = (height_px // step, width_px // step)
    image = np.empty((rows * tile_px[0], columns * tile_px[1]), np.uint16)
    for row in range(rows):
        for column in range(columns):
            x_um = position_um[0] + (column - (columns - 1) / 2) * width_um
            y_um = position_um[1] + (row - (rows - 1) / 2) * height_um
            microscope.move_xy(x_um, y_um)
            microscope.expose(exposure_ms, frame)
            microscope.wait_for_frames()
            top, left = row * tile_px[0], column * tile_px[1]
            image[top : top + tile_px[0], left : left + tile_px[1]] = _shrunk(frame, step)
    return image


def _shrunk(frame: NDArray[np.uint16], step: int) -> NDArray[np.uint16]:
    """Return the means of squares of ``step`` pixels."""
    rows, columns = frame.shape[0] // step, frame.shape[1] // step
    squares = frame[: rows * step, : columns * step].reshape(
        rows, step, columns, step
    )  # (Y/s, s, X/s, s)
    means: NDArray[np.uint16] = squares.mean(axis=(1, 3)).astype(np.uint16)
    return means


def crop(
    image: NDArray[np.unsignedinteger], fractions: tuple[float, float, float, float]
) -> NDArray[np.unsignedinteger]:
    """Return the part of an image (y, x) between left, top, right and bottom, given as fractions of
    its sides.
    """
    height_px, width_px = image.shape
    left, top, right, bottom = fractions
    rows = slice(round(top * height_px), max(round(bottom * height_px), 1))
    return image[rows, round(left * width_px) : max(round(right * width_px), 1)]
