"""Few cells: a kept threshold, a gain with its interval, and steps that follow the number of
cells.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner

from wbcpipe.classify.models.bundle import load_bundle
from wbcpipe.classify.models.bundle_info import Improvement
from wbcpipe.classify.training.build_bundle import build_bundle
from wbcpipe.classify.training.data import load_cells
from wbcpipe.classify.training.finetune import init_from_keys
from wbcpipe.classify.training.held_out import cross_validation_folds, leave_out_parts
from wbcpipe.classify.training.progress import TrainingOptions
from wbcpipe.classify.training.recipe import Recipe, with_defaults_for
from wbcpipe.classify.uncertainty.fusion import calibrate
from wbcpipe.classify.uncertainty.risk_control import CROSS_VALIDATED, cells_needed
from wbcpipe.errors import BundleError, TrainingDataError
from wbcpipe.pipeline import cli

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.classify.models.bundle import Bundle
    from wbcpipe.classify.training.data import CellSet
    from wbcpipe.samples.cell_store import CellStore

CPU = TrainingOptions(device="cpu")


def starting(bundle: Bundle, **changes: Any) -> Recipe:
    keys = {
        **init_from_keys(bundle),
        "batch_size": 16,
        "start_side": 32,
        "epochs": 1,
        "min_steps": 4,
    }
    keys |= changes
    return Recipe.model_validate(keys)


@pytest.mark.parametrize("count", [24, 36, 48])
def test_a_bundle_of_few_cells_keeps_its_parents_threshold(
    tiny_bundle: Bundle, write_store: Callable[..., CellStore], tmp_path: Path, count: int
) -> None:
    cells = load_cells([("mine", write_store("mine", count, fields=2).path)], 32)
    options = replace(CPU, init_from=tiny_bundle)
    info = build_bundle(
        cells, None, starting(tiny_bundle), name="mine", out=tmp_path / "out", options=options
    ).info
    assert info.calibration.threshold == tiny_bundle.info.calibration.threshold > 0
    assert info.calibration.risk_bounds is None
    assert info.calibration.head_disagreement is not None, "an alarm without a bound"
    assert info.calibration.cells == count, "each cell is held out once"
    gain = info.validation.improvement
    assert gain is not None
    assert (gain.cells, gain.folds, gain.parent) == (count, 2, "tiny")
    assert gain.interval[0] <= gain.difference <= gain.interval[1]
    assert gain.difference == pytest.approx(gain.accuracy - gain.parent_accuracy)


def test_enough_cells_are_bounded_by_cross_validation(
    tiny_bundle: Bundle, write_store: Callable[..., CellStore], tmp_path: Path
) -> None:
    cells = load_cells([("s1", write_store("s1", 120, fields=2).path)], 32)
    options = replace(CPU, init_from=tiny_bundle)
    made = build_bundle(
        cells, None, starting(tiny_bundle), name="m", out=tmp_path / "out", options=options
    )
    bounds = made.info.calibration.risk_bounds
    assert bounds is not None
    assert bounds.assumption.endswith(CROSS_VALIDATED)
    assert made.info.calibration.threshold >= tiny_bundle.info.calibration.threshold
    again = build_bundle(
        cells, None, starting(tiny_bundle), name="m", out=tmp_path / "out", options=options
    )
    assert again.info.sha256 == made.info.sha256, "a finished training is used again"
    assert (
        json.loads((made.path / "bundle.json").read_text())["validation"]["improvement"][
            "seen_by_parent"
        ]
        is True
    )


def test_cells_that_the_user_names_are_held_out_as_they_are(
    tiny_bundle: Bundle, cells: CellSet
) -> None:
    recipe = starting(tiny_bundle)
    assert cross_validation_folds(cells, None, recipe) == 5
    assert cross_validation_folds(cells, cells, recipe) == 0
    assert cross_validation_folds(cells, None, recipe.model_copy(update={"init_from": ""})) == 0
    assert cross_validation_folds(cells.subset(np.zeros(900, np.int64)), None, recipe) == 0
    two = replace(cells, groups=np.arange(len(cells)) % 2)
    assert cross_validation_folds(two, None, recipe) == 2


def test_each_named_sample_is_predicted_by_a_network_that_did_not_learn_from_it(
    write_store: Callable[..., CellStore], tmp_path: Path
) -> None:
    for seed, name in enumerate(("a", "b", "c")):
        write_store(name, 60, fields=6, seed=seed)
    out = tmp_path / "out"
    words = ["train", "a", "b", "c", "--data", str(tmp_path), "--out", str(out), "--name", "m"]
    words += ["--method", "mm-mimo", "--side", "32", "--epochs", "1", "--batch-size", "16"]
    words += ["--device", "cpu", "--leave-out", "c"]
    done = CliRunner().invoke(cli, [*words, "--leave-out", "a"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    info = load_bundle(out / "m").info
    assert info.calibration.cells == 120, "a and c; b was left out by nobody"
    assert info.calibration.risk_bounds is None, "two samples bound no error of a third"
    assert info.calibration.correction is None
    assert "no error bound: what holds for the samples left out need not" in done.output
    assert sum(info.training.cells.values()) == 180
    assert {"mm-mimo", "calibrated", "a left out", "c left out"} <= set(info.validation.rows)
    assert "b left out" not in info.validation.rows
    card = (out / "m" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "| c left out | 60 |" in card
    assert "samples (c, a) was left out" in card
    cells = load_cells([(name, tmp_path / name / "cells.zarr") for name in ("a", "b", "c")], 32)
    first, second = leave_out_parts(cells, ("c", "a"))
    assert cells.slides is not None
    assert set(cells.slides[first[0]]) == {0, 1}
    assert set(cells.slides[first[1]]) == {2}
    assert set(cells.slides[second[1]]) == {0}
    for names, why in ((("d",), "the samples are a, b, c"), (("a",), "it has all of the 60")):
        some = cells if names == ("d",) else cells.subset(np.flatnonzero(cells.slides == 0))
        with pytest.raises(TrainingDataError, match=why):
            leave_out_parts(some, names)
    again = CliRunner().invoke(cli, [*words, "--leave-out", "a"], catch_exceptions=False)
    assert again.exit_code == 0, again.output
    with pytest.raises(BundleError, match="same weights is there that was trained or validated"):
        CliRunner().invoke(cli, words, catch_exceptions=False)
    refused = CliRunner().invoke(cli, [*words, "--validation", "b"])
    assert refused.exit_code == 2
    assert "--leave-out excludes" in refused.output


@pytest.mark.parametrize(("default", "target"), [(0.0, 0.99), (0.4, 0.99), (0.7, 0.9)])
def test_a_threshold_is_fitted_by_as_many_cells_as_show_the_target(
    default: float, target: float
) -> None:
    labels = np.arange(240) % 3
    sure = np.eye(3)[labels][:, None] * 9
    few = calibrate(sure[:60], labels[:60], target_accuracy=target, default_threshold=default)[0]
    assert few.threshold == default
    many = calibrate(sure, labels, target_accuracy=target, default_threshold=default)[0]
    enough = cells_needed(1 - target, thresholds=1) <= 120
    assert many.threshold == (0.0 if enough else default)
    assert many.risk_bounds is not None


@pytest.mark.parametrize(
    ("cells", "steps"),
    [(16, 32), (25, 50), (50, 100), (79, 100), (125, None)],
    ids=lambda value: str(value),
)
def test_steps_follow_the_number_of_cells(cells: int, steps: int | None) -> None:
    found = with_defaults_for({"init_from": "0" * 64, "method": "mm-mimo"}, "stained-rgb", cells)
    assert found.get("min_steps") == steps


def test_the_command_says_how_much_better_the_network_is(
    tiny_bundle: Bundle, write_store: Callable[..., CellStore], tmp_path: Path
) -> None:
    write_store("mine", 30, fields=2, seed=5)
    words = [
        "train",
        "mine",
        "--data",
        str(tmp_path),
        "--out",
        str(tmp_path / "m"),
        "--device",
        "cpu",
    ]
    more = ["--epochs", "1", "--batch-size", "16", "--init-from", str(tiny_bundle.path)]
    done = CliRunner().invoke(cli, [*words, *more])
    assert done.exit_code == 0, done.output
    assert "of 30 cells right (2-fold cross-validation)" in done.stdout
    assert "% by tiny: " in done.stdout
    assert "95 % interval" in done.stdout
    assert "keep tiny, or label more cells" in done.stdout
    assert "threshold 0.3 of the parent" in done.stdout
    assert (
        "no error bound: 30 validation cells; a bound of 10 % needs 120, 5 % needs 172"
        in done.stdout
    )
    card = (load_bundle(tmp_path / "m" / "m").path / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "Compared with the bundle that the training started from" in card
    assert "too few validation cells to bound the error" in card


@pytest.mark.parametrize(
    ("interval", "advice"),
    [
        ((0.01, 0.09), "the bundle is better than tiny on cells like these"),
        ((-0.11, 0.02), "not shown to be better: keep tiny"),
        ((-0.11, -0.02), "worse: keep tiny"),
    ],
)
def test_an_interval_is_explained(interval: tuple[float, float], advice: str) -> None:
    found = Improvement(
        parent="tiny",
        cells=75,
        folds=5,
        accuracy=0.9,
        parent_accuracy=0.9,
        difference=sum(interval) / 2,
        interval=interval,
    )
    assert advice in found.advice


def test_the_name_is_checked_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    nameless = CliRunner().invoke(cli, ["train", "mine"])
    assert nameless.exit_code == 2
    assert "--name" in nameless.output
    for name in ("../mine", "", "a b"):
        done = CliRunner().invoke(cli, ["train", "mine", "--name", name])
        assert isinstance(done.exception, BundleError), name
        assert "is not allowed" in str(done.exception)
    assert not list(tmp_path.iterdir())


def test_the_work_folder_follows_from_the_name(
    tiny_bundle: Bundle,
    write_store: Callable[..., CellStore],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_store("mine", 30, fields=2, seed=5)
    words = ["train", "mine", "--data", str(tmp_path), "--name", "ours", "--device", "cpu"]
    more = ["--epochs", "1", "--batch-size", "16", "--init-from", str(tiny_bundle.path)]
    done = CliRunner().invoke(cli, [*words, *more])
    assert done.exit_code == 0, done.output
    assert load_bundle(tmp_path / "models" / "ours" / "ours").info.name == "ours"
    assert f"bundle {Path('models', 'ours', 'ours')} (SHA-256" in done.stdout
