"""Nuclear density of a stained smear, from the colours of an RGB picture: nuclei bright on dark, like Acridine Orange.

The picture is made independent of white balance and exposure by dividing by its own empty background, taken to optical
density (Beer-Lambert), and the share of the red cells is removed: thiazin dyes in chromatin absorb red and green light,
haemoglobin and eosin absorb blue at least as strongly as red.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy import ndimage

from wbcpipe.segment.arrays import enlarge_grid, shrink
from wbcpipe.segment.flatfield import smooth_levels, tile_levels

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "DENSITY_FULL_SCALE",
    "background_colour",
    "density_channel",
    "nuclear_density",
    "optical_density",
    "scale_16bit",
]

#: Density (optical density units) that becomes 65535 in the derived channel.
DENSITY_FULL_SCALE: Final = 2.0
_FLOOR: Final = 1 / 255
#: The light is looked at in so many pixels along the longer side.
_COARSE_SIDE_PX: Final = 160


def scale_16bit(rgb: NDArray[np.uint8] | NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Planes of a picture over the full 16-bit range.

    Args:
        rgb: (Y, X, 3) uint8 or uint16.

    Returns:
        (3, Y, X) uint16; white is 65535.

    >>> scale_16bit(np.full((1, 1, 3), 255, np.uint8)).tolist()
    [[[65535]], [[65535]], [[65535]]]
    """
    planes = np.moveaxis(rgb, -1, 0)  # (3, Y, X)
    if planes.dtype == np.uint16:
        return np.ascontiguousarray(planes, np.uint16)
    return np.ascontiguousarray(planes.astype(np.uint16) * np.uint16(257))


def background_colour(planes: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Colour of the empty background: the brightest considerable mode of the green plane.

    Args:
        planes: (3, Y, X) uint16, full range.

    Returns:
        (3,) float32 in [0, 1].
    """
    step = max(1, int(np.sqrt(planes[0].size / 60_000)))
    small = planes[:, ::step, ::step].reshape(3, -1)
    green = small[1] >> 8  # 256 levels
    counts = ndimage.gaussian_filter1d(np.bincount(green, minlength=256).astype(float), 3.0, mode="constant")
    # A background that saturates the camera has its mode at the last level.
    padded = np.pad(counts, 1)
    peaks = np.flatnonzero((counts >= padded[:-2]) & (counts >= padded[2:]) & (counts > 0.15 * counts.max()))
    mode = int(peaks[-1]) if peaks.size else int(np.argmax(counts))
    near = np.abs(green.astype(int) - mode) <= 4
    return np.asarray(np.median(small[:, near], axis=1) / 65535, np.float32)


def optical_density(planes: NDArray[np.uint16], background: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Decadic optical density against the background.

    Args:
        planes: (3, Y, X) uint16, full range.
        background: (3,) or (3, Y, X), in [0, 1].

    Returns:
        (3, Y, X) float32.
    """
    reference = np.asarray(background, np.float32)
    reference = reference.reshape(3, 1, 1) if reference.ndim == 1 else reference
    light = planes.astype(np.float32) / np.float32(65535)
    return np.asarray(np.log10((reference + _FLOOR) / (light + _FLOOR)), np.float32)


def nuclear_density(planes: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Optical density due to nuclear stain.

    Args:
        planes: (3, Y, X) uint16 R, G, B over the full range.

    Returns:
        (Y, X) float32, at least 0.
    """
    red, green, blue = optical_density(planes, background_colour(planes))
    return np.asarray(np.maximum(red + green - 2 * np.maximum(blue, _empty_density(red)), 0), np.float32)


def _empty_density(red: NDArray[np.float32]) -> NDArray[np.float32]:
    """Density (Y, X), at most 0, of background that is lit more brightly than most of it, in all colours alike.

    Told by the red plane, where red cells hardly show; a quadratic surface.
    """
    coarse = shrink(red, max(1, round(max(red.shape) / _COARSE_SIDE_PX)))
    surface = smooth_levels(-tile_levels(-coarse, bright=True), degree=2, rest=False)
    return enlarge_grid(np.minimum(surface, 0), red.shape)


def density_channel(planes: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """The derived channel that stands in for fluorescence: (Y, X) uint16 from (3, Y, X) uint16 planes."""
    scaled = nuclear_density(planes) * np.float32(65535 / DENSITY_FULL_SCALE)
    return np.asarray(np.minimum(scaled + 0.5, 65535), np.uint16)
