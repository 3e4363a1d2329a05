"""Tell nuclei that lie on one another and could not be parted from large single ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["find_clumps"]

#: Number of nuclei from which their median is known.
_MIN_COMPARED: Final = 8
#: A nucleus this many times as large as the median is several if it is not compact...
_LOOSE_RATIO: Final = 1.6
#: ...and so many times as large whatever its shape.
_ANY_RATIO: Final = 3.2
#: Where there is no median: area (um2) from which a nucleus that is not compact is several.
_LOOSE_UM2: Final = 90.0
#: Area over that of the largest disk inside. Single large nuclei, which are kidney-shaped at most, have 1.2 to 2.1;
#: segmented ones more, but they are small.
_MAX_COMPACT: Final = 2.4


def find_clumps(
    labels: NDArray[np.int32],
    nuclei: NDArray[np.bool_],
    nuclear_um2: NDArray[np.floating[Any]],
    *,
    min_um2: float,
    max_um2: float,
) -> NDArray[np.bool_]:
    """Return which of the N cells are several that could not be parted.

    Args:
        labels: (Y, X) int32, 1 to N.
        nuclei: (Y, X) nuclear pixels.
        nuclear_um2: (N,) nuclear area of each.
        min_um2: smaller nuclei are debris; they do not count for the median.
        max_um2: a larger nucleus is a clump whatever the others are; infinite where there are none.
    """
    found = nuclear_um2 > max_um2
    if not np.isfinite(max_um2):
        return np.asarray(found, bool)
    whole = nuclear_um2[nuclear_um2 >= min_um2]
    loose_um2 = _LOOSE_UM2
    if len(whole) >= _MIN_COMPARED:
        median = float(np.median(whole))
        loose_um2 = _LOOSE_RATIO * median
        found = found | (nuclear_um2 > max(_ANY_RATIO * median, max_um2 / 2))
    doubtful = np.append(False, ~found & (nuclear_um2 > loose_um2))
    boxes = ndimage.find_objects(labels)
    for label in np.flatnonzero(doubtful):
        own = np.pad(nuclei[boxes[label - 1]] & (labels[boxes[label - 1]] == label), 1)
        radius = ndimage.distance_transform_edt(own).max()
        found[label - 1] = np.count_nonzero(own) > _MAX_COMPACT * np.pi * radius**2
    return np.asarray(found, bool)
