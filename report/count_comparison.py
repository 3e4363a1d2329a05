"""Compare two counts of one blood: Rümke's limits, and whether two shares differ by more than
chance.
"""

from __future__ import annotations

import math

import numpy as np
import scipy

from wbcpipe.classify.uncertainty.clopper_pearson import clopper_pearson

__all__ = ["differ_by_chance", "differ_from_share", "paired_differ_by_chance", "rumke_limits"]


def rumke_limits(count: float, total: int) -> tuple[int, int]:
    """Return Rümke's 95 % limits of a percentage, in whole per cent.

    C. L. Rümke, Blood Cells 11 (1985) 311, whose table the leukocyte differentials of CLSI H20-A2
    use: the exact binomial limits, the lower one rounded down and the upper one rounded up.

    Args:
        count: cells of the class.
        total: cells counted.

    >>> rumke_limits(5, 100), rumke_limits(10, 200)
    ((1, 12), (2, 10))
    """
    low, high = clopper_pearson(count, total)
    return math.floor(100 * low), math.ceil(100 * high)


def differ_by_chance(first: int, first_total: int, second: int, second_total: int) -> float:
    """Return the probability that two counts of different cells differ as much by chance (Fisher's
    exact test).

    Args:
        first, second: cells of the class in either count.
        first_total, second_total: cells counted.
    """
    table = np.array([[first, first_total - first], [second, second_total - second]])
    return float(scipy.stats.fisher_exact(table).pvalue)


def paired_differ_by_chance(only_first: int, only_second: int) -> float:
    """Return the same for two counts of the same cells (McNemar's test, exact: Psychometrika 12
    (1947) 153).

    Args:
        only_first, only_second: cells that only one of the counts has in the class.
    """
    differ = only_first + only_second
    return float(scipy.stats.binomtest(only_first, differ).pvalue) if differ else 1.0


def differ_from_share(count: int, total: int, share: float) -> float:
    """Return the same for a count and a share that is known without error (exact binomial test).

    Args:
        count: cells of the class.
        total: cells counted.
        share: 0 to 1.
    """
    return float(scipy.stats.binomtest(count, total, share).pvalue) if total else 1.0
