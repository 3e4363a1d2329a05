"""Limits of a count are those of Rümke's table, and tests between counts those of scipy at the
level they claim.
"""

from __future__ import annotations

import numpy as np
import pytest

from wbcpipe.report.count_comparison import (
    differ_by_chance,
    differ_from_share,
    paired_differ_by_chance,
    rumke_limits,
)


@pytest.mark.parametrize(
    ("total", "percent", "limits"),
    [
        (100, 0, (0, 4)),
        (100, 1, (0, 6)),
        (100, 2, (0, 8)),
        (100, 5, (1, 12)),
        (100, 10, (4, 18)),
        (100, 50, (39, 61)),
        (200, 0, (0, 2)),
        (200, 5, (2, 10)),
        (200, 10, (6, 16)),
        (200, 50, (42, 58)),
        (1000, 5, (3, 7)),
        (1000, 10, (8, 13)),
        (100, 100, (96, 100)),
    ],
)
def test_rumkes_table(total: int, percent: int, limits: tuple[int, int]) -> None:
    assert rumke_limits(percent * total // 100, total) == limits


def test_two_counts_of_one_blood_are_seldom_told_apart() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.binomial(200, 0.3, (2, 300))
    told = [
        differ_by_chance(int(a), 200, int(b), 200) < 0.05
        for a, b in zip(first, second, strict=True)
    ]
    assert np.mean(told) <= 0.05
    assert differ_by_chance(60, 200, 100, 200) < 0.001


def test_readers_of_the_same_cells_are_told_apart_by_the_cells_that_differ() -> None:
    assert paired_differ_by_chance(0, 0) == 1
    assert paired_differ_by_chance(5, 5) == 1
    assert paired_differ_by_chance(8, 0) == pytest.approx(2 * 0.5**8)


def test_a_count_against_a_known_share() -> None:
    assert differ_from_share(10, 100, 0.1) == pytest.approx(1)
    assert differ_from_share(25, 100, 0.1) < 0.001
    assert differ_from_share(0, 0, 0.1) == 1
