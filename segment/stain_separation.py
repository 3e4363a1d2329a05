"""Compute the nuclear density of a stained smear from an RGB image: nuclei bright on dark, as with Acridine Orange.

Dividing by its own empty background makes the image independent of white balance and exposure. It is converted to
optical density (Beer-Lambert), and the density of red cells is subtracted: thiazin dyes in chromatin absorb red and
green light, haemoglobin and eosin absorb blue at least as strongly as red. The ratio depends on stain and camera. The
stored derived channel uses the typical ratio for all laboratories; nuclear outlines use the ratio of the image's own
red cells where that is far from it, and detection a filter made for the image (`segment.stain_filter`), against the
light of each plane (`segment.illumination`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy import ndimage

from wbcpipe.imaging.arrays import block_mean, enlarge_grid, otsu_threshold, percentiles
from wbcpipe.segment.flatfield import smooth_levels, tile_levels
from wbcpipe.segment.illumination import illumination_surface, unlit_mask
from wbcpipe.segment.stain_filter import density_in_nuclei

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "NuclearStain",
    "background_colour",
    "density_channel",
    "nuclear_density",
    "nuclear_stain",
    "scale_16bit",
]

#: Density (optical density units) that becomes 65535 in the derived channel.
DENSITY_FULL_SCALE: Final = 2.0
_FLOOR: Final = 1 / 255
#: Pixels along the longer side for the illumination.
_COARSE_SIDE_PX: Final = 160
#: Density of red cells in red and green together over that in blue, with a typical stain and camera.
_TYPICAL_RATIO: Final = 2.0
#: A ratio within this factor of the typical one is replaced by it; ratios are limited to this range.
_TYPICAL_WITHIN: Final = 1.5
_RATIO_RANGE: Final = (0.7, 5.0)
#: A ratio must leave at least this share of the density that nuclei have with the typical one.
_MIN_DENSITY_LEFT: Final = 0.5
#: Pixels along the longer side for the colours.
_COLOUR_SIDE_PX: Final = 320
#: Pixels with less light are no image: outside a round field stop, a frame.
_DARK: Final = 0.03
#: Minimum density, of the three planes together, of a coloured pixel; and as a share of the densest pixels.
_COLOURED: Final = (0.12, 0.2)
_MIN_PIXELS: Final = 50
#: There are two colours when they differ by this much (-1 to 1) and explain this share of the variance.
_TWO_COLOURS: Final = (0.2, 0.65)
#: A density in red or green above this, and above this multiple of the highest in blue, is the camera's black.
_BLACK_DENSITY: Final = 1.2
_BLACK_TO_BLUE: Final = 3.0
#: An image whose densest pixels have less than this density, of the three planes together, is pale and amplified, up
#: to this gain.
_PALE: Final = 0.3
_MAX_GAIN: Final = 3.0
#: The values of an image of 8 bits over the full range.
_LEVELS: Final = np.arange(256, dtype=np.uint16)[None] * np.uint16(257)


def scale_16bit(rgb: NDArray[np.uint8] | NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Convert an image to planes over the full 16-bit range.

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
    """Measure the colour of the empty background: the brightest considerable mode of the green plane.

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
    near = np.flatnonzero((green >= max(mode - 4, 0)) & (green <= mode + 4))
    return np.asarray([_median(plane[near]) / 65535 for plane in small], np.float32)


def _median(values: NDArray[np.uint16]) -> float:
    """Return the median of values (n,), from their histogram: faster than sorting them."""
    ranks = np.cumsum(np.bincount(values))
    low, high = np.searchsorted(ranks, [(len(values) - 1) // 2, len(values) // 2], side="right")
    return float(low + high) / 2


def optical_density(planes: NDArray[Any], background: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Compute the decadic optical density against the background.

    Args:
        planes: (3, Y, X) of any number type, over the full range of uint16.
        background: (3,) or (3, Y, X), in [0, 1].

    Returns:
        (3, Y, X) float32.
    """
    reference = np.asarray(background, np.float32)
    if reference.ndim == 1 and planes.dtype == np.uint16 and planes.size > 3 * 256:
        levels = planes >> 8
        if np.array_equal(levels * np.uint16(257), planes):  # of 8 bits: a density for each of 256 values
            table = optical_density(np.tile(_LEVELS, (3, 1, 1)), reference)[:, 0]
            return np.stack([table[k][levels[k]] for k in range(3)])
    reference = reference.reshape(3, 1, 1) if reference.ndim == 1 else reference
    light = planes.astype(np.float32) / np.float32(65535)
    return np.asarray(np.log10((reference + _FLOOR) / (light + _FLOOR)), np.float32)


def nuclear_density(planes: NDArray[np.uint16], background: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Compute the optical density due to nuclear stain.

    Args:
        planes: (3, Y, X) uint16 R, G, B over the full range.
        background: of `background_colour`, where it is known already.

    Returns:
        (Y, X) float32, at least 0.
    """
    background = background_colour(planes) if background is None else background
    return NuclearStain(background).density(planes, _TYPICAL_RATIO)


@dataclass(frozen=True)
class NuclearStain:
    """The parameters that separate nuclei from everything else in one image.

    Attributes:
        background: (3,) float32 in [0, 1], its empty background.
        ratio: density of its red cells in red and green together over that in blue.
        max_density: limit of the density in red and in green.
        gain: factor of all densities.
    """

    background: NDArray[np.float32]
    ratio: float = _TYPICAL_RATIO
    max_density: float = np.inf
    gain: float = 1.0

    def channel(self, planes: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """Return the channel of `density_channel` for the image's planes (3, Y, X) or a part of them: (Y, X) uint16."""
        return _channel(self.density(planes, self.ratio))

    def detection_channel(self, planes: NDArray[np.uint16], pixel_um: float = 0.1) -> NDArray[np.uint16]:
        """Return the same of the whole image for detection: nothing that only resembles a nucleus.

        Args:
            planes: (3, Y, X) uint16 R, G, B over the full range.
            pixel_um: size of a pixel.
        """
        density, unlit = self.density_against_light(planes)
        found = np.float32(self.gain) * density_in_nuclei(density, pixel_um, unlit)
        return _channel(np.where(unlit, np.float32(0), found))

    def density_against_light(self, planes: NDArray[np.uint16]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the densities of the whole image against the light of each plane, and the pixels that show none of it.

        Args:
            planes: (3, Y, X) uint16 R, G, B over the full range.

        Returns:
            (3, Y, X) float32 and (Y, X) bool.
        """
        surface = illumination_surface(planes)
        unlit = unlit_mask(planes, surface)
        if unlit.any():
            surface = illumination_surface(planes, unlit)
            unlit = unlit_mask(planes, surface)
        light = np.stack([enlarge_grid(plane, planes.shape[1:]) for plane in surface])
        density = optical_density(planes, light)
        density[:2] = np.minimum(density[:2], np.float32(self.max_density))
        return density, unlit

    def density(self, planes: NDArray[np.uint16], ratio: float) -> NDArray[np.float32]:
        """Return the optical density due to nuclear stain, (Y, X) float32, at least 0, for a ratio of red cells."""
        red, green, blue = optical_density(planes, self.background)
        empty = _empty_density(red)
        limit = np.float32(self.max_density)
        density = np.minimum(red, limit) + np.minimum(green, limit) - np.float32(ratio) * np.maximum(blue, empty)
        return np.asarray(np.maximum(np.float32(self.gain) * density, 0), np.float32)


def nuclear_stain(planes: NDArray[np.uint16], background: NDArray[np.float32] | None = None) -> NuclearStain:
    """Estimate the nuclear stain of an image from its own colours.

    Of two colours, the one with more of its density in blue is that of red cells (or of cytoplasm), the other that of
    nuclei. Where there are not two, or the ratio is near the typical one, the typical one is used.

    Args:
        planes: (3, Y, X) uint16 R, G, B over the full range.
        background: of `background_colour`, where it is known already.
    """
    background = background_colour(planes) if background is None else background
    factor = max(1, round(max(planes.shape[1:]) / _COLOUR_SIDE_PX))
    coarse = block_mean(planes, factor) if factor > 1 else planes
    lit = coarse.max(0) > _DARK * 65535
    if np.count_nonzero(lit) < _MIN_PIXELS:
        return NuclearStain(background)
    density = optical_density(coarse, background).reshape(3, -1)  # (3, n)
    if not lit.all():
        density = density[:, lit.ravel()]
    max_density = max(_BLACK_DENSITY, _BLACK_TO_BLUE * percentiles(density[2], 99.5)[0])
    density[:2] = np.minimum(density[:2], np.float32(max_density))
    total = density.sum(0)
    densest = percentiles(total, 99)[0]
    gain = min(max(_PALE / max(densest, 1e-3), 1.0), _MAX_GAIN)
    return NuclearStain(background, _ratio(density, total, densest), max_density, gain)


def _ratio(density: NDArray[np.float32], total: NDArray[np.float32], densest: float) -> float:
    """Return the ratio of `NuclearStain`.

    Args:
        density: (3, n) of an image's pixels.
        total: (n,), their sum.
        densest: its 99th percentile.
    """
    red, green, blue = density
    coloured = np.flatnonzero(total > max(_COLOURED[0], _COLOURED[1] * densest))
    if len(coloured) < _MIN_PIXELS:
        return _TYPICAL_RATIO
    warm, blue = red[coloured] + green[coloured], blue[coloured]
    # From -1 (all in blue) to 1 (nothing in blue).
    hue = np.clip((warm - 2 * blue) / (warm + np.maximum(blue, 0)), -1, 1)
    is_red_cell = hue <= otsu_threshold(hue)
    share = float(is_red_cell.mean())
    difference = float(hue[~is_red_cell].mean() - hue[is_red_cell].mean()) if 0 < share < 1 else 0.0
    explained = share * (1 - share) * difference**2
    if difference < _TWO_COLOURS[0] or explained < _TWO_COLOURS[1] * float(hue.var()):
        return _TYPICAL_RATIO
    nuclei = warm[~is_red_cell], np.maximum(blue[~is_red_cell], 0)
    typical_density = float(np.median(nuclei[0] - _TYPICAL_RATIO * nuclei[1]))

    def checked(ratio: float) -> float:
        ratio = min(max(ratio, _RATIO_RANGE[0]), _RATIO_RANGE[1])
        left = np.median(nuclei[0] - ratio * nuclei[1])
        return ratio if left >= _MIN_DENSITY_LEFT * typical_density else _TYPICAL_RATIO

    own = checked(float(np.median(warm[is_red_cell])) / max(float(np.median(blue[is_red_cell])), 1e-3))
    if abs(log(own / _TYPICAL_RATIO)) <= log(_TYPICAL_WITHIN):
        own = _TYPICAL_RATIO
    return own


def _empty_density(red: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the density (Y, X), at most 0, of background that is brighter than its mode, in all colours alike.

    A quadratic surface through the red plane, where red cells hardly show.
    """
    coarse = block_mean(red, max(1, round(max(red.shape) / _COARSE_SIDE_PX)))
    surface = smooth_levels(-tile_levels(-coarse, bright=True), degree=2, residual=False)
    return enlarge_grid(np.minimum(surface, 0), red.shape)


def density_channel(planes: NDArray[np.uint16], background: NDArray[np.float32] | None = None) -> NDArray[np.uint16]:
    """Return the derived channel in place of fluorescence: (Y, X) uint16; arguments as for `nuclear_density`."""
    return _channel(nuclear_density(planes, background))


def _channel(density: NDArray[np.float32]) -> NDArray[np.uint16]:
    scaled = density * np.float32(65535 / DENSITY_FULL_SCALE)
    return np.asarray(np.minimum(scaled + 0.5, 65535), np.uint16)
