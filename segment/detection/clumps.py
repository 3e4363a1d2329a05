"""Tell nuclei that lie on one another and could not be parted from large single ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wbcpipe.samples.segment_settings.detection import ClumpSettings

__all__ = ["find_clumps"]

#: Number of nuclei from which their median is known: no setting, but what a median needs.
_MIN_COMPARED: Final = 8


def find_clumps(
    labels: NDArray[np.int32],
    nuclei: NDArray[np.bool_],
    nuclear_um2: NDArray[np.floating[Any]],
    settings: ClumpSettings,
    *,
    min_um2: float,
    max_um2: float,
) -> NDArray[np.bool_]:
    """Return which of the N cells are several that could not be parted.

    Args:
        labels: (Y, X) int32, 1 to N.
        nuclei: (Y, X) nuclear pixels.
        nuclear_um2: (N,) nuclear area of each.
        settings: what is several.
        min_um2: smaller nuclei are debris; they do not count for the median.
        max_um2: a larger nucleus is a clump whatever the others are; infinite where there are none.
    """
    found = nuclear_um2 > max_um2
    if not np.isfinite(max_um2):
        return np.asarray(found, bool)
    whole = nuclear_um2[nuclear_um2 >= min_um2]
    loose_um2 = settings.loose_um2
    if len(whole) >= _MIN_COMPARED:
        median = float(np.median(whole))
        loose_um2 = settings.loose_ratio * median
        found = found | (nuclear_um2 > max(settings.any_ratio * median, max_um2 / 2))
    doubtful = np.append(False, ~found & (nuclear_um2 > loose_um2))
    boxes = ndimage.find_objects(labels)
    for label in np.flatnonzero(doubtful):
        own = np.pad(nuclei[boxes[label - 1]] & (labels[boxes[label - 1]] == label), 1)
        radius = ndimage.distance_transform_edt(own).max()
        found[label - 1] = np.count_nonzero(own) > settings.max_compactness * np.pi * radius**2
    return np.asarray(found, bool)
