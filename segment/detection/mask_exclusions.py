"""What around a nucleus is not its own cytoplasm: empty background, and red cells that cling to the white one.

Both are told by colour, and what the colours are is learned in the crop itself: the cytoplasm's just outside the
nucleus, the others' where no cytoplasm reaches. Where these look alike nothing is told apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wbcpipe.imaging.arrays import otsu_threshold, percentiles
from wbcpipe.imaging.filters import disk, gaussian, opening

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["above_background", "background_and_red_cell_mask"]

#: Distances from the nucleus between which cytoplasm is learned first, and up to which it is learned then.
_OWN_UM: Final = (0.5, 1.5)
_OWN_REACH_UM: Final = 3.0
#: Distance from the nucleus beyond which background and red cells are learned.
_BEYOND_UM: Final = 5.0
#: Area that it takes to learn a colour.
_LEAST_UM2: Final = 2.0
#: Least distance of two colours, in standard deviations, to tell them apart.
_APART: Final = 2.0
#: Least difference in optical density; what refraction does to an unstained cell is about as large.
_APART_DENSITY: Final = 0.02
#: What is further than this from all that was learned, in standard deviations, is not told.
_FAMILIAR: Final = 4.0
_ROUNDS: Final = 4
#: Of the many pixels far from the cell every so-manieth is enough.
_STEP: Final = 3
#: Nuclear stain shows above its background by so many standard deviations.
_GLOW: Final = 4.0
#: Scale over which pixels are judged together, and radius of the least thing told apart.
_SMOOTH_UM: Final = 0.4
_LEAST_RADIUS_UM: Final = 0.8


def background_and_red_cell_mask(
    density: NDArray[np.float32],
    distance_um: NDArray[np.floating[Any]],
    pixel_um: float,
    unknown: NDArray[np.bool_] | None = None,
    glow: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """Which pixels show neither the nucleus nor its cytoplasm.

    Nearest of three centres (empty, red, own) in the metric of the spread within the three groups; S. Lloyd, IEEE
    Trans. Inf. Theory 28 (1982) 129, doi:10.1109/TIT.1982.1056489, a few rounds.

    Args:
        density: (C, Y, X) float32, optical density of the bright-field frames against the empty background.
        distance_um: (Y, X) from the nucleus.
        pixel_um: size of a pixel.
        unknown: (Y, X) pixels from which nothing is learned: beyond the field, of other cells.
        glow: (Y, X) pixels that hold nuclear stain, see `above_background`; they are not empty.

    Returns:
        (Y, X) bool; all False where cytoplasm cannot be told from anything else.
    """
    nothing = np.zeros(distance_um.shape, bool)
    if not len(density):
        return nothing
    smooth = gaussian(density, _SMOOTH_UM / pixel_um).reshape(len(density), -1)  # (C, Y X)
    learned = np.ones_like(nothing) if unknown is None else ~unknown
    least = _LEAST_UM2 / pixel_um**2
    ring = np.flatnonzero((distance_um > _OWN_UM[0]) & (distance_um <= _OWN_UM[1]) & learned)
    beyond = np.flatnonzero((distance_um > _BEYOND_UM) & learned)
    if min(ring.size, beyond.size) < least:
        return nothing
    total = smooth[:, beyond].sum(0)
    if not np.ptp(total):
        return nothing
    dense = total > otsu_threshold(total)
    if min(np.count_nonzero(dense), np.count_nonzero(~dense)) < least:
        return nothing
    near = np.flatnonzero((distance_um > _OWN_UM[0]) & (distance_um <= _OWN_REACH_UM) & learned)
    groups = [smooth[:, beyond[~dense]], smooth[:, beyond[dense]], smooth[:, ring]]
    labels = _nearest(smooth, groups, beyond[::_STEP], near, least).reshape(nothing.shape)
    found = ((labels == 0) & (True if glow is None else ~glow)) | (labels == 1)
    wide = opening(found, disk(max(1, round(_LEAST_RADIUS_UM / pixel_um))), border_value=True)
    return np.asarray(wide & (distance_um > 0.4), bool)


def above_background(
    nuclear: NDArray[np.float32],
    density: NDArray[np.float32],
    distance_um: NDArray[np.floating[Any]],
    pixel_um: float,
    unknown: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Where the nuclear channel stands out from the empty background, however faintly: cytoplasm does.

    Args:
        nuclear: (Y, X) float32.
        density, distance_um, pixel_um, unknown: as for `background_and_red_cell_mask`.

    Returns:
        (Y, X) bool; all False where there is no empty background.
    """
    smooth = gaussian(nuclear, _SMOOTH_UM / pixel_um)
    beyond = (distance_um > _BEYOND_UM) & ~unknown
    values = smooth[beyond]
    total = density.sum(0)[beyond]
    if total.size and np.ptp(total) > 0:
        # Red cells shade the free dye's glow; what is compared is the glow between them.
        values = values[total <= otsu_threshold(total)]
    if values.size < _LEAST_UM2 / pixel_um**2:
        return np.zeros(nuclear.shape, bool)
    level = percentiles(values, 50)[0]
    noise = 1.4826 * percentiles(np.abs(values - np.float32(level)), 50)[0]
    return np.asarray(smooth > np.float32(level + _GLOW * noise), bool)


def _nearest(
    colours: NDArray[np.float32],
    groups: list[NDArray[np.float32]],
    far: NDArray[np.intp],
    near: NDArray[np.intp],
    least: float,
) -> NDArray[np.int64]:
    """Index (n,) of the group whose colour a pixel has, the last one the cell's own; -1 where none is sure.

    Args:
        colours: (C, n) of all pixels.
        groups: (C, k) of those from which each group's colour is learned first.
        far: (k,) pixels from which it is learned then, every ``_STEP``-th of those where no cytoplasm is.
        near: (k,) the same for the last group.
        least: pixels that it takes to learn a colour.
    """
    centres = np.array([_middle(group) for group in groups])
    metric = _metric(groups, centres)
    sample = colours[:, np.concatenate([far, near])]
    measured = metric.T @ sample
    last, away, beside = len(centres) - 1, slice(far.size), slice(far.size, None)
    for _ in range(_ROUNDS):
        before, nearest = centres.copy(), _closest(measured, centres @ metric)
        for k in range(len(centres)):
            part, step = (beside, 1) if k == last else (away, _STEP)
            mine = sample[:, part][:, nearest[part] == k]
            if mine.shape[1] * step >= least:
                centres[k] = _middle(mine)
        if np.array_equal(centres, before):
            break
    places, points = centres @ metric, metric.T @ colours
    labels = _closest(points, places)
    alike = np.linalg.norm(places[:-1] - places[-1], axis=1) < _APART
    alike |= np.abs(centres[:-1] - centres[-1]).max(1) < _APART_DENSITY
    off = points - places.T[:, labels]
    # Granules have colours of their own, denser than the background: only what looks like red cells is one of them.
    strange = ((off * off).sum(0) > _FAMILIAR**2) & (labels > 0)
    strange |= np.append(alike, False)[labels]
    labels[strange] = -1
    return labels


def _middle(colours: NDArray[np.float32]) -> NDArray[np.float32]:
    """Median (C,) of each row of (C, n)."""
    number = colours.shape[1]
    ordered = np.partition(colours, number // 2, axis=1)
    upper = ordered[:, number // 2]
    return upper if number % 2 else (upper + ordered[:, : number // 2].max(axis=1)) / np.float32(2)


def _closest(points: NDArray[np.float32], places: NDArray[np.float32]) -> NDArray[np.int64]:
    """Index (n,) of the place (k, C) nearest to each point (C, n)."""
    # The squared distance but for that of the point itself, which is the same for all places.
    apart = (places * places).sum(1)[:, None] - 2 * (places @ points)  # (k, n)
    nearest, least = np.zeros(points.shape[1], np.int64), apart[0]
    for k in range(1, len(places)):
        nearer = apart[k] < least
        nearest[nearer] = k
        least = np.minimum(least, apart[k])
    return nearest


def _metric(groups: list[NDArray[np.float32]], centres: NDArray[np.float32]) -> NDArray[np.float32]:
    """(C, C): colours times this have unit variance within the groups (C, n), outliers left out."""
    channels = centres.shape[1]
    spread = np.zeros((channels, channels))
    for group, centre in zip(groups, centres, strict=True):
        off = group - centre[:, None]
        length = np.sqrt((off * off).sum(0))
        off = off[:, length <= percentiles(length, 60)[0]]
        spread += off @ off.T / off.shape[1] / len(groups)
    spread += np.eye(channels) * (0.02 * np.trace(spread) / channels + 1e-12)
    values, vectors = np.linalg.eigh(spread)
    return np.asarray(vectors / np.sqrt(values), np.float32)
