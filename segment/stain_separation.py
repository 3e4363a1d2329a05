"""Compute the nuclear density of a stained smear from an RGB image.

Nuclei bright on dark, as with Acridine Orange.

Dividing by its own empty background makes the image independent of white balance and exposure. It
is converted to optical density (Beer-Lambert), and the density of red cells is subtracted: thiazin
dyes in chromatin absorb red and green light, haemoglobin and eosin absorb blue at least as strongly
as red. The ratio depends on stain and camera. The stored derived channel uses the typical ratio for
all laboratories; nuclear outlines use the ratio of the image's own red cells where that is far from
it, and detection a filter made for the image (`segment.stain_filter`), against the light of each
plane (`segment.illumination`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy import ndimage

from wbcpipe.imaging.arrays import block_mean, enlarge_grid, median, otsu_threshold, percentiles
from wbcpipe.samples.segment_settings.detection import DetectionSettings
from wbcpipe.segment.flatfield import smooth_levels, tile_levels
from wbcpipe.segment.illumination import illumination_surface, unlit_mask
from wbcpipe.segment.stain_filter import density_in_nuclei

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wbcpipe.samples.segment_settings.stain import StainSettings

__all__ = [
    "NuclearStain",
    "background_colour",
    "density_channel",
    "empty_density",
    "nuclear_density",
    "nuclear_stain",
    "optical_density",
    "scale_16bit",
]

# Constants, no settings: they define the derived channel, with which the bundles were trained, or
# are resolutions.
#: Density (optical density units) that becomes 65535 in the derived channel.
DENSITY_FULL_SCALE: Final = 2.0
_FLOOR: Final = 1 / 255
#: Pixels along the longer side for the illumination.
_COARSE_SIDE_PX: Final = 160
#: Density of red cells in red and green together over that in blue, with a typical stain and
#: camera.
_TYPICAL_RATIO: Final = 2.0
#: Pixels along the longer side for the colours.
_COLOUR_SIDE_PX: Final = 320
_MIN_PIXELS: Final = 50
_DEFAULT: Final = DetectionSettings()
#: The values of an image of 8 bits over the full range.
_LEVELS: Final = np.tile(np.arange(256, dtype=np.uint16) * np.uint16(257), (3, 1, 1))


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
    """Measure the colour of the empty background: the brightest considerable mode of the green
    plane.

    Args:
        planes: (3, Y, X) uint16, full range.

    Returns:
        (3,) float32 in [0, 1].
    """
    step = max(1, int(np.sqrt(planes[0].size / 60_000)))
    small: NDArray[Any] = planes[:, ::step, ::step].reshape(3, -1)
    levels = _levels(small)
    small, unit = (small, 1) if levels is None else (levels, 257)
    green = small[1] >> 8 if levels is None else levels[1]  # 256 levels
    counts = ndimage.gaussian_filter1d(
        np.bincount(green, minlength=256).astype(float), 3.0, mode="constant"
    )
    # A background that saturates the camera has its mode at the last level.
    padded = np.pad(counts, 1)
    peaks = np.flatnonzero(
        (counts >= padded[:-2]) & (counts >= padded[2:]) & (counts > 0.15 * counts.max())
    )
    mode = int(peaks[-1]) if peaks.size else int(np.argmax(counts))
    near = (green >= max(mode - 4, 0)) & (green <= min(mode + 4, 255))
    middles = [unit * _middle_value(plane[near]) for plane in small]
    return np.asarray([middle / 65535 for middle in middles], np.float32)


def _middle_value(values: NDArray[np.uint8] | NDArray[np.uint16]) -> float:
    """Return the median of many values (n,), from their histogram: faster than sorting them."""
    ranks = np.cumsum(np.bincount(values))
    low, high = np.searchsorted(ranks, [(len(values) - 1) // 2, len(values) // 2], side="right")
    return float(low + high) / 2


def _levels(planes: NDArray[Any]) -> NDArray[np.uint8] | None:
    """Return the 256 levels of an image of 8 bits over the full range; ``None`` for another."""
    if planes.dtype != np.uint16:
        return None
    levels = (planes >> 8).astype(np.uint8)
    return levels if np.array_equal(levels * np.uint16(257), planes) else None


def optical_density(
    planes: NDArray[Any], background: NDArray[np.floating[Any]]
) -> NDArray[np.float32]:
    """Compute the decadic optical density against the background.

    Args:
        planes: (3, Y, X) of any number type, over the full range of uint16.
        background: (3,) or (3, Y, X), in [0, 1].

    Returns:
        (3, Y, X) float32.
    """
    reference = np.asarray(background, np.float32)
    if reference.ndim == 1 and planes.size > _LEVELS.size:
        levels = _levels(planes)
        if levels is not None:  # a density for each of 256 values
            table = optical_density(_LEVELS, reference)[:, 0]
            density = np.empty(planes.shape, np.float32)
            for k in range(3):
                np.take(table[k], levels[k], out=density[k], mode="clip")
            return density
    reference = reference.reshape(3, 1, 1) if reference.ndim == 1 else reference
    light = planes.astype(np.float32) / np.float32(65535)
    return np.asarray(np.log10((reference + _FLOOR) / (light + _FLOOR)), np.float32)


def nuclear_density(
    planes: NDArray[np.uint16], background: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Compute the optical density due to nuclear stain.

    Args:
        planes: (3, Y, X) uint16 R, G, B over the full range.
        background: of `background_colour`, where it is known already.

    Returns:
        (Y, X) float32, at least 0.
    """
    background = background_colour(planes) if background is None else background
    return NuclearStain(background).density(optical_density(planes, background))


@dataclass(frozen=True)
class NuclearStain:
    """The parameters that separate nuclei from everything else in one image.

    Attributes:
        background: (3,) float32 in [0, 1], its empty background.
        ratio: density of its red cells in red and green together over that in blue.
        max_density: limit of the density in red and in green.
        gain: factor of all densities.
        settings: what is nuclear stain.
    """

    background: NDArray[np.float32]
    ratio: float = _TYPICAL_RATIO
    max_density: float = np.inf
    gain: float = 1.0
    settings: DetectionSettings = _DEFAULT

    def channel(self, planes: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """Return the channel of `density_channel` for the image's planes (3, Y, X) or a part of
        them: (Y, X) uint16.
        """
        return self.channel_of(optical_density(planes, self.background))

    def channel_of(
        self, density: NDArray[np.float32], empty: NDArray[np.float32] | None = None
    ) -> NDArray[np.uint16]:
        """Return the same from the optical density of the planes; arguments as for `density`."""
        return _channel(self.density(density, empty))

    def detection_channel(
        self, planes: NDArray[np.uint16], pixel_um: float = 0.1
    ) -> NDArray[np.uint16]:
        """Return the same of the whole image for detection: nothing that only resembles a nucleus.

        Args:
            planes: (3, Y, X) uint16 R, G, B over the full range.
            pixel_um: size of a pixel.
        """
        density, unlit = self.density_against_light(planes)
        found = np.float32(self.gain) * density_in_nuclei(
            density, pixel_um, unlit, self.settings.stain
        )
        return _channel(np.where(unlit, np.float32(0), found))

    def density_against_light(
        self, planes: NDArray[np.uint16]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the densities of the whole image against the light of each plane, and the pixels
        that show none of it.

        Args:
            planes: (3, Y, X) uint16 R, G, B over the full range.

        Returns:
            (3, Y, X) float32 and (Y, X) bool.
        """
        light_settings = self.settings.light
        surface = illumination_surface(planes, None, light_settings)
        unlit = unlit_mask(planes, surface, light_settings)
        if unlit.any():
            surface = illumination_surface(planes, unlit, light_settings)
            unlit = unlit_mask(planes, surface, light_settings)
        light = np.stack([enlarge_grid(plane, planes.shape[1:]) for plane in surface])
        density = optical_density(planes, light)
        density[:2] = np.minimum(density[:2], np.float32(self.max_density))
        return density, unlit

    def density(
        self, density: NDArray[np.float32], empty: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return the optical density due to nuclear stain, (Y, X) float32, at least 0.

        Args:
            density: (3, Y, X) float32, optical density of the planes or a part of them.
            empty: (Y, X) of `empty_density`; measured in ``density`` if ``None``.
        """
        red, green, blue = density
        empty = empty_density(red) if empty is None else empty
        limit = np.float32(self.max_density)
        nuclear = (
            np.minimum(red, limit)
            + np.minimum(green, limit)
            - np.float32(self.ratio) * np.maximum(blue, empty)
        )
        return np.asarray(np.maximum(np.float32(self.gain) * nuclear, 0), np.float32)


def nuclear_stain(
    planes: NDArray[np.uint16],
    background: NDArray[np.float32] | None = None,
    settings: DetectionSettings = _DEFAULT,
    density: NDArray[np.float32] | None = None,
) -> NuclearStain:
    """Estimate the nuclear stain of an image from its own colours.

    Of two colours, the one with more of its density in blue is that of red cells (or of cytoplasm),
    the other that of nuclei. Where there are not two, or the ratio is near the typical one, the
    typical one is used.

    Args:
        planes: (3, Y, X) uint16 R, G, B over the full range.
        background: of `background_colour`, where it is known already.
        settings: what is nuclear stain.
        density: (3, Y, X) of `optical_density` against ``background``, where it is known already.
    """
    background = background_colour(planes) if background is None else background
    rules = settings.stain
    factor = max(1, round(max(planes.shape[1:]) / _COLOUR_SIDE_PX))
    coarse = block_mean(planes, factor) if factor > 1 else planes
    lit = coarse.max(0) > settings.light.dark_fraction * 65535
    if np.count_nonzero(lit) < _MIN_PIXELS:
        return NuclearStain(background, settings=settings)
    if density is None or factor > 1:
        density = optical_density(coarse, background)
    colours = density.reshape(3, -1) if lit.all() else density[:, lit]  # (3, n)
    blue = colours[2]
    max_density = max(rules.black_od, rules.black_to_blue * percentiles(blue, 99.5)[0])
    red, green = np.minimum(colours[:2], np.float32(max_density))
    warm = red + green
    total = warm + blue
    densest = percentiles(total, 99)[0]
    gain = min(max(rules.pale_od / max(densest, 1e-3), 1.0), rules.max_gain)
    ratio = _ratio(warm, blue, total, densest, rules)
    return NuclearStain(background, ratio, max_density, gain, settings)


def _ratio(
    warm: NDArray[np.float32],
    blue: NDArray[np.float32],
    total: NDArray[np.float32],
    densest: float,
    settings: StainSettings,
) -> float:
    """Return the ratio of `NuclearStain`.

    Args:
        warm: (n,) density of an image's pixels in red and green together.
        blue: (n,) in blue.
        total: (n,) their sum.
        densest: its 99th percentile.
        settings: what is nuclear stain.
    """
    least = max(settings.coloured_od, settings.coloured_fraction * densest)
    coloured = np.flatnonzero(total > least)
    if len(coloured) < _MIN_PIXELS:
        return _TYPICAL_RATIO
    warm, blue = warm[coloured], blue[coloured]
    # From -1 (all in blue) to 1 (nothing in blue).
    hue = np.clip((warm - 2 * blue) / (warm + np.maximum(blue, 0)), -1, 1)
    is_red_cell = hue <= otsu_threshold(hue)
    share = float(is_red_cell.mean())
    difference = float(hue[~is_red_cell].mean() - hue[is_red_cell].mean()) if 0 < share < 1 else 0.0
    explained = share * (1 - share) * difference**2
    if (
        difference < settings.two_colours_difference
        or explained < settings.two_colours_explained * float(hue.var())
    ):
        return _TYPICAL_RATIO
    nuclei = warm[~is_red_cell], np.maximum(blue[~is_red_cell], 0)
    typical_density = median(nuclei[0] - _TYPICAL_RATIO * nuclei[1])

    def checked(ratio: float) -> float:
        ratio = min(max(ratio, settings.min_ratio), settings.max_ratio)
        left = median(nuclei[0] - ratio * nuclei[1])
        enough = left >= settings.min_density_left * typical_density
        return ratio if enough else _TYPICAL_RATIO

    own = checked(median(warm[is_red_cell]) / max(median(blue[is_red_cell]), 1e-3))
    if abs(log(own / _TYPICAL_RATIO)) <= log(settings.typical_within):
        own = _TYPICAL_RATIO
    return own


def empty_density(red: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the density (Y, X), at most 0, of background that is brighter than its mode, in all
    colours alike.

    A quadratic surface through the red plane, where red cells hardly show.
    """
    coarse = block_mean(red, max(1, round(max(red.shape) / _COARSE_SIDE_PX)))
    surface = smooth_levels(-tile_levels(-coarse, bright=True), degree=2, residual=False)
    return enlarge_grid(np.minimum(surface, 0), red.shape)


def density_channel(
    planes: NDArray[np.uint16], background: NDArray[np.float32] | None = None
) -> NDArray[np.uint16]:
    """Return the derived channel in place of fluorescence: (Y, X) uint16.

    Arguments as for `nuclear_density`.
    """
    return _channel(nuclear_density(planes, background))


def _channel(density: NDArray[np.float32]) -> NDArray[np.uint16]:
    scaled = density * np.float32(65535 / DENSITY_FULL_SCALE)
    return np.asarray(np.minimum(scaled + 0.5, 65535), np.uint16)
