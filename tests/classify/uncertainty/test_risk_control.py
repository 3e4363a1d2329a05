"""Error bounds hold as often as stated."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from wbcpipe.classify.uncertainty.risk_control import (
    RiskBounds,
    RiskLevel,
    bound_risk,
    candidate_thresholds,
    split_cells,
)
from wbcpipe.errors import ConfigError


@pytest.mark.parametrize(
    ("wrong", "accepted", "limit"),
    [
        pytest.param(0, 59, 1 - 0.05 ** (1 / 59), id="none: the rule 1 - 0.05^(1/n)"),
        pytest.param(1, 10, 0.39416, id="one of ten"),
        pytest.param(10, 10, 1.0, id="all"),
        pytest.param(0, 0, 1.0, id="nothing accepted"),
    ],
)
def test_the_bound_has_the_known_value(wrong: int, accepted: int, limit: float) -> None:
    confidence = np.array([*[1.0] * accepted, 0.0])  # one more cell, which is refused
    right = np.arange(accepted + 1) >= wrong
    (level,) = bound_risk([0.5], confidence, right, simultaneous=0.95).levels
    assert level.error_bound == pytest.approx(limit, abs=1e-5)


def test_all_bounds_hold_together_as_often_as_promised() -> None:
    rng = np.random.default_rng(3)
    thresholds = [0.0, 0.3, 0.6, 0.9]
    # a call of confidence c is right with the chance c, so that above t the error is (1 - t) / 2
    broken = 0
    for _ in range(600):
        confidence = rng.random(150)
        found = bound_risk(thresholds, confidence, rng.random(150) < confidence, simultaneous=0.9)
        broken += any(level.error_bound < (1 - level.threshold) / 2 for level in found.levels)
    assert 0 < broken <= 600 * 0.10 + 3 * np.sqrt(600 * 0.1 * 0.9)


def test_the_lowest_threshold_that_suffices_is_chosen() -> None:
    right = np.arange(400) >= 20
    confidence = np.linspace(0.2, 1, 400)
    found = bound_risk([0.0, 0.21, 0.3, 0.5], confidence, right)
    assert found.level_for(0.10).threshold == 0.0
    assert found.level_for(0.05).threshold == 0.3
    assert found.level_at(0.3) is not None
    assert found.level_at(0.31) is None
    with pytest.raises(
        ConfigError, match=r"at most 0\.1 % cannot be guaranteed: 400 test cells bound it by 1\.2 %"
    ):
        found.level_for(0.001)


def test_candidates_hold_the_own_threshold_and_rise() -> None:
    found = candidate_thresholds(np.linspace(0, 1, 101), 0.12345)
    assert found == sorted(found)
    assert found == [0.05, 0.12345, 0.15, 0.35]


def test_halves_share_each_class() -> None:
    labels = np.repeat([0, 1, 2], [40, 7, 4])
    first, second = split_cells(labels)
    assert sorted([*first, *second]) == list(range(51))
    assert np.bincount(labels[first]).tolist()[0] == 20
    assert (np.abs(np.bincount(labels[first]) - np.bincount(labels[second])) <= 1).all()


@pytest.mark.parametrize("model", [RiskBounds, RiskLevel])
def test_misspelt_keys_are_refused(model: type[RiskBounds] | type[RiskLevel]) -> None:
    for key in model.model_fields:
        with pytest.raises(ValidationError, match=key + "x"):
            model.model_validate({key + "x": 1})
