"""Separate nuclear stain from everything else in one image: red cells of any hue, their rims, dirt.

The filter is the projection of a pixel's optical densities that answers to nuclear stain with its
density and, given that, least to all other pixels of the image ("constrained energy minimisation",
J. C. Harsanyi and C.-I. Chang, IEEE Trans. Geosci. Remote Sens. 32 (1994) 779,
doi:10.1109/36.298007, equation 6). What "all others" look like is measured: pink or blue-grey red
cells, refraction at their rims, uneven light. The stain is not known: of the filters for all stains
that nuclei may have, that one is taken in which a few solid objects exceed the whole image most.
The objects are then judged one by one (`segment.nucleus_candidates`).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import ndimage

from wbcpipe.imaging.arrays import block_mean, percentiles
from wbcpipe.imaging.filters import dilation, disk, gaussian
from wbcpipe.samples.segment_settings.stain import StainSettings
from wbcpipe.segment.nucleus_candidates import Candidates, find_candidates, nucleus_score

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["NuclearAnswer", "density_in_nuclei", "nuclear_answer"]

# Constants, no settings: resolution and effort of the fit.
_COARSE_UM: Final = 0.3
_SMOOTH_UM: Final = 0.3
_MARGIN_UM: Final = 1.0
_ROUNDS: Final = 3
_MIN_PIXELS: Final = 20
_DEFAULT: Final = StainSettings()


@dataclass(frozen=True)
class _Pixels:
    """The coarse pixels of an image.

    Attributes:
        density: (3, y, x) float32, optical densities, smoothed.
        seen: (y, x) bool, pixels that show the specimen.
        coloured: (y, x) bool, those of them that something stained or pigmented covers.
        um: size of a pixel.
    """

    density: NDArray[np.float32]
    seen: NDArray[np.bool_]
    coloured: NDArray[np.bool_]
    um: float


class _CoarsePixels:
    """An image at half the resolution, in which filters are compared."""

    def __init__(self, pixels: _Pixels, settings: StainSettings) -> None:
        self._density = block_mean(pixels.density, 2)
        self._seen = block_mean(pixels.seen, 2) == 1
        um = 2 * pixels.um
        self._side = 2 * max(1, round(settings.core_um / 2 / um)) + 1
        self._largest = min(self._seen.size, max(1, round(settings.nucleus_um2 / um**2)))
        self.energy: Final = _energy(self._density, self._seen, settings.noise_od)

    def contrast(self, weights: NDArray[np.float64]) -> float:
        """Return the answer (to the filter ``weights``, (3,)) of the strongest solid object of a
        nucleus's size, as a multiple of the root mean square of the image's.
        """
        normalised = (weights / np.sqrt(weights @ self.energy @ weights)).astype(np.float32)
        answer = np.where(self._seen, np.tensordot(normalised, self._density, 1), 0)
        solid = ndimage.grey_opening(answer, size=(self._side, self._side))
        return float(np.partition(solid.ravel(), -self._largest)[-self._largest])


@dataclass(frozen=True)
class NuclearAnswer:
    """The filter of an image, and the objects that may be nuclei.

    Attributes:
        weights: (3,) of the planes; their sum is the density due to nuclear stain, of the planes
            together.
        candidates: objects that answer as nuclei do.
        pixels: the coarse pixels.
        factor: image pixels per coarse pixel.
    """

    weights: NDArray[np.float64]
    candidates: Candidates
    pixels: _Pixels
    factor: int


def density_in_nuclei(
    density: NDArray[np.float32],
    pixel_um: float,
    unlit: NDArray[np.bool_] | None = None,
    settings: StainSettings = _DEFAULT,
) -> NDArray[np.float32]:
    """Return the density due to nuclear stain in nuclei, (Y, X) float32 of the three planes
    together.

    All else stays below ``cap_fraction`` of the weakest nucleus. All 0 where nothing is a nucleus.

    Args:
        density: (3, Y, X) float32, optical density of red, green and blue.
        pixel_um: size of a pixel.
        unlit: (Y, X) pixels that show no specimen.
        settings: what is nuclear stain.
    """
    found = nuclear_answer(density, pixel_um, unlit, settings)
    accepted = nucleus_score(found.candidates.measures, settings) > settings.min_log_odds
    nuclei = np.append(False, accepted)[found.candidates.labels]
    if not accepted.any() or _are_red_cells(found.pixels, nuclei, settings):
        return np.zeros(density.shape[1:], np.float32)
    near = dilation(nuclei, disk(settings.reach_um / found.pixels.um))
    cap = settings.cap_fraction * found.candidates.peaks[accepted].min()
    limit = np.where(near, np.inf, cap).astype(np.float32)
    rows, columns = density.shape[1:]
    limit = np.repeat(np.repeat(limit, found.factor, 0), found.factor, 1)[:rows, :columns]
    answer = np.tensordot(found.weights.astype(np.float32), density, 1)
    return np.asarray(np.clip(answer, 0, limit), np.float32)


def nuclear_answer(
    density: NDArray[np.float32],
    pixel_um: float,
    unlit: NDArray[np.bool_] | None = None,
    settings: StainSettings = _DEFAULT,
) -> NuclearAnswer:
    """Fit the filter of an image and find the objects that it answers to.

    Arguments as for `density_in_nuclei`.
    """
    factor = max(1, round(_COARSE_UM / pixel_um))
    coarse_um = pixel_um * factor
    coarse = gaussian(block_mean(density, factor), _SMOOTH_UM / coarse_um)  # (3, y, x)
    seen = np.ones(coarse.shape[1:], bool) if unlit is None else block_mean(unlit, factor) == 0
    pixels = _Pixels(coarse, seen, _coloured(coarse.sum(0), seen, settings), coarse_um)
    coarse_pixels = _CoarsePixels(pixels, settings)
    searched = _best_filter(coarse_pixels, settings)
    weights = _refined(pixels, coarse_pixels, searched, settings)
    answer = np.where(seen, np.tensordot(weights.astype(np.float32), coarse, 1), np.float32(0))
    candidates = find_candidates(answer, coarse, pixels.coloured, weights, coarse_um, settings)
    return NuclearAnswer(weights, candidates, pixels, factor)


def _are_red_cells(pixels: _Pixels, nuclei: NDArray[np.bool_], settings: StainSettings) -> bool:
    """Return whether the supposed nuclei (y, x) cover too much of the field, or of all stain and
    are too grey.
    """
    found = nuclei & pixels.coloured
    covered, seen = int(np.count_nonzero(found)), int(np.count_nonzero(pixels.seen))
    cover = covered / max(1, seen)
    if covered * pixels.um**2 < settings.crowd_um2 or cover < settings.crowd_fraction:
        return False
    if cover > settings.max_cover_fraction:
        return True
    red, green, blue = np.median(pixels.density[:, found], axis=1)
    grey = blue > settings.grey_blue_fraction * (red + green + blue)
    coloured = np.count_nonzero(pixels.coloured)
    return bool(grey and covered > settings.max_nuclear_fraction * coloured)


def _best_filter(coarse: _CoarsePixels, settings: StainSettings) -> NDArray[np.float64]:
    """Return that of the filters (3,) for all stains in which an object exceeds the image as a
    whole most.
    """
    filters = [
        np.asarray(np.linalg.solve(coarse.energy, [red, 1 - red - blue, blue]), np.float64)
        for red, blue in itertools.product(settings.searched_red, settings.searched_blue)
    ]
    return max(filters, key=coarse.contrast)


def _refined(
    pixels: _Pixels,
    coarse: _CoarsePixels,
    searched: NDArray[np.float64],
    settings: StainSettings,
) -> NDArray[np.float64]:
    """Fit the filter (3,) to the image's own nuclei in a few rounds.

    The searched filter stays where they do not stand out in the fitted one: rims and red cells have
    been taken for nuclei.
    """
    margin = disk(max(1.0, _MARGIN_UM / pixels.um))
    side = 2 * max(1, round(settings.lobe_um / 2 / pixels.um)) + 1
    largest = max(1, round(settings.nucleus_um2 / pixels.um**2))
    stains = [_typical_stain(settings)]
    weights = searched
    for _ in range(_ROUNDS):
        answer = np.where(
            pixels.seen, np.tensordot(weights.astype(np.float32), pixels.density, 1), 0
        )
        wide = ndimage.grey_opening(answer, size=(side, side))
        brightest = float(
            np.partition(wide.ravel(), -min(wide.size, largest))[-min(wide.size, largest)]
        )
        nuclei = wide > settings.other_fraction * brightest
        own = wide > settings.nuclear_fraction * brightest
        stains.append(_own_stain(pixels.density, own, stains[-1], settings))
        others = pixels.seen & ~dilation(nuclei, margin)
        weights = _weights(pixels.density, others, stains[-1], settings.noise_od)
    if coarse.contrast(weights) < settings.min_refined_contrast * coarse.contrast(searched):
        return np.asarray(searched / (stains[1] @ searched))
    return weights


def _coloured(
    total: NDArray[np.float32], seen: NDArray[np.bool_], settings: StainSettings
) -> NDArray[np.bool_]:
    if not seen.any():
        return seen
    densest = percentiles(total[seen], 99)[0]
    return seen & (total > max(settings.coloured_od, settings.coloured_fraction * densest))


def _typical_stain(settings: StainSettings) -> NDArray[np.float64]:
    """Return the shares (3,) of the planes in the density of nuclei of a typical stain."""
    return np.array([settings.typical_red, settings.typical_green, settings.typical_blue])


def _own_stain(
    density: NDArray[np.float32],
    nuclei: NDArray[np.bool_],
    otherwise: NDArray[np.float64],
    settings: StainSettings,
) -> NDArray[np.float64]:
    """Return the shares (3,) of the planes in the density of ``nuclei`` (y, x), if they are as
    nuclear stain may be.
    """
    if np.count_nonzero(nuclei) < _MIN_PIXELS:
        return otherwise
    own = np.median(density[:, nuclei], axis=1).astype(float)
    typical = _typical_stain(settings)
    length = np.linalg.norm(own) * np.linalg.norm(typical)
    if own.sum() <= 0 or length == 0 or own @ typical / length < settings.min_cosine:
        return otherwise
    return np.asarray(own / own.sum())


def _weights(
    density: NDArray[np.float32],
    others: NDArray[np.bool_],
    stain: NDArray[np.float64],
    noise_od: float,
) -> NDArray[np.float64]:
    """Return the filter (3,) that answers 1 to ``stain`` and least to the pixels ``others`` (y,
    x).
    """
    weights = np.linalg.solve(_energy(density, others, noise_od), stain)
    return np.asarray(weights / (stain @ weights))


def _energy(
    density: NDArray[np.float32], others: NDArray[np.bool_], noise_od: float
) -> NDArray[np.float64]:
    """Return the mean products (3, 3) of the densities (3, y, x) of the pixels ``others`` (y,
    x).
    """
    pixels = density[:, others].astype(float)  # (3, n)
    return np.asarray(pixels @ pixels.T / max(1, pixels.shape[1]) + noise_od**2 * np.eye(3))
