"""Holes of masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["fill_holes"]


def fill_holes(mask: NDArray[np.bool_], max_size_px: float = np.inf) -> NDArray[np.bool_]:
    """Fill the holes of a mask (Y, X) of up to ``max_size_px`` pixels.

    A gap that touches the border is no hole.
    """
    gaps, count = ndimage.label(~mask)
    if count == 1 and gaps[0].any():
        return mask
    is_hole = np.bincount(gaps.ravel(), minlength=count + 1) <= max_size_px
    for edge in (gaps[0], gaps[-1], gaps[:, 0], gaps[:, -1]):
        is_hole[edge] = False
    is_hole[0] = False
    return np.asarray(mask | is_hole[gaps], bool)
