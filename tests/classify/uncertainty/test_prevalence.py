"""Frequencies that were planted are found behind the errors of the calls."""

from __future__ import annotations

import numpy as np
import pytest

from wbcpipe.classify.uncertainty.prevalence import (
    adjust_posteriors,
    call_rates,
    correct_counts,
    true_shares,
    try_correction,
)

BLOOD = np.array([0.60, 0.29, 0.03, 0.07, 0.01])


def cells(count: int, share: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and honest probabilities (N, 5) for classes that are equally frequent.

    Neighbours look alike.
    """
    rng = np.random.default_rng(seed)
    labels = rng.choice(5, count, p=share)
    place = 1.6 * np.stack([np.cos(np.arange(5) * 1.2566), np.sin(np.arange(5) * 1.2566)], axis=1)
    seen = place[labels] + rng.normal(0, 0.7, (count, 2))
    powers = np.exp(-((seen[:, None] - place) ** 2).sum(axis=2) / (2 * 0.49))
    return labels, powers / powers.sum(axis=1, keepdims=True)


def confusion(seed: int, count: int = 400) -> np.ndarray:
    labels, probability = cells(count, np.full(5, 0.2), seed)
    counts = np.zeros((5, 5), np.int64)
    np.add.at(counts, (labels, probability.argmax(axis=1)), 1)
    return counts


def test_two_classes_are_rogan_and_gladens() -> None:
    rates = np.array([[0.9, 0.1], [0.2, 0.8]])
    # (apparent - false positives) / (sensitivity - false positives) = (0.40 - 0.1) / (0.8 - 0.1)
    expected = [4 / 7, 3 / 7]
    assert true_shares(np.array([600.0, 400.0]), rates).tolist() == pytest.approx(
        expected, abs=1e-4
    )
    # fewer positive calls than false ones: none is, not less than none
    assert true_shares(np.array([950.0, 50.0]), rates)[1] == pytest.approx(0, abs=1e-3)


def test_a_column_of_unidentified_calls_is_understood() -> None:
    rates = call_rates(np.array([[900, 50, 50], [100, 400, 500]]))
    seen = 1000 * np.array([0.8, 0.2]) @ rates
    assert true_shares(seen, rates).tolist() == pytest.approx([0.8, 0.2], abs=1e-4)


def test_rare_classes_are_not_swamped() -> None:
    matrix = confusion(0)
    raw, corrected = [], []
    for seed in range(1, 21):
        labels, probability = cells(300, BLOOD, seed)
        truth = np.bincount(labels, minlength=5) / 300
        raw.append(np.abs(np.bincount(probability.argmax(axis=1), minlength=5) / 300 - truth))
        corrected.append(np.abs(correct_counts(probability, matrix, draws=10).share - truth))
    assert np.mean(corrected) < 0.6 * np.mean(raw)
    assert np.mean(corrected, axis=0)[4] < 0.5 * np.mean(raw, axis=0)[4]


def test_balanced_samples_stay_as_they_are() -> None:
    _, probability = cells(4000, np.full(5, 0.2), 3)
    assert adjust_posteriors(probability, np.full(5, 0.2)).tolist() == pytest.approx(
        [0.2] * 5, abs=0.025
    )


def test_intervals_hold_the_truth_and_narrow_with_cells() -> None:
    inside, widths = [], {}
    for count in (100, 800):
        found = []
        for seed in range(12):
            _, probability = cells(count, BLOOD, 50 + seed)
            corrected = correct_counts(probability, confusion(100 + seed))
            assert (corrected.low <= corrected.share).all()
            assert (corrected.share <= corrected.high).all()
            inside.append((corrected.low <= BLOOD) & (corrected.high >= BLOOD))
            found.append(corrected.high - corrected.low)
        widths[count] = np.mean(found)
    assert np.mean(inside) >= 0.9
    assert widths[800] < 0.8 * widths[100]


def test_the_same_cells_give_the_same_figures() -> None:
    _, probability = cells(50, BLOOD, 0)
    one, two = (correct_counts(probability, confusion(0)) for _ in range(2))
    assert (one.low == two.low).all()
    assert (one.high == two.high).all()
    assert one.share.sum() == pytest.approx(1)


def test_a_trial_tells_honest_probabilities_from_modest_ones() -> None:
    labels, honest = cells(400, np.full(5, 0.2), 7)
    even = np.full(5, 0.2)
    assert try_correction(honest, labels, 0.0, even).helps
    right = np.full((400, 5), 0.1)
    right[np.arange(400), labels] = 0.6  # always right, never sure
    found = try_correction(right, labels, 0.0, even)
    assert found.raw_points == 0
    assert found.corrected_points > 1
    assert not found.helps
