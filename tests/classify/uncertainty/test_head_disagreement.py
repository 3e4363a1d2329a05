"""The found rings for a head that went astray and for nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from wbcpipe.classify.uncertainty.head_disagreement import (
    DisagreementLimits,
    check_heads,
    fit_disagreement_limits,
    head_distance,
)

HEADS = 3


def probabilities(count: int, seed: int, astray: int | None = None) -> np.ndarray:
    """(N, 3, 4) of heads that mostly agree; one may be of other cells."""
    rng = np.random.default_rng(seed)
    evidence = 4 * np.eye(4)[rng.integers(0, 4, count)][:, None] + rng.normal(
        size=(count, HEADS, 4)
    )
    powers = np.exp(evidence)
    found: np.ndarray = powers / powers.sum(axis=-1, keepdims=True)
    if astray is not None:
        found[:, astray] = found[rng.permutation(count), astray]
    return found


def test_distance_by_hand() -> None:
    apart = np.array([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
    assert head_distance(apart)[0].tolist() == pytest.approx([1.0, 0.5, 0.5])
    assert head_distance(np.ones((2, 1, 3)) / 3).tolist() == [[0.0], [0.0]]


def test_one_cell_in_twenty_lies_beyond_the_limits() -> None:
    held = probabilities(1000, 0)
    found = fit_disagreement_limits(held)
    assert found is not None
    beyond = (head_distance(held) > np.asarray(found.limits)).mean(axis=0)
    assert beyond.tolist() == pytest.approx([0.05] * HEADS, abs=0.002)


def test_sound_samples_are_quiet_and_astray_heads_are_not() -> None:
    found = fit_disagreement_limits(probabilities(300, 0))
    assert found is not None
    for seed in range(1, 31):
        assert not any(check.exceeded for check in check_heads(probabilities(100, seed), found))
        assert check_heads(probabilities(100, seed, astray=1), found)[1].exceeded


def test_few_cells_and_single_heads_raise_nothing() -> None:
    assert fit_disagreement_limits(np.full((100, 1, 4), 0.25)) is None
    checks = check_heads(probabilities(10, 0, astray=0), DisagreementLimits(limits=(0.0,) * HEADS))
    assert [(check.share, check.exceeded) for check in checks] == [(None, False)] * HEADS
