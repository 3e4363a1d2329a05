"""Split touching cells, and keep the lobes of one cell together.

A body is split at a neck: between two maxima of the distance to its outline, where the widest
passage between them is narrow compared with the thinner side. Parts too small for the nucleus of a
cell are lobes of a neighbour.
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

__all__ = ["merge_lobes", "saddle_heights", "split_at_necks"]


def split_at_necks(
    body: NDArray[np.bool_], pixel_um: float, max_neck_ratio: float, min_radius_um: float
) -> NDArray[np.int32]:
    """Label the cells of a mask.

    Args:
        body: (Y, X) bodies of cells; beyond the array is background.
        pixel_um: size of a pixel.
        max_neck_ratio: two sides are two cells if their passage is narrower than this fraction of
            the thinner side.
        min_radius_um: a thinner side is not a cell of its own, but part of the body that it
            touches.

    Returns:
        (Y, X) int32; 0 background, then 1, 2, ...
    """
    side = 2 * max(1, round(1.0 / pixel_um)) + 1
    labels = np.zeros(body.shape, np.int32)
    if not body.any():
        return labels
    # Cropped: the same result as on the full array, faster. Only at its border does the filter's
    # reach matter, where it reflects the body.
    cut = any(edge.any() for edge in (body[0], body[-1], body[:, 0], body[:, -1]))
    box = bounding_box(body, max(int(2.0 / pixel_um + 0.5), side // 2) + 1 if cut else 1)
    depth = np.zeros(body[box].shape, np.float32)
    tight = bounding_box(body[box], 1)
    depth[tight] = ndimage.distance_transform_edt(body[box][tight])
    depth *= np.float32(pixel_um)
    smooth = np.where(body[box], gaussian(depth, 0.5 / pixel_um, mirror=cut), np.float32(0))
    labels[box] = _split(body[box], smooth, max_neck_ratio, min_radius_um, side)
    return labels


def _split(
    body: NDArray[np.bool_],
    smooth: NDArray[np.float32],
    max_neck_ratio: float,
    min_radius_um: float,
    side: int,
) -> NDArray[np.int32]:
    """Split a body (Y, X) at the necks of its depth (Y, X) in um; ``side`` of a maximum in px."""
    eight = np.ones((3, 3))
    peaks, count = ndimage.label(body & (smooth == ndimage.maximum_filter(smooth, side)), eight)
    if count == 1:
        # A thin piece near a thicker one has no peak, and so no label.
        pieces, number = ndimage.label(body)
        thick = np.zeros(number + 1, np.int32)
        thick[pieces[peaks > 0]] = 1
        return thick[pieces]
    basins: NDArray[np.int32] = watershed(-smooth, peaks, mask=body)  # type: ignore[no-untyped-call]
    heights, peak_pixels = np.zeros(count + 1), np.nonzero(peaks)
    np.maximum.at(heights, peaks[peak_pixels], smooth[peak_pixels])
    owner = list(range(count + 1))
    for (one, other), height in sorted(
        saddle_heights(basins, smooth).items(), key=lambda item: (-item[1], item[0])
    ):
        a, b = _root(owner, one), _root(owner, other)
        thinner = min(heights[a], heights[b])
        if a != b and (thinner < min_radius_um or height > max_neck_ratio * thinner):
            low, high = (a, b) if heights[a] < heights[b] else (b, a)
            owner[low] = high
    _, dense = np.unique([_root(owner, label) for label in range(count + 1)], return_inverse=True)
    return np.asarray(dense[basins], np.int32)


def _root(owner: list[int], label: int) -> int:
    while owner[label] != label:
        label = owner[label]
    return label


def saddle_heights(
    labels: NDArray[np.int32], height: NDArray[np.float32]
) -> dict[tuple[int, int], float]:
    """Return the highest point on the border between each pair of touching labels.

    Args:
        labels: (Y, X) int32, 0 where there is none.
        height: (Y, X) float32.

    Returns:
        (smaller label, larger label) to the height.

    >>> saddle_heights(np.array([[1, 2, 0]], np.int32), np.array([[5, 3, 0]], np.float32))
    {(1, 2): 3.0}
    """
    found: dict[tuple[int, int], float] = {}
    for first, second in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        a, b = labels[first], labels[second]
        touch = (a != b) & (a > 0) & (b > 0)
        lower = np.minimum(height[first], height[second])[touch]
        for one, other, value in zip(
            a[touch].tolist(), b[touch].tolist(), lower.tolist(), strict=True
        ):
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
    """Merge each lobe with the nearest part within reach; drop parts without a nucleus.

    Args:
        parts: (Y, X) int32 labels.
        nuclei: (Y, X) nuclear pixels.
        pixel_um: size of a pixel.
        lobe_um2: parts with less nuclear area than the first are dropped, those with less than the
            second are lobes.
        gap_um: maximum distance between a lobe and the part that it joins.

    Returns:
        (Y, X) int32; the labels that remain keep their number.
    """
    count = int(parts.max(initial=0))
    area = np.bincount(parts.ravel(), nuclei.ravel(), count + 1) * pixel_um**2
    merged = np.where(area[parts] >= lobe_um2[0], parts, 0).astype(np.int32)
    for small in sorted(range(1, count + 1), key=lambda label: (area[label], label)):
        if not lobe_um2[0] <= area[small] < lobe_um2[1]:
            continue
        distance = ndimage.distance_transform_edt(merged != small) * pixel_um
        others = (merged > 0) & (merged != small) & (distance <= gap_um + pixel_um)
        if others.any():
            nearest = int(np.argmin(np.where(others, distance, np.inf)))
            merged[merged == small] = merged.ravel()[nearest]
    return merged
