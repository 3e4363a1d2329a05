"""Inputs dropout while training.

Which rows, what is done to them, and what a network learns from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from wbcpipe.classify.inference.missing_modality import blank, typical_images, typical_profiles
from wbcpipe.classify.models.normalise import fit_normalisation
from wbcpipe.classify.study.probe import probe_inputs
from wbcpipe.classify.training.distill import (
    cross_entropy_over_heads,
    distillation_loss,
    total_loss,
)
from wbcpipe.classify.training.folds import holdout
from wbcpipe.classify.training.modality_dropout import ModalityDropout, draw_modality_dropout
from wbcpipe.classify.training.recipe import Recipe
from wbcpipe.classify.training.train import TrainingTask, train_network

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.classify.training.data import CellSet


def test_rows_are_drawn_as_often_as_asked() -> None:
    same = torch.arange(6000) % 2 == 0
    drawn = draw_modality_dropout(same, 3, 0.3, 0.2, torch.Generator().manual_seed(0))
    assert drawn.missing.shape == drawn.single.shape == (6000, 3)
    assert drawn.missing.sum(dim=1).max() == drawn.single.sum(dim=1).max() == 1
    assert not drawn.missing[~same].any()
    assert not (drawn.missing.any(dim=1) & drawn.single.any(dim=1)).any()
    assert drawn.single.any(dim=1).float().mean() == pytest.approx(0.2, abs=0.02)
    assert drawn.missing[same].any(dim=1).float().mean() == pytest.approx(0.8 * 0.3, abs=0.02)
    for chosen in (drawn.single, drawn.missing):  # no modality more than another
        assert (chosen.sum(dim=0) / chosen.sum()).numpy() == pytest.approx([1 / 3] * 3, abs=0.05)


def test_what_is_missing_looks_as_it_does_at_run_time() -> None:
    images = np.random.default_rng(0).normal(0, 1, (5, 6, 32, 32)).astype(np.float32)
    typical = typical_profiles(images).tolist()
    missing = torch.zeros((5, 3), dtype=torch.bool)
    missing[1, 2] = missing[4, 0] = True
    dropout = ModalityDropout(missing, torch.zeros_like(missing))
    found = dropout.apply(
        torch.from_numpy(images), torch.from_numpy(typical_images(typical, 32))
    ).numpy()
    assert np.array_equal(found[[0, 2, 3]], images[[0, 2, 3]])
    assert np.array_equal(found[1], blank(images, [2], 2, typical)[1])
    assert np.array_equal(found[4], blank(images, [0], 2, typical)[4])
    assert not dropout.uninformative_heads.any()


def test_one_modality_alone_is_on_all_inputs_and_the_other_heads_shall_doubt() -> None:
    images = torch.randn((3, 6, 32, 32), generator=torch.Generator().manual_seed(0))
    alone = torch.tensor([[False] * 3, [False, True, False], [True, False, False]])
    dropout = ModalityDropout(torch.zeros_like(alone), alone)
    found = dropout.apply(images, torch.zeros((6, 32, 32)))
    assert torch.equal(found[0], images[0])
    assert torch.equal(found[1], images[1, 2:4].repeat(3, 1, 1))
    assert torch.equal(found[2], images[2, :2].repeat(3, 1, 1))
    assert dropout.uninformative_heads.tolist() == [
        [False] * 3,
        [True, False, True],
        [False, True, True],
    ]


def test_a_doubtful_head_is_right_when_all_classes_are_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((4, 2, 3), generator=generator)
    labels = torch.randint(3, (4, 2), generator=generator)
    uninformative = torch.tensor([[True, False], [False, False], [True, True], [False, True]])
    log_p = logits.log_softmax(-1)
    each = torch.where(
        uninformative, -log_p.mean(-1), -log_p.gather(-1, labels[..., None]).squeeze(-1)
    )
    assert cross_entropy_over_heads(
        logits, labels, uninformative_heads=uninformative
    ) == pytest.approx(each.sum(1).mean().item())
    none = torch.zeros_like(uninformative)
    assert cross_entropy_over_heads(
        logits, labels, uninformative_heads=none
    ) == cross_entropy_over_heads(logits, labels)
    even = torch.zeros((4, 2, 3), requires_grad=True)
    cross_entropy_over_heads(
        even, labels, uninformative_heads=torch.ones_like(uninformative)
    ).backward()  # type: ignore[no-untyped-call]
    assert even.grad is not None
    assert even.grad.abs().max() < 1e-7


def test_a_teacher_does_not_teach_a_doubtful_head() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn((2, 4, 2, 3), generator=generator)
    labels = torch.randint(3, (4, 2), generator=generator)
    uninformative = torch.tensor([[True, False]] * 4)
    found = total_loss(student, labels, teacher, temperature=2.0, uninformative_heads=uninformative)
    teacher[:, 0] = 0.0
    by_hand = cross_entropy_over_heads(student, labels, uninformative_heads=uninformative)
    assert found == pytest.approx(
        (by_hand + 4 * distillation_loss(student, teacher, 2.0)).item(), rel=1e-6
    )


def probed(
    cells: CellSet, work: Path, what: str, recipe: Recipe
) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """Logits (M, N, H, K) of test cells with ``what`` done to each modality, of a network trained
    on others; labels.
    """
    train, test = (cells.subset(rows) for rows in holdout(cells.labels, cells.groups, 0.25, 0))
    normalisation = fit_normalisation(train.images)
    network = train_network(TrainingTask(train, normalisation, recipe, "x"), work)
    return torch.from_numpy(
        probe_inputs(network, train, test, normalisation, "cpu")[what]
    ), test.labels


SMALL = Recipe(side=32, start_side=32, batch_size=16)


def test_a_network_that_missed_modalities_calls_without_one(cells: CellSet, tmp_path: Path) -> None:
    right = []
    for share in (0.0, 0.5):
        recipe = SMALL.model_copy(
            update={"method": "early-fusion", "epochs": 12, "lr": 4e-3, "modality_dropout": share}
        )
        logits, labels = probed(cells, tmp_path / f"{share}", "typical_logits", recipe)
        right.append(float((logits.mean(2).argmax(-1).numpy() == labels).mean()))
    assert right[1] > 0.85
    assert right[1] >= right[0]
