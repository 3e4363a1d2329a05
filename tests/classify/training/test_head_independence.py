"""What the heads of a trained MM-MIMO follow and doubt: section 3.3 and Figure 4 of the paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from wbcpipe.classify.models.normalise import fit_normalisation
from wbcpipe.classify.study.probe import probe_inputs
from wbcpipe.classify.training.folds import holdout
from wbcpipe.classify.training.recipe import Recipe
from wbcpipe.classify.training.train import TrainingTask, train_network

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.classify.models.normalise import Normalisation
    from wbcpipe.classify.networks import FusionNetwork
    from wbcpipe.classify.training.data import CellSet

RECIPE = Recipe(
    method="mm-mimo",
    side=32,
    start_side=32,
    batch_size=16,
    lr=4e-3,
    epochs=16,
    input_repetition_prob=0.0,
)


@dataclass(frozen=True)
class Trained:
    """A network, the cells it was trained on, and others."""

    network: FusionNetwork
    normalisation: Normalisation
    train: CellSet
    test: CellSet


def train_on(cells: CellSet, work: Path, single_modality_prob: float) -> Trained:
    train, test = (cells.subset(rows) for rows in holdout(cells.labels, cells.groups, 0.25, 0))
    normalisation = fit_normalisation(train.images)
    recipe = RECIPE.model_copy(update={"single_modality_prob": single_modality_prob})
    network = train_network(TrainingTask(train, normalisation, recipe, "x"), work)
    return Trained(network, normalisation, train, test)


@pytest.fixture(scope="module")
def kept() -> list[Trained]:
    """Room for the network that the tests here share."""
    return []


@pytest.fixture
def published(
    kept: list[Trained], cells: CellSet, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    """MM-MIMO that saw each modality on its own input alone."""
    if not kept:
        kept.append(train_on(cells, tmp_path_factory.mktemp("published"), 0.0))
    return kept[0]


def test_each_head_follows_its_own_modality(published: Trained) -> None:
    """Given cells of different classes, each head answers for its own input."""
    test = published.test
    rng = np.random.default_rng(0)
    table = np.stack([rng.permutation(len(test)) for _ in range(3)], axis=1)
    mixed = test.images[table, np.arange(3)[None, :]]
    with torch.no_grad():
        logits = published.network(torch.from_numpy(published.normalisation.apply(mixed))).numpy()
    right = logits.argmax(-1) == test.labels[table]
    assert (right.mean(axis=0) > 0.55).all()  # chance is 1 / 3
    others = np.stack(
        [logits.argmax(-1)[:, i] == test.labels[table[:, (i + 1) % 3]] for i in range(3)]
    )
    assert right.mean() > others.mean() + 0.2


def test_heads_learn_to_doubt_what_is_not_theirs(
    published: Trained, cells: CellSet, tmp_path: Path
) -> None:
    """Figure 4: with one modality on all inputs its head is sure and the others are not.

    Without such cells in the training they all are.
    """
    apart = []
    for trained in (published, train_on(cells, tmp_path, 0.5)):
        found = probe_inputs(
            trained.network, trained.train, trained.test, trained.normalisation, "cpu"
        )
        logits = torch.from_numpy(found["single_logits"])
        sure = logits.softmax(-1).amax(-1).mean(1)  # (modality, head)
        own = sure.diagonal().mean()
        apart.append(float(own - (sure.sum() - sure.diagonal().sum()) / 6))
    assert apart[1] > 0.2
    assert apart[1] > apart[0] + 0.1
