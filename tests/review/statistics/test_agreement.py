"""Kappa equals published and scikit-learn's values, and its intervals hold the true value as often
as they say.
"""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from wbcpipe.review.statistics.agreement import class_kappa, cohen_kappa, compare_readers

CLASSES = ("NEU", "LYM", "EOS", "MO", "BAS")


def test_the_published_example_of_kappa_and_its_error() -> None:
    # Fleiss, Levin and Paik, Statistical Methods for Rates and Proportions (3rd ed., 2003), tables
    # 18.1 and 18.3.
    found = cohen_kappa(np.array([[75, 1, 4], [5, 4, 1], [0, 0, 10]]))
    assert found is not None
    assert found.value == pytest.approx(0.68, abs=0.005)
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(0.087, abs=0.001)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_kappa_equals_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first = rng.choice(CLASSES, 200, p=[0.6, 0.25, 0.05, 0.08, 0.02])
    second = np.where(rng.random(200) < 0.85, first, rng.choice(CLASSES, 200))
    found = compare_readers(first.tolist(), second.tolist(), CLASSES)
    assert found.kappa is not None
    assert found.kappa.value == pytest.approx(cohen_kappa_score(first, second))
    for entry in found.by_class:
        assert entry.kappa is not None
        assert entry.kappa.value == pytest.approx(
            cohen_kappa_score(first == entry.name, second == entry.name)
        )
        assert entry.kappa.low <= entry.kappa.value <= entry.kappa.high
        assert entry.both + entry.only_first + entry.only_second + entry.neither == 200
    assert found.agreed == int((first == second).sum())


def _table(
    prevalence: float, first: tuple[float, float], second: tuple[float, float]
) -> np.ndarray:
    """Shares (2, 2) of two readers of given sensitivity and false-positive rate, independent given
    the cell.
    """
    joint = np.zeros((2, 2))
    for weight, a, b in ((prevalence, first[0], second[0]), (1 - prevalence, first[1], second[1])):
        joint += weight * np.outer([a, 1 - a], [b, 1 - b])
    return joint


@pytest.mark.parametrize(
    ("cells", "prevalence", "first", "second"),
    [
        (200, 0.6, (0.95, 0.03), (0.95, 0.03)),
        (200, 0.05, (0.9, 0.01), (0.9, 0.01)),
        (200, 0.01, (0.9, 0.005), (0.9, 0.005)),  # two basophils
        (200, 0.3, (0.98, 0.05), (0.85, 0.01)),  # one reader calls the class more often
    ],
)
def test_the_interval_of_a_class_holds_the_true_kappa_as_often_as_it_says(
    cells: int, prevalence: float, first: tuple[float, float], second: tuple[float, float]
) -> None:
    shares = _table(prevalence, first, second)
    rows, columns = shares.sum(axis=1), shares.sum(axis=0)
    true = (np.trace(shares) - rows @ columns) / (1 - rows @ columns)
    draws = np.random.default_rng(5).multinomial(cells, shares.ravel(), 1500)
    intervals = [class_kappa(*map(int, draw)) for draw in draws]
    held = [found.low <= true <= found.high for found in intervals if found is not None]
    assert 0.92 < np.mean(held) < 0.99


def test_the_interval_over_all_classes_holds_the_true_kappa() -> None:
    share = np.array([0.6, 0.25, 0.04, 0.09, 0.02])
    calls = np.full((5, 5), 0.02) + 0.9 * np.eye(5)  # of a reader, given the true class
    shares = np.einsum("t,ti,tj->ij", share, calls, calls)
    chance = shares.sum(axis=1) @ shares.sum(axis=0)
    true = (np.trace(shares) - chance) / (1 - chance)
    draws = np.random.default_rng(6).multinomial(200, shares.ravel(), 1000).reshape(-1, 5, 5)
    intervals = [cohen_kappa(draw) for draw in draws]
    assert (
        0.92
        < np.mean([found.low <= true <= found.high for found in intervals if found is not None])
        < 0.98
    )


def test_complete_agreement_of_few_cells_proves_less_than_that_of_many() -> None:
    few = compare_readers(["NEU", "LYM"] * 5, ["NEU", "LYM"] * 5, CLASSES).kappa
    many = compare_readers(["NEU", "LYM"] * 100, ["NEU", "LYM"] * 100, CLASSES).kappa
    assert few is not None
    assert many is not None
    assert few.value == many.value == few.high == 1
    assert few.low == pytest.approx((0.025 ** (1 / 10) - 0.5) / 0.5)
    assert few.low < many.low < 1


def test_what_no_figure_is_defined_for_is_none() -> None:
    assert compare_readers([], [], CLASSES).kappa is None
    same = compare_readers(["NEU"] * 9, ["NEU"] * 9, CLASSES)
    assert same.kappa is None
    assert [entry.kappa for entry in same.by_class] == [None] * 5
    assert [entry.specific for entry in same.by_class] == [1.0, None, None, None, None]
    with pytest.raises(ValueError, match="3 and 2 classes"):
        compare_readers(["NEU"] * 3, ["NEU"] * 2, CLASSES)


def test_classes_outside_the_list_are_compared_too() -> None:
    found = compare_readers(["smudge", "NEU"], ["artefact", "NEU"], ("NEU",))
    assert found.classes == ("NEU", "artefact", "smudge")
    assert found.confusion == ((1, 0, 0), (0, 0, 0), (0, 1, 0))
