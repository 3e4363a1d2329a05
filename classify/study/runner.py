"""Train the networks that a study lacks, in one process or in several that share its folder."""

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
from wbcpipe.classify.study.results import (
    CellCounts,
    FoldResult,
    ResultInfo,
    is_done,
    read_result,
    write_result,
)
from wbcpipe.classify.training.progress import TrainingOptions
from wbcpipe.classify.training.teacher import (
    MeanOfNetworks,
    Teacher,
    fit_teacher_fusion,
    late_fusion_of,
)
from wbcpipe.classify.training.train import TrainingTask, predict_logits, train_network
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
    from wbcpipe.system.compute import Device

__all__ = ["StudyCells", "check_settings", "run_job", "run_jobs"]

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
    """Refuse a folder that holds results of another recipe or of other cells.

    Raises:
        TrainingDataError: such a result was found.
    """
    for job in jobs:
        folder = job.folder(out)
        if not is_done(folder):
            continue
        result = read_result(folder)
        same_cells = _has_cells_of(result, study, job.fold)
        if result.info.recipe != job.recipe or not same_cells:
            what = "another recipe" if same_cells else "other cells, classes or folds"
            raise TrainingDataError(
                f"{folder}: this result is of {what}; give another --out, or remove it."
            )


def _has_cells_of(result: FoldResult, study: StudyCells, fold: int) -> bool:
    split, labels = study.splits[fold], study.cells.labels
    expected = {
        "test_rows": split.test,
        "test_labels": labels[split.test],
        "calibration_rows": split.calibration,
        "calibration_labels": labels[split.calibration],
    }
    same = all(np.array_equal(result.arrays[name], rows) for name, rows in expected.items())
    return same and result.info.classes == study.cells.classes


def run_jobs(
    jobs: Sequence[Job],
    out: Path,
    study: StudyCells,
    *,
    device: Device = "auto",
    progress: Callable[[Job, EpochReport | None], None] | None = None,
) -> None:
    """Run the jobs that no process runs yet, until all are done.

    Several processes may do so at once.

    Args:
        jobs: all of the study.
        out: its folder.
        study: the cells.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: called after each epoch, and with None when the result of a job is written.
    """
    while pending := [job for job in jobs if not is_done(job.folder(out))]:
        if not any(_try_job(job, out, study, device, progress) for job in pending):
            time.sleep(_WAIT_S)  # the other jobs are running, or wait for those


def _try_job(
    job: Job,
    out: Path,
    study: StudyCells,
    device: Device,
    progress: Callable[[Job, EpochReport | None], None] | None,
) -> bool:
    """Run a job if the jobs it needs are done and no process runs it; return whether it was run."""
    if not all(is_done(out / job.backbone / name / f"fold-{job.fold}") for name in job.needs):
        return False
    folder = job.folder(out)
    with try_lock(folder / ".claim") as held:
        if not held or is_done(folder):
            return False
        report = None if progress is None else lambda epoch: progress(job, epoch)
        write_result(
            folder, run_job(job, out, study, TrainingOptions(device=device, on_epoch=report))
        )
    if progress is not None:
        progress(job, None)
    return True


def run_job(job: Job, out: Path, study: StudyCells, options: TrainingOptions) -> FoldResult:
    """Train one network on one fold, or resume it, and evaluate it."""
    began_s = time.perf_counter()
    split, recipe = study.splits[job.fold], job.recipe
    training, calibration, test = (
        study.cells.subset(rows) for rows in (split.train, split.calibration, split.test)
    )
    normalisation = fit_normalisation(training.images, recipe.normalise)
    teacher = (
        _teacher(job, out, (training, calibration), normalisation, options.device)
        if job.needs
        else None
    )
    training, calibration, test = (
        select_modality(part, recipe, normalisation) for part in (training, calibration, test)
    )
    if recipe.method == "single":
        index = study.cells.modalities.index(str(recipe.modality))
        normalisation = normalisation.modality(index, study.cells.planes)
    network: FusionNetwork
    if recipe.method == "late-fusion":
        assert teacher is not None
        network = teacher.network
    else:
        role = f"teacher {recipe.modality}" if recipe.method == "single" else recipe.method
        task = TrainingTask(training, normalisation, recipe, role=role, teacher=teacher)
        network = train_network(task, job.folder(out) / "training", options)
    logits = predict_logits(network, test, normalisation, device=options.device)
    arrays: dict[str, Any] = {
        "test_rows": split.test,
        "test_labels": test.labels,
        "test_logits": logits,
        "calibration_rows": split.calibration,
        "calibration_labels": calibration.labels,
        "calibration_logits": predict_logits(
            network, calibration, normalisation, device=options.device
        ),
    }
    if network.modalities > 1:
        arrays |= probe_inputs(network, training, test, normalisation, options.device)
        arrays["jacobian"] = jacobian_norms(network, test, normalisation)
    probability = mean_probability(logits)
    info = ResultInfo(
        backbone=job.backbone,
        row=job.name,
        fold=job.fold,
        folds=len(study.splits),
        classes=test.classes,
        modalities=test.modalities,
        derived=study.cells.derived,
        cells=CellCounts(train=len(training), calibration=len(calibration), test=len(test)),
        recipe=recipe,
        scores=metrics.scores(test.labels, probability, test.classes),
        calibration_error=metrics.expected_calibration_error(test.labels, probability),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        flops=count_flops(network, recipe.side),
        seconds=round(time.perf_counter() - began_s, 1),
        versions={name: metadata.version(name) for name in _PACKAGES},
    )
    return FoldResult(info, arrays)


def _teacher(
    job: Job,
    out: Path,
    parts: tuple[CellSet, CellSet],
    normalisation: Normalisation,
    device: Device,
) -> Teacher:
    """Return the late fusion of the single-modality networks that a job needs.

    Teachers of other seeds are trained in the job's own folder. A calibrated fusion is fitted on
    the fold's calibration cells; the test cells stay unseen.

    Args:
        job: with teachers.
        out: folder of the study.
        parts: training and calibration cells, of all modalities.
        normalisation: of all modalities.
        device: where to train.
    """
    cells, calibration = parts
    options = job.recipe.distillation
    seeds = options.teacher_seeds if job.recipe.method.endswith("-kd") else 1
    networks: list[FusionNetwork] = []
    for number in range(seeds):
        members = []
        for index, name in enumerate(job.needs):
            folder = out / job.backbone / name / f"fold-{job.fold}"
            recipe = read_result(folder).info.recipe
            work = folder / "training"
            if number:
                recipe = recipe.model_copy(update={"seed": recipe.seed + number})
                work = job.folder(out) / f"teacher-{name}-{number}"
            part, own = cells.modality(index), normalisation.modality(index, cells.planes)
            task = TrainingTask(part, own, recipe, role=f"teacher {name}")
            members.append(train_network(task, work, TrainingOptions(device=device)))
        networks.append(late_fusion_of(members, job.recipe.backbone))
    network = networks[0] if seeds == 1 else MeanOfNetworks(networks)
    if options.teacher_fusion == "mean":
        return Teacher(network)
    logits = predict_logits(network, calibration, normalisation, device=device)
    return Teacher(network, fit_teacher_fusion(logits, calibration.labels))


def count_flops(network: FusionNetwork, side: int) -> int | None:
    """Return the multiply-adds for one cell, as fvcore counts them and the paper states them; None
    without fvcore.
    """
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
