"""Training of one network, epoch by epoch, resumable to the bit.

Everything random in an epoch comes from generators seeded by (seed, role, epoch), so that a training which was broken
off goes on from its last whole epoch as if nothing had happened.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from wbcpipe.classify.inference.engine import TorchEngine, pick_device
from wbcpipe.classify.inference.missing_modality import typical_of, typical_pictures
from wbcpipe.classify.models.normalise import CLIP
from wbcpipe.classify.networks import FusionNetwork, LateFusion, build_network
from wbcpipe.classify.networks.fuse import fused_copy
from wbcpipe.classify.training.augment import augment, restain
from wbcpipe.classify.training.checkpoint import (
    fingerprint,
    load_state,
    module_tensors,
    optimizer_tensors,
    restore_optimizer,
    save_state,
)
from wbcpipe.classify.training.data import epoch_indices, head_batches, steps_of
from wbcpipe.classify.training.distill import cross_entropy_over_heads, fused_log_probability, total_loss
from wbcpipe.classify.training.finetune import check_init_from, load_pretrained_weights
from wbcpipe.classify.training.folds import holdout
from wbcpipe.classify.training.modality_dropout import ModalityDropout, draw_spoilt
from wbcpipe.classify.training.randaugment import rand_augment
from wbcpipe.classify.training.schedule import one_cycle
from wbcpipe.classify.training.stopping import Patience

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.classify.models.bundle import Bundle
    from wbcpipe.classify.models.normalise import Normalisation
    from wbcpipe.classify.training.data import CellSet
    from wbcpipe.classify.training.recipe import Recipe

__all__ = ["EpochReport", "late_fusion_of", "predict_logits", "train_network"]


@dataclass(frozen=True)
class EpochReport:
    """One epoch's outcome, for progress.

    Attributes:
        role: what is trained: ``teacher color1``, ``mm-mimo-kd``...
        epoch: epochs done.
        epochs: epochs in all.
        loss: mean training loss.
        accuracy: share of training answers that were right, over heads and augmented cells.
        seconds: what the epoch took.
        share: share of this network's work that this epoch was, by pixels.
        work: share of this network's work that is done.
    """

    role: str
    epoch: int
    epochs: int
    loss: float
    accuracy: float
    seconds: float
    share: float
    work: float


@dataclass
class _Run:
    """What one training holds.

    Attributes:
        watched: cells kept from training, to tell when it no longer helps.
        patience: what was seen on those; None where training never stops early.
    """

    cells: CellSet
    recipe: Recipe
    role: str
    network: FusionNetwork
    optimizer: torch.optim.Optimizer
    average: FusionNetwork | None
    teacher: LateFusion | None
    device: torch.device
    gain: np.ndarray[Any, np.dtype[np.float32]]
    offset: np.ndarray[Any, np.dtype[np.float32]]
    normalisation: Normalisation
    watched: CellSet | None = None
    history: list[list[float]] = field(default_factory=list)
    patience: Patience | None = None
    typical_sides: dict[int, Tensor] = field(default_factory=dict)

    @property
    def kept(self) -> FusionNetwork:
        """The network whose weights count: the average over steps, where one is kept."""
        return self.average if self.average is not None else self.network

    @property
    def finished(self) -> bool:
        """Whether training has stopped, by patience."""
        return self.patience is not None and self.patience.over

    @cached_property
    def light(self) -> tuple[Tensor, Tensor, Tensor]:
        """What turns normalised values back into shares of light: mean and deviation (C, 1, 1); light planes (C,)."""
        mean, std = (
            torch.tensor(values, device=self.device)[:, None, None]
            for values in (self.normalisation.mean, self.normalisation.std)
        )
        return mean, std, torch.tensor([name in ("bright", "stained") for name in self.normalisation.polarity])

    @cached_property
    def typical(self) -> NDArray[np.float64]:
        """(M * c, 17): what stands in the place of a missing modality."""
        return typical_of(self.cells.images, self.normalisation)

    def typical_at(self, side: int) -> Tensor:
        """The same as pictures (M * c, side, side), made once for each side."""
        if side not in self.typical_sides:
            pictures = typical_pictures(self.typical.tolist(), side)
            self.typical_sides[side] = torch.from_numpy(pictures).to(self.device)
        return self.typical_sides[side]

    def doubtful(self, spoilt: ModalityDropout | None) -> Tensor | None:
        """(B, heads) bool: heads that shall not know; None where there are none, as for a network of one head."""
        return spoilt.doubtful if spoilt is not None and self.inputs > 1 else None

    @property
    def inputs(self) -> int:
        return self.network.modalities if self.network.heads > 1 else 1

    @property
    def repeated(self) -> int:
        """How often a cell is in its batch."""
        return self.recipe.batch_repetition if self.inputs > 1 else 1

    @property
    def drawn(self) -> int:
        """Cells of an epoch: all, or some again where that makes too few steps."""
        each = math.ceil(self.recipe.min_steps / self.recipe.epochs)
        return max(len(self.cells), math.ceil(each * self.recipe.batch_size / self.repeated))

    @property
    def steps(self) -> int:
        return steps_of(self.drawn, self.recipe.batch_size, self.repeated)


def train_network(
    cells: CellSet,
    normalisation: Normalisation,
    recipe: Recipe,
    work: Path,
    *,
    role: str,
    teacher: LateFusion | None = None,
    init_from: Bundle | None = None,
    device: str = "auto",
    progress: Callable[[EpochReport], None] | None = None,
) -> FusionNetwork:
    """Train one network, or go on with one that was broken off, or load one that is finished.

    Args:
        cells: the training cells.
        normalisation: of their planes.
        recipe: what to do; for ``single`` the cells hold that modality alone.
        work: folder of this training's state; created.
        role: name in progress, and part of the random seed.
        teacher: frozen late-fusion network for the ``-kd`` methods.
        init_from: the bundle whose weights it starts from, if the recipe says so.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: called after each epoch.

    Returns:
        The network, in evaluation mode on the CPU.

    Raises:
        ConfigError, TrainingDataError: see `finetune.check_init_from`.
    """
    check_init_from(recipe, init_from, cells)
    place = pick_device(device)
    mark = fingerprint(cells, f"{recipe.mark} {role} {normalisation.model_dump_json()}")
    run = _begin(cells, normalisation, recipe, role, teacher, init_from, place)
    work.mkdir(parents=True, exist_ok=True)
    path = work / "state.safetensors"
    first = _restore(run, path, mark)
    if (first == recipe.epochs or run.finished) and progress is not None:
        loss, accuracy = run.history[-1]
        progress(EpochReport(role, first, recipe.epochs, loss, accuracy, seconds=0.0, share=0.0, work=1.0))
    for epoch in range(first, recipe.epochs):
        if run.finished:
            break
        report = _epoch(run, epoch)
        run.history.append([report.loss, report.accuracy])
        _watch(run)
        _save(run, path, mark, epoch + 1)
        if progress is not None:
            progress(replace(report, work=1.0) if run.finished else report)
    final = run.kept
    if run.patience is not None and run.patience.weights:
        final.load_state_dict(run.patience.weights)
    final = final.eval().requires_grad_(False).cpu()
    return final.to(memory_format=torch.contiguous_format)


def _watch(run: _Run) -> None:
    """Look whether the loss on the watched cells still falls."""
    if run.watched is None or run.patience is None:
        return
    logits = torch.from_numpy(predict_logits(run.kept, run.watched, run.normalisation, device=run.device.type))
    labels = torch.from_numpy(run.watched.labels)[:, None].expand(logits.shape[:2])
    run.patience.look(float(cross_entropy_over_heads(logits, labels)), run.kept)


def _seeds(recipe: Recipe, role: str, epoch: int) -> tuple[np.random.Generator, torch.Generator]:
    sequence = np.random.SeedSequence([recipe.seed, epoch, *role.encode()])
    numbers, tensors = sequence.spawn(2)
    seed = int(tensors.generate_state(1, np.uint64)[0] >> np.uint64(1))
    return np.random.default_rng(numbers), torch.Generator().manual_seed(seed)


def _begin(
    cells: CellSet,
    normalisation: Normalisation,
    recipe: Recipe,
    role: str,
    teacher: LateFusion | None,
    init_from: Bundle | None,
    device: torch.device,
) -> _Run:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_seeds(recipe, role, 0)[1].initial_seed())
        network = build_network(recipe.method, recipe.backbone, len(cells.modalities), cells.planes, len(cells.classes))
    if init_from is not None:
        load_pretrained_weights(network, init_from, cells.classes)
    # Measured on a 2-core processor, batches of 32 at 112 px: channels last 126/s a core, else 105; bfloat16 no faster.
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=recipe.lr,
        fused=True,
    )
    average = copy.deepcopy(network).requires_grad_(False) if recipe.ema else None
    if teacher is not None:
        teacher = fused_copy(teacher).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    watched, patience = None, None
    if recipe.patience:
        patience = Patience(recipe.patience)
        learned, kept = holdout(cells.labels, cells.groups, recipe.holdout, recipe.seed)
        cells, watched = cells.subset(learned), cells.subset(kept)
    gain, offset = normalisation.affine(cells.images)
    return _Run(
        *(cells, recipe, role, network, optimizer, average, teacher, device, gain, offset, normalisation),
        watched=watched,
        patience=patience,
    )


def _restore(run: _Run, path: Path, mark: str) -> int:
    """Load the last whole epoch's state, if any; gives the number of epochs done."""
    loaded = load_state(path, mark)
    if loaded is None:
        return 0
    tensors, state = loaded
    run.network.load_state_dict({n[4:]: t for n, t in tensors.items() if n.startswith("net.")})
    if run.average is not None:
        run.average.load_state_dict({n[4:]: t for n, t in tensors.items() if n.startswith("ema.")})
    restore_optimizer(run.optimizer, tensors)
    run.history = list(state["history"])
    if run.patience is not None:
        run.patience.restore(tensors, state)
    return int(state["epoch"])


def _save(run: _Run, path: Path, mark: str, epochs_done: int) -> None:
    tensors = module_tensors(run.network, "net.")
    if run.average is not None:
        tensors |= module_tensors(run.average, "ema.")
    if epochs_done < run.recipe.epochs and not run.finished:
        tensors |= optimizer_tensors(run.optimizer)
    state: dict[str, Any] = {"fingerprint": mark, "epoch": epochs_done, "history": run.history}
    if run.patience is not None:
        tensors |= run.patience.tensors()
        state |= run.patience.state()
    save_state(path, tensors, state)


def _epoch(run: _Run, epoch: int) -> EpochReport:
    began = time.perf_counter()
    recipe = run.recipe
    numbers, tensors = _seeds(recipe, run.role, epoch + 1)
    rows = epoch_indices(run.cells.labels, recipe.sampling, numbers, run.drawn)
    repetition = recipe.input_repetition_prob if run.inputs > 1 else 1.0
    run.network.train()
    losses, right, answers = 0.0, 0, 0
    batches = head_batches(rows, run.inputs, recipe.batch_size, repetition, numbers, batch_repetition=run.repeated)
    for step, (table, same) in enumerate(batches):
        for group in run.optimizer.param_groups:
            group["lr"] = recipe.lr * one_cycle(epoch * run.steps + step, run.steps * recipe.epochs)
        # A teacher is at its best at the full side, whatever the student sees.
        side = recipe.side if run.teacher is not None else recipe.side_at(epoch)
        shown = torch.from_numpy(same)
        images = _augmented(run, _batch(run, table, shown, tensors), shown, tensors, side)
        labels = torch.from_numpy(run.cells.labels[table]).to(run.device)  # (B, inputs)
        spoilt = _spoilt(run, shown, tensors)
        loss, hits = _step(run, images, labels, recipe.side_at(epoch), spoilt)
        losses += loss
        right += hits
        doubtful = run.doubtful(spoilt)
        answers += labels.numel() - (0 if doubtful is None else int(doubtful.sum()))
    return EpochReport(
        run.role,
        epoch + 1,
        recipe.epochs,
        losses / run.steps,
        right / answers,
        time.perf_counter() - began,
        _work_done(recipe, epoch + 1) - _work_done(recipe, epoch),
        _work_done(recipe, epoch + 1),
    )


def _augmented(run: _Run, images: Tensor, same: Tensor, generator: torch.Generator, side: int) -> Tensor:
    recipe = run.recipe
    if recipe.randaugment is not None:
        return rand_augment(images, same, run.inputs, recipe.randaugment, generator, side=side)
    return augment(images, same, run.inputs, recipe.augmentation, generator, side=side)


def _work_done(recipe: Recipe, epochs: int) -> float:
    pixels = [recipe.side_at(epoch) ** 2 for epoch in range(recipe.epochs)]
    return sum(pixels[:epochs]) / sum(pixels)


def _batch(run: _Run, table: np.ndarray[Any, np.dtype[np.int64]], same: Tensor, generator: torch.Generator) -> Tensor:
    """Normalised pictures (B, M * c, side, side), their stain changed; input i of row b shows cell ``table[b, i]``."""
    planes = run.cells.images.shape[1] // run.inputs
    rows = np.repeat(table, planes, axis=1)  # (B, M * c)
    columns = np.arange(rows.shape[1])[None, :] if run.inputs > 1 else np.arange(planes)[None, :]
    raw = torch.from_numpy(run.cells.images[rows, columns]).to(run.device)
    gain = torch.from_numpy(run.gain[rows, columns]).to(run.device)
    offset = torch.from_numpy(run.offset[rows, columns]).to(run.device)
    values = raw.to(torch.float32).mul_(gain[:, :, None, None]).add_(offset[:, :, None, None])
    options = run.recipe.augmentation
    if run.recipe.randaugment is None and (options.stain or options.stain_mixing):
        mean, std, bright = run.light
        values = restain(values.mul_(std).add_(mean), bright, same, options, generator).sub_(mean).div_(std)
    return values.clamp_(-CLIP, CLIP)


def _spoilt(run: _Run, same: Tensor, generator: torch.Generator) -> ModalityDropout | None:
    alone = run.recipe.single_modality_prob if run.inputs > 1 else 0.0
    if run.network.modalities < 2 or not (run.recipe.modality_dropout or alone):
        return None
    return draw_spoilt(same, run.network.modalities, run.recipe.modality_dropout, alone, generator, run.device)


def _step(
    run: _Run, images: Tensor, labels: Tensor, side: int, spoilt: ModalityDropout | None = None
) -> tuple[float, int]:
    """One step of the optimiser on a batch, worked through in parts; gives its loss and how many answers were right."""
    images = images.contiguous(memory_format=torch.channels_last)
    run.optimizer.zero_grad(set_to_none=True)
    total, right = 0.0, 0
    parts = max(1, min(run.recipe.accumulate, len(images) // 2))  # batch norm needs two pictures
    changes = [None] * parts if spoilt is None else spoilt.parts(parts)
    for some, wanted, change in zip(images.tensor_split(parts), labels.tensor_split(parts), changes, strict=True):
        loss, logits = _loss(run, some, wanted, side, change)
        loss = loss * (len(some) / len(images))
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
        hits = logits.detach().argmax(-1) == wanted
        doubtful = run.doubtful(change)
        right += int((hits if doubtful is None else hits & ~doubtful).sum())
    run.optimizer.step()
    if run.average is not None:
        _blend(run.average, run.network, run.recipe.ema)
    return total, right


def _loss(
    run: _Run, images: Tensor, labels: Tensor, side: int, spoilt: ModalityDropout | None = None
) -> tuple[Tensor, Tensor]:
    recipe = run.recipe
    target = _teacher_logits(run, images) if run.teacher is not None else None  # a teacher sees the cell whole
    if images.shape[-1] != side:
        images = functional.interpolate(images, size=side, mode="bilinear", antialias=True)
    if spoilt is not None:
        images = spoilt.apply(images, run.typical_at(side))
    with autocast(run.device, recipe.precision):
        logits = run.network(images)
    logits = logits.float()
    loss = total_loss(
        logits,
        labels,
        target,
        temperature=recipe.temperature,
        label_smoothing=recipe.label_smoothing,
        options=recipe.distillation,
        doubtful=run.doubtful(spoilt),
    )
    return loss, logits


def _teacher_logits(run: _Run, images: Tensor) -> Tensor:
    assert run.teacher is not None
    with torch.no_grad(), autocast(run.device, "bfloat16"):
        logits: Tensor = run.teacher(images).float()
        return logits if run.network.heads > 1 else fused_log_probability(logits)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Mixed precision as a context: bfloat16 when asked for, or by ``auto`` on a GPU."""
    mixed = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=mixed)


def _blend(average: nn.Module, network: nn.Module, decay: float) -> None:
    with torch.no_grad():
        for kept, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
            if kept.is_floating_point():
                kept.lerp_(new, 1 - decay)
            else:
                kept.copy_(new)


def late_fusion_of(members: list[FusionNetwork], backbone: str) -> LateFusion:
    """The late-fusion network made of M trained single-modality networks: the teacher of the distillation."""
    first = members[0]
    network = LateFusion(backbone, len(members), first.planes, first.classes)
    for slot, member in zip(network.members, members, strict=True):
        slot.load_state_dict(member.state_dict())
    return network.eval().requires_grad_(False)


def predict_logits(
    network: FusionNetwork,
    cells: CellSet,
    normalisation: Normalisation,
    *,
    batch_size: int = 64,
    device: str = "auto",
    precision: str = "float32",
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Logits (N, heads, K) float32 of every cell, the same cell given to all inputs."""
    engine = TorchEngine(network, pick_device(device), precision)
    return np.concatenate(
        [
            engine(normalisation.apply(cells.images[start : start + batch_size]))
            for start in range(0, len(cells), batch_size)
        ]
    )
