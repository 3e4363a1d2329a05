"""The state of one network's training.

Network, optimiser, moving average and patience, in memory and on disk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from wbcpipe.classify.inference.missing_modality import typical_images, typical_profiles_of
from wbcpipe.classify.networks import (
    FusionNetwork,
    InputLayers,
    build_network,
    keep_channels_last,
)
from wbcpipe.classify.training.checkpoint import (
    CheckpointInfo,
    load_state,
    optimizer_tensors,
    restore_optimizer,
    save_state,
)
from wbcpipe.classify.training.data import steps_of
from wbcpipe.classify.training.finetune import load_pretrained_weights
from wbcpipe.classify.training.folds import holdout

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from wbcpipe.classify.models.bundle import Bundle
    from wbcpipe.classify.models.normalise import Normalisation
    from wbcpipe.classify.training.data import CellSet
    from wbcpipe.classify.training.recipe import Recipe
    from wbcpipe.classify.training.teacher import Teacher

__all__ = ["Patience", "TrainingRun", "TrainingTask", "generators"]

_BEST = "best."


@dataclass(frozen=True)
class TrainingTask:
    """One network to train.

    Attributes:
        cells: the training cells; for method ``single``, with that modality alone.
        normalisation: of their planes.
        recipe: how to train.
        role: name in reports, and part of the random seed.
        teacher: for the ``-kd`` methods.
        validation: cells to report the accuracy on after each epoch; they have no effect on the
            training.
    """

    cells: CellSet
    normalisation: Normalisation
    recipe: Recipe
    role: str
    teacher: Teacher | None = None
    validation: CellSet | None = None


def generators(
    recipe: Recipe, role: str, epoch: int
) -> tuple[np.random.Generator, torch.Generator]:
    """Return the random generators of an epoch; epoch 0 initialises the network."""
    sequence = np.random.SeedSequence([recipe.seed, epoch, *role.encode()])
    numbers, tensors = sequence.spawn(2)
    seed = int(tensors.generate_state(1, np.uint64)[0] >> np.uint64(1))
    return np.random.default_rng(numbers), torch.Generator().manual_seed(seed)


@dataclass
class Patience:
    """Early stopping: training ends after some epochs without a lower loss, with the best weights.

    Attributes:
        epochs: number of epochs without a lower loss after which training stops.
        best_loss: the lowest loss.
        stale_epochs: epochs since the lowest loss.
        weights: of the network that had it, by name, on the CPU; empty before the first finite
            loss.
    """

    epochs: int
    best_loss: float = math.inf
    stale_epochs: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether to stop."""
        return self.stale_epochs >= self.epochs

    def observe(self, loss: float, network: nn.Module) -> None:
        """Record the loss of an epoch; NaN counts as no improvement."""
        if loss < self.best_loss:
            self.best_loss, self.stale_epochs = loss, 0
            self.weights = {
                name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()
            }
        else:
            self.stale_epochs += 1

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights for the checkpoint."""
        return {_BEST + name: tensor for name, tensor in self.weights.items()}

    def restore(
        self, tensors: dict[str, Tensor], best_loss: float | None, stale_epochs: int
    ) -> None:
        """Restore the state of a checkpoint."""
        self.weights = {n.removeprefix(_BEST): t for n, t in tensors.items() if n.startswith(_BEST)}
        self.best_loss = math.inf if best_loss is None else best_loss
        self.stale_epochs = stale_epochs


@dataclass
class TrainingRun:
    """One network in training.

    Attributes:
        task: what is trained.
        cells: the training cells without those that patience watches.
        watched: the cells whose loss tells when training no longer helps; None without patience.
        patience: the losses on them; None where training never stops early.
        history: [loss, accuracy] of each epoch.
    """

    task: TrainingTask
    device: torch.device
    network: FusionNetwork
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    teacher: Teacher | None
    cells: CellSet
    watched: CellSet | None = None
    patience: Patience | None = None
    history: list[list[float]] = field(default_factory=list)
    typical_by_side: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def start(
        cls, task: TrainingTask, device: torch.device, init_from: Bundle | None
    ) -> TrainingRun:
        """Build the network, its optimiser, and the copies that training needs."""
        recipe, cells = task.recipe, task.cells
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generators(recipe, task.role, 0)[1].initial_seed())
            network = build_network(
                recipe.method,
                recipe.backbone,
                len(cells.modalities),
                cells.planes,
                len(cells.classes),
                InputLayers(recipe.stem, recipe.missing_input == "told"),
            )
        if init_from is not None:
            load_pretrained_weights(network, init_from, cells.classes, recipe.modality)
        # On a 2-core processor, batches of 32 at 112 px: channels last 126/s per core, else 105;
        # bfloat16 no faster.
        network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if device.type == "cpu":
            keep_channels_last(network)
        average = None
        if recipe.ema:
            blend = get_ema_multi_avg_fn(recipe.ema)  # type: ignore[no-untyped-call]
            average = AveragedModel(network, multi_avg_fn=blend, use_buffers=True)
        teacher = None if task.teacher is None else task.teacher.on(device)
        run = cls(task, device, network, _adamw(network, recipe), average, teacher, cells)
        if recipe.patience:
            run.patience = Patience(recipe.patience)
            learned, kept = holdout(cells.labels, cells.groups, recipe.holdout, recipe.seed)
            run.cells, run.watched = cells.subset(learned), cells.subset(kept)
        return run

    @property
    def recipe(self) -> Recipe:
        """The recipe of the task."""
        return self.task.recipe

    @property
    def kept(self) -> FusionNetwork:
        """The network whose weights are the result: the moving average over steps, if there is
        one.
        """
        if self.average is None:
            return self.network
        kept: FusionNetwork = self.average.module  # type: ignore[assignment]
        return kept

    @property
    def stopped(self) -> bool:
        """Whether patience has ended the training."""
        return self.patience is not None and self.patience.over

    @cached_property
    def images(self) -> NDArray[np.uint16]:
        """The training cells' planes (N, M * c, side, side), their stain separated if it is to
        be.
        """
        return self.task.normalisation.separate(self.cells.images)

    @cached_property
    def affine(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Gain and offset (N, M * c) that normalise `images`."""
        return self.task.normalisation.affine(self.images)

    @cached_property
    def light(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and deviation (C, 1, 1) that turn normalised values into light, and which planes
        (C,) are bright.
        """
        normalisation = self.task.normalisation
        mean, std = (
            torch.tensor(values, device=self.device)[:, None, None]
            for values in (normalisation.mean, normalisation.std)
        )
        return (
            mean,
            std,
            torch.tensor([name not in ("dark", "fixed") for name in normalisation.polarity]),
        )

    @cached_property
    def _typical_profiles(self) -> list[list[float]]:
        profiles: list[list[float]] = typical_profiles_of(
            self.cells.images, self.task.normalisation
        ).tolist()
        return profiles

    def typical_at(self, side: int) -> Tensor:
        """Return the images (M * c, side, side) that replace a missing modality.

        They are typical, or zeros if the heads are told.
        """
        if self.recipe.missing_input == "told":
            return torch.zeros(self.cells.images.shape[1], side, side, device=self.device)
        if side not in self.typical_by_side:
            images = typical_images(self._typical_profiles, side)
            self.typical_by_side[side] = torch.from_numpy(images).to(self.device)
        return self.typical_by_side[side]

    @property
    def inputs(self) -> int:
        """Number of independent inputs; 1 for networks that read one cell."""
        return self.network.modalities if self.network.heads > 1 else 1

    @property
    def cells_per_epoch(self) -> int:
        """All cells, or as many draws as make the minimum number of steps."""
        steps = math.ceil(self.recipe.min_steps / self.recipe.epochs)
        return max(len(self.cells), steps * self.recipe.batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of one epoch."""
        return steps_of(self.cells_per_epoch, self.recipe.batch_size)

    def restore(self, path: Path, fingerprint: str) -> int:
        """Load the state of the last complete epoch, if there is one, and return the number of
        epochs done.
        """
        loaded = load_state(path, fingerprint)
        if loaded is None:
            return 0
        tensors, info = loaded
        self.network.load_state_dict({n[4:]: t for n, t in tensors.items() if n.startswith("net.")})
        if self.average is not None:
            self.average.load_state_dict(
                {n[4:]: t for n, t in tensors.items() if n.startswith("ema.")}
            )
        restore_optimizer(self.optimizer, tensors)
        self.history = list(info.history)
        if self.patience is not None:
            self.patience.restore(tensors, info.best_loss, info.stale_epochs)
        return info.epoch

    def save(self, path: Path, fingerprint: str, epochs_done: int) -> None:
        """Write the state after an epoch; a finished training needs no optimiser."""
        tensors = {f"net.{name}": tensor for name, tensor in self.network.state_dict().items()}
        if self.average is not None:
            tensors |= {f"ema.{name}": tensor for name, tensor in self.average.state_dict().items()}
        if epochs_done < self.recipe.epochs and not self.stopped:
            tensors |= optimizer_tensors(self.optimizer)
        best_loss, stale_epochs = None, 0
        if self.patience is not None:
            tensors |= self.patience.tensors()
            best_loss = self.patience.best_loss if self.patience.weights else None
            stale_epochs = self.patience.stale_epochs
        info = CheckpointInfo(
            fingerprint=fingerprint,
            epoch=epochs_done,
            history=self.history,
            best_loss=best_loss,
            stale_epochs=stale_epochs,
        )
        save_state(path, tensors, info)

    def result(self) -> FusionNetwork:
        """Return the trained network on the CPU, in evaluation mode."""
        network = self.kept
        if self.patience is not None and self.patience.weights:
            network.load_state_dict(self.patience.weights)
        network = network.eval().requires_grad_(False).cpu()
        return network.to(memory_format=torch.contiguous_format)


def _adamw(network: FusionNetwork, recipe: Recipe) -> torch.optim.Optimizer:
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": recipe.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ],
        lr=recipe.lr,
        fused=True,
    )
