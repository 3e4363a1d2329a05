"""Stacking finds the answer that was planted."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from wbcpipe.classify.uncertainty.probability_calibration import (
    ProbabilityCalibration,
    head_probability,
    negative_log_likelihood,
)
from wbcpipe.classify.uncertainty.stacking import Stacking, fit_stacking

CLASSES = 4


def independent(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, 2, 4) of two calibrated heads that saw independent evidence of the class,
    and the classes.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    seen = np.eye(CLASSES)[labels][:, None] + rng.normal(size=(count, 2, CLASSES))
    # Bayes: log p(class | seen) is seen for unit noise, up to a constant
    return head_probability(
        seen, ProbabilityCalibration(temperatures=(1, 1), weights=(0.5, 0.5))
    ), labels


def product(probability: np.ndarray) -> np.ndarray:
    found: np.ndarray = probability.prod(axis=1)
    found /= found.sum(axis=1, keepdims=True)
    return found


def test_independent_heads_multiply() -> None:
    probability, labels = independent(6000)
    found = fit_stacking(probability, labels)
    assert np.asarray(found.matrices) == pytest.approx(np.stack([np.eye(CLASSES)] * 2), abs=0.1)
    assert np.abs(found.fuse(probability) - product(probability)).mean() < 0.02


def test_a_head_that_swaps_two_classes_is_corrected() -> None:
    probability, labels = independent(800)
    swapped = probability[:, :, [1, 0, 2, 3]]
    fused = fit_stacking(swapped[:400], labels[:400]).fuse(swapped[400:])
    stacked, plain = (
        negative_log_likelihood(labels[400:], item) for item in (fused, product(swapped[400:]))
    )
    assert stacked < plain - 0.2


def test_fused_probabilities_sum_to_one_and_survive_json() -> None:
    probability, labels = independent(200)
    found = fit_stacking(probability, labels)
    fused = found.fuse(probability)
    assert fused.sum(axis=1) == pytest.approx(np.ones(200))
    again = Stacking.model_validate_json(found.model_dump_json())
    assert (again.fuse(probability) == fused).all()


def test_few_cells_leave_stacking_near_a_weighted_product() -> None:
    probability, labels = independent(12)
    found = fit_stacking(probability, labels)
    off_diagonal = np.asarray(found.matrices)[:, ~np.eye(CLASSES, dtype=bool)]
    assert np.abs(off_diagonal).max() < 0.05
    assert np.abs(found.bias).max() < 0.05


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param({"matrices": [[1]], "bias": [0, 0]}, "valid tuple", id="matrices"),
        pytest.param({"matrices": [], "bias": [0, 0]}, r"\(0, 2, 2\), got \(0,\)", id="shape"),
        pytest.param({"matrices": [], "bias": [], "baias": 1}, "baias", id="misspelt"),
    ],
)
def test_stacking_of_the_wrong_shape_is_refused(content: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Stacking.model_validate(content)
