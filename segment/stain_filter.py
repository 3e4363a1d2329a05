"""Separate nuclear stain from everything else in one image: red cells of any hue, their rims, dirt.

The filter is the projection of a pixel's optical densities that answers to nuclear stain with its density and, given
that, least to all other pixels of the image ("constrained energy minimisation", J. C. Harsanyi and C.-I. Chang, IEEE
Trans. Geosci. Remote Sens. 32 (1994) 779, doi:10.1109/36.298007, equation 6). What "all others" look like is measured:
pink or blue-grey red cells, refraction at their rims, uneven light.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import ndimage

from wbcpipe.imaging.arrays import block_mean, otsu_threshold, percentiles
from wbcpipe.imaging.filters import dilation, disk, gaussian, opening

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["nuclear_filter"]

_COARSE_UM: Final = 0.3
_SMOOTH_UM: Final = 0.3
#: Shares of red, green and blue in the density of nuclei, typical of Romanowsky stains of six laboratories: thiazin
#: dyes and eosin let blue light through.
_TYPICAL_STAIN: Final = (0.38, 0.50, 0.12)
#: Cosine of the angle to these within which the image's own nuclei replace them.
_MIN_COSINE: Final = 0.85
#: Densities as different as this are noise, at least.
_NOISE_OD: Final = 0.02
#: Minimum density, of the three planes together, of a coloured pixel; and as a share of the densest pixels.
_COLOURED: Final = (0.12, 0.2)
#: There are two colours when their shares of blue differ by this much and explain this share of the variance...
_TWO_COLOURS: Final = (0.07, 0.55)
#: ...and that of nuclei is below this.
_MAX_BLUE_SHARE: Final = 0.25
#: A share of blue above this is as likely that of bluish grey red cells.
_GREY_BLUE_SHARE: Final = 0.15
#: Width of a nucleus' thinnest lobes, and the area by which the brightest nucleus is judged.
_LOBE_UM: Final = 1.8
_NUCLEUS_UM2: Final = 15.0
#: Shares of the brightest nucleus' answer above which a pixel is not "all others", and above which it is nucleus.
_NOT_OTHER: Final = 0.4
_NUCLEAR: Final = 0.6
_MARGIN_UM: Final = 1.0
#: Nuclei of at least this area together, which cover this share of the field, are many: in a film only red cells are.
_CROWD_UM2: Final = 500.0
_CROWD_SHARE: Final = 0.06
#: They never cover more than this share of it.
_MAX_COVER: Final = 0.3
#: Below that, they are red cells when they cover more than this share of all that is coloured.
_MAX_NUCLEAR_SHARE: Final = 0.25
_ROUNDS: Final = 5
_MIN_PIXELS: Final = 50


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


def nuclear_filter(
    density: NDArray[np.float32], pixel_um: float, unlit: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """Return the weights (3,) of the planes whose sum is the density due to nuclear stain, of the planes together.

    All 0 where an image shows many cells of one bluish grey and none that differs: red cells.

    Args:
        density: (3, Y, X) float32, optical density of red, green and blue.
        pixel_um: size of a pixel.
        unlit: (Y, X) pixels that show no specimen.
    """
    factor = max(1, round(_COARSE_UM / pixel_um))
    coarse_um = pixel_um * factor
    coarse = gaussian(block_mean(density, factor), _SMOOTH_UM / coarse_um)  # (3, y, x)
    seen = np.ones(coarse.shape[1:], bool) if unlit is None else block_mean(unlit, factor) == 0
    pixels = _Pixels(coarse, seen, _coloured(coarse.sum(0), seen), coarse_um)
    guess, nothing = _first_guess(pixels), np.zeros_like(seen)
    if _are_red_cells(pixels, guess):
        guess = nothing
    weights, nuclei = _fitted(pixels, guess)
    if guess.any() and _are_red_cells(pixels, nuclei):
        # Most of the image is what the filter must not answer to.
        weights, nuclei = _fitted(pixels, nothing)
    return np.zeros(3, np.float32) if _are_red_cells(pixels, nuclei) else np.asarray(weights, np.float32)


def _fitted(pixels: _Pixels, guess: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Fit the filter (3,) in a few rounds, beginning with the nuclei ``guess`` (y, x); return it with its nuclei."""
    margin = disk(max(1.0, _MARGIN_UM / pixels.um))
    side = 2 * max(1, round(_LOBE_UM / 2 / pixels.um)) + 1
    largest = max(1, round(_NUCLEUS_UM2 / pixels.um**2))
    nuclei = opening(guess, disk(max(1.0, 0.6 / pixels.um)))
    stain = _own_stain(pixels.density, nuclei, np.array(_TYPICAL_STAIN))
    weights = _weights(pixels.density, pixels.seen & ~dilation(nuclei, margin), stain)
    for _ in range(_ROUNDS - 1):
        answer = np.where(pixels.seen, np.tensordot(weights, pixels.density, 1), 0)
        wide = ndimage.grey_opening(answer, size=(side, side))
        brightest = float(np.partition(wide.ravel(), -min(wide.size, largest))[-min(wide.size, largest)])
        nuclei = wide > _NOT_OTHER * brightest
        stain = _own_stain(pixels.density, wide > _NUCLEAR * brightest, stain)
        weights = _weights(pixels.density, pixels.seen & ~dilation(nuclei, margin), stain)
    return weights, nuclei


def _are_red_cells(pixels: _Pixels, nuclei: NDArray[np.bool_]) -> bool:
    """Return whether the supposed nuclei (y, x) cover too much of the field, or of all stain and are too grey."""
    found = nuclei & pixels.coloured
    covered, seen = int(np.count_nonzero(found)), int(np.count_nonzero(pixels.seen))
    cover = covered / max(1, seen)
    if covered * pixels.um**2 < _CROWD_UM2 or cover < _CROWD_SHARE:
        return False
    if cover > _MAX_COVER:
        return True
    red, green, blue = np.median(pixels.density[:, found], axis=1)
    grey = blue > _GREY_BLUE_SHARE * (red + green + blue)
    return bool(grey and covered > _MAX_NUCLEAR_SHARE * np.count_nonzero(pixels.coloured))


def _coloured(total: NDArray[np.float32], seen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    if not seen.any():
        return seen
    return seen & (total > max(_COLOURED[0], _COLOURED[1] * percentiles(total[seen], 99)[0]))


def _first_guess(pixels: _Pixels) -> NDArray[np.bool_]:
    """Return which pixels may be nuclei (y, x): those dense ones that let most blue light through."""
    total, coloured = pixels.density.sum(0), pixels.coloured
    found = np.zeros(total.shape, bool)
    if np.count_nonzero(coloured) < _MIN_PIXELS:
        return found
    dense = total[coloured]
    share = np.clip(pixels.density[2][coloured] / dense, -0.1, 0.6)
    low = share <= otsu_threshold(share)
    fraction = float(low.mean())
    if 0 < fraction < 1:
        difference = float(share[~low].mean() - share[low].mean())
        explained = fraction * (1 - fraction) * difference**2 / max(float(share.var()), 1e-9)
        two = difference > _TWO_COLOURS[0] and explained > _TWO_COLOURS[1]
        # Nuclei are at least as dense as red cells.
        two = two and np.median(dense[low]) >= np.median(dense[~low])
        if two and np.median(share[low]) < _MAX_BLUE_SHARE:
            found[coloured] = low
            return found
    found[coloured] = share < _MAX_BLUE_SHARE
    return found


def _own_stain(
    density: NDArray[np.float32], nuclei: NDArray[np.bool_], otherwise: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the shares (3,) of the planes in the density of ``nuclei`` (y, x), if they are as nuclear stain may be."""
    if np.count_nonzero(nuclei) < 20:
        return otherwise
    own = np.median(density[:, nuclei], axis=1).astype(float)
    typical = np.array(_TYPICAL_STAIN)
    length = np.linalg.norm(own) * np.linalg.norm(typical)
    if own.sum() <= 0 or length == 0 or own @ typical / length < _MIN_COSINE:
        return otherwise
    return np.asarray(own / own.sum())


def _weights(
    density: NDArray[np.float32], others: NDArray[np.bool_], stain: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the filter (3,) that answers 1 to ``stain`` and least to the pixels ``others`` (y, x)."""
    pixels = density[:, others].astype(float)  # (3, n)
    energy = pixels @ pixels.T / max(1, pixels.shape[1]) + _NOISE_OD**2 * np.eye(3)
    weights = np.linalg.solve(energy, stain)
    return np.asarray(weights / (stain @ weights))
