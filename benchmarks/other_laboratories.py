"""Classify white cells of other laboratories with a bundle that never saw an image of theirs.

    python benchmarks/other_laboratories.py [--bundle smear-shufflenet] [--zheng CLONE]
        [--fields N] [--json]

The default sets are in `../shared/data`: the single cells of `chula`, and the fields of `bccd` in
which one complete white cell is found, segmented first (every third field; `--fields 1` takes all).
`--zheng` adds two sets of single cells (github.com/zxaoyou/segmentation_WBC: Zheng et al., Micron
107 (2018) 55, doi:10.1016/j.micron.2018.01.010). Given are the pixel size and the kind of stain.
Scores count every cell, then only the cells that are not unidentified.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wbcpipe.classify.metrics import scores
from wbcpipe.classify.models.bundle import find_bundle
from wbcpipe.classify.stage import classify_sample
from wbcpipe.samples.cell_columns import UNIDENTIFIED, QcFlag
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.sample import Sample
from wbcpipe.segment.importers.cells import import_cells
from wbcpipe.segment.importers.fields import import_fields
from wbcpipe.segment.importers.inputs import CellImport, FieldImport
from wbcpipe.segment.run import segment_sample

#: Zheng's sets to their pixel sizes, read off the red cells (7.5 um), as BCCD's.
SETS = {"Dataset 1": 0.2, "Dataset 2": 0.1}
#: Their class numbers.
NUMBERS = {"1": "NEU", "2": "LYM", "3": "MO", "4": "EOS", "5": "BAS"}
BCCD_UM = 0.075
CROP_UM = 0.1
NAMES = {
    "neutrophil": "NEU",
    "eosinophil": "EOS",
    "lymphocyte": "LYM",
    "monocyte": "MO",
    "basophil": "BAS",
}
DATA = Path(__file__).parents[2] / "shared" / "data"


def drawn_cells(folder: Path, name: str, scratch: Path) -> tuple[Sample, list[str]]:
    """One of Zheng's sets as a sample of cells, and each cell's class."""
    sample = Sample.open(scratch, name.replace(" ", "-"))
    with (folder / f"Class Labels of {name}.csv").open(encoding="utf-8-sig") as table:
        classes = {
            row[0]: NUMBERS.get(row[1].strip(), "")
            for row in list(csv.reader(table))[1:]
            if len(row) > 1
        }
    pictures = scratch / f"{sample.name}-png"
    for file in sorted((folder / name).glob("*.bmp")):
        label = classes.get(str(int(file.stem)), "")
        if label:
            (pictures / label).mkdir(parents=True, exist_ok=True)
            Image.open(file).convert("RGB").save(pictures / label / f"{file.stem}.png")
    return sample, import_cells([pictures], sample, CellImport("stained-rgb", SETS[name])).labels()


def labelled_crops(folder: Path, scratch: Path) -> tuple[Sample, list[str]]:
    """Import the single cells of `chula`; return the sample and each cell's class."""
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        target = scratch / "chula-images" / NAMES[row["label"]] / Path(row["file"]).name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / row["file"], target)
    sample = Sample.open(scratch, "chula")
    return sample, import_cells(
        [scratch / "chula-images"], sample, CellImport("stained-rgb", CROP_UM)
    ).labels()


def single_cell_fields(folder: Path, every: int, scratch: Path) -> tuple[Sample, list[str]]:
    """Segment the fields of BCCD.

    Return the class of each complete cell that is alone in its field, else "".
    """
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        classes = {row["file"]: NAMES.get(row["label"].strip(), "") for row in csv.DictReader(file)}
    files = sorted((folder / "JPEGImages").glob("*.jpg"))[::every]
    sample = Sample.open(scratch, "bccd")
    import_fields(files, sample, FieldImport("stained-rgb", BCCD_UM))
    store = segment_sample(sample, pixel_um=CROP_UM)
    field, quality = store.column("field_index"), store.column("qc_flags")
    alone = np.bincount(field, minlength=len(files))[field] == 1
    whole = (quality & (QcFlag.DEBRIS | QcFlag.BORDER)) == 0
    return sample, [
        classes.get(files[index].name, "") if use else ""
        for index, use in zip(field, alone & whole, strict=True)
    ]


def measure(sample: Sample, labels: list[str], bundle: str) -> dict[str, Any]:
    """One row: what the bundle makes of a sample whose cells' classes are known."""
    model = find_bundle(bundle)
    classify_sample(sample, model)
    store = CellStore(sample.cells_path)
    rows = np.array([index for index, label in enumerate(labels) if label])
    classes = list(model.info.classes)
    truth = np.array([classes.index(labels[index]) for index in rows])
    probability = store.column("probability")[rows].mean(axis=1)
    all_called = scores(truth, probability, classes)
    accepted = np.array([store.predicted_classes()[index] != UNIDENTIFIED for index in rows])
    right = np.array([store.predicted_classes()[index] == labels[index] for index in rows])
    counts = {name: int((truth == number).sum()) for number, name in enumerate(classes)}
    return {
        "set": sample.name,
        "cells": len(rows),
        "weighted_f1": all_called["f1_weighted"],
        "macro_f1": float(
            np.mean([value for value in all_called["f1"].values() if value is not None])
        ),
        "accuracy": all_called["accuracy"],
        "unidentified": float(1 - accepted.mean()),
        "right_of_accepted": float(right[accepted].mean()),
        "counts": counts,
        "confusion": all_called["confusion"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", default="smear-shufflenet", help="name or folder of a bundle")
    parser.add_argument("--zheng", type=Path, help="clone of the drawn cells' repository")
    parser.add_argument(
        "--fields", type=int, default=3, metavar="N", help="take every N-th field of bccd"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        sets = (
            [drawn_cells(arguments.zheng, name, scratch) for name in SETS]
            if arguments.zheng
            else []
        )
        if DATA.is_dir():
            sets.append(labelled_crops(DATA / "chula", scratch))
            sets.append(single_cell_fields(DATA / "bccd", arguments.fields, scratch))
        if not sets:
            parser.error(f"{DATA} is not there; give --zheng.")
        rows = [measure(sample, labels, arguments.bundle) for sample, labels in sets]
    if arguments.json:
        worst = min(row["weighted_f1"] for row in rows)
        versions = {name: version(name) for name in ("wbcpipe", "numpy", "torch", "scikit-image")}
        print(
            json.dumps(
                {"name": "other_laboratories", "ratio": worst, "rows": rows, "versions": versions}
            )
        )
        return
    print("| set | cells | weighted F1 | macro F1 | accuracy | unidentified | right of accepted |")
    print("|---" * 7 + "|")
    for row in rows:
        print(
            "| "
            + " | ".join(
                f"{v:.3f}" if isinstance(v, float) else str(v) for v in list(row.values())[:7]
            )
            + " |"
        )
    for row in rows:
        print(
            f"\n{row['set']}: {row['counts']}; rows are true, columns "
            f"called\n{np.array(row['confusion'])}"
        )


if __name__ == "__main__":
    main()
