"""When a review may stop.

The bound holds on drawn truths, and the number falls to none as cells are looked at.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaincinv

from wbcpipe.classify.uncertainty.clopper_pearson import clopper_pearson
from wbcpipe.review.statistics.remaining_doubt import (
    NOT_COUNTED,
    UNIDENTIFIED_CLASS,
    RemainingDoubt,
    UnreviewedCells,
    remaining_doubt,
)

REFERENCE = [(40.0, 75.0), (20.0, 45.0), (1.0, 6.0), (2.0, 10.0), (0.0, 2.0)]
SHARES = np.array([0.60, 0.29, 0.03, 0.07, 0.01])


def draw(rng: np.random.Generator, cells: int, sharpness: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, 5) that are calibrated by construction: the true class (N,) is drawn from
    them.
    """
    start = rng.choice(5, cells, p=SHARES)
    logits = rng.normal(0, 1, (cells, 5))
    logits[np.arange(cells), start] += rng.gamma(4, sharpness / 4, cells)
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = (probability.cumsum(axis=1) < rng.random((cells, 1))).sum(axis=1).clip(max=4)
    return probability, truth


def state(probability: np.ndarray, now: np.ndarray, looked: np.ndarray) -> UnreviewedCells:
    counts = np.bincount(now[now >= 0], minlength=5)
    return UnreviewedCells(probability, now, looked, counts.tolist(), int(counts.sum()), REFERENCE)


def review(
    probability: np.ndarray, truth: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Look at cells in the order of doubt until the differential cannot change.

    Return the classes, and who looked.
    """
    now = np.where(
        probability.max(axis=1) >= threshold, probability.argmax(axis=1), UNIDENTIFIED_CLASS
    )
    looked = np.zeros(len(now), bool)
    while (found := remaining_doubt(state(probability, now, looked))).decisive:
        row = found.order[: max(found.decisive // 4, 1)]
        now[row], looked[row] = truth[row], True
    return now, looked


def moved(now: np.ndarray, truth: np.ndarray) -> bool:
    """Whether a class of the true differential lies outside its interval, or across a reference
    limit.
    """
    counts, total = np.bincount(now, minlength=5), len(now)
    for count, true, (low, high) in zip(
        counts, np.bincount(truth, minlength=5), REFERENCE, strict=True
    ):
        before, after = 100 * count / total, 100 * true / total
        bounds = clopper_pearson(int(count), total)
        if not 100 * bounds[0] <= after <= 100 * bounds[1]:
            return True
        if (before < low) != (after < low) or (before > high) != (after > high):
            return True
    return False


@pytest.mark.parametrize(
    ("sharpness", "threshold"), [(8.0, 0.5), (5.0, 0.6)], ids=["sure model", "unsure model"]
)
def test_the_differential_does_not_change_when_it_cannot(
    sharpness: float, threshold: float
) -> None:
    """Of 150 slides whose probabilities are calibrated, at most 5 % may change after the review
    stopped.
    """
    rng = np.random.default_rng(17)
    failures, looks = 0, []
    for _ in range(150):
        probability, truth = draw(rng, 200, sharpness)
        now, looked = review(probability, truth, threshold)
        failures += moved(now, truth)
        looks.append(looked.mean())
    # The upper 99 % limit of 5 % in 150 draws.
    assert failures <= 13
    assert np.mean(looks) < 0.9, "looking at every cell is no way to stop early"


def test_poisson_bounds_a_sum_of_unequal_events() -> None:
    """Compare with the exact distribution of the sum, by convolution."""
    rng = np.random.default_rng(1)
    for _ in range(50):
        probabilities = rng.beta(0.3, 3, rng.integers(1, 60))
        exact = np.ones(1)
        for probability in probabilities:
            exact = np.convolve(exact, [1 - probability, probability])
        for allowed in range(12):
            if probabilities.sum() <= gammaincinv(allowed + 1, 0.005):
                assert exact[allowed + 1 :].sum() <= 0.005 + 1e-12


def test_a_sure_model_needs_no_look() -> None:
    now = np.repeat(np.arange(5), [60, 30, 3, 6, 1])
    probability = np.full((100, 5), 1e-7)
    probability[np.arange(100), now] = 1 - 4e-7
    found = remaining_doubt(state(probability, now, np.zeros(100, bool)))
    assert found.decisive == 0
    assert found.unreviewed == 100
    assert found.open_classes == ()
    assert found.sentence().startswith("The differential cannot change any more")


def test_only_cells_that_touch_an_open_class_come_first() -> None:
    """One cell more would make the eosinophils high: those that may be some are looked at first,
    not the others.
    """
    now = np.repeat([0, 1, 2], [60, 34, 6])
    probability = np.full((100, 5), 1e-9)
    probability[np.arange(100), now] = 1 - 4e-9
    eosinophil, lymphocyte = [3, 4, 5], [10, 11, 12]
    probability[eosinophil] = [0.9, 0, 0.1, 0, 0]
    probability[lymphocyte] = [0.8, 0.2, 0, 0, 0]
    found = remaining_doubt(state(probability, now, np.zeros(100, bool)))
    assert found.order[:3].tolist() == eosinophil
    assert found.decisive == 3
    assert found.open_classes == (2,)
    looked = np.zeros(100, bool)
    looked[eosinophil] = True
    after = remaining_doubt(state(probability, now, looked))
    assert after.decisive == 0
    assert not set(after.order.tolist()) & set(eosinophil)


def test_unidentified_cells_come_first_and_excluded_ones_never() -> None:
    rng = np.random.default_rng(3)
    probability, _ = draw(rng, 120, 6.0)
    now = probability.argmax(axis=1)
    now[[7, 70]] = UNIDENTIFIED_CLASS
    now[[8, 80]] = NOT_COUNTED
    found = remaining_doubt(state(probability, now, np.zeros(120, bool)))
    assert set(found.order[:2].tolist()) == {7, 70}
    assert not {8, 80} & set(found.order.tolist())
    assert found.doubt[[8, 80]].tolist() == [0, 0]
    assert found.decisive >= 2
    assert found.unreviewed == 118


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.floats(0.2, 6))
@settings(deadline=None, max_examples=60)
def test_looking_at_what_it_names_ends_the_doubt(seed: int, cells: int, sharpness: float) -> None:
    """When the decisive cells were looked at and kept their class, none is left.

    With one fewer, some are: which classes are open decides the order, so perhaps not that one.
    """
    rng = np.random.default_rng(seed)
    probability, _ = draw(rng, cells, sharpness)
    now, looked = probability.argmax(axis=1), rng.random(cells) < 0.2
    found = remaining_doubt(state(probability, now, looked))
    assert 0 <= found.decisive <= found.unreviewed == cells - looked.sum()
    looked[found.order[: found.decisive]] = True
    assert remaining_doubt(state(probability, now, looked)).decisive == 0
    if found.decisive:
        looked[found.order[found.decisive - 1]] = False
        assert remaining_doubt(state(probability, now, looked)).decisive >= 1


def test_a_sample_without_cells_or_with_all_looked_at() -> None:
    none = UnreviewedCells(
        np.zeros((0, 5)), np.zeros(0, int), np.zeros(0, bool), [0] * 5, 0, [None] * 5
    )
    assert remaining_doubt(none).decisive == 0
    probability, truth = draw(np.random.default_rng(0), 30, 3.0)
    done: RemainingDoubt = remaining_doubt(state(probability, truth, np.ones(30, bool)))
    assert done.decisive == 0
    assert done.sentence() == "Every cell that counts was looked at."
