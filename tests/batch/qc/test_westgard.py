"""Each control rule fires where it must, and not beside it."""

from __future__ import annotations

import pytest

from wbcpipe.batch.qc.westgard import RULES, rules_broken


@pytest.mark.parametrize(
    ("rule", "z"),
    [
        ("1-2s", [0.0, 2.1]),
        ("1-2s", [-2.1]),
        ("1-3s", [0.0, -3.1]),
        ("1-3s", [3.1]),
        ("2-2s", [0.0, 2.1, 2.1]),
        ("2-2s", [-2.1, -2.9]),
        ("R-4s", [2.1, -2.1]),
        ("R-4s", [0.0, -2.1, 2.1]),
        ("4-1s", [0.0, 1.1, 1.1, 1.1, 1.1]),
        ("4-1s", [-1.1, -1.9, -1.2, -1.1]),
        ("10x", [-0.1, *[0.1] * 10]),
        ("10x", [*[-0.1] * 10]),
    ],
)
def test_a_rule_is_broken_by_the_last_value(rule: str, z: list[float]) -> None:
    *before, last = rules_broken(z)
    assert rule in last
    assert not any(rule in broken for broken in before)


@pytest.mark.parametrize(
    ("rule", "z"),
    [
        ("1-2s", [2.0]),
        ("1-2s", [-2.0]),
        ("1-3s", [3.0]),
        ("2-2s", [2.1, -2.1]),
        ("2-2s", [2.1, 0.0, 2.1]),
        ("2-2s", [2.1, 2.0]),
        ("2-2s", [2.9]),
        ("R-4s", [2.1, -1.9]),
        ("R-4s", [4.5, 0.4]),
        ("R-4s", [2.1, 0.0, -2.1]),
        ("4-1s", [1.1, 1.1, 1.1]),
        ("4-1s", [1.1, 1.1, 0.9, 1.1]),
        ("4-1s", [1.1, 1.1, 1.1, -1.1]),
        ("4-1s", [1.1, 1.1, 1.1, 1.0]),
        ("10x", [0.1] * 9),
        ("10x", [*[0.1] * 9, -0.1]),
        ("10x", [*[0.1] * 5, 0.0, *[0.1] * 4]),
    ],
)
def test_a_rule_is_not_broken_beside_it(rule: str, z: list[float]) -> None:
    assert not any(rule in broken for broken in rules_broken(z))


def test_a_rule_stays_broken_while_its_values_last_and_ends_with_them() -> None:
    broken = rules_broken([*[0.1] * 12, -0.1, 0.1])
    assert ["10x" in rules for rules in broken] == [False] * 9 + [True] * 3 + [False] * 2


def test_a_scope_that_has_not_changed_breaks_few_rules() -> None:
    import numpy as np

    z = np.random.default_rng(3).normal(size=20_000).tolist()
    broken = rules_broken(z)
    share = {name: sum(name in rules for rules in broken) / len(z) for name in RULES}
    # Of a normal distribution: beyond 2 SD 4.6 %, 3 SD 0.27 %; ten in succession on one side 2 /
    # 1024.
    assert share["1-2s"] == pytest.approx(0.0455, abs=0.005)
    assert share["1-3s"] == pytest.approx(0.0027, abs=0.001)
    assert share["2-2s"] == pytest.approx(2 * 0.02275**2, abs=0.0006)
    assert share["R-4s"] == pytest.approx(2 * 0.02275**2, abs=0.0006)
    assert share["4-1s"] == pytest.approx(2 * 0.1587**4, abs=0.0008)
    assert share["10x"] == pytest.approx(2 / 1024, abs=0.0012)
