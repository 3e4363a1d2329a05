"""A tiny training learns, goes on exactly after a stop, and reuses what stands."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from pydantic import ValidationError
from safetensors import safe_open

from wbcpipe.classify.models.normalise import fit_normalisation
from wbcpipe.classify.training.augment import Augmentation, augment
from wbcpipe.classify.training.checkpoint import load_state
from wbcpipe.classify.training.distill import total_loss
from wbcpipe.classify.training.folds import holdout
from wbcpipe.classify.training.progress import EpochReport, StepReport, TrainingOptions
from wbcpipe.classify.training.randaugment import RandAugment
from wbcpipe.classify.training.recipe import Recipe, with_defaults_for
from wbcpipe.classify.training.teacher import late_fusion_of
from wbcpipe.classify.training.train import (
    TrainingTask,
    one_cycle,
    predict_logits,
    train_network,
)
from wbcpipe.classify.training.train_and_validate import (
    cross_validate,
    markdown_table,
    train_and_validate,
)
from wbcpipe.classify.training.training_run import Patience
from wbcpipe.errors import ConfigError, TrainingDataError
from wbcpipe.pipeline import cli

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.classify.networks import FusionNetwork
    from wbcpipe.classify.training.data import CellSet
    from wbcpipe.samples.cell_store import CellStore

TINY = Recipe(side=32, start_side=32, batch_size=16, lr=4e-3, epochs=3, teacher_epochs=2)


def same_weights(first: FusionNetwork, second: FusionNetwork) -> bool:
    return all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_mimo_with_teachers_learns(cells: CellSet, tmp_path: Path) -> None:
    train, test = holdout(cells.labels, cells.groups, 0.25, 0)
    recipe = TINY.model_copy(update={"epochs": 8})
    reports: list[EpochReport] = []
    outcome = train_and_validate(
        cells.subset(train),
        cells.subset(test),
        recipe,
        tmp_path / "w",
        TrainingOptions(on_epoch=reports.append),
    )
    assert list(outcome.scores) == ["color1", "color2", "fluorescence", "late-fusion", "mm-mimo-kd"]
    assert outcome.scores["mm-mimo-kd"]["f1_weighted"] > 0.8
    assert outcome.logits.shape == (len(test), 3, 3)
    assert [r.role for r in reports if r.epoch == r.epochs] == [
        *(f"teacher {name}" for name in cells.modalities),
        "mm-mimo-kd",
    ]
    student = [r for r in reports if r.role == "mm-mimo-kd"]
    assert student[-1].loss < student[0].loss
    assert student[-1].work == pytest.approx(1)
    assert sum(r.share for r in student) == pytest.approx(1)

    again: list[EpochReport] = []
    second = train_and_validate(
        cells.subset(train),
        cells.subset(test),
        recipe,
        tmp_path / "w",
        TrainingOptions(on_epoch=again.append),
    )
    assert all(r.seconds == 0 for r in again)
    assert same_weights(outcome.network, second.network)
    assert np.array_equal(outcome.logits, second.logits)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ema": 0.9},
        {"randaugment": RandAugment()},
        {"patience": 2, "holdout": 0.3},
        {"patience": 2, "holdout": 0.3, "ema": 0.9},
        {"modality_dropout": 0.3, "single_modality_prob": 0.2},
    ],
    ids=["plain", "ema", "randaugment", "patience", "patience-ema", "modality-dropout"],
)
def test_a_broken_training_ends_in_the_same_weights(
    cells: CellSet, tmp_path: Path, options: dict[str, object]
) -> None:
    part = cells.subset(np.arange(48))
    normalisation = fit_normalisation(part.images)
    recipe = TINY.model_copy(update={"method": "mm-mimo", **options})
    whole = train_network(TrainingTask(part, normalisation, recipe, "x"), tmp_path / "whole")

    class Stopped(Exception):  # noqa: N818
        pass

    def stop(report: EpochReport) -> None:
        if report.epoch == 2:
            raise Stopped

    with pytest.raises(Stopped):
        train_network(
            TrainingTask(part, normalisation, recipe, "x"),
            tmp_path / "broken",
            TrainingOptions(on_epoch=stop),
        )
    left: list[EpochReport] = []
    resumed = train_network(
        TrainingTask(part, normalisation, recipe, "x"),
        tmp_path / "broken",
        TrainingOptions(on_epoch=left.append),
    )
    assert [r.epoch for r in left] == [3]
    assert same_weights(whole, resumed)
    assert (tmp_path / "whole" / "state.safetensors").read_bytes() == (
        tmp_path / "broken" / "state.safetensors"
    ).read_bytes()


@pytest.mark.usefixtures("two_threads")
def test_a_stop_in_mid_epoch_loses_that_epoch_only(cells: CellSet, tmp_path: Path) -> None:
    part = cells.subset(np.arange(48))
    normalisation = fit_normalisation(part.images)
    recipe = TINY.model_copy(update={"method": "early-fusion"})
    whole = train_network(TrainingTask(part, normalisation, recipe, "x"), tmp_path / "whole")

    def dies(report: StepReport) -> None:
        if report.step == 5:  # the second of three steps of the second epoch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_network(
            TrainingTask(part, normalisation, recipe, "x"),
            tmp_path / "broken",
            TrainingOptions(on_step=dies),
        )
    assert same_weights(
        whole, train_network(TrainingTask(part, normalisation, recipe, "x"), tmp_path / "broken")
    )


def test_other_cells_or_another_recipe_are_refused(cells: CellSet, tmp_path: Path) -> None:
    part = cells.subset(np.arange(32))
    recipe = TINY.model_copy(update={"method": "early-fusion", "epochs": 1})
    normalisation = fit_normalisation(part.images)
    train_network(TrainingTask(part, normalisation, recipe, "x"), tmp_path)
    with pytest.raises(TrainingDataError, match="other cells or another recipe"):
        train_network(
            TrainingTask(cells.subset(np.arange(33)), normalisation, recipe, "x"), tmp_path
        )
    with pytest.raises(TrainingDataError, match="give another --out"):
        train_network(
            TrainingTask(part, normalisation, recipe.model_copy(update={"seed": 1}), "x"), tmp_path
        )
    (tmp_path / "state.safetensors").write_bytes(b"no tensors")
    with pytest.raises(TrainingDataError, match="cannot be read"):
        load_state(tmp_path / "state.safetensors", "x")


def test_teachers_do_not_depend_on_the_students_options() -> None:
    other = TINY.model_copy(
        update={
            "epochs": 90,
            "temperature": 7.0,
            "input_repetition_prob": 0.1,
            "method": "early-fusion-kd",
        }
    )
    assert other.for_teacher("color1") == TINY.for_teacher("color1")
    assert TINY.for_teacher("color1").epochs == TINY.teacher_epochs


@pytest.mark.parametrize(
    "method", ["single", "early-fusion", "early-fusion-kd", "late-fusion", "mm-mimo"]
)
def test_every_method_runs(cells: CellSet, tmp_path: Path, method: str) -> None:
    part = cells.subset(np.arange(48))
    recipe = Recipe.model_validate(
        {
            **TINY.model_dump(),
            "method": method,
            "epochs": 1,
            "teacher_epochs": 1,
            "modality": "color2",
        }
    )
    outcome = train_and_validate(part, part, recipe, tmp_path)
    assert list(outcome.scores)[-1] == ("color2" if method == "single" else method)
    assert outcome.logits.shape == (48, outcome.network.heads, 3)


def test_late_fusion_is_its_members(cells: CellSet, tmp_path: Path) -> None:
    part = cells.subset(np.arange(32))
    normalisation = fit_normalisation(part.images)
    members = [
        train_network(
            TrainingTask(
                part.modality(i),
                normalisation.modality(i, 1),
                TINY.for_teacher(name).model_copy(update={"epochs": 1}),
                name,
            ),
            tmp_path / name,
        )
        for i, name in enumerate(part.modalities)
    ]
    together = predict_logits(late_fusion_of(members, TINY.backbone), part, normalisation)
    for i, member in enumerate(members):
        alone = predict_logits(member, part.modality(i), normalisation.modality(i, 1))
        np.testing.assert_allclose(together[:, i], alone[:, 0], atol=1e-4)


def test_small_pictures_come_first() -> None:
    recipe = Recipe(side=112, start_side=64, epochs=10)
    sides = [recipe.side_at(epoch) for epoch in range(10)]
    assert sides[0] == 64
    assert sides[-3:] == [112] * 3
    assert sides == sorted(sides)


def test_cross_validation_is_resumable_and_makes_a_table(cells: CellSet, tmp_path: Path) -> None:
    recipe = TINY.model_copy(update={"method": "mm-mimo", "epochs": 1})
    partial = cross_validate(cells, recipe, tmp_path, folds=2, only=1)
    assert partial["finished"] == [1]
    seen: list[tuple[int | None, float]] = []
    table = cross_validate(
        cells,
        recipe,
        tmp_path,
        folds=2,
        options=TrainingOptions(on_epoch=lambda r: seen.append((r.fold, r.seconds))),
    )
    assert [n for n, seconds in seen if seconds] == [0]  # fold 1 was trained before
    assert table["finished"] == [0, 1]
    assert table["methods"]["mm-mimo"]["mean"]["cells"] == len(cells)
    assert json.loads((tmp_path / "folds.json").read_text()) == table
    text = (tmp_path / "folds.md").read_text()
    assert text == markdown_table(table)
    assert "2 of 2 folds, 180 cells of s1" in text
    assert "| mm-mimo |" in text
    with pytest.raises(TrainingDataError, match="fold 2 is not one of 2"):
        cross_validate(cells, recipe, tmp_path, folds=2, only=2)


@pytest.mark.parametrize("key", list(Recipe.model_fields))
def test_misspelt_recipe_keys_are_refused(key: str) -> None:
    with pytest.raises(ValidationError, match=key + "x"):
        Recipe.model_validate({key + "x": 1})


@pytest.mark.parametrize("key", list(Augmentation.model_fields))
def test_misspelt_augmentation_keys_are_refused(key: str) -> None:
    with pytest.raises(ValidationError, match=key + "x"):
        Augmentation.model_validate({key + "x": 1})


def test_patience_ends_training_and_keeps_the_best_weights(
    cells: CellSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wbcpipe.classify.training.train as module

    losses = iter([3.0, 1.0, 2.0, 2.0, 0.5])
    networks: list[FusionNetwork] = []
    predict = module.predict_logits

    def watched(network: FusionNetwork, *rest: Any, **options: Any) -> NDArray[np.float32]:
        networks.append(copy.deepcopy(network))
        return predict(network, *rest, **options)

    monkeypatch.setattr(module, "cross_entropy_over_heads", lambda *_: torch.tensor(next(losses)))
    monkeypatch.setattr(module, "predict_logits", watched)
    part = cells.subset(np.arange(48))
    normalisation = fit_normalisation(part.images)
    recipe = TINY.model_copy(
        update={"method": "early-fusion", "epochs": 5, "patience": 2, "holdout": 0.3}
    )
    reports: list[EpochReport] = []
    network = train_network(
        TrainingTask(part, normalisation, recipe, "x"),
        tmp_path,
        TrainingOptions(on_epoch=reports.append),
    )
    assert [report.epoch for report in reports] == [1, 2, 3, 4]
    assert reports[-1].work == 1.0
    assert same_weights(network, networks[1])
    assert not same_weights(network, networks[3])

    again: list[EpochReport] = []
    second = train_network(
        TrainingTask(part, normalisation, recipe, "x"),
        tmp_path,
        TrainingOptions(on_epoch=again.append),
    )
    assert same_weights(network, second)
    assert [(report.epoch, report.seconds, report.work) for report in again] == [(4, 0.0, 1.0)]
    kept = load_state(tmp_path / "state.safetensors", json.loads(_header(tmp_path))["fingerprint"])
    assert kept is not None
    assert not [name for name in kept[0] if name.startswith("opt.")], (
        "a finished training needs no optimiser"
    )


def _header(folder: Path) -> str:
    with safe_open(folder / "state.safetensors", framework="pt") as handle:
        return str(handle.metadata()["wbcpipe"])


def test_patience_outlives_a_loss_that_is_no_number() -> None:
    network = torch.nn.Linear(2, 1)
    patience = Patience(epochs=3)
    patience.observe(float("nan"), network)
    assert (patience.stale_epochs, patience.weights) == (1, {})
    for loss in (None, 0.5, 0.7):
        if loss is not None:
            patience.observe(loss, network)
        restored = Patience(epochs=3)
        best_loss = patience.best_loss if patience.weights else None
        restored.restore(patience.tensors(), best_loss, patience.stale_epochs)
        assert restored == patience
    assert (patience.best_loss, patience.stale_epochs, patience.over) == (0.5, 1, False)


def test_the_rate_rises_and_falls_once() -> None:
    rates = [one_cycle(step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.05)
    assert rates[10] == pytest.approx(0.525)
    assert max(rates) == rates[20] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(1e-3 + 0.999 / 2)
    assert rates[100] == pytest.approx(1e-3)


def test_any_key_of_the_recipe_can_be_set(
    write_store: Callable[..., CellStore], tmp_path: Path
) -> None:
    words = [
        "train",
        str(write_store(count=48).path),
        "--method",
        "early-fusion",
        "--side",
        "32",
        "--epochs",
        "1",
    ]
    words += ["--folds", "2", "--fold", "0", "--out", str(tmp_path / "out"), "--json"]
    done = CliRunner().invoke(
        cli, [*words, "--set", "start_side=32,batch_size=8", "--set", "randaugment.magnitude=9"]
    )
    assert done.exit_code == 0, done.output
    recipe = json.loads(done.stdout)["recipe"]
    assert (recipe["batch_size"], recipe["randaugment"]) == (8, {"operations": 2, "magnitude": 9})
    words[words.index("--out") + 1] = str(tmp_path / "paper")
    done = CliRunner().invoke(
        cli,
        [
            *words,
            "--published",
            "--set",
            "distillation.weight=2,batch_size=8",
        ],
    )
    assert done.exit_code == 0, done.output
    recipe = Recipe.model_validate(json.loads(done.stdout)["recipe"])
    assert (recipe.randaugment, recipe.input_repetition_prob, recipe.sampling) == (
        RandAugment(),
        0.0,
        "natural",
    )
    assert (recipe.side, recipe.epochs, recipe.method) == (32, 1, "early-fusion")
    assert recipe.distillation.weight == 2.0
    refused = CliRunner().invoke(cli, [*words, "--set", "no_such_key=1"])
    assert isinstance(refused.exception, ConfigError)
    assert "no_such_key" in str(refused.exception)


def test_the_published_recipe_is_the_papers_at_any_side() -> None:
    """Section 3.1: RandAugment with N = 2 and M = 18, 224 pixels, and no other trick."""
    recipe = Recipe.published(epochs=7)
    assert recipe.randaugment is not None
    assert (recipe.randaugment.operations, recipe.randaugment.magnitude) == (2, 18)
    assert [recipe.side_at(epoch) for epoch in range(7)] == [224] * 7
    assert [Recipe.published(side=64).side_at(epoch) for epoch in range(3)] == [64] * 3
    assert (recipe.ema, recipe.patience) == (0.0, 0)
    assert recipe.for_teacher("color1").randaugment == recipe.randaugment


def test_normalisation_and_augmentation_suit_the_cells_unless_told() -> None:
    smear = Recipe.model_validate(
        with_defaults_for({"augmentation": {"stain": 0.1}}, "stained-rgb", 5000)
    )
    assert (smear.normalise, smear.augmentation.stain, smear.augmentation.stain_mixing) == (
        "separate",
        0.1,
        0.2,
    )
    amounts = Recipe.model_validate(
        with_defaults_for({"normalise": "fixed"}, "stained-rgb", 5000)
    ).augmentation
    assert (amounts.gain, amounts.offset, amounts.gamma, amounts.scale, amounts.lossless_prob) == (
        0.0,
        0.0,
        0.0,
        0.0,
        1.0,
    )
    assert Recipe.model_validate(
        with_defaults_for({"method": "early-fusion"}, "scope", 5000)
    ) == Recipe(method="early-fusion")
    assert (smear.method, Recipe.published().method) == ("early-fusion", "mm-mimo-kd")
    lamps = Recipe.model_validate(
        with_defaults_for({"single_modality_prob": 0.0}, "scope", 5000)
    )  # these fail one by one, colours do not
    assert (lamps.single_modality_prob, lamps.modality_dropout) == (0.0, 0.1)
    assert (smear.single_modality_prob, smear.modality_dropout) == (0.0, 0.0)
    paper = {"randaugment": {"operations": 2}, "normalise": "cell"}
    assert with_defaults_for(paper, "stained-rgb", 5000) == paper


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        ([], ""),
        (
            ["--set", "temperature=2,input_repetition_prob=0.2"],
            "temperature, input_repetition_prob",
        ),
        (["--method", "mm-mimo", "--set", "input_repetition_prob=0.2"], ""),
    ],
)
def test_the_method_of_photographs_is_said_with_its_reason(
    write_store: Callable[..., CellStore], tmp_path: Path, words: list[str], refused: str
) -> None:
    store = str(write_store(count=48, attributes={"kind": "stained-rgb"}).path)
    quick = ["--side", "32", "--epochs", "1", "--normalise", "stain", "--folds", "2"]
    quick += ["--fold", "0", "--json"]
    out = str(tmp_path / "out")
    done = CliRunner().invoke(cli, ["train", store, *quick, "--out", out, *words])
    if refused:
        assert isinstance(done.exception, ConfigError)
        assert f"{refused}: without effect on method early-fusion" in str(done.exception)
        return
    assert done.exit_code == 0, done.output
    method = json.loads(done.stdout)["recipe"]["method"]
    assert method == ("mm-mimo" if words else "early-fusion")
    assert ("the planes of one photograph show the same pixels" in done.stderr) == (not words)


def test_pictures_keep_their_amounts_where_amounts_tell(
    write_store: Callable[..., CellStore], tmp_path: Path
) -> None:
    options = Recipe.model_validate(
        with_defaults_for({"normalise": "fixed"}, "scope", 5000)
    ).augmentation
    images = torch.rand((8, 2, 32, 32))
    # Cells stand in the middle: what a shift loses at one side and mirrors in at the other is
    # ground.
    images[:, :, :4], images[:, :, -4:], images[..., :4], images[..., -4:] = 0.0, 0.0, 0.0, 0.0
    changed = augment(
        images.clone(),
        torch.zeros(8, dtype=torch.bool),
        2,
        options,
        torch.Generator().manual_seed(1),
    )
    torch.testing.assert_close(changed.sum(dim=(2, 3)), images.sum(dim=(2, 3)))
    assert not torch.equal(changed, images)
    store = str(write_store(count=48).path)
    words = [
        "train",
        store,
        "--method",
        "early-fusion",
        "--side",
        "32",
        "--epochs",
        "1",
        "--normalise",
        "fixed",
    ]
    words += [
        "--folds",
        "2",
        "--fold",
        "0",
        "--out",
        str(tmp_path / "out"),
        "--json",
        "--set",
        "augmentation.gain=0.3",
    ]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    used = json.loads(done.stdout)["recipe"]["augmentation"]
    assert (used["gain"], used["offset"], used["lossless_prob"]) == (0.3, 0.0, 1.0)


def test_few_cells_are_drawn_again_until_the_steps_are_enough(
    cells: CellSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wbcpipe.classify.training.train as module

    part = cells.subset(np.arange(20))
    recipe = TINY.model_copy(update={"method": "mm-mimo", "min_steps": 10})
    sizes: list[int] = []

    def counted(logits: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        sizes.append(len(logits))
        return total_loss(logits, *rest, **options)

    monkeypatch.setattr(module, "total_loss", counted)
    reports: list[EpochReport] = []
    train_network(
        TrainingTask(part, fit_normalisation(part.images), recipe, "x"),
        tmp_path,
        TrainingOptions(on_epoch=reports.append),
    )
    assert sizes == [16] * 12  # 3 epochs of 4
    assert [report.epoch for report in reports] == [1, 2, 3]
    assert recipe.for_teacher("color1").min_steps == 10
    assert Recipe.model_validate(with_defaults_for({}, "scope", 100)).min_steps == 1500
    assert (
        Recipe.model_validate(with_defaults_for({"init_from": "0" * 64}, "scope", 40)).min_steps
        == 80
    )
    assert "min_steps" not in with_defaults_for({"init_from": "0" * 64}, "scope", 300)
    assert Recipe.model_validate(with_defaults_for({"min_steps": 0}, "scope", 100)).min_steps == 0
    assert (
        Recipe.model_validate(with_defaults_for({"epochs": 60}, "stained-rgb", 100)).min_steps == 0
    )
    assert Recipe.model_validate(with_defaults_for({}, "stained-rgb", 1200)).min_steps == 0
