"""Resample the image of a single cell to the crop's pixel size and side, with at most one interpolation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["centred_crop"]


def centred_crop(planes: NDArray[np.uint16], pixel_um: float, crop_pixel_um: float, side_px: int) -> NDArray[np.uint16]:
    """Return the middle of an image as a square of given pixel size; beyond the image its edge is repeated.

    Args:
        planes: (C, Y, X) uint16.
        pixel_um: size of the image's pixel.
        crop_pixel_um: size of the crop's pixel.
        side_px: side of the crop in its own pixels.

    Returns:
        (C, side_px, side_px) uint16; without interpolation where the pixel sizes agree.

    >>> centred_crop(np.arange(9, dtype=np.uint16).reshape(1, 3, 3), 0.1, 0.1, 1).tolist()
    [[[4]]]
    """
    ratio = crop_pixel_um / pixel_um  # image pixels per crop pixel
    if abs(ratio - 1) < 1e-6:
        rows, columns = (np.clip(np.arange(side_px) + (side - side_px) // 2, 0, side - 1) for side in planes.shape[1:])
        return np.ascontiguousarray(planes[:, rows[:, None], columns])
    offset = [(side - 1) / 2 - ratio * (side_px - 1) / 2 for side in planes.shape[1:]]
    crop = np.empty((len(planes), side_px, side_px), np.uint16)
    for plane, out in zip(planes, crop, strict=True):
        source = plane.astype(np.float32)
        if ratio > 1:  # a coarser crop: blur first, or fine structure aliases
            source = ndimage.gaussian_filter(source, 0.5 * np.sqrt(ratio**2 - 1), mode="nearest")
        order = 3 if ratio <= 1 else 1
        value = ndimage.affine_transform(source, [ratio, ratio], offset, crop.shape[1:], order=order, mode="nearest")
        out[...] = np.clip(value + 0.5, 0, 65535)
    return crop
