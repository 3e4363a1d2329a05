"""Train what a study lacks, by one process or by many that share its folder and nothing else."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from wbcpipe.classify import metrics
from wbcpipe.classify.models.normalise import fit_normalisation
from wbcpipe.classify.study.probe import jacobian_norms, probe_inputs
from wbcpipe.classify.study.results import FoldResult, is_done, read_result, write_result
from wbcpipe.classify.training.progress import TrainingOptions
from wbcpipe.classify.training.train import TrainingTask, late_fusion_of, predict_logits, train_network
from wbcpipe.classify.training.train_and_validate import select_modality
from wbcpipe.classify.uncertainty.probability_calibration import mean_probability
from wbcpipe.errors import TrainingDataError
from wbcpipe.system.locks import try_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from wbcpipe.classify.models.normalise import Normalisation
    from wbcpipe.classify.networks import FusionNetwork
    from wbcpipe.classify.study.jobs import Job, Split
    from wbcpipe.classify.training.data import CellSet
    from wbcpipe.classify.training.progress import EpochReport

__all__ = ["StudyCells", "check_settings", "run_job", "work"]

_WAIT_S = 2.0
_PACKAGES = ("wbcpipe", "torch", "torchvision", "numpy")


@dataclass(frozen=True)
class StudyCells:
    """The cells of a study and their folds.

    Attributes:
        cells: all.
        splits: rows by fold.
    """

    cells: CellSet
    splits: Sequence[Split]


def check_settings(jobs: Sequence[Job], out: Path, study: StudyCells) -> None:
    """Refuse a folder whose results are of another recipe or of other cells.

    Raises:
        TrainingDataError: which result it is.
    """
    for job in jobs:
        folder = job.folder(out)
        if not is_done(folder):
            continue
        result = read_result(folder)
        same_cells = _is_of(result, study, job.fold)
        if result.info["recipe"] != job.recipe.model_dump(mode="json") or not same_cells:
            what = "another recipe" if same_cells else "other cells, classes or folds"
            raise TrainingDataError(f"{folder}: this result is of {what}; give another --out, or remove it.")


def _is_of(result: FoldResult, study: StudyCells, fold: int) -> bool:
    split, labels = study.splits[fold], study.cells.labels
    expected = {
        "test_rows": split.test,
        "test_labels": labels[split.test],
        "held_rows": split.held,
        "held_labels": labels[split.held],
    }
    same = all(np.array_equal(result.arrays[name], rows) for name, rows in expected.items())
    return same and result.classes == study.cells.classes


def work(
    jobs: Sequence[Job],
    out: Path,
    study: StudyCells,
    *,
    device: str = "auto",
    progress: Callable[[Job, EpochReport | None], None] | None = None,
) -> None:
    """Do jobs that nobody does yet until all are done; several processes may do so at once.

    Args:
        jobs: all of the study.
        out: its folder.
        study: the cells.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: called after each epoch, and with None when a job's result is there.
    """
    while open_ := [job for job in jobs if not is_done(job.folder(out))]:
        if not any(_try_job(job, out, study, device, progress) for job in open_):
            time.sleep(_WAIT_S)  # what is left is being done, or waits for what is


def _try_job(
    job: Job,
    out: Path,
    study: StudyCells,
    device: str,
    progress: Callable[[Job, EpochReport | None], None] | None,
) -> bool:
    """Do a job if its needs are met and nobody does it; false where not."""
    if not all(is_done(out / job.backbone / name / f"fold-{job.fold}") for name in job.needs):
        return False
    folder = job.folder(out)
    with try_lock(folder / ".claim") as held:
        if not held or is_done(folder):
            return False
        report = None if progress is None else lambda epoch: progress(job, epoch)
        write_result(folder, run_job(job, out, study, device=device, progress=report))
    if progress is not None:
        progress(job, None)
    return True


def run_job(
    job: Job,
    out: Path,
    study: StudyCells,
    *,
    device: str = "auto",
    progress: Callable[[EpochReport], None] | None = None,
) -> FoldResult:
    """Train one network on one fold, or go on with it, and look at it from all sides."""
    began = time.perf_counter()
    split, recipe = study.splits[job.fold], job.recipe
    fit, held, test = (study.cells.subset(rows) for rows in (split.fit, split.held, split.test))
    normalisation = fit_normalisation(fit.images, recipe.normalise)
    network = _network(job, out, fit, normalisation, TrainingOptions(device=device, on_epoch=progress))
    own = normalisation
    if recipe.method == "single":
        own = _part(normalisation, fit, fit.modalities.index(str(recipe.modality)))
    fit, held, test = (select_modality(part, recipe) for part in (fit, held, test))
    logits = {
        name: predict_logits(network, part, own, device=device) for name, part in (("test", test), ("held", held))
    }
    arrays: dict[str, Any] = {
        "test_rows": split.test,
        "test_labels": test.labels,
        "test_logits": logits["test"],
        "held_rows": split.held,
        "held_labels": held.labels,
        "held_logits": logits["held"],
    }
    if network.modalities > 1:
        arrays |= probe_inputs(network, fit, test, own, device)
        arrays["jacobian"] = jacobian_norms(network, test, own)
    info = {
        "backbone": job.backbone,
        "row": job.name,
        "fold": job.fold,
        "folds": len(study.splits),
        "classes": list(test.classes),
        "modalities": list(test.modalities),
        "derived": list(study.cells.derived),
        "cells": {"fit": len(fit), "held": len(held), "test": len(test)},
        "recipe": recipe.model_dump(mode="json"),
        "scores": metrics.scores(test.labels, mean_probability(logits["test"]), test.classes),
        "calibration_error": metrics.expected_calibration_error(test.labels, mean_probability(logits["test"])),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "flops": count_flops(network, recipe.side),
        "seconds": round(time.perf_counter() - began, 1),
        "versions": {name: metadata.version(name) for name in _PACKAGES},
    }
    return FoldResult(info, arrays)


def _part(normalisation: Normalisation, cells: CellSet, index: int) -> Normalisation:
    return normalisation.select(slice(index * cells.planes, (index + 1) * cells.planes))


def _network(
    job: Job,
    out: Path,
    fit: CellSet,
    normalisation: Normalisation,
    options: TrainingOptions,
) -> FusionNetwork:
    """Train the job's network, or load the single-modality networks that it consists of."""
    recipe = job.recipe
    if recipe.method == "single":
        index = fit.modalities.index(str(recipe.modality))
        task = TrainingTask(
            fit.modality(index), _part(normalisation, fit, index), recipe, role=f"teacher {recipe.modality}"
        )
        return train_network(task, job.folder(out) / "training", options)
    teacher = None
    if job.needs:
        members = []
        for index, name in enumerate(job.needs):
            folder = out / job.backbone / name / f"fold-{job.fold}"
            trained = type(recipe).model_validate(read_result(folder).info["recipe"])
            part, own = fit.modality(index), _part(normalisation, fit, index)
            task = TrainingTask(part, own, trained, role=f"teacher {name}")
            members.append(train_network(task, folder / "training", TrainingOptions(device=options.device)))
        teacher = late_fusion_of(members, recipe.backbone)
    if recipe.method == "late-fusion":
        assert teacher is not None
        return teacher
    task = TrainingTask(fit, normalisation, recipe, role=recipe.method, teacher=teacher)
    return train_network(task, job.folder(out) / "training", options)


def count_flops(network: FusionNetwork, side: int) -> int | None:
    """Multiply-adds for one cell, as fvcore counts them and the paper tells them; None where fvcore is not there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from fvcore.nn import FlopCountAnalysis
        except ImportError:
            return None
        import torch

        images = torch.zeros(1, network.modalities * network.planes, side, side)
        analysis = FlopCountAnalysis(network, images)
        analysis.unsupported_ops_warnings(enabled=False).uncalled_modules_warnings(enabled=False)
        return int(analysis.total())
