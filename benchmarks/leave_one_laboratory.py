"""Train on the smears of some laboratories and test on one that is left out, each in turn.

    python benchmarks/leave_one_laboratory.py [--work W] [--leave chula] [--learn pbc5 bccd]
        [--set normalise=separate] [--side 32] [--steps 300] [--name NAME] [--json]

Laboratories: `pbc5`, `chula` and `bccd` of `../shared/data`; their cells are imported into W once.
Networks of the default size and length are a trial of the script: take `--side 112 --steps 2000`.
Fifteen in a hundred cells of the laboratories that are learned from are held out. They set the
threshold for an error of 5 % among accepted cells; the left-out laboratory tells whether it holds
there: the exact upper limit (95 %) of its error has to be at or below 5 %, else nothing may be
promised for a laboratory that was not learned from. Every network is kept in W; a second call
reads it. Each result is one JSON file in W. Without W nothing stays.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from other_laboratories import CROP_UM, DATA, NAMES, labelled_crops, single_cell_fields

from wbcpipe.classify import metrics
from wbcpipe.classify.models.normalise import fit_normalisation, resize
from wbcpipe.classify.training.data import CellSet
from wbcpipe.classify.training.folds import holdout
from wbcpipe.classify.training.progress import StepReport, TrainingOptions
from wbcpipe.classify.training.recipe import Recipe, merge_keys, parse_settings, with_defaults_for
from wbcpipe.classify.training.train import TrainingTask, predict_logits, train_network
from wbcpipe.classify.uncertainty.clopper_pearson import clopper_pearson
from wbcpipe.classify.uncertainty.probability_calibration import (
    choose_threshold,
    fit_calibration,
    fused_probability,
)
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.sample import Sample
from wbcpipe.segment.importers.cells import import_cells
from wbcpipe.segment.importers.inputs import CellImport
from wbcpipe.system.files import write_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLASSES: Final = ("NEU", "LYM", "EOS", "MO", "BAS")
LABORATORIES: Final = ("pbc5", "chula", "bccd")
MAX_ERROR: Final = 0.05


@dataclass(frozen=True)
class Laboratory:
    """Cells of one laboratory: (N, 4, side, side) uint16 and their classes (N,)."""

    images: NDArray[np.uint16]
    labels: NDArray[np.int64]


def read(name: str, work: Path, side: int) -> Laboratory:
    """Cells of a laboratory at a side, imported if they are not there."""
    path = work / f"{name}.labels.json"
    if not path.is_file():
        sample, labels = _make(name, work)
        write_json(path, {"sample": str(sample.cells_path), "labels": labels})
    record = json.loads(path.read_text())
    rows = [index for index, label in enumerate(record["labels"]) if label in CLASSES]
    store = CellStore(Path(record["sample"]))
    images = [
        resize(store.images_at(rows[start : start + 64]), side) for start in range(0, len(rows), 64)
    ]
    classes = np.array([CLASSES.index(record["labels"][row]) for row in rows])
    return Laboratory(np.concatenate(images), classes)


def _make(name: str, work: Path) -> tuple[Sample, list[str]]:
    if name == "chula":
        return labelled_crops(DATA / "chula", work)
    if name == "bccd":
        return single_cell_fields(DATA / "bccd", 1, work)
    sample = Sample.open(work, name)
    store = import_cells([DATA / name], sample, CellImport("stained-rgb", CROP_UM))
    return sample, [NAMES.get(label, label) for label in store.labels()]


def joined(parts: list[Laboratory]) -> CellSet:
    labels = np.concatenate([part.labels for part in parts])
    return CellSet(
        images=np.concatenate([part.images for part in parts]),
        labels=labels,
        groups=np.arange(len(labels)),
        classes=CLASSES,
        modalities=("color1", "color2", "color3", "fluorescence"),
        planes=1,
        pixel_um=CROP_UM,
        source="stained-rgb",
        derived=("fluorescence",),
    )


def recipe_of(options: argparse.Namespace, cells: int) -> Recipe:
    keys: dict[str, Any] = {
        "method": "mm-mimo",
        "side": options.side,
        "start_side": min(64, options.side),
        "epochs": max(1, options.steps // 100),
        "min_steps": options.steps,
    }
    for text in options.settings:
        keys = merge_keys(keys, parse_settings(text))
    return Recipe.model_validate(with_defaults_for(keys, "stained-rgb", cells))


def leave_out(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train without one laboratory and test on it."""
    learn = [one for one in options.learn if one != name]
    cells = joined([read(one, options.work, options.side) for one in learn])
    strata = cells.labels + len(CLASSES) * np.repeat(
        np.arange(len(learn)), [len(read(one, options.work, options.side).labels) for one in learn]
    )
    train, kept = holdout(strata, cells.groups, 0.15, 0)
    recipe = recipe_of(options, len(train))
    normalisation = fit_normalisation(cells.images[train], recipe.normalise)
    began_s = time.process_time()

    def report(step: StepReport) -> None:
        if step.step % 100 == 0:
            print(f"{name} left out: step {step.step}/{step.steps}", flush=True)

    network = train_network(
        TrainingTask(cells.subset(train), normalisation, recipe, "mm-mimo"),
        options.work / "networks" / f"{options.name}-without-{name}",
        TrainingOptions(on_step=report),
    )
    home = cells.subset(kept)
    held = predict_logits(network, home, normalisation)
    calibration = fit_calibration(held, home.labels)
    fused = fused_probability(held, calibration)
    threshold = choose_threshold(home.labels, fused, 1 - MAX_ERROR, 0.5)
    away = joined([read(name, options.work, options.side)])
    found = {
        "name": options.name,
        "left_out": name,
        "learned_from": learn,
        "steps": options.steps,
        "epochs": round(options.steps * recipe.batch_size / len(train), 1),
        "cpu_s": round(time.process_time() - began_s),
        "threshold": threshold,
        "home": figures(home.labels, fused, threshold),
        "away": figures(
            away.labels,
            fused_probability(predict_logits(network, away, normalisation), calibration),
            threshold,
        ),
        "recipe": recipe.model_dump(mode="json"),
        "versions": {one: version(one) for one in ("wbcpipe", "torch", "numpy")},
    }
    write_json(options.work / f"{options.name}-without-{name}.json", found)
    return found


def figures(
    labels: NDArray[np.int64], probability: NDArray[np.float64], threshold: float
) -> dict[str, Any]:
    found = metrics.scores(labels, probability, CLASSES)
    accepted = probability.max(axis=1) >= threshold
    wrong = int((probability.argmax(axis=1) != labels)[accepted].sum())
    count = int(accepted.sum())
    limit = clopper_pearson(wrong, count, 0.05)[1] if count else None
    return {
        "cells": len(labels),
        "weighted_f1": found["f1_weighted"],
        "recall": found["sensitivity_by_class"],
        "confusion": found["confusion"],
        "accepted": count,
        "wrong": wrong,
        "error_limit": limit,
        "promise_holds": limit is not None and limit <= MAX_ERROR,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path)
    parser.add_argument("--leave", nargs="*", default=LABORATORIES, choices=LABORATORIES)
    parser.add_argument("--learn", nargs="*", default=LABORATORIES, choices=LABORATORIES)
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--name", default="network")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    with tempfile.TemporaryDirectory() as folder:
        options.work = options.work or Path(folder)
        options.work.mkdir(parents=True, exist_ok=True)
        rows = [leave_out(name, options) for name in options.leave]
    if options.json:
        print(json.dumps({"name": "leave_one_laboratory", "rows": rows}))
        return 0
    header = ("left out", "learned from", "steps", "epochs", "F1 at home", "F1 left out")
    table = [
        (
            *(row["left_out"], ", ".join(row["learned_from"]), row["steps"], row["epochs"]),
            *(f"{row[where]['weighted_f1']:.3f}" for where in ("home", "away")),
            *(f"{100 * (row['away']['recall'][one] or 0):.0f}" for one in CLASSES),
            f"{row['away']['wrong']} of {row['away']['accepted']}",
            "yes" if row["away"]["promise_holds"] else "no",
        )
        for row in rows
    ]
    names = (*header, *(f"recall {one}" for one in CLASSES), "wrong of accepted", "5 % holds")
    print("\n".join(metrics.table_lines(names, table)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
