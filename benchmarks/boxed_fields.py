"""Cells found in the fields of another laboratory, against the boxes of its authors.

    git clone https://github.com/draaslan/blood-cell-detection-dataset
    python benchmarks/boxed_fields.py --folder blood-cell-detection-dataset [--json]

100 fields of 256 x 256 pixels, 103 boxes of white cells, of which three hold a red cell (images 100, 104 and 114). The
pixel size is read off the whole red cells' boxes (7.5 um). Right, wrong and missed are told as in `detection_bccd`.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from detection_bccd import compare
from generality import centres
from PIL import Image

from wbcpipe.segment.stain_separation import scale_16bit

_RED_CELL_UM = 7.5


def read_boxes(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Of each picture and kind of cell the boxes (N, 4) as ymin, xmin, ymax, xmax in shares of its sides."""
    boxes: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: {"rbc": [], "wbc": []})
    with (folder / "annotations.csv").open(newline="") as handle:
        for row in csv.DictReader(handle):
            boxes[row["image"]][row["label"]].append([float(row[side]) for side in ("ymin", "xmin", "ymax", "xmax")])
    return {
        name: {kind: np.array(values).reshape(-1, 4) for kind, values in kinds.items()}
        for name, kinds in sorted(boxes.items())
    }


def measure(folder: Path) -> dict[str, Any]:
    """The one row."""
    boxes = read_boxes(folder)
    side = Image.open(folder / "images" / next(iter(boxes))).width
    red = side * np.concatenate([kinds["rbc"] for kinds in boxes.values()])
    red = red[(red.min(1) > 2) & (red.max(1) < side - 3)]
    pixel_um = _RED_CELL_UM / float(np.median(np.concatenate([red[:, 2] - red[:, 0], red[:, 3] - red[:, 1]])))
    counts, wrong_in = np.zeros(3, int), []
    for name, kinds in boxes.items():
        planes = scale_16bit(np.asarray(Image.open(folder / "images" / name).convert("RGB")))
        result = compare(centres(planes, pixel_um), side * kinds["wbc"])
        counts += result
        if result[1] or result[2]:
            wrong_in.append(name)
    right, wrong, missed = counts.tolist()
    return {
        "pixel_um": pixel_um,
        "right": right,
        "wrong": wrong,
        "missed": missed,
        "precision": right / max(1, right + wrong),
        "recall": right / (right + missed),
        "pictures_with_errors": wrong_in,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("blood-cell-detection-dataset"), help="clone of the set")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    if not (arguments.folder / "annotations.csv").is_file():
        raise SystemExit(f"{arguments.folder}: no annotations.csv there; clone the repository named above.")
    row = measure(arguments.folder)
    if arguments.json:
        versions = {name: version(name) for name in ("wbcpipe", "numpy", "scipy")}
        print(json.dumps({"name": "boxed_fields", "ratio": row["recall"], "rows": [row], "versions": versions}))
        return
    for name, value in row.items():
        print(f"{name:<24}{value:.3f}" if isinstance(value, float) else f"{name:<24}{value}")


if __name__ == "__main__":
    main()
