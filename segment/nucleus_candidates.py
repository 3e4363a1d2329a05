"""Judge what a nuclear filter answers to, object by object: a nucleus, or a red cell, a rim, dirt.

An object is compared with everything else that is stained in the same image, and with what nuclei
may be at all: in size, and in the share of blue light that they absorb. As a camera that mixes its
planes or pales its colours draws all shares towards a third, that share counts by its distance from
a third, relative to the largest in the image. A logistic function of six measures decides. Its
numbers were fitted by `benchmarks/train_candidates.py` to smears of three laboratories, as given
and changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy import ndimage

from wbcpipe.imaging.arrays import percentiles
from wbcpipe.imaging.filters import dilation, disk
from wbcpipe.samples.segment_settings.stain import StainSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MEASURES", "Candidates", "find_candidates", "nucleus_score"]

# Constants, no settings: margins, the least that a median needs, and the parts of the fitted
# function that only a new fit may change.
_MARGIN_UM: Final = 1.0
_MIN_REST_PIXELS: Final = 50
_MIN_DENSITY: Final = 0.02
_GREY: Final = 1 / 3
_MIN_COLOUR: Final = 0.15
#: Where there are no others: the peak and the density against theirs; and the answer to their
#: colour, of this many candidates and more, for of many objects that are alike most are red cells.
_UNKNOWN: Final = (4.0, 1.0)
_UNKNOWN_HUE: Final = 0.5
_MANY: Final = 4

#: What is measured of a candidate, and the range to which it is limited; "others" are all stained
#: pixels apart from candidates. The largest difference is that of a candidate or of the others, and
#: at least `_MIN_COLOUR`: in an image of one colour it means nothing.
MEASURES: Final[dict[str, tuple[float, float]]] = {
    "log of its peak over the strongest": (-1.6, 0.2),
    "log of its peak over the 97th percentile of the others": (0.0, 2.1),
    "share of blue in its density less a third, over the largest difference": (-1.0, 0.6),
    "answer to the others' colour over answer to its own": (-0.3, 1.2),
    "log of its density over that of the others": (-1.2, 1.1),
    "log of its area in um2, doubled at the border": (1.1, 3.0),
}
_LOW, _HIGH = np.array(list(MEASURES.values())).T
_DEFAULT: Final = StainSettings()


@dataclass(frozen=True)
class Candidates:
    """The N objects of an image that answer as nuclei do.

    Attributes:
        labels: (y, x) int32, 1 to N.
        peaks: (N,) highest answer that fills a core.
        measures: (N, 6) of `MEASURES`.
    """

    labels: NDArray[np.int32]
    peaks: NDArray[np.float64]
    measures: NDArray[np.float64]


def find_candidates(
    answer: NDArray[np.float32],
    density: NDArray[np.float32],
    coloured: NDArray[np.bool_],
    weights: NDArray[np.floating[Any]],
    pixel_um: float,
    settings: StainSettings = _DEFAULT,
) -> Candidates:
    """Find and measure the objects that answer to a filter.

    Args:
        answer: (y, x) float32, of the filter.
        density: (3, y, x) float32, optical densities, smoothed.
        coloured: (y, x) bool, pixels that something stained or pigmented covers.
        weights: (3,) of the filter.
        pixel_um: size of a pixel.
        settings: what is a candidate.
    """
    side = 2 * max(1, round(settings.candidate_core_um / 2 / pixel_um)) + 1
    solid = ndimage.grey_opening(answer, size=(side, side))
    largest = min(solid.size, max(1, round(settings.strongest_um2 / pixel_um**2)))
    strongest = float(np.partition(solid.ravel(), -largest)[-largest])
    strong = solid > max(settings.candidate_fraction * strongest, 0.0)
    labels, count = _grouped(strong, solid, pixel_um, settings)
    if strongest <= 0 or not count:
        return Candidates(
            np.zeros(answer.shape, np.int32), np.zeros(0), np.zeros((0, len(MEASURES)))
        )
    inside = labels > 0
    number, values = labels[inside], solid[inside]
    peaks = _highest(values, number, count)[1:]
    core = values > settings.candidate_core_fraction * np.append(0.0, peaks)[number]
    pixels = np.bincount(number[core], minlength=count + 1)[1:]
    own = (
        np.stack(
            [np.bincount(number[core], plane[inside][core], count + 1)[1:] for plane in density]
        )
        / pixels
    )
    area = np.bincount(number, minlength=count + 1)[1:] * pixel_um**2
    edges = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    area = area * np.where(np.isin(np.arange(1, count + 1), edges), 2.0, 1.0)
    total = np.maximum(own.sum(0), _MIN_DENSITY)
    blue = own[2] / total - _GREY
    largest_blue = max(_MIN_COLOUR, float(np.abs(blue).max()))
    others = coloured & ~dilation(strong, disk(max(1.0, _MARGIN_UM / pixel_um)))
    over_others, denser = (np.full(count, value) for value in _UNKNOWN)
    hue = np.full(count, _UNKNOWN_HUE if count >= _MANY else 0.0)
    if np.count_nonzero(others) >= _MIN_REST_PIXELS:
        colour = np.median(density[:, others], axis=1)
        if colour.sum() > _MIN_DENSITY:
            over_others = peaks / max(percentiles(solid[others], 97)[0], 1e-3)
            hue = weights @ colour / colour.sum() / np.maximum(weights @ own / total, 1e-3)
            denser = total / colour.sum()
            largest_blue = max(largest_blue, abs(float(colour[2] / colour.sum()) - _GREY))
    found = [np.log(np.maximum(v, 1e-3)) for v in (peaks / strongest, over_others, denser, area)]
    measures = np.stack([found[0], found[1], blue / largest_blue, hue, found[2], found[3]], -1)
    return Candidates(labels, peaks, np.clip(measures, _LOW, _HIGH))


def nucleus_score(
    measures: NDArray[np.float64], settings: StainSettings = _DEFAULT
) -> NDArray[np.float64]:
    """Return the log odds (N,) that candidates with these measures (N, 6) are nuclei."""
    return np.asarray(settings.score_constant + measures @ np.array(settings.score_coefficients))


def _grouped(
    strong: NDArray[np.bool_],
    solid: NDArray[np.float32],
    pixel_um: float,
    settings: StainSettings,
) -> tuple[NDArray[np.int32], int]:
    """Label the pixels ``strong`` (y, x), lobes near each other alike.

    Without what is far weaker than they.
    """
    near, count = ndimage.label(
        dilation(strong, disk(max(1.0, settings.candidate_gap_um / 2 / pixel_um)))
    )
    number, values = near[strong].astype(np.int32), solid[strong]
    labels = np.zeros(strong.shape, np.int32)
    labels[strong] = np.where(
        values > settings.candidate_lobe_fraction * _highest(values, number, count)[number],
        number,
        0,
    )
    size = np.bincount(labels[strong], minlength=count + 1) * pixel_um**2
    size[0] = 0
    kept = size >= settings.candidate_um2
    renumber = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
    return renumber[labels], int(np.count_nonzero(kept))


def _highest(
    values: NDArray[np.float32], labels: NDArray[np.int32], count: int
) -> NDArray[np.float64]:
    """Return the maximum of the values (n,) of each label from 0 to ``count``."""
    found = np.zeros(count + 1)
    np.maximum.at(found, labels, values)
    return found
