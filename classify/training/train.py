"""Training of one network, epoch by epoch, resumable to the bit.

All random numbers of an epoch come from generators that are seeded by (seed, role, epoch). An
interrupted training therefore resumes from its last complete epoch as if it had not been
interrupted.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch.nn import functional

from wbcpipe.classify.inference.engine import TorchEngine, pick_device
from wbcpipe.classify.inference.missing_modality import evenly_spaced_rows
from wbcpipe.classify.models.normalise import CLIP
from wbcpipe.classify.training.augment import add_rims, augment, restain
from wbcpipe.classify.training.checkpoint import fingerprint
from wbcpipe.classify.training.data import epoch_indices, head_batches
from wbcpipe.classify.training.distill import (
    cross_entropy_over_heads,
    fused_distillation_loss,
    total_loss,
)
from wbcpipe.classify.training.finetune import check_init_from
from wbcpipe.classify.training.modality_dropout import ModalityDropout, draw_modality_dropout
from wbcpipe.classify.training.progress import EpochReport, StepReport, TrainingOptions
from wbcpipe.classify.training.randaugment import rand_augment
from wbcpipe.classify.training.training_run import TrainingRun, TrainingTask, generators
from wbcpipe.classify.uncertainty.probability_calibration import mean_probability
from wbcpipe.system.files import make_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from wbcpipe.classify.models.normalise import Normalisation
    from wbcpipe.classify.networks import FusionNetwork
    from wbcpipe.classify.training.data import CellSet
    from wbcpipe.classify.training.recipe import Recipe, TrainingPrecision
    from wbcpipe.classify.training.teacher import Teacher
    from wbcpipe.system.compute import Device

__all__ = ["TrainingTask", "one_cycle", "predict_logits", "train_network"]

_WARM_UP: Final = 0.2
"""Fraction of the steps in which the learning rate rises."""
_REPORTED_CELLS: Final = 256
"""Largest number of validation cells whose accuracy is reported after each epoch."""
_REPORTED_SHARE: Final = 16
"""At most one validation cell for so many training cells, so that a report costs a few per cent of
an epoch.
"""


def train_network(
    task: TrainingTask, work: Path, options: TrainingOptions | None = None
) -> FusionNetwork:
    """Train one network, resume an interrupted training, or load a finished one.

    Args:
        task: what to train.
        work: folder for the state of this training; it is created.
        options: how to run it.

    Returns:
        The network, in evaluation mode on the CPU.

    Raises:
        ConfigError, TrainingDataError: see `finetune.check_init_from`.
    """
    options = options or TrainingOptions()
    recipe = task.recipe
    check_init_from(recipe, options.init_from, task.cells)
    identity = f"{recipe.model_dump_json()} {task.role} {task.normalisation.model_dump_json()}"
    mark = fingerprint(task.cells, identity)
    run = TrainingRun.start(task, pick_device(options.device), options.init_from)
    make_folder(work)
    path = work / "state.safetensors"
    first = run.restore(path, mark)
    if (first == recipe.epochs or run.stopped) and options.on_epoch is not None:
        loss, accuracy = run.history[-1]
        before = EpochReport(
            task.role, first, recipe.epochs, loss, accuracy, seconds=0.0, share=0.0, work=1.0
        )
        options.on_epoch(replace(before, fold=options.fold))
    for epoch in range(first, recipe.epochs):
        if run.stopped:
            break
        report = _epoch(run, epoch, options)
        run.history.append([report.loss, report.accuracy])
        _watch(run)
        run.save(path, mark, epoch + 1)
        if options.on_network is not None:
            options.on_network((epoch + 1) * run.steps_per_epoch, run.kept)
        if options.on_epoch is not None:
            work_done = 1.0 if run.stopped else report.work
            validated = _validation_accuracy(run)
            options.on_epoch(
                replace(report, work=work_done, validation_accuracy=validated, fold=options.fold)
            )
    return run.result()


def _watch(run: TrainingRun) -> None:
    """Tell patience the loss on the watched cells."""
    if run.watched is None or run.patience is None:
        return
    logits = torch.from_numpy(
        predict_logits(run.kept, run.watched, run.task.normalisation, device=run.device)
    )
    labels = torch.from_numpy(run.watched.labels)[:, None].expand(logits.shape[:2])
    run.patience.observe(float(cross_entropy_over_heads(logits, labels)), run.kept)


def _validation_accuracy(run: TrainingRun) -> float | None:
    """Return the accuracy of the mean over heads on some validation cells, evenly spaced over all
    of them.
    """
    if run.task.validation is None:
        return None
    count = min(_REPORTED_CELLS, max(32, len(run.cells) // _REPORTED_SHARE))
    cells = run.task.validation.subset(evenly_spaced_rows(len(run.task.validation), count))
    logits = predict_logits(run.kept, cells, run.task.normalisation, device=run.device)
    return float((mean_probability(logits).argmax(axis=1) == cells.labels).mean())


def _epoch(run: TrainingRun, epoch: int, options: TrainingOptions) -> EpochReport:
    began_s = time.perf_counter()
    recipe, steps = run.recipe, run.steps_per_epoch
    numbers, tensors = generators(recipe, run.task.role, epoch + 1)
    rows = epoch_indices(run.cells.labels, recipe.sampling, numbers, run.cells_per_epoch)
    repetition = recipe.input_repetition_prob if run.inputs > 1 else 1.0
    run.network.train()
    losses, right, answers = 0.0, 0, 0
    batches = head_batches(rows, run.inputs, recipe.batch_size, repetition, numbers)
    for step, (table, same) in enumerate(batches, start=epoch * steps):
        for group in run.optimizer.param_groups:
            group["lr"] = recipe.lr * one_cycle(step, steps * recipe.epochs)
        # A teacher performs best at the full side, whatever the student's side.
        side = recipe.side if run.teacher is not None else recipe.side_at(epoch)
        shown = torch.from_numpy(same)
        images = _augmented(run, _batch(run, table, shown, tensors), shown, tensors, side)
        labels = torch.from_numpy(run.cells.labels[table]).to(run.device)  # (B, inputs)
        dropout = _modality_dropout(run, shown, tensors)
        batch = _Batch(images, labels, shown.to(run.device), dropout)
        loss, hits, asked = _step(run, batch, recipe.side_at(epoch))
        losses, right, answers = losses + loss, right + hits, answers + asked
        if options.on_step is not None:
            options.on_step(
                StepReport(run.task.role, step + 1, steps * recipe.epochs, options.fold)
            )
    return EpochReport(
        run.task.role,
        epoch + 1,
        recipe.epochs,
        losses / steps,
        right / answers,
        time.perf_counter() - began_s,
        _work_done(recipe, epoch + 1) - _work_done(recipe, epoch),
        _work_done(recipe, epoch + 1),
    )


def one_cycle(step: int, steps: int) -> float:
    """Return the learning rate of ``step`` (from 0) relative to its peak: a cosine up from 0.05,
    then down to 0.001.

    Smith and Topin, https://doi.org/10.48550/arXiv.1708.07120.
    """
    rise = max(1, round(_WARM_UP * steps))
    if step < rise:
        return 0.05 + 0.95 * (1 - math.cos(math.pi * step / rise)) / 2
    return 1e-3 + (1 - 1e-3) * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise))) / 2


def _work_done(recipe: Recipe, epochs: int) -> float:
    pixels = [recipe.side_at(epoch) ** 2 for epoch in range(recipe.epochs)]
    return sum(pixels[:epochs]) / sum(pixels)


def _batch(
    run: TrainingRun, table: NDArray[np.int64], same: Tensor, generator: torch.Generator
) -> Tensor:
    """Return normalised, restained images (B, M * c, side, side).

    Input i of row b shows cell ``table[b, i]``.
    """
    planes = run.images.shape[1] // run.inputs
    rows = np.repeat(table, planes, axis=1)  # (B, M * c)
    columns = np.arange(rows.shape[1])[None, :] if run.inputs > 1 else np.arange(planes)[None, :]
    raw = torch.from_numpy(run.images[rows, columns]).to(run.device)
    gain, offset = (torch.from_numpy(values[rows, columns]).to(run.device) for values in run.affine)
    values = raw.to(torch.float32).mul_(gain[:, :, None, None]).add_(offset[:, :, None, None])
    options = run.recipe.augmentation
    if run.recipe.randaugment is None and (options.stain or options.stain_mixing or options.rims):
        mean, std, bright = run.light
        light = restain(values.mul_(std).add_(mean), bright, same, options, generator)
        if options.rims:
            light = add_rims(light, bright, options, generator)
        values = light.sub_(mean).div_(std)
    return values.clamp_(-CLIP, CLIP)


def _augmented(
    run: TrainingRun, images: Tensor, same: Tensor, generator: torch.Generator, side: int
) -> Tensor:
    recipe = run.recipe
    if recipe.randaugment is not None:
        return rand_augment(images, same, run.inputs, recipe.randaugment, generator, side=side)
    return augment(images, same, run.inputs, recipe.augmentation, generator, side=side)


def _modality_dropout(
    run: TrainingRun, same: Tensor, generator: torch.Generator
) -> ModalityDropout | None:
    missing_prob = run.recipe.modality_dropout
    single_prob = run.recipe.single_modality_prob if run.inputs > 1 else 0.0
    if run.network.modalities < 2 or not (missing_prob or single_prob):
        return None
    drawn = draw_modality_dropout(
        same, run.network.modalities, missing_prob, single_prob, generator
    )
    return ModalityDropout(drawn.missing.to(run.device), drawn.single.to(run.device))


@dataclass(frozen=True)
class _Batch:
    """One augmented batch.

    Attributes:
        images: (B, M * c, side, side).
        labels: (B, inputs) int64.
        same: (B,) bool, true if all inputs show one cell.
        dropout: of inputs, not yet applied.
    """

    images: Tensor
    labels: Tensor
    same: Tensor
    dropout: ModalityDropout | None


def _step(run: TrainingRun, batch: _Batch, side: int) -> tuple[float, int, int]:
    """Make one step of the optimiser.

    Return its loss, the right answers, and the answers that were asked for.
    """
    labels, dropout, recipe = batch.labels, batch.dropout, run.recipe
    images = batch.images.contiguous(memory_format=torch.channels_last)
    run.optimizer.zero_grad(set_to_none=True)
    uninformative = dropout.uninformative_heads if dropout is not None and run.inputs > 1 else None
    # A teacher sees the complete cell.
    taught = None
    if run.teacher is not None:
        with torch.no_grad(), autocast(run.device, recipe.precision):
            taught = run.teacher.network(images).float()
    if images.shape[-1] != side:
        images = functional.interpolate(images, size=side, mode="bilinear", antialias=True)
    if dropout is not None:
        images = dropout.apply(images, run.typical_at(side))
    with autocast(run.device, recipe.precision):
        logits = run.network(images)
    logits = logits.float()
    loss = total_loss(
        logits,
        labels,
        None if run.teacher is None or taught is None else _target(run, run.teacher, taught),
        temperature=recipe.temperature,
        weight=recipe.distillation.weight,
        uninformative_heads=uninformative,
    )
    fused_weight = recipe.distillation.fused_weight * recipe.temperature**2
    if fused_weight and run.teacher is not None and taught is not None:
        rows = batch.same if dropout is None else batch.same & ~dropout.single.any(dim=1)
        fused = run.teacher.fused(taught)
        loss = loss + fused_weight * fused_distillation_loss(
            logits, fused, rows, recipe.temperature
        )
    loss.backward()  # type: ignore[no-untyped-call]
    run.optimizer.step()
    if run.average is not None:
        run.average.update_parameters(run.network)
    hits = logits.detach().argmax(-1) == labels
    if uninformative is not None:
        hits &= ~uninformative
    asked = labels.numel() - (0 if uninformative is None else int(uninformative.sum()))
    return float(loss.detach()), int(hits.sum()), asked


def _target(run: TrainingRun, teacher: Teacher, logits: Tensor) -> Tensor:
    """Return what teaches the student's heads: a teacher each, or the fused one for one head."""
    return logits if run.network.heads > 1 else teacher.fused(logits)


def autocast(device: torch.device, precision: TrainingPrecision) -> torch.autocast:
    """Return the context of mixed precision: bfloat16 on request, or by ``auto`` on a GPU."""
    mixed = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=mixed)


def predict_logits(
    network: FusionNetwork | TorchEngine,
    cells: CellSet,
    normalisation: Normalisation,
    *,
    batch_size: int = 64,
    device: Device | torch.device = "auto",
    prepare: Callable[[NDArray[np.float32]], NDArray[np.float32]] = lambda images: images,
) -> NDArray[np.float32]:
    """Return logits (N, heads, K) float32 of every cell, with the same cell on all inputs.

    An engine in place of the network saves its preparation where the same network predicts again;
    ``device`` is then the engine's. ``prepare`` may change the normalised images (n, M * c, side,
    side) of each batch, for example to blank a modality.
    """
    engine = (
        network if isinstance(network, TorchEngine) else TorchEngine(network, pick_device(device))
    )
    batches = (
        cells.images[start : start + batch_size] for start in range(0, len(cells), batch_size)
    )
    return np.concatenate([engine(prepare(normalisation.apply(batch))) for batch in batches])
