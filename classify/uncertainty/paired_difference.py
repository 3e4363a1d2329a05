"""Difference of two accuracies on the same cells, with its confidence interval.

Newcombe's method 10: Wilson limits of both proportions, combined by their correlation.
R. G. Newcombe, Statistics in Medicine 17 (1998) 2635,
doi:10.1002/(SICI)1097-0258(19981130)17:22<2635::AID-SIM954>3.0.CO;2-C.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["PairedDifference", "paired_difference"]

_Z: Final = 1.959963984540054
"""Quantile of the normal distribution for 95 %."""


class PairedDifference(NamedTuple):
    """The accuracy of a first classifier minus that of a second one, and its 95 % interval.

    Each -1 to 1.
    """

    difference: float
    low: float
    high: float


def paired_difference(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> PairedDifference:
    """Compare two classifiers on the same cells.

    Args:
        first: (N,) whether the first one is right; at least one cell.
        second: (N,) the same of the second.

    >>> import numpy as np
    >>> first = np.repeat([True, True, False, False], [36, 12, 2, 0])
    >>> second = np.repeat([True, False, True, False], [36, 12, 2, 0])
    >>> [round(value, 4) for value in paired_difference(first, second)]
    [0.2, 0.0569, 0.3404]
    """
    count = len(first)
    both, only_first = int((first & second).sum()), int((first & ~second).sum())
    only_second = int((~first & second).sum())
    neither = count - both - only_first - only_second
    p1, p2 = (both + only_first) / count, (both + only_second) / count
    (low1, high1), (low2, high2) = _wilson(p1, count), _wilson(p2, count)
    product = (
        (both + only_first)
        * (only_second + neither)
        * (both + only_second)
        * (only_first + neither)
    )
    excess = float(both * neither - only_first * only_second)
    if excess > 0:  # the continuity correction of the paper
        excess = max(excess - count / 2, 0)
    phi = excess / math.sqrt(product) if product else 0.0

    def root(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))

    difference = p1 - p2
    return PairedDifference(
        difference,
        difference - root(p1 - low1, high2 - p2),
        difference + root(high1 - p1, p2 - low2),
    )


def _wilson(p: float, count: int) -> tuple[float, float]:
    centre = p + _Z**2 / (2 * count)
    spread = _Z * math.sqrt(p * (1 - p) / count + _Z**2 / (4 * count**2))
    scale = 1 + _Z**2 / count
    return (centre - spread) / scale, (centre + spread) / scale
