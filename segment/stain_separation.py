"""Nuclear density of a stained smear, from the colours of an RGB picture: nuclei bright on dark, like Acridine Orange.

The picture is made independent of white balance and exposure by dividing by its own empty background, taken to optical
density (Beer-Lambert), and the share of the red cells is removed: thiazin dyes in chromatin absorb red and green light,
haemoglobin and eosin absorb blue at least as strongly as red. How strongly depends on stain and camera. The derived
channel that is kept takes the usual share, alike for all laboratories; cells are found, and their nuclei outlined, with
the share of the picture's own red cells where that is far from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy import ndimage

from wbcpipe.imaging.arrays import block_mean, enlarge_grid, otsu_threshold, percentiles
from wbcpipe.segment.flatfield import smooth_levels, tile_levels

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "DENSITY_FULL_SCALE",
    "NuclearStain",
    "background_colour",
    "density_channel",
    "nuclear_density",
    "nuclear_stain",
    "optical_density",
    "scale_16bit",
]

#: Density (optical density units) that becomes 65535 in the derived channel.
DENSITY_FULL_SCALE: Final = 2.0
_FLOOR: Final = 1 / 255
#: The light is looked at in so many pixels along the longer side.
_COARSE_SIDE_PX: Final = 160
#: Density of red cells in red and green together, as a multiple of that in blue, with the usual stain and camera.
_USUAL_SHARE: Final = 2.0
#: Shares within this factor of the usual one are taken for it, and none beyond these limits is believed.
_USUAL_WITHIN: Final = 1.5
_SHARES: Final = (0.7, 5.0)
#: Nor one that leaves less than this of what nuclei have with the usual one.
_LEAST_LEFT: Final = 0.5
#: So far from their hue to that of nuclei do red cells come where they lie on each other or fold.
_ON_THE_WAY: Final = 0.3
#: Colours are looked at in so many pixels along the longer side.
_COLOUR_SIDE_PX: Final = 320
#: Less light than this is no picture: beyond a round field stop, a frame.
_DARK: Final = 0.03
#: Least density, of the three planes together, that has a colour; and as a share of the densest there is.
_COLOURED: Final = (0.12, 0.2)
_LEAST_PX: Final = 50
#: Two colours are there when they differ by so much (-1 to 1), and lie apart by this share of the whole variance.
_TWO_COLOURS: Final = (0.2, 0.65)
#: More density in red or green than this, and than so many times the most in blue, is a camera's black, not more stain.
_BLACK_DENSITY: Final = 1.2
_BLACK_TO_BLUE: Final = 3.0
#: A picture in which nothing has this density, of the three planes together, is pale; what it has is enlarged, up to
#: so many times.
_PALE: Final = 0.3
_MOST_GAIN: Final = 3.0


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


def optical_density(planes: NDArray[Any], background: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Decadic optical density against the background.

    Args:
        planes: (3, Y, X) of any number type, over the full range of uint16.
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
    return np.asarray(
        np.maximum(red + green - np.float32(_USUAL_SHARE) * np.maximum(blue, _empty_density(red)), 0), np.float32
    )


@dataclass(frozen=True)
class NuclearStain:
    """How nuclei are told from all else in one picture.

    Attributes:
        background: (3,) float32 in [0, 1], its empty background.
        share: density of its red cells in red and green together, as a multiple of that in blue.
        finding_share: the same of what is on the way from red cells to nuclei: red cells that lie on each other.
        most: density in red and in green beyond which there is no more to tell.
        gain: by which all densities are enlarged.
    """

    background: NDArray[np.float32]
    share: float
    finding_share: float
    most: float
    gain: float

    def channel(self, planes: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """Like `density_channel`, of the picture's planes (3, Y, X) or of a part of them: (Y, X) uint16."""
        return self._channel(planes, self.share)

    def finding_channel(self, planes: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """The same to find cells in: paler nuclei, but nothing else that looks like one."""
        return self._channel(planes, self.finding_share)

    def _channel(self, planes: NDArray[np.uint16], share: float) -> NDArray[np.uint16]:
        red, green, blue = optical_density(planes, self.background)
        empty = _empty_density(red)
        most = np.float32(self.most)
        density = np.minimum(red, most) + np.minimum(green, most) - np.float32(share) * np.maximum(blue, empty)
        return _channel(np.maximum(np.float32(self.gain) * density, 0))


def nuclear_stain(planes: NDArray[np.uint16]) -> NuclearStain:
    """How nuclei are told in a picture, from its own colours.

    Of two colours the one with more of its density in blue is that of red cells (or of cytoplasm), the other that of
    nuclei. Where there are no two, or where it is about the usual one, the usual one is taken.

    Args:
        planes: (3, Y, X) uint16 R, G, B over the full range.
    """
    background = background_colour(planes)
    coarse = block_mean(planes, max(1, round(max(planes.shape[1:]) / _COLOUR_SIDE_PX)))
    lit = coarse.max(0) > _DARK * 65535
    if np.count_nonzero(lit) < _LEAST_PX:
        return NuclearStain(background, _USUAL_SHARE, _USUAL_SHARE, np.inf, 1.0)
    density = optical_density(coarse, background)[:, lit]  # (3, n)
    most = max(_BLACK_DENSITY, _BLACK_TO_BLUE * percentiles(density[2], 99.5)[0])
    density[:2] = np.minimum(density[:2], np.float32(most))
    densest = percentiles(density.sum(0), 99)[0]
    gain = min(max(_PALE / max(densest, 1e-3), 1.0), _MOST_GAIN)
    return NuclearStain(background, *_shares(*density), most, gain)


def _shares(red: NDArray[np.float32], green: NDArray[np.float32], blue: NDArray[np.float32]) -> tuple[float, float]:
    """Both shares from densities (n,) of a picture's pixels."""
    total = red + green + blue
    coloured = total > max(_COLOURED[0], _COLOURED[1] * percentiles(total, 99)[0])
    if np.count_nonzero(coloured) < _LEAST_PX:
        return _USUAL_SHARE, _USUAL_SHARE
    warm, blue = (red + green)[coloured], blue[coloured]
    # From -1, all in blue, to 1, nothing in blue.
    hue = np.clip((warm - 2 * blue) / (warm + np.maximum(blue, 0)), -1, 1)
    other = hue <= otsu_threshold(hue)
    part = float(other.mean())
    apart = float(hue[~other].mean() - hue[other].mean()) if 0 < part < 1 else 0.0
    if apart < _TWO_COLOURS[0] or part * (1 - part) * apart**2 < _TWO_COLOURS[1] * float(hue.var()):
        return _USUAL_SHARE, _USUAL_SHARE
    left = warm[~other], np.maximum(blue[~other], 0)
    usual_left = float(np.median(left[0] - _USUAL_SHARE * left[1]))

    def believed(share: float) -> float:
        share = min(max(share, _SHARES[0]), _SHARES[1])
        return share if np.median(left[0] - share * left[1]) >= _LEAST_LEFT * usual_left else _USUAL_SHARE

    own = believed(float(np.median(warm[other])) / max(float(np.median(blue[other])), 1e-3))
    if abs(log(own / _USUAL_SHARE)) <= log(_USUAL_WITHIN):
        own = _USUAL_SHARE
    low, high = float(np.median(hue[other])), float(np.median(hue[~other]))
    between = low + _ON_THE_WAY * (high - low)
    return own, max(own, believed((2 + between) / max(1 - between, 1e-3)))


def _empty_density(red: NDArray[np.float32]) -> NDArray[np.float32]:
    """Density (Y, X), at most 0, of background that is lit more brightly than most of it, in all colours alike.

    Told by the red plane, where red cells hardly show; a quadratic surface.
    """
    coarse = block_mean(red, max(1, round(max(red.shape) / _COARSE_SIDE_PX)))
    surface = smooth_levels(-tile_levels(-coarse, bright=True), degree=2, residual=False)
    return enlarge_grid(np.minimum(surface, 0), red.shape)


def density_channel(planes: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """The derived channel that stands in for fluorescence: (Y, X) uint16 from (3, Y, X) uint16 planes."""
    return _channel(nuclear_density(planes))


def _channel(density: NDArray[np.float32]) -> NDArray[np.uint16]:
    scaled = density * np.float32(65535 / DENSITY_FULL_SCALE)
    return np.asarray(np.minimum(scaled + 0.5, 65535), np.uint16)
