"""Pixels around a nucleus that are not its cytoplasm.

Empty background, and red cells that touch the white cell.

Both are recognised by colour. The colours are measured in the crop itself: that of cytoplasm just
outside the nucleus, the others beyond the reach of cytoplasm. Where the colours are too similar
nothing is excluded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wbcpipe.imaging.arrays import otsu_threshold, percentiles
from wbcpipe.imaging.filters import disk, gaussian, opening
from wbcpipe.samples.segment_settings.masks import SurroundingsSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["above_background", "background_and_red_cell_mask"]

# Constants, no settings: they trade time for digits of the result.
#: Rounds in which the colours are refined.
_ROUNDS: Final = 4
#: Of the many pixels far from the cell, one in so many is used.
_STEP: Final = 3
_DEFAULT: Final = SurroundingsSettings()


def background_and_red_cell_mask(
    density: NDArray[np.float32],
    distance_um: NDArray[np.floating[Any]],
    pixel_um: float,
    unknown: NDArray[np.bool_] | None = None,
    stained: NDArray[np.bool_] | None = None,
    settings: SurroundingsSettings = _DEFAULT,
) -> NDArray[np.bool_]:
    """Find the pixels that show neither the nucleus nor its cytoplasm.

    A pixel belongs to the nearest of three colours (background, red cells, cytoplasm), in the
    metric of the spread within the three groups. The colours are refined in a few rounds of S.
    Lloyd, IEEE Trans. Inf. Theory 28 (1982) 129, doi:10.1109/TIT.1982.1056489.

    Args:
        density: (C, Y, X) float32, optical density of the bright-field frames against the empty
            background.
        distance_um: (Y, X) from the nucleus.
        pixel_um: size of a pixel.
        unknown: (Y, X) pixels of unknown content, such as other cells: no colour is measured there.
        stained: (Y, X) pixels that hold nuclear stain, see `above_background`; they are not
            background.
        settings: what is too similar.

    Returns:
        (Y, X) bool; all False where cytoplasm is too similar to all else.
    """
    nothing = np.zeros(distance_um.shape, bool)
    if not len(density):
        return nothing
    smooth = gaussian(density, settings.smooth_um / pixel_um).reshape(len(density), -1)  # (C, Y X)
    known = np.ones_like(nothing) if unknown is None else ~unknown
    min_pixels = settings.min_area_um2 / pixel_um**2
    ring = np.flatnonzero(
        (distance_um > settings.ring_inner_um) & (distance_um <= settings.ring_outer_um) & known
    )
    beyond = np.flatnonzero((distance_um > settings.beyond_um) & known)
    if min(ring.size, beyond.size) < min_pixels:
        return nothing
    total = smooth.take(beyond, 1).sum(0)
    if not np.ptp(total):
        return nothing
    dense = total > otsu_threshold(total)
    if min(np.count_nonzero(dense), np.count_nonzero(~dense)) < min_pixels:
        return nothing
    near = np.flatnonzero(
        (distance_um > settings.ring_inner_um) & (distance_um <= settings.refined_um) & known
    )
    groups = [smooth.take(part, 1) for part in (beyond[~dense], beyond[dense], ring)]
    far = beyond[::_STEP]
    labels = _nearest(smooth, groups, far, near, min_pixels, settings).reshape(nothing.shape)
    found = ((labels == 0) & (True if stained is None else ~stained)) | (labels == 1)
    wide = opening(found, disk(max(1, round(settings.min_radius_um / pixel_um))), border_value=True)
    return np.asarray(wide, bool)


def above_background(
    nuclear: NDArray[np.float32],
    density: NDArray[np.float32],
    distance_um: NDArray[np.floating[Any]],
    pixel_um: float,
    unknown: NDArray[np.bool_],
    settings: SurroundingsSettings = _DEFAULT,
) -> NDArray[np.bool_]:
    """Find the pixels whose nuclear channel exceeds the empty background, as that of cytoplasm
    does, if faintly.

    Args:
        nuclear: (Y, X) float32.
        density, distance_um, pixel_um, unknown, settings: as for `background_and_red_cell_mask`.

    Returns:
        (Y, X) bool; all False where there is no empty background.
    """
    smooth = gaussian(nuclear, settings.smooth_um / pixel_um)
    beyond = (distance_um > settings.beyond_um) & ~unknown
    values = smooth[beyond]
    total = density.sum(0)[beyond]
    if total.size and np.ptp(total) > 0:
        # Red cells shade the fluorescence of the free dye: the background is that between them.
        values = values[total <= otsu_threshold(total)]
    if values.size < settings.min_area_um2 / pixel_um**2:
        return np.zeros(nuclear.shape, bool)
    level = percentiles(values, 50)[0]
    noise = 1.4826 * percentiles(np.abs(values - np.float32(level)), 50)[0]
    return np.asarray(smooth > np.float32(level + settings.stained_sd * noise), bool)


def _nearest(
    colours: NDArray[np.float32],
    groups: list[NDArray[np.float32]],
    far: NDArray[np.intp],
    near: NDArray[np.intp],
    min_pixels: float,
    settings: SurroundingsSettings,
) -> NDArray[np.int64]:
    """Return the index (n,) of the group whose colour a pixel has; -1 where no colour is similar
    enough.

    Args:
        colours: (C, n) of all pixels.
        groups: (C, k) pixels from which each group's first colour is measured; the last group is
            cytoplasm.
        far: (k,) pixels from which the colours are refined: one in ``_STEP`` of those beyond
            cytoplasm.
        near: (k,) pixels from which the colour of cytoplasm is refined.
        min_pixels: number of pixels from which a colour is measured.
        settings: what is too similar.
    """
    centres = np.array([_medians(group) for group in groups])
    metric = _metric(groups, centres)
    sample = colours.take(np.concatenate([far, near]), 1)
    measured = metric.T @ sample
    last, of_far, of_near = len(centres) - 1, slice(far.size), slice(far.size, None)
    for _ in range(_ROUNDS):
        before, nearest = centres.copy(), _closest(measured, centres @ metric)
        for k in range(len(centres)):
            part, step = (of_near, 1) if k == last else (of_far, _STEP)
            members = sample[:, part].compress(nearest[part] == k, 1)
            if members.shape[1] * step >= min_pixels:
                centres[k] = _medians(members)
        if np.array_equal(centres, before):
            break
    # In these coordinates the spread within the groups is 1 in all directions.
    white_centres, points = centres @ metric, metric.T @ colours
    labels = _closest(points, white_centres)
    similar = (
        np.linalg.norm(white_centres[:-1] - white_centres[-1], axis=1) < settings.min_distance_sd
    )
    similar |= np.abs(centres[:-1] - centres[-1]).max(1) < settings.min_difference_od
    offsets = points - white_centres.T.take(labels, 1)
    # Granules have colours of their own, denser than the background: a pixel must be similar to red
    # cells.
    dissimilar = ((offsets * offsets).sum(0) > settings.max_distance_sd**2) & (labels > 0)
    dissimilar |= np.append(similar, False)[labels]
    labels[dissimilar] = -1
    return labels


def _medians(colours: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the median (C,) of each row of (C, n)."""
    number = colours.shape[1]
    ordered = np.partition(colours, number // 2, axis=1)
    upper = ordered[:, number // 2]
    return upper if number % 2 else (upper + ordered[:, : number // 2].max(axis=1)) / np.float32(2)


def _closest(points: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the index (n,) of the centre (k, C) nearest to each point (C, n)."""
    # The squared distance without the square of the point itself, which is the same for all
    # centres.
    distances = (centres * centres).sum(1)[:, None] - 2 * (centres @ points)  # (k, n)
    nearest, smallest = np.zeros(points.shape[1], np.int64), distances[0]
    for k in range(1, len(centres)):
        nearer = distances[k] < smallest
        nearest[nearer] = k
        smallest = np.minimum(smallest, distances[k])
    return nearest


def _metric(groups: list[NDArray[np.float32]], centres: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (C, C): colours times this have unit variance within the groups (C, n), without
    outliers.
    """
    channels = centres.shape[1]
    spread = np.zeros((channels, channels))
    for group, centre in zip(groups, centres, strict=True):
        offsets = group - centre[:, None]
        length = np.sqrt((offsets * offsets).sum(0))
        offsets = offsets.compress(length <= percentiles(length, 60)[0], 1)
        spread += offsets @ offsets.T / offsets.shape[1] / len(groups)
    spread += np.eye(channels) * (0.02 * np.trace(spread) / channels + 1e-12)
    values, vectors = np.linalg.eigh(spread)
    return np.asarray(vectors / np.sqrt(values), np.float32)
