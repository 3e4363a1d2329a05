"""What around a nucleus is not its own cytoplasm: empty background, and red cells that cling to the white one.

Both are told by colour, and what the colours are is learned in the crop itself: the cytoplasm's just outside the
nucleus, the others' where no cytoplasm reaches. Where these look alike nothing is told apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import ndimage

from wbcpipe.segment.arrays import otsu_threshold

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["foreign_pixels", "glowing"]

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


def foreign_pixels(
    density: NDArray[np.float32],
    distance_um: NDArray[np.float64],
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
        glow: (Y, X) pixels that hold nuclear stain, see `glowing`; they are not empty.

    Returns:
        (Y, X) bool; all False where cytoplasm cannot be told from anything else.
    """
    nothing = np.zeros(distance_um.shape, bool)
    if not len(density):
        return nothing
    smooth = ndimage.gaussian_filter(density, (0, _SMOOTH_UM / pixel_um, _SMOOTH_UM / pixel_um))
    learned = np.ones_like(nothing) if unknown is None else ~unknown
    least = _LEAST_UM2 / pixel_um**2
    ring = (distance_um > _OWN_UM[0]) & (distance_um <= _OWN_UM[1]) & learned
    beyond = (distance_um > _BEYOND_UM) & learned
    total = smooth.sum(0)
    if min(ring.sum(), beyond.sum()) < least or not np.ptp(total[beyond]):
        return nothing
    dense = total > otsu_threshold(total[beyond])
    bare, red = beyond & ~dense, beyond & dense
    if min(bare.sum(), red.sum()) < least:
        return nothing
    labels = _nearest(smooth, [bare, red, ring], learned, distance_um, least)
    found = ((labels == 0) & (True if glow is None else ~glow)) | (labels == 1)
    radius = max(1, round(_LEAST_RADIUS_UM / pixel_um))
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disk = y**2 + x**2 <= radius**2
    opened = ndimage.binary_dilation(ndimage.binary_erosion(found, disk, border_value=1), disk)
    return np.asarray(opened & (distance_um > 0.4), bool)


def glowing(
    nuclear: NDArray[np.float32],
    density: NDArray[np.float32],
    distance_um: NDArray[np.float64],
    pixel_um: float,
    unknown: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Where the nuclear channel stands out from the empty background, however faintly: cytoplasm does.

    Args:
        nuclear: (Y, X) float32.
        density, distance_um, pixel_um, unknown: as for `foreign_pixels`.

    Returns:
        (Y, X) bool; all False where there is no empty background.
    """
    smooth = ndimage.gaussian_filter(nuclear, _SMOOTH_UM / pixel_um)
    beyond = (distance_um > _BEYOND_UM) & ~unknown
    total = density.sum(0) if len(density) else np.zeros_like(smooth)
    if beyond.any() and np.ptp(total[beyond]) > 0:
        # Red cells shade the free dye's glow; what is compared is the glow between them.
        beyond &= total <= otsu_threshold(total[beyond])
    if beyond.sum() < _LEAST_UM2 / pixel_um**2:
        return np.zeros(nuclear.shape, bool)
    level = np.median(smooth[beyond])
    noise = 1.4826 * np.median(np.abs(smooth[beyond] - level))
    return np.asarray(smooth > level + _GLOW * noise, bool)


def _nearest(
    smooth: NDArray[np.float32],
    groups: list[NDArray[np.bool_]],
    learned: NDArray[np.bool_],
    distance_um: NDArray[np.float64],
    least: float,
) -> NDArray[np.int64]:
    """Index (Y, X) of the group whose colour a pixel has, the last one the cell's own; -1 where none is sure."""
    centres = np.array([np.median(smooth[:, group], axis=1) for group in groups])
    metric = _metric([smooth[:, group].T for group in groups], centres)
    near = (distance_um > _OWN_UM[0]) & (distance_um <= _OWN_REACH_UM) & learned
    far = (distance_um > _BEYOND_UM) & learned
    samples = [smooth[:, far][:, ::_STEP].T, smooth[:, near].T]
    for _ in range(_ROUNDS):
        nearest = [_closest(sample @ metric, centres @ metric)[0] for sample in samples]
        for k in range(len(centres)):
            which = int(k == len(centres) - 1)
            mine = samples[which][nearest[which] == k]
            if len(mine) * (1 if which else _STEP) >= least:
                centres[k] = np.median(mine, axis=0)
    places = centres @ metric
    labels, off = _closest(smooth.reshape(len(smooth), -1).T @ metric, places)
    alike = np.linalg.norm(places[:-1] - places[-1], axis=1) < _APART
    alike |= np.abs(centres[:-1] - centres[-1]).max(1) < _APART_DENSITY
    # Granules have colours of their own, denser than the background: only what looks like red cells is one of them.
    strange = (off > _FAMILIAR) & (labels > 0)
    labels[np.isin(labels, np.flatnonzero(alike)) | strange] = -1
    return labels.reshape(distance_um.shape)


def _closest(points: NDArray[np.float32], places: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Index (n,) of the place nearest to each point, and its distance (n,)."""
    squares = np.stack([((points - place) ** 2).sum(1) for place in places])  # (places, n)
    nearest = np.argmin(squares, axis=0)
    return nearest, np.sqrt(squares.min(axis=0))


def _metric(groups: list[NDArray[np.float32]], centres: NDArray[np.float32]) -> NDArray[np.float32]:
    """(C, C): colours times this have unit variance within the groups (n, C), outliers left out."""
    channels = centres.shape[1]
    spread = np.zeros((channels, channels))
    for group, centre in zip(groups, centres, strict=True):
        off = group - centre
        length = np.linalg.norm(off, axis=1)
        off = off[length <= np.percentile(length, 60)]
        spread += off.T @ off / len(off) / len(groups)
    spread += np.eye(channels) * (0.02 * np.trace(spread) / channels + 1e-12)
    values, vectors = np.linalg.eigh(spread)
    return np.asarray(vectors / np.sqrt(values), np.float32)
