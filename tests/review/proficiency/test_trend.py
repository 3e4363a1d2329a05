"""A trend is told where there is one, and seldom where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from wbcpipe.review.proficiency.trend import find_trend


def _days(count: int) -> list[str]:
    return [f"2026-11-{day + 1:02d}T08:00:00+00:00" for day in range(count)]


def test_a_fall_is_told_with_its_slope() -> None:
    found = find_trend(_days(10), [99.0 - 0.5 * day + 0.1 * (day % 2) for day in range(10)])
    assert found.direction == "falling"
    assert found.percent_per_day == pytest.approx(-0.5, abs=0.05)
    assert find_trend(_days(10), list(range(80, 90))).direction == "rising"


def test_chance_is_seldom_taken_for_a_trend() -> None:
    rng = np.random.default_rng(4)
    told = [
        find_trend(_days(12), rng.normal(97, 1, 12).tolist()).direction != "none"
        for _ in range(300)
    ]
    assert np.mean(told) <= 0.08


@pytest.mark.parametrize("percent", [[], [99.0], [99.0, 98.0, 97.0, 96.0], [97.0] * 6])
def test_too_few_tests_and_equal_ones_have_no_trend(percent: list[float]) -> None:
    found = find_trend(_days(len(percent)), percent)
    assert (found.tests, found.direction, found.p_value) == (len(percent), "none", None)


def test_two_tests_of_one_moment_have_no_slope() -> None:
    assert find_trend([_days(1)[0]] * 6, [95.0, 96, 97, 98, 99, 100]).percent_per_day is None
