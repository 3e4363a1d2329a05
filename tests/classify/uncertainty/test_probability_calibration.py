"""Calibration, fusion, disagreement and the threshold, on logits whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from wbcpipe.classify.uncertainty.probability_calibration import (
    ProbabilityCalibration,
    choose_threshold,
    disagreement,
    fit_calibration,
    fuse,
    head_probability,
    mean_probability,
    negative_log_likelihood,
)

PLAIN = {"temperatures": (1.0, 1.0), "weights": (0.5, 0.5)}


def sampled(
    count: int, skill: tuple[float, ...], scale: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, heads, 4) of heads with some skill, made ``scale`` times too confident, and labels
    drawn.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count)
    truth = np.eye(4)[labels]
    noise = rng.normal(size=(count, len(skill), 4))
    return scale * (truth[:, None] * np.asarray(skill)[None, :, None] + noise), labels


def test_temperature_of_known_overconfidence_is_recovered() -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(6000, 1, 4)) * 2
    chances = mean_probability(honest)
    labels = (chances.cumsum(axis=1) > rng.random((6000, 1))).argmax(axis=1)
    found = fit_calibration(3.0 * honest, labels)
    assert found.temperatures[0] == pytest.approx(3.0, rel=0.05)
    assert found.fused_temperature == pytest.approx(1.0, rel=0.05)


def test_calibration_lowers_the_likelihood_loss_on_other_cells_too() -> None:
    logits, labels = sampled(3000, (3.0, 2.0, 2.0, 1.0), 4.0)
    found = fit_calibration(logits[:1500], labels[:1500])
    assert found.nll_after is not None
    assert found.nll_before is not None
    assert found.nll_after < found.nll_before
    rest, truth = logits[1500:], labels[1500:]
    after = negative_log_likelihood(truth, fuse(head_probability(rest, found), found))
    assert after < 0.8 * negative_log_likelihood(truth, mean_probability(rest))


def test_cells_all_called_right_do_not_ask_for_certainty() -> None:
    labels = np.arange(60) % 3
    logits = 2.0 * np.eye(3)[labels][:, None, :]
    found = fit_calibration(logits, labels)
    confidence = fuse(head_probability(logits, found), found).max(axis=1)
    assert confidence.max() == pytest.approx(61 / 62, abs=0.01)
    assert found.threshold == 0.0


def test_better_heads_weigh_more_and_few_cells_keep_weights_equal() -> None:
    logits, labels = sampled(2000, (5.0, 1.0), 1.0)
    many = fit_calibration(logits, labels).weights
    few = fit_calibration(logits[:12], labels[:12]).weights
    assert many[0] > 0.8
    assert few[0] < 0.65
    assert sum(many) == pytest.approx(1)


def test_fusing_plain_heads_is_their_mean() -> None:
    probability = np.array([[[0.9, 0.1], [0.5, 0.5]]])
    assert fuse(
        probability, ProbabilityCalibration(temperatures=(1, 1), weights=(0.5, 0.5))
    ).tolist() == [pytest.approx([0.7, 0.3])]
    sharper = fuse(
        probability,
        ProbabilityCalibration(temperatures=(1, 1), weights=(0.5, 0.5), fused_temperature=0.5),
    )
    assert sharper[0, 0] == pytest.approx(0.49 / (0.49 + 0.09))


@pytest.mark.parametrize(
    ("heads", "expected"),
    [
        pytest.param([[1, 0, 0], [1, 0, 0]], 0.0, id="agree"),
        pytest.param([[1, 0, 0], [0, 1, 0]], 1.0, id="two-apart"),
        pytest.param([[1, 0, 0], [0, 1, 0], [0, 0, 1]], 1.0, id="three-apart"),
        pytest.param([[0.5, 0.5, 0], [0.5, 0.5, 0]], 0.0, id="unsure-alike"),
        # heads (3/4, 1/4) and (1/4, 3/4): 1 - H(3/4) in bits
        pytest.param([[0.75, 0.25, 0], [0.25, 0.75, 0]], 0.188722, id="by-hand"),
        pytest.param([[0.2, 0.3, 0.5]], 0.0, id="one-head"),
    ],
)
def test_disagreement(heads: list[list[float]], expected: float) -> None:
    assert disagreement(np.array([heads], float))[0] == pytest.approx(expected, abs=1e-6)


def two_classes(confidence: list[float]) -> np.ndarray:
    return np.array([[value, 1 - value] for value in confidence])


def test_threshold_is_the_smallest_that_reaches_the_target() -> None:
    probability = two_classes([0.55, 0.6, 0.65] + [0.9] * 97)
    labels = np.array([1, 0, 1] + [0] * 97)
    assert choose_threshold(labels, probability, 0.985, 0.05) == pytest.approx(0.6)
    assert choose_threshold(labels, probability, 0.995, 0.05) == pytest.approx(0.9)
    assert choose_threshold(labels, probability, 0.95, 0.05) == 0.0


def test_threshold_never_refuses_more_than_allowed() -> None:
    probability = two_classes([0.5 + 0.004 * i for i in range(100)])
    labels = np.ones(100, dtype=int)  # every call is wrong: no threshold reaches the target
    threshold = choose_threshold(labels, probability, 0.99, 0.05)
    assert (probability.max(axis=1) < threshold).sum() <= 5
    assert threshold == pytest.approx(0.52, abs=1e-4)
    assert choose_threshold(labels, probability, 0.99, 0.0) == 0.0


def test_what_was_reached_is_recorded() -> None:
    logits, labels = sampled(800, (3.0, 3.0), 1.0)
    found = fit_calibration(logits, labels, target_accuracy=0.995, max_unidentified_fraction=0.05)
    fused = fuse(head_probability(logits, found), found)
    accepted = fused.max(axis=1) >= found.threshold
    assert found.unidentified_fraction == pytest.approx(1 - accepted.mean())
    assert 0 < found.unidentified_fraction <= 0.05
    assert found.accepted_accuracy == pytest.approx(
        (fused.argmax(axis=1) == labels)[accepted].mean()
    )
    assert found.cells == 800


@pytest.mark.parametrize("key", list(ProbabilityCalibration.model_fields))
def test_misspelt_keys_are_refused(key: str) -> None:
    with pytest.raises(ValidationError, match=key + "x"):
        ProbabilityCalibration.model_validate({**PLAIN, key + "x": 1})


def test_a_target_out_of_reach_leaves_the_surest_cell() -> None:
    probability = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    assert choose_threshold(np.array([1, 1, 0]), probability, 0.99, 1.0) == 0.9
