"""Pools find the answer that was planted."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from wbcpipe.classify.uncertainty.pooling import POOLS, Pool, PoolKind, fit_pool
from wbcpipe.classify.uncertainty.probability_calibration import (
    ProbabilityCalibration,
    head_probability,
    negative_log_likelihood,
)

CLASSES = 4


def independent(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, 2, 4) of two honest heads that saw independent evidence of the class, and the classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    seen = np.eye(CLASSES)[labels][:, None] + rng.normal(size=(count, 2, CLASSES))
    # Bayes: log p(class | seen) is seen for unit noise, up to a constant
    return head_probability(seen, ProbabilityCalibration(temperatures=(1, 1), weights=(0.5, 0.5))), labels


def test_independent_heads_multiply() -> None:
    probability, labels = independent(6000)
    pool = fit_pool("log-pool", probability, labels)
    assert [weight for (weight,) in pool.weights] == pytest.approx([1, 1], abs=0.1)
    product = probability.prod(axis=1)
    product /= product.sum(axis=1, keepdims=True)
    assert np.abs(pool.fuse(probability) - product).max() < 0.1


def test_a_head_that_swaps_two_classes_is_understood_by_the_stacked_pool_alone() -> None:
    probability, labels = independent(800)
    swapped = probability[:, :, [1, 0, 2, 3]]
    losses = {
        kind: negative_log_likelihood(labels[400:], fit_pool(kind, swapped[:400], labels[:400]).fuse(swapped[400:]))
        for kind in POOLS
    }
    assert losses["stacked"] < min(losses["log-pool"], losses["class-mixture"]) - 0.2


def test_each_class_listens_to_the_head_that_knows_it() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, CLASSES, 2000)
    sure, blind = 0.91 * np.eye(CLASSES)[labels] + 0.03 * np.ones(CLASSES), np.full((2000, CLASSES), 0.25)
    sure /= sure.sum(axis=1, keepdims=True)
    low = labels < 2
    probability = np.stack([np.where(low[:, None], sure, blind), np.where(low[:, None], blind, sure)], axis=1)
    weights = np.asarray(fit_pool("class-mixture", probability, labels).weights)
    assert weights.sum(axis=0) == pytest.approx(np.ones(CLASSES), abs=1e-4)
    assert (weights[0, :2] > 0.6).all()
    assert (weights[1, 2:] > 0.6).all()


@pytest.mark.parametrize("kind", POOLS)
def test_fused_probabilities_are_some_and_survive_json(kind: PoolKind) -> None:
    probability, labels = independent(200)
    pool = fit_pool(kind, probability, labels)
    fused = pool.fuse(probability)
    assert fused.sum(axis=1) == pytest.approx(np.ones(200))
    again = Pool.model_validate_json(pool.model_dump_json())
    assert (again.fuse(probability) == fused).all()


def test_few_cells_leave_the_stacked_pool_near_the_log_pool() -> None:
    probability, labels = independent(12)
    stacked, plain = (fit_pool(kind, probability, labels).fuse(probability) for kind in ("stacked", "log-pool"))
    assert np.abs(stacked - plain).max() < 0.2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param({"kind": "log-pool", "weights": [[1], [1]], "bias": [0, 0]}, "has no matrices", id="bias"),
        pytest.param({"kind": "stacked", "weights": [[1]], "bias": [0, 0]}, r"\(1, 2, 2\), got \(0,\)", id="shape"),
        pytest.param({"kind": "log-pool", "weights": [[1]], "wieghts": 1}, "wieghts", id="misspelt"),
    ],
)
def test_pools_that_cannot_be_are_refused(content: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Pool.model_validate(content)
