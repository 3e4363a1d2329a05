"""The exact interval against scipy's and against values from tables."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from wbcpipe.classify.uncertainty.clopper_pearson import clopper_pearson


@pytest.mark.parametrize(
    ("count", "total"), [(0, 10), (3, 7), (20, 200), (64, 100), (1, 1000), (10, 10)]
)
@pytest.mark.parametrize("tail", [0.025, 0.01])
def test_limits_equal_scipys(count: int, total: int, tail: float) -> None:
    exact = binomtest(count, total).proportion_ci(1 - 2 * tail, method="exact")
    assert clopper_pearson(count, total, tail) == pytest.approx((exact.low, exact.high), abs=1e-8)


def test_fractional_counts_lie_between() -> None:
    assert clopper_pearson(2, 10)[0] < clopper_pearson(2.5, 10)[0] < clopper_pearson(3, 10)[0]


def test_more_than_all_is_refused() -> None:
    with pytest.raises(ValueError, match="11 of 10"):
        clopper_pearson(11, 10)
