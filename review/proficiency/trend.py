"""The trend of a test over days: does the percentage fall or rise?"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import scipy

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MIN_TESTS", "Trend", "find_trend"]

MIN_TESTS: Final = 5
"""Of fewer tests no order is unlikely enough: five that fall one after the other have a probability
of 2 / 5!.
"""
_LEVEL: Final = 0.05


@dataclass(frozen=True)
class Trend:
    """A trend.

    Attributes:
        tests: number of them.
        direction: ``falling`` or ``rising`` if the probability is below 5 %, else ``none``.
        p_value: probability that tests without a trend are as ordered (Mann-Kendall); ``None`` for
            fewer than `MIN_TESTS`.
        percent_per_day: median slope between any two tests (Theil-Sen); ``None`` on one day.
    """

    tests: int
    direction: Literal["falling", "rising", "none"]
    p_value: float | None
    percent_per_day: float | None


def find_trend(dates: Sequence[str], percent: Sequence[float]) -> Trend:
    """Return the trend of percentages over time, by Kendall's rank correlation (Mann 1945,
    doi:10.2307/1907187).

    Args:
        dates: ISO 8601, with or without a time.
        percent: one for each date.
    """
    days = np.array([datetime.fromisoformat(date).timestamp() / 86_400 for date in dates])
    values = np.asarray(percent, np.float64)
    first, second = np.triu_indices(len(days), 1)
    apart = days[first] != days[second]
    first, second = first[apart], second[apart]
    slope = (
        float(np.median((values[second] - values[first]) / (days[second] - days[first])))
        if len(first)
        else None
    )
    if len(days) < MIN_TESTS or len(set(percent)) < 2 or slope is None:
        return Trend(len(days), "none", None, slope)
    found = scipy.stats.kendalltau(days, values)
    p_value = float(found.pvalue)
    direction: Literal["falling", "rising", "none"] = "none"
    if p_value < _LEVEL:
        direction = "rising" if found.statistic > 0 else "falling"
    return Trend(len(days), direction, p_value, slope)
