"""Part the bodies of cells that touch, and keep the lobes of one cell together.

A body is parted where it has a waist: between two maxima of the distance to its outline, when the widest passage
between them is narrow against the thinner of the two. Parts too small to hold a cell's nucleus are lobes of
a neighbour.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

from wbcpipe.imaging.arrays import bounding_box
from wbcpipe.imaging.filters import gaussian

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["merge_lobes", "passes", "split_at_necks"]


def split_at_necks(body: NDArray[np.bool_], pixel_um: float, waist: float, least_radius_um: float) -> NDArray[np.int32]:
    """Label the cells of a mask.

    Args:
        body: (Y, X) bodies of cells. What lies beyond the array is taken to be background.
        pixel_um: size of a pixel.
        waist: a passage narrower than this share of the thinner side's width parts two cells.
        least_radius_um: something thinner is not a cell of its own, but part of what it touches.

    Returns:
        (Y, X) int32; 0 background, then 1, 2, ...
    """
    side = 2 * max(1, round(1.0 / pixel_um)) + 1
    labels = np.zeros(body.shape, np.int32)
    if not body.any():
        return labels
    # As far as the filters reach: the same result as on the whole, sooner.
    box = bounding_box(body, max(int(2.0 / pixel_um + 0.5), side // 2) + 1)
    labels[box] = _parted(body[box], pixel_um, waist, least_radius_um, side)
    return labels


def _parted(
    body: NDArray[np.bool_], pixel_um: float, waist: float, least_radius_um: float, side: int
) -> NDArray[np.int32]:
    depth = np.zeros(body.shape, np.float32)
    box = bounding_box(body, 1)
    depth[box] = ndimage.distance_transform_edt(body[box])
    depth *= np.float32(pixel_um)
    smooth = np.where(body, gaussian(depth, 0.5 / pixel_um), np.float32(0))
    eight = np.ones((3, 3))
    peaks, count = ndimage.label(body & (smooth == ndimage.maximum_filter(smooth, side)), eight)
    if count == 1:
        # What is thin and near something thicker has no peak, and so no label.
        pieces, number = ndimage.label(body)
        thick = np.zeros(number + 1, np.int32)
        thick[pieces[peaks > 0]] = 1
        return thick[pieces]
    basins: NDArray[np.int32] = watershed(-smooth, peaks, mask=body)  # type: ignore[no-untyped-call]
    heights, tops = np.zeros(count + 1), np.nonzero(peaks)
    np.maximum.at(heights, peaks[tops], smooth[tops])
    owner = list(range(count + 1))
    for (one, other), height in sorted(passes(basins, smooth).items(), key=lambda item: (-item[1], item[0])):
        a, b = _root(owner, one), _root(owner, other)
        thinner = min(heights[a], heights[b])
        if a != b and (thinner < least_radius_um or height > waist * thinner):
            low, high = (a, b) if heights[a] < heights[b] else (b, a)
            owner[low] = high
    _, dense = np.unique([_root(owner, label) for label in range(count + 1)], return_inverse=True)
    return np.asarray(dense[basins], np.int32)


def _root(owner: list[int], label: int) -> int:
    while owner[label] != label:
        label = owner[label]
    return label


def passes(labels: NDArray[np.int32], height: NDArray[np.float32]) -> dict[tuple[int, int], float]:
    """Highest point on the border between each pair of touching labels.

    Args:
        labels: (Y, X) int32, 0 where there is none.
        height: (Y, X) float32.

    Returns:
        (smaller label, larger label) to height.

    >>> passes(np.array([[1, 2, 0]], np.int32), np.array([[5, 3, 0]], np.float32))
    {(1, 2): 3.0}
    """
    found: dict[tuple[int, int], float] = {}
    for first, second in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        a, b = labels[first], labels[second]
        touch = (a != b) & (a > 0) & (b > 0)
        lowest = np.minimum(height[first], height[second])[touch]
        for one, other, value in zip(a[touch].tolist(), b[touch].tolist(), lowest.tolist(), strict=True):
            pair = (min(one, other), max(one, other))
            found[pair] = max(found.get(pair, value), value)
    return found


def merge_lobes(
    parts: NDArray[np.int32],
    nuclei: NDArray[np.bool_],
    pixel_um: float,
    *,
    lobe_um2: tuple[float, float],
    gap_um: float,
) -> NDArray[np.int32]:
    """Give lobes to the nearest part within reach; drop parts without a nucleus.

    Args:
        parts: (Y, X) int32 labels.
        nuclei: (Y, X) nuclear pixels.
        pixel_um: size of a pixel.
        lobe_um2: parts with less nuclear area than the first are dropped, with less than the second are lobes.
        gap_um: greatest distance between a lobe and the part it joins.

    Returns:
        (Y, X) int32; the labels that remain keep their number.
    """
    count = int(parts.max(initial=0))
    area = np.bincount(parts.ravel(), nuclei.ravel(), count + 1) * pixel_um**2
    joined = np.where(area[parts] >= lobe_um2[0], parts, 0).astype(np.int32)
    for small in sorted(range(1, count + 1), key=lambda label: (area[label], label)):
        if not lobe_um2[0] <= area[small] < lobe_um2[1]:
            continue
        distance = ndimage.distance_transform_edt(joined != small) * pixel_um
        others = (joined > 0) & (joined != small) & (distance <= gap_um + pixel_um)
        if others.any():
            nearest = int(np.argmin(np.where(others, distance, np.inf)))
            joined[joined == small] = joined.ravel()[nearest]
    return joined
