"""Does a bundle improve on another stain setting when it is trained on cells that a reader verified
there?

    python benchmarks/review_training.py [--work FOLDER] [--fields 8] [--test-fields 5]
        [--reviewed-seeds N ...] [--test-seeds N ...] [--stain other|far] [--json]

Four virtual slides are scanned with another setting of the stain (``STAINS``) than the bundle was
trained on, and classified by the bundle. A scripted reader reviews the first slide as on the review
page: each counted cell gets its true class by an entry of the journal, and what is no cell becomes
an artefact. Then

    wbcpipe labels export SLIDE --out SET --verified
    wbcpipe train SET --init-from virtual-shufflenet --out MODEL

and the new bundle classifies the three other slides, whose seeds differ. Reported: weighted F1 and
the share of right calls of both bundles (an unidentified cell is a miss), their paired difference
with its 95 % interval (Newcombe), and the unidentified cells. Slides are buffy coats: every class
alike often. FOLDER keeps slides and bundle, and is used again. The ratio is the new bundle's
weighted F1 over the shipped one's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

import wbcpipe
from wbcpipe import __version__
from wbcpipe.classify.uncertainty.paired_difference import paired_difference
from wbcpipe.pipeline import cli
from wbcpipe.report.evaluate import match_truth, visible_truth
from wbcpipe.report.reviewed_cells import row_keys
from wbcpipe.report.rows import read_rows
from wbcpipe.report.scores import score_predictions
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.review.entries import ARTEFACT, Assign, Change
from wbcpipe.samples.review.journal import Journal, journal_path
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from wbcpipe.report.rows import CellRows

BUNDLE = "virtual-shufflenet"
#: Relative to the setting on which the shipped bundle was trained.
STAINS = {
    "other": "nucleus = 0.7\ncytoplasm = 2.0\ngranules = 2.0\nabsorbance = [0.5, 1.6, 0.7]",
    "far": "nucleus = 0.45\ncytoplasm = 3.0\ngranules = 0.4\nabsorbance = [0.35, 2.2, 0.5]",
}
REVIEWED, TESTED = 5001, (5002, 5003, 5004)


def command(*words: str) -> None:
    cli.main(list(words), standalone_mode=False)


def write_scope(work: Path, stain: str) -> Path:
    """The scope file of the virtual microscope with the other stain."""
    shipped = Path(wbcpipe.__file__).parent / "hardware_configs"
    (work / "demo.cfg").write_bytes((shipped / "demo.cfg").read_bytes())
    path = work / "other-stain.toml"
    toml = (shipped / "demo.toml").read_text(encoding="utf-8")
    path.write_text(f"{toml}\n[virtual_condition.stain]\n{STAINS[stain]}\n", encoding="utf-8")
    return path


def scan(data: Path, scope: Path, seed: int, fields: int) -> str:
    name = f"stain-{seed}"
    if not (data / name / "cells.zarr").exists():
        words = [
            "--specimen-seed",
            str(seed),
            "--specimen-preparation",
            "buffy-coat",
            "--fields",
            str(fields),
        ]
        command("acquire", "--slide", name, "--scope", str(scope), *words, "--data", str(data))
        command("segment", "--sample", name, "--data", str(data))
    return name


def true_classes(sample: Sample) -> tuple[CellRows, list[str]]:
    """The classified cells, and the true class of each; empty for what is no cell."""
    store = CellStore(sample.cells_path)
    truth = visible_truth(sample)
    _, partner = match_truth(store, truth)
    return read_rows(store), ["" if index < 0 else truth.label[index] for index in partner]


def review(sample: Sample) -> int:
    """Give each counted cell its true class, as a reader on the review page does.

    Return the number of cells.
    """
    rows, true = true_classes(sample)
    journal = Journal(journal_path(sample))
    if not journal.entries():
        keys = row_keys(rows)
        actions = [
            Assign(
                cells=(
                    Change(
                        cell=keys[row], before=rows.predicted_class[row], to=true[row] or ARTEFACT
                    ),
                )
            )
            for row in np.flatnonzero(rows.counted).tolist()
        ]
        journal.append(actions, reader="scripted", base="")
    return int(rows.counted.sum())


def call(data: Path, samples: list[str], bundle: str) -> dict[str, list[str]]:
    """The true classes and the calls of a bundle, of the counted cells of all samples."""
    found: dict[str, list[str]] = {"true": [], "called": []}
    for name in samples:
        command("classify", "--sample", name, "--bundle", bundle, "--data", str(data))
        rows, true = true_classes(Sample.open(data, name))
        for row in np.flatnonzero(rows.counted):
            if true[row]:
                found["true"].append(true[row])
                found["called"].append(rows.predicted_class[row])
    return found


def scores(found: dict[str, list[str]], classes: tuple[str, ...]) -> dict[str, Any]:
    index = {name: number for number, name in enumerate(classes)}
    true = [index[name] for name in found["true"]]
    called = [index.get(name, len(classes)) for name in found["called"]]
    result = score_predictions(true, called, classes)
    return {
        "weighted_f1": round(result.weighted_f1, 4),
        "right": round(result.accuracy, 4),
        "unidentified": called.count(len(classes)),
        "f1": {score.name: round(score.f1, 4) for score in result.classes},
    }


def measure(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    data, model = work / "data", work / "model"
    scope = write_scope(work, options.stain)
    reviewed = [scan(data, scope, seed, options.fields) for seed in options.reviewed_seeds]
    tested = [scan(data, scope, seed, options.test_fields) for seed in options.test_seeds]
    cells = 0
    for name in reviewed:
        command("classify", "--sample", name, "--bundle", BUNDLE, "--data", str(data))
        cells += review(Sample.open(data, name))
    before = call(data, tested, BUNDLE)
    if not (model / "model").exists():
        command(
            "labels",
            "export",
            *reviewed,
            "--out",
            str(work / "set"),
            "--verified",
            "--data",
            str(data),
        )
        command(
            "train", str(work / "set"), "--init-from", BUNDLE, "--out", str(model), "--threads", "1"
        )
    after = call(data, tested, str(model / "model"))
    classes = read_rows(CellStore(Sample.open(data, tested[0]).cells_path)).classes
    right = [
        np.array([a == b for a, b in zip(part["true"], part["called"], strict=True)])
        for part in (after, before)
    ]
    difference = paired_difference(*right)
    shipped, trained = scores(before, classes), scores(after, classes)
    return {
        "ratio": round(trained["weighted_f1"] / max(shipped["weighted_f1"], 1e-9), 4),
        "verified_cells": cells,
        "test_cells": len(before["true"]),
        "shipped": shipped,
        "trained": trained,
        "right_difference": [round(value, 4) for value in difference],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path)
    parser.add_argument("--fields", type=int, default=8)
    parser.add_argument("--test-fields", type=int, default=5)
    parser.add_argument("--reviewed-seeds", type=int, nargs="+", default=[REVIEWED])
    parser.add_argument("--test-seeds", type=int, nargs="+", default=list(TESTED))
    parser.add_argument("--stain", choices=list(STAINS), default="other")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        found = measure(work.resolve(), options)
    versions = {"wbcpipe": __version__, "torch": torch.__version__}
    cpu = platform.processor() or platform.machine()
    result = {
        "name": "review_training",
        **found,
        "stain": STAINS[options.stain],
        "versions": versions,
        "cpu": cpu,
    }
    if options.json:
        print(json.dumps(result))
        return 0
    print(f"{found['verified_cells']} verified cells; {found['test_cells']} cells of other slides")
    for name in ("shipped", "trained"):
        row = found[name]
        classes = "  ".join(f"{label} {value:.3f}" for label, value in row["f1"].items())
        print(
            f"{name:>8}  weighted F1 {row['weighted_f1']:.4f}  right {100 * row['right']:.1f} %  "
            f"unidentified {row['unidentified']}  F1: {classes}"
        )
    share, low, high = (100 * value for value in found["right_difference"])
    print(f"more right calls: {share:+.1f} % ({low:+.1f} to {high:+.1f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
