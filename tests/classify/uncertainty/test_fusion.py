"""Validation cells choose the fusion; test cells only measure it."""

from __future__ import annotations

import numpy as np
import pytest

from wbcpipe.classify.uncertainty.fusion import calibrate, stacking_helps
from wbcpipe.classify.uncertainty.probability_calibration import (
    ProbabilityCalibration,
    fit_calibration,
    fuse,
    head_probability,
    without_heads,
)
from wbcpipe.classify.uncertainty.risk_control import split_cells

WITHOUT_POOL = """{"temperatures": [0.8, 0.7], "weights": [0.25, 0.75],
"fused_temperature": 0.93, "threshold": 0.61, "target_accuracy": 0.99, "accepted_accuracy": 0.94,
"unidentified_fraction": 0.05, "cells": 300, "nll_before": 0.3, "nll_after": 0.2}"""


def drawn(
    count: int, skill: tuple[float, ...] = (2.0, 2.0), seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count)
    noise = rng.normal(size=(count, len(skill), 4))
    return np.eye(4)[labels][:, None] * np.asarray(skill)[None, :, None] * 2 + noise, labels


def test_heads_are_fused_by_weights_and_a_temperature() -> None:
    calibration = ProbabilityCalibration.model_validate_json(WITHOUT_POOL)
    probability = np.array([[[0.9, 0.1], [0.4, 0.6]]])
    mixed = np.array([0.25 * 0.9 + 0.75 * 0.4, 0.25 * 0.1 + 0.75 * 0.6]) ** (1 / 0.93)
    assert fuse(probability, calibration)[0] == pytest.approx(mixed / mixed.sum())


def test_stacking_is_used_only_where_it_helps() -> None:
    logits, labels = drawn(240)
    swapped = logits[:, :, [1, 0, 2, 3]]
    assert stacking_helps(swapped, labels)
    alike = np.repeat(logits[:, :1], 2, axis=1)
    assert not stacking_helps(alike, labels)


def test_test_cells_do_not_influence_the_fit() -> None:
    logits, labels = drawn(300)
    fitted, test_cells = calibrate(logits, labels)
    assert len(test_cells) == 150
    assert set(test_cells) == set(split_cells(labels)[1])
    inverted = logits.copy()
    inverted[test_cells] = -inverted[test_cells]
    other, _ = calibrate(inverted, labels)
    for name in ("temperatures", "weights", "fused_temperature", "threshold", "stacking"):
        assert getattr(other, name) == getattr(fitted, name)
    assert (other.accepted_accuracy or 0) < 0.5 < (fitted.accepted_accuracy or 0)
    assert fitted.risk_bounds is not None
    assert fitted.risk_bounds.level_at(fitted.threshold) is not None
    assert fitted.risk_bounds.cells == 150
    assert fitted.confusion is not None
    assert np.sum(fitted.confusion) == 300
    assert ProbabilityCalibration.model_validate_json(fitted.model_dump_json()) == fitted


def test_too_few_cells_give_the_plain_calibration() -> None:
    logits, labels = drawn(100)
    fitted, scored = calibrate(logits, labels)
    assert fitted.model_copy(update={"head_disagreement": None}) == fit_calibration(logits, labels)
    assert fitted.head_disagreement is not None, "an alarm needs fewer cells than a bound"
    assert len(scored) == 100


def test_left_out_heads_do_not_count() -> None:
    logits, labels = drawn(300, (2.0, 1.0, 0.5))
    fitted, _ = calibrate(logits, labels)
    rest = without_heads(fitted, [0])
    assert rest.weights[0] == 0
    assert sum(rest.weights) == pytest.approx(1)
    assert (rest.risk_bounds, rest.stacking, rest.confusion) == (None, None, None)
    changed = logits.copy()
    changed[:, 0] = 7 * np.eye(4)[0]
    one, two = (fuse(head_probability(item, rest), rest) for item in (logits, changed))
    assert np.array_equal(one, two)
