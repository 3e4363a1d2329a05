"""Exact limits of a binomial proportion, after Clopper and Pearson
(https://doi.org/10.1093/biomet/26.4.404).
"""

from __future__ import annotations

import scipy

__all__ = ["clopper_pearson"]


def clopper_pearson(count: float, total: float, tail: float = 0.025) -> tuple[float, float]:
    """Return the lower and upper limit of a proportion, 0 to 1; (0, 1) when nothing was counted.

    The limits are quantiles of beta distributions: Beta(tail; k, n - k + 1) and Beta(1 - tail; k +
    1, n - k).

    Args:
        count: k, how many of the total; may be a fraction, since the limits are continuous in it.
        total: n.
        tail: probability that the true proportion lies below the lower limit, and above the upper
            one.

    Raises:
        ValueError: the count is negative or above the total.

    >>> [round(limit, 4) for limit in clopper_pearson(5, 10)]
    [0.1871, 0.8129]
    """
    if not 0 <= count <= total:
        raise ValueError(
            f"{count} of {total} is not a proportion; the count must lie between 0 and the total."
        )
    low = float(scipy.special.betaincinv(count, total - count + 1, tail)) if count else 0.0
    high = (
        float(scipy.special.betaincinv(count + 1, total - count, 1 - tail))
        if count < total
        else 1.0
    )
    return low, high
