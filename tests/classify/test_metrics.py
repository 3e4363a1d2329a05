"""Figures of merit against values worked out by hand; folds that never share a field."""

from __future__ import annotations

import numpy as np
import pytest

from wbcpipe.classify.metrics import expected_calibration_error, scores, summarise
from wbcpipe.classify.training.folds import holdout, stratified_folds
from wbcpipe.errors import TrainingDataError

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2])
CALLS = np.array([0, 0, 0, 1, 1, 1, 0, 2])


def test_scores_by_hand() -> None:
    found = scores(LABELS, np.eye(3)[CALLS], ["A", "B", "C"])
    assert found["confusion"] == [[3, 1, 0], [1, 2, 0], [0, 0, 1]]
    assert found["f1"] == pytest.approx({"A": 6 / 8, "B": 4 / 6, "C": 1.0})
    assert found["f1_weighted"] == pytest.approx((4 * 6 / 8 + 3 * 4 / 6 + 1) / 8)
    assert found["sensitivity"] == pytest.approx(6 / 8)
    assert found["specificity"] == pytest.approx((4 * 3 / 4 + 3 * 4 / 5 + 1 * 1) / 8)
    # one class against the rest, from hard calls: the mean of its sensitivity and specificity
    assert found["auc"] == pytest.approx(
        (4 * (3 / 4 + 3 / 4) / 2 + 3 * (2 / 3 + 4 / 5) / 2 + 1) / 8
    )


def test_a_class_without_cells_weighs_nothing() -> None:
    found = scores(LABELS, np.eye(4)[CALLS], ["A", "B", "C", "D"])
    assert found["f1"]["D"] is None
    assert found["f1_weighted"] == pytest.approx(
        scores(LABELS, np.eye(3)[CALLS], ["A", "B", "C"])["f1_weighted"]
    )


def test_summary_is_mean_and_deviation_over_folds() -> None:
    folds = [
        scores(LABELS, np.eye(3)[CALLS], ["A", "B", "C"]),
        scores(LABELS, np.eye(3)[LABELS], ["A", "B", "C"]),
    ]
    found = summarise(folds)
    assert found["accuracy"]["mean"] == pytest.approx(0.875)
    assert found["accuracy"]["sd"] == pytest.approx(0.125 * np.sqrt(2))
    assert found["confusion"] == [[7, 1, 0], [1, 5, 0], [0, 0, 2]]
    assert summarise(folds[:1])["accuracy"]["sd"] is None


def test_calibration_error_by_hand() -> None:
    probability = np.array([[0.95, 0.05]] * 10 + [[0.55, 0.45]] * 10)
    labels = np.array([0] * 9 + [1] + [0] * 5 + [1] * 5)  # right: 90 % and 50 %
    assert expected_calibration_error(labels, probability) == pytest.approx(0.05)


@pytest.mark.parametrize("per_field", [1, 4], ids=["one-cell-a-field", "four-cells-a-field"])
def test_folds_share_no_field_and_cover_all(per_field: int) -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(3, 400, p=[0.7, 0.2, 0.1]).astype(np.int64)
    groups = np.repeat(np.arange(400 // per_field), per_field).astype(np.int64)
    parts = stratified_folds(labels, groups, 5, seed=1)
    assert np.array_equal(np.sort(np.concatenate([test for _, test in parts])), np.arange(400))
    for train, test in parts:
        assert not set(groups[train]) & set(groups[test])
        assert len(train) + len(test) == 400
        share = np.bincount(labels, minlength=3) / len(labels)
        assert np.bincount(labels[test], minlength=3) / len(test) == pytest.approx(share, abs=0.06)
    again = stratified_folds(labels, groups, 5, seed=1)
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(parts, again, strict=True))
    assert not np.array_equal(parts[0][1], stratified_folds(labels, groups, 5, seed=2)[0][1])


def test_a_rare_class_does_not_stop_the_folds() -> None:
    labels = np.array([0] * 50 + [1] * 2, dtype=np.int64)
    assert len(stratified_folds(labels, np.arange(52), 5, seed=0)) == 5


def test_too_few_fields_for_the_folds() -> None:
    with pytest.raises(
        TrainingDataError, match="3 fields or images with labelled cells cannot be divided into 5"
    ):
        stratified_folds(np.array([0, 1] * 3), np.array([0, 0, 1, 1, 2, 2]), 5, seed=0)


def test_holdout_is_about_the_share_asked_for() -> None:
    train, test = holdout(np.array([0, 1] * 100), np.arange(200), 0.15, seed=0)
    assert len(test) == pytest.approx(30, abs=2)
    assert not set(train) & set(test)
