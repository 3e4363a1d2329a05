"""Training and validation.

Teachers, student and scores on given cells, and cross-validation over all cells.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import TypedDict

from wbcpipe.classify import metrics
from wbcpipe.classify.metrics import Scores, ScoreSummary
from wbcpipe.classify.models.normalise import fit_normalisation
from wbcpipe.classify.training.finetune import check_init_from
from wbcpipe.classify.training.folds import holdout, stratified_folds
from wbcpipe.classify.training.progress import TrainingOptions
from wbcpipe.classify.training.teacher import (
    MeanOfNetworks,
    Teacher,
    fit_teacher_fusion,
    late_fusion_of,
)
from wbcpipe.classify.training.train import TrainingTask, predict_logits, train_network
from wbcpipe.classify.uncertainty.probability_calibration import mean_probability
from wbcpipe.errors import TrainingDataError
from wbcpipe.system.files import write_atomic, write_json

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.classify.models.normalise import Normalisation
    from wbcpipe.classify.networks import FusionNetwork
    from wbcpipe.classify.training.data import CellSet
    from wbcpipe.classify.training.recipe import Recipe

__all__ = [
    "FoldTable",
    "TrainingResult",
    "cross_validate",
    "markdown_table",
    "select_modality",
    "train_and_validate",
]


@dataclass(frozen=True)
class TrainingResult:
    """The result of `train_and_validate`.

    Attributes:
        network: the trained network of the recipe's method.
        normalisation: of its input.
        logits: (N, heads, K) float32 of the validation cells.
        scores: on the validation cells, by name: each modality alone, late fusion (if teachers were
            trained), and the method itself.
    """

    network: FusionNetwork
    normalisation: Normalisation
    logits: NDArray[np.float32]
    scores: dict[str, Scores]


class FoldRecord(BaseModel):
    """The content of ``fold.json``.

    Attributes:
        seconds: time that the fold took.
        rows: the test cells.
        logits: (N, heads, K) of the test cells.
        scores: by name, see `TrainingResult`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: float
    rows: list[int]
    logits: list[list[list[float]]]
    scores: dict[str, Scores]


class MethodScores(TypedDict):
    """The scores of one method over the folds."""

    mean: ScoreSummary
    by_fold: list[Scores]


class FoldTable(TypedDict):
    """The content of ``folds.json``: a cross-validation as far as it is finished."""

    folds: int
    finished: list[int]
    recipe: dict[str, Any]
    classes: list[str]
    modalities: list[str]
    derived_modalities: list[str]
    samples: list[str]
    cells: dict[str, int]
    seconds: list[float]
    methods: dict[str, MethodScores]


def select_modality(
    cells: CellSet, recipe: Recipe, normalisation: Normalisation | None = None
) -> CellSet:
    """Return the cells as the recipe's method reads them: one modality for ``single``, else all.

    Args:
        cells: of all modalities.
        recipe: how to train.
        normalisation: of all planes: what it separates is separated before a modality is taken.

    Raises:
        TrainingDataError: the cells have no such modality.
    """
    if recipe.method != "single":
        return cells
    if recipe.modality not in cells.modalities:
        raise TrainingDataError(
            f"modality {recipe.modality!r} is not in these cells; 'single' reads one of "
            f"{list(cells.modalities)}."
        )
    if normalisation is not None:
        cells = cells.with_images(normalisation.separate(cells.images))
    return cells.modality(cells.modalities.index(recipe.modality))


def train_and_validate(
    training: CellSet,
    validation: CellSet | None,
    recipe: Recipe,
    work: Path,
    options: TrainingOptions | None = None,
) -> TrainingResult:
    """Train the teachers (if the method has any) and the network, and score all of them on the
    validation cells.

    Args:
        training: cells to learn from.
        validation: other cells of the same classes and modalities; without them there are neither
            logits nor scores.
        recipe: how to train.
        work: folder of the training states; states in it are used again.
        options: how to run it.

    Raises:
        ConfigError, TrainingDataError: see `finetune.check_init_from`.
    """
    options = options or TrainingOptions()
    training = select_modality(training, recipe)
    tested = None if validation is None else select_modality(validation, recipe)
    check_init_from(recipe, options.init_from, training)
    normalisation = fit_normalisation(training.images, recipe.normalise)
    found: dict[str, Scores] = {}
    teacher: Teacher | None = None
    network: FusionNetwork
    if recipe.method == "late-fusion" or recipe.method.endswith("-kd"):
        teacher = _train_teacher(training, tested, normalisation, recipe, work, options)
        if tested is not None:
            heads = predict_logits(teacher.network, tested, normalisation, device=options.device)
            for index, name in enumerate(training.modalities):
                found[name] = _scores(tested, heads[:, index : index + 1])
            found["late-fusion"] = _scores(tested, heads)
    if recipe.method == "late-fusion":
        assert teacher is not None
        network = teacher.network
    else:
        role = recipe.method if recipe.method != "single" else f"teacher {recipe.modality}"
        task = TrainingTask(
            training, normalisation, recipe, role=role, teacher=teacher, validation=tested
        )
        network = train_network(task, work / "network", options)
    logits = np.empty((0, network.heads, len(training.classes)), np.float32)
    if tested is not None:
        name = str(recipe.modality) if recipe.method == "single" else recipe.method
        logits = predict_logits(network, tested, normalisation, device=options.device)
        found[name] = _scores(tested, logits)
    return TrainingResult(network, normalisation, logits, found)


def _scores(cells: CellSet, logits: NDArray[np.float32]) -> Scores:
    return metrics.scores(cells.labels, mean_probability(logits), cells.classes)


def _train_teacher(
    training: CellSet,
    validation: CellSet | None,
    normalisation: Normalisation,
    recipe: Recipe,
    work: Path,
    options: TrainingOptions,
) -> Teacher:
    """Train one network a modality, or several with other seeds.

    If their fusion is calibrated, they are trained without the cells that it is fitted on. The
    members of late fusion start from a bundle's, if one is given; teachers learn from random
    weights.
    """
    if recipe.method != "late-fusion":
        options = replace(options, init_from=None)
    calibrated = recipe.distillation.teacher_fusion == "calibrated"
    cells, held_out = training, training
    if calibrated:
        learned, kept = holdout(training.labels, training.groups, recipe.holdout, recipe.seed)
        cells, held_out = training.subset(learned), training.subset(kept)
    # A stain is separated in all planes of a cell, of which a teacher reads some.
    cells = cells.with_images(normalisation.separate(cells.images))
    if validation is not None:
        validation = validation.with_images(normalisation.separate(validation.images))
    seeds = recipe.distillation.teacher_seeds if recipe.method.endswith("-kd") else 1
    networks: list[FusionNetwork] = []
    for number in range(seeds):
        members = []
        for index, name in enumerate(cells.modalities):
            task = TrainingTask(
                cells.modality(index),
                normalisation.modality(index, cells.planes),
                recipe.for_teacher(name, number),
                role=f"teacher {name}",
                validation=None if validation is None else validation.modality(index),
            )
            suffix = (f"-{number}" if number else "") + ("-held-out" if calibrated else "")
            folder = work / f"teacher-{name}{suffix}"
            members.append(train_network(task, folder, options))
        networks.append(late_fusion_of(members, recipe.backbone))
    network = networks[0] if seeds == 1 else MeanOfNetworks(networks)
    if not calibrated:
        return Teacher(network)
    logits = predict_logits(network, held_out, normalisation, device=options.device)
    return Teacher(network, fit_teacher_fusion(logits, held_out.labels))


def cross_validate(
    cells: CellSet,
    recipe: Recipe,
    work: Path,
    *,
    folds: int,
    only: int | None = None,
    options: TrainingOptions | None = None,
) -> FoldTable:
    """Train and validate once per fold; folds that are finished in ``work`` are read, not trained.

    Args:
        cells: all cells.
        recipe: how to train in each fold.
        work: folder; each fold has a folder in it, and ``folds.json`` and ``folds.md`` hold the
            table.
        folds: number of folds.
        only: the one fold to run (from 0), so that several processes can share the work.
        options: how to run it.
    """
    options = options or TrainingOptions()
    parts = stratified_folds(cells.labels, cells.groups, folds, recipe.seed)
    if only is not None and not 0 <= only < folds:
        raise TrainingDataError(
            f"fold {only} is not one of {folds}; folds are numbered from 0 to {folds - 1}."
        )
    for number, (train, test) in enumerate(parts):
        if only in (None, number):
            began_s = time.perf_counter()
            folder = work / f"fold-{number}"
            result = train_and_validate(
                cells.subset(train),
                cells.subset(test),
                recipe,
                folder,
                replace(options, fold=number),
            )
            _write_fold(folder / "fold.json", result, test, time.perf_counter() - began_s)
    table = _fold_table(work, recipe, cells, folds)
    write_json(work / "folds.json", table)
    with write_atomic(work / "folds.md") as handle:
        handle.write(markdown_table(table).encode())
    return table


def _write_fold(
    path: Path, result: TrainingResult, rows: NDArray[np.int64], seconds: float
) -> None:
    """Write ``fold.json``; a fold that was trained before keeps its longer time."""
    if path.is_file():
        seconds = max(seconds, _read_fold(path).seconds)
    record = FoldRecord(
        seconds=round(seconds, 1),
        rows=rows.tolist(),
        logits=np.round(result.logits.astype(float), 4).tolist(),
        scores=result.scores,
    )
    write_json(path, record.model_dump(mode="json"))


def _read_fold(path: Path) -> FoldRecord:
    try:
        return FoldRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise TrainingDataError(
            f"{path}: not the result of a fold; move it away. {error.errors()[0]['msg']}"
        ) from error


def _fold_table(work: Path, recipe: Recipe, cells: CellSet, folds: int) -> FoldTable:
    """Return the table of all folds that are finished."""
    paths = {number: work / f"fold-{number}" / "fold.json" for number in range(folds)}
    found = {number: _read_fold(path) for number, path in paths.items() if path.is_file()}
    by_method: dict[str, list[Scores]] = {}
    for record in found.values():
        for name, scores in record.scores.items():
            by_method.setdefault(name, []).append(scores)
    return {
        "folds": folds,
        "finished": sorted(found),
        "recipe": recipe.model_dump(mode="json"),
        "classes": list(cells.classes),
        "modalities": list(cells.modalities),
        "derived_modalities": list(cells.derived),
        "samples": list(cells.samples),
        "cells": cells.counts(),
        "seconds": [record.seconds for record in found.values()],
        "methods": {
            name: {"mean": metrics.summarise(scores), "by_fold": scores}
            for name, scores in by_method.items()
        },
    }


def markdown_table(table: FoldTable) -> str:
    """Return the cross-validation as Markdown: the paper's columns, F1 by class, the method's
    confusion matrix.
    """
    classes = table["classes"]
    rows = []
    for method, entry in table["methods"].items():
        mean = entry["mean"]
        figures = (mean["f1_weighted"], mean["sensitivity"], mean["specificity"], mean["auc"])
        values = [
            metrics.percent(figure)
            for figure in (*figures, *(mean["f1"][name] for name in classes))
        ]
        rows.append(
            [method + (" (derived)" if method in table["derived_modalities"] else ""), *values]
        )
    last = list(table["methods"])[-1]
    matrix = table["methods"][last]["mean"]["confusion"]
    lines = [
        f"# {len(table['finished'])} of {table['folds']} folds, {sum(table['cells'].values())} "
        f"cells of {', '.join(table['samples'])}",
        "",
        *metrics.table_lines(
            (
                "method",
                "F1",
                "sensitivity",
                "specificity",
                "AUC",
                *(f"F1 {name}" for name in classes),
            ),
            rows,
        ),
        "",
        f"Confusion of {last}, all folds (rows: truth, columns: call):",
        "",
        *metrics.table_lines(
            ("", *classes), ((name, *row) for name, row in zip(classes, matrix, strict=True))
        ),
    ]
    return "\n".join(lines) + "\n"
