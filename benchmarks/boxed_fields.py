"""Detect white cells in the fields of another laboratory, and compare with the boxes of its
authors.

    python benchmarks/boxed_fields.py [--folder FOLDER] [--json]

The default is `../shared/data/chula/fields`: 16 fields of 1440 x 900 pixels, 0.1 um each, in which
some white cells have no box. A clone of github.com/draaslan/blood-cell-detection-dataset works too:
100 fields of 256 x 256 pixels, 103 boxes of white cells, three of which hold a red cell (images
100, 104 and 114); its pixel size follows from the boxes of uncut red cells (7.5 um). Correct, wrong
and missed are counted as in `detection_bccd`.
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
_CHULA = Path(__file__).parents[2] / "shared" / "data" / "chula" / "fields"
_CHULA_UM = 0.1


def read_boxes(folder: Path) -> tuple[dict[Path, np.ndarray], float]:
    """Return the white cells' boxes (N, 4) of each image as ymin, xmin, ymax, xmax in pixels, and
    the pixel size.
    """
    sides = ("ymin", "xmin", "ymax", "xmax")
    white: dict[Path, list[list[float]]] = defaultdict(list)
    red: list[list[float]] = []
    if (folder / "boxes.csv").is_file():
        with (folder / "boxes.csv").open(newline="") as handle:
            for row in csv.DictReader(handle):
                white[folder / row["file"]].append([float(row[side]) for side in sides])
        return {path: np.array(boxes) for path, boxes in sorted(white.items())}, _CHULA_UM
    if not (folder / "annotations.csv").is_file():
        raise SystemExit(
            f"{folder}: neither boxes.csv nor annotations.csv is there; give the folder of a set "
            f"named above."
        )
    with (folder / "annotations.csv").open(newline="") as handle:
        for row in csv.DictReader(handle):
            path = folder / "images" / row["image"]
            side_px = Image.open(path).width
            box = [side_px * float(row[side]) for side in sides]
            boxes = white[path]
            if row["label"] == "wbc":
                boxes.append(box)
            elif min(box) > 2 and max(box) < side_px - 3:
                red.append(box)
    extents = np.array(red)
    diameter_px = np.median(
        np.concatenate([extents[:, 2] - extents[:, 0], extents[:, 3] - extents[:, 1]])
    )
    return {
        path: np.array(boxes).reshape(-1, 4) for path, boxes in sorted(white.items())
    }, _RED_CELL_UM / diameter_px


def measure(folder: Path) -> dict[str, Any]:
    """Return the one row of the table."""
    boxes, pixel_um = read_boxes(folder)
    counts, wrong_in = np.zeros(3, int), []
    for path, white in boxes.items():
        planes = scale_16bit(np.asarray(Image.open(path).convert("RGB")))
        result = compare(centres(planes, pixel_um), white)
        counts += result
        if result[1] or result[2]:
            wrong_in.append(path.name)
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
    parser.add_argument("--folder", type=Path, default=_CHULA, help="folder of fields and boxes")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    row = measure(arguments.folder)
    if arguments.json:
        versions = {name: version(name) for name in ("wbcpipe", "numpy", "scipy")}
        print(
            json.dumps(
                {
                    "name": "boxed_fields",
                    "ratio": row["recall"],
                    "rows": [row],
                    "versions": versions,
                }
            )
        )
        return
    for name, value in row.items():
        print(f"{name:<24}{value:.3f}" if isinstance(value, float) else f"{name:<24}{value}")


if __name__ == "__main__":
    main()
