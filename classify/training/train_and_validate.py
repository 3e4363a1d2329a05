"""The whole procedure on given training and validation cells: teachers, student, scores; and its cross-validation."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wbcpipe.classify import metrics
from wbcpipe.classify.models.normalise import fit_normalisation
from wbcpipe.classify.training.finetune import check_init_from
from wbcpipe.classify.training.folds import stratified_folds
from wbcpipe.classify.training.train import late_fusion_of, predict_logits, train_network
from wbcpipe.classify.uncertainty.probability_calibration import mean_probability
from wbcpipe.errors import TrainingDataError
from wbcpipe.system.files import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.classify.models.bundle import Bundle
    from wbcpipe.classify.models.normalise import Normalisation
    from wbcpipe.classify.networks import FusionNetwork
    from wbcpipe.classify.training.data import CellSet
    from wbcpipe.classify.training.recipe import Recipe
    from wbcpipe.classify.training.train import EpochReport

__all__ = ["Outcome", "cross_validate", "markdown_table", "run_procedure", "select_modality"]


@dataclass(frozen=True)
class Outcome:
    """What one run of the procedure gave.

    Attributes:
        network: the trained network of the recipe's method.
        normalisation: of its input.
        logits: (N, heads, K) float32 of the validation cells.
        rows: name to scores on the validation cells: each modality alone, late fusion (where teachers were trained),
            and the method itself.
    """

    network: FusionNetwork
    normalisation: Normalisation
    logits: NDArray[np.float32]
    rows: dict[str, dict[str, Any]]


def select_modality(cells: CellSet, recipe: Recipe) -> CellSet:
    """The cells as the recipe's method reads them: one modality for ``single``, else all.

    Raises:
        TrainingDataError: the modality named is not among the cells'.
    """
    if recipe.method != "single":
        return cells
    if recipe.modality not in cells.modalities:
        raise TrainingDataError(
            f"modality {recipe.modality!r} is not in these cells; 'single' reads one of {list(cells.modalities)}."
        )
    return cells.modality(cells.modalities.index(recipe.modality))


def run_procedure(
    training: CellSet,
    validation: CellSet,
    recipe: Recipe,
    work: Path,
    *,
    init_from: Bundle | None = None,
    device: str = "auto",
    progress: Callable[[EpochReport], None] | None = None,
) -> Outcome:
    """Train teachers (where the method has them) and network, and score all of them on the validation cells.

    Args:
        training: cells to learn from.
        validation: cells kept apart, of the same classes and modalities.
        recipe: what to do.
        work: folder of the training states; what stands there is used again.
        init_from: the bundle whose weights the recipe starts from.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: called after each epoch.

    Raises:
        ConfigError, TrainingDataError: see `finetune.check_init_from`.
    """
    training, validation = select_modality(training, recipe), select_modality(validation, recipe)
    check_init_from(recipe, init_from, training)
    normalisation = fit_normalisation(training.images, recipe.normalise)
    rows: dict[str, dict[str, Any]] = {}

    def score(name: str, logits: NDArray[np.float32]) -> None:
        rows[name] = metrics.scores(validation.labels, mean_probability(logits), validation.classes)

    teacher = None
    if recipe.method == "late-fusion" or recipe.method.endswith("-kd"):
        members = []
        for index, name in enumerate(training.modalities):
            part = normalisation.select(slice(index * training.planes, (index + 1) * training.planes))
            own = recipe.for_teacher(name)
            member = train_network(
                training.modality(index),
                part,
                own,
                work / f"teacher-{name}",
                role=f"teacher {name}",
                device=device,
                progress=progress,
            )
            score(name, predict_logits(member, validation.modality(index), part, device=device))
            members.append(member)
        teacher = late_fusion_of(members, recipe.backbone)
        score("late-fusion", predict_logits(teacher, validation, normalisation, device=device))
    if recipe.method == "late-fusion":
        assert teacher is not None
        network: FusionNetwork = teacher
    else:
        network = train_network(
            training,
            normalisation,
            recipe,
            work / "network",
            role=recipe.method if recipe.method != "single" else f"teacher {recipe.modality}",
            teacher=teacher,
            init_from=init_from,
            device=device,
            progress=progress,
        )
    logits = predict_logits(network, validation, normalisation, device=device)
    score(str(recipe.modality) if recipe.method == "single" else recipe.method, logits)
    return Outcome(network, normalisation, logits, rows)


def cross_validate(
    cells: CellSet,
    recipe: Recipe,
    work: Path,
    *,
    folds: int,
    only: int | None = None,
    init_from: Bundle | None = None,
    device: str = "auto",
    progress: Callable[[int, EpochReport], None] | None = None,
) -> dict[str, Any]:
    """Run the whole procedure once a fold; folds that are finished in ``work`` are read, not run.

    Args:
        cells: all cells.
        recipe: what to do in each fold.
        work: folder; each fold has its own below it, and ``folds.json`` and ``folds.md`` hold the table.
        folds: how many.
        only: run this fold alone (from 0), so that several processes can share the work.
        init_from: the bundle whose weights the recipe starts from.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: called after each epoch with the fold.

    Returns:
        The table: for each method, a list of scores by fold and their mean and deviation.
    """
    parts = stratified_folds(cells.labels, cells.groups, folds, recipe.seed)
    if only is not None and not 0 <= only < folds:
        raise TrainingDataError(f"fold {only} is not one of {folds}; folds are numbered from 0 to {folds - 1}.")
    for number, (train, test) in enumerate(parts):
        place = work / f"fold-{number}"
        if only in (None, number):
            began = time.perf_counter()
            report = None if progress is None else lambda item, n=number: progress(n, item)
            outcome = run_procedure(
                cells.subset(train),
                cells.subset(test),
                recipe,
                place,
                init_from=init_from,
                device=device,
                progress=report,
            )
            write_fold(place, outcome, test, time.perf_counter() - began)
    table = collect_folds(work, recipe, cells, folds)
    write_json(work / "folds.json", table)
    (work / "folds.md").write_text(markdown_table(table), encoding="utf-8")
    return table


def write_fold(place: Path, outcome: Outcome, rows: NDArray[np.int64], seconds: float) -> None:
    """Write a fold's scores and its test cells' logits as ``fold.json``; a second run keeps the first one's time."""
    path = place / "fold.json"
    if path.is_file():
        seconds = max(seconds, float(read_json(path).get("seconds", 0.0)))
    content = {
        "seconds": round(seconds, 1),
        "rows": rows.tolist(),
        "logits": np.round(outcome.logits.astype(float), 4).tolist(),
        "scores": outcome.rows,
    }
    write_json(path, content)


def collect_folds(work: Path, recipe: Recipe, cells: CellSet, folds: int) -> dict[str, Any]:
    """The table of all folds that are finished below ``work``."""
    found = {n: read_json(work / f"fold-{n}" / "fold.json") for n in range(folds) if _done(work, n)}
    by_method: dict[str, list[dict[str, Any]]] = {}
    for content in found.values():
        for name, row in content["scores"].items():
            by_method.setdefault(name, []).append(row)
    return {
        "folds": folds,
        "finished": sorted(found),
        "recipe": recipe.model_dump(mode="json"),
        "classes": list(cells.classes),
        "modalities": list(cells.modalities),
        "derived_modalities": list(cells.derived),
        "samples": list(cells.samples),
        "cells": cells.counts(),
        "seconds": [content["seconds"] for content in found.values()],
        "methods": {name: {"mean": metrics.summarise(rows), "by_fold": rows} for name, rows in by_method.items()},
    }


def _done(work: Path, number: int) -> bool:
    return (work / f"fold-{number}" / "fold.json").is_file()


def markdown_table(table: dict[str, Any]) -> str:
    """The cross-validation for people: the paper's columns, then F1 by class and the method's confusion matrix."""
    classes: Sequence[str] = table["classes"]
    derived = set(table["derived_modalities"])

    def cell(entry: dict[str, float | None]) -> str:
        if entry["mean"] is None:
            return "-"
        spread = "" if entry["sd"] is None else f" ± {100 * entry['sd']:.2f}"
        return f"{100 * entry['mean']:.2f}{spread}"

    names = ("f1_weighted", "sensitivity", "specificity", "auc")
    lines = [
        f"# {len(table['finished'])} of {table['folds']} folds, {sum(table['cells'].values())} cells of "
        f"{', '.join(table['samples'])}",
        "",
        "| method | F1 | sensitivity | specificity | AUC | " + " | ".join(f"F1 {name}" for name in classes) + " |",
        "|---|" + "---|" * (len(names) + len(classes)),
    ]
    for method, entry in table["methods"].items():
        mean = entry["mean"]
        values = [cell(mean[name]) for name in names] + [cell(mean["f1"][name]) for name in classes]
        mark = " (derived)" if method in derived else ""
        lines.append(f"| {method}{mark} | " + " | ".join(values) + " |")
    last = list(table["methods"])[-1]
    lines += ["", f"Confusion of {last}, all folds (rows: truth, columns: call):", ""]
    lines += ["| | " + " | ".join(classes) + " |", "|---|" + "---|" * len(classes)]
    matrix = table["methods"][last]["mean"]["confusion"]
    lines += [f"| {name} | " + " | ".join(map(str, row)) + " |" for name, row in zip(classes, matrix, strict=True)]
    return "\n".join(lines) + "\n"
