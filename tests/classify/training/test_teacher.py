"""Teachers: several seeds, calibrated fusion, and the images that they see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from wbcpipe.classify.models.normalise import fit_normalisation
from wbcpipe.classify.networks import FusionNetwork, build_network
from wbcpipe.classify.training.recipe import Recipe
from wbcpipe.classify.training.teacher import MeanOfNetworks, Teacher, fit_teacher_fusion
from wbcpipe.classify.training.train import TrainingTask, predict_logits, train_network
from wbcpipe.classify.training.train_and_validate import train_and_validate
from wbcpipe.classify.uncertainty.probability_calibration import (
    ProbabilityCalibration,
    fused_probability,
)

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.classify.training.data import CellSet
    from wbcpipe.classify.training.recipe import TrainingPrecision

TINY = Recipe(side=32, start_side=32, batch_size=16, epochs=1, teacher_epochs=1)


class Constant(FusionNetwork):
    """The same logits (heads, K) for every image; it keeps the images that it was shown."""

    def __init__(self, logits: list[list[float]], modalities: int) -> None:
        super().__init__(modalities, 1, len(logits[0]), len(logits))
        self.logits = torch.tensor(logits)
        self.shown: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.shown.append(images.clone())
        return self.logits.expand(len(images), *self.logits.shape)


def test_teachers_of_several_seeds_teach_their_mean_probability() -> None:
    first = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log()
    second = torch.tensor([[0.5, 0.5], [0.4, 0.6]]).log() + 3.0  # logits: any constant added
    mean = MeanOfNetworks([Constant(part.tolist(), 2) for part in (first, second)])
    found = mean(torch.zeros(3, 2, 4, 4)).exp()
    assert found.shape == (3, 2, 2)
    assert found[0].flatten().tolist() == pytest.approx([0.7, 0.3, 0.3, 0.7], rel=1e-5)


def test_a_calibrated_fusion_weighs_heads_as_in_a_bundle() -> None:
    logits = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    fusion = ProbabilityCalibration(temperatures=(1.5, 0.8), weights=(0.25, 0.75))
    network = Constant([[0.0] * 3] * 2, 2)
    found = Teacher(network, fusion).fused(logits)
    assert found.shape == (5, 1, 3)
    expected = fused_probability(logits.numpy(), fusion)
    np.testing.assert_allclose(found[:, 0].exp().numpy(), expected, rtol=1e-5)
    plain = Teacher(network).fused(logits).exp()[:, 0]
    torch.testing.assert_close(plain, logits.softmax(-1).mean(1))


def test_the_fusion_follows_the_better_head() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=300)
    good, bad = 4.0 * np.eye(3)[labels], 4.0 * np.eye(3)[rng.integers(3, size=300)]
    fitted = fit_teacher_fusion(np.stack([good, bad], axis=1).astype(np.float32), labels)
    fused = fused_probability(np.stack([good, bad], axis=1), fitted)
    assert (fused.argmax(1) == labels).mean() == 1.0


def test_teacher_and_student_see_the_same_image(
    cells: CellSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = cells.subset(np.arange(32))
    recipe = TINY.model_copy(update={"method": "mm-mimo-kd", "start_side": 32})
    teacher = Constant([[0.0] * 3] * 3, 3)
    seen = _shown_to_the_student(monkeypatch)
    monkeypatch.setattr(Teacher, "on", lambda self, _: self)
    train_network(
        TrainingTask(part, fit_normalisation(part.images), recipe, "x", Teacher(teacher)),
        tmp_path,
    )
    assert len(teacher.shown) == len(seen) == 2
    assert all(torch.equal(*pair) for pair in zip(teacher.shown, seen, strict=True))


@pytest.mark.parametrize(("precision", "mixed"), [("auto", False), ("bfloat16", True)])
def test_a_teacher_computes_with_the_precision_of_the_training(
    cells: CellSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: TrainingPrecision,
    mixed: bool,
) -> None:
    # bfloat16 takes ten times as long on a processor that has no instructions for it.
    part = cells.subset(np.arange(16))
    recipe = TINY.model_copy(update={"method": "mm-mimo-kd", "precision": precision})
    teacher = Constant([[0.0] * 3] * 3, 3)
    found = []
    teacher.register_forward_hook(lambda *_: found.append(torch.is_autocast_enabled("cpu")))
    monkeypatch.setattr(Teacher, "on", lambda self, _: self)
    task = TrainingTask(part, fit_normalisation(part.images), recipe, "x", Teacher(teacher))
    train_network(task, tmp_path)
    assert set(found) == {mixed}


def test_a_student_takes_over_what_its_teacher_says(cells: CellSet, tmp_path: Path) -> None:
    part = cells.subset(np.arange(96))
    normalisation = fit_normalisation(part.images)
    always_the_first = Teacher(Constant([[4.0, 0.0, 0.0]] * 3, 3))
    first = {}
    for method, teacher in (("mm-mimo", None), ("mm-mimo-kd", always_the_first)):
        recipe = TINY.model_copy(update={"method": method, "epochs": 10, "lr": 4e-3})
        task = TrainingTask(part, normalisation, recipe, "x", teacher)
        network = train_network(task, tmp_path / method)
        logits = torch.from_numpy(predict_logits(network, part, normalisation))
        first[method] = float(logits.softmax(-1)[..., 0].mean())
    assert first["mm-mimo-kd"] > max(0.6, first["mm-mimo"] + 0.15)


def _shown_to_the_student(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Return a list to which every batch that the next network reads is added."""
    import wbcpipe.classify.training.training_run as module

    seen: list[torch.Tensor] = []

    def watched(*words: object) -> FusionNetwork:
        network = build_network(*words)  # type: ignore[arg-type]
        network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
        return network

    monkeypatch.setattr(module, "build_network", watched)
    return seen


def test_the_fused_output_of_a_student_is_taught_by_calibrated_teachers_of_two_seeds(
    cells: CellSet, tmp_path: Path
) -> None:
    few = cells.subset(np.arange(48))
    recipe = Recipe.model_validate(
        TINY.model_dump()
        | {
            "teacher_epochs": None,
            "epochs": 2,
            "distillation": {
                "fused_weight": 1.0,
                "teacher_fusion": "calibrated",
                "teacher_seeds": 2,
            },
        }
    )
    found = train_and_validate(few, cells.subset(np.arange(48, 60)), recipe, tmp_path)
    folders = {path.name for path in tmp_path.iterdir()}
    for name in cells.modalities:
        assert {f"teacher-{name}-held-out", f"teacher-{name}-1-held-out"} <= folders
    assert list(found.scores) == [*cells.modalities, "late-fusion", "mm-mimo-kd"]
    assert recipe.for_teacher("color1", 1).seed == 1
    assert recipe.for_teacher("color1").epochs == 2


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"distillation": {"fused_weight": 1.0}, "method": "early-fusion-kd"}, "mm-mimo-kd"),
        ({"distillation": {"fused_weight": 1.0}, "input_repetition_prob": 0}, "repetition"),
        ({"distillation": {"teacher_fusion": "calibrated"}}, "fused_weight above 0"),
        ({"stem": "split", "method": "single"}, "early-fusion or mm-mimo"),
        ({"missing_input": "told"}, "modality_dropout"),
    ],
    ids=str,
)
def test_keys_without_effect_are_refused(keys: dict[str, object], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        Recipe.model_validate(keys)


def test_one_teacher_of_a_seed_is_the_teacher_itself() -> None:
    network = build_network("late-fusion", "shufflenet_v2_x1_0", 2, 1, 3).eval()
    fused = Teacher(network).on(torch.device("cpu")).network
    images = torch.randn(2, 2, 32, 32)
    torch.testing.assert_close(fused(images), network(images), rtol=1e-3, atol=1e-4)
