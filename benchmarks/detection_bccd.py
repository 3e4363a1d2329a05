"""Detection of white cells in 364 real smear fields (BCCD, MIT licence), against the boxes drawn by
its authors.

A detection is right when its centre lies inside a WBC box that no other detection has used (largest
matching); every other detection is wrong, every other box missed. Detections flagged as debris are
left out, those cut by the border are not. Nothing else is left out: six pictures show a white cell
that has no box, and one box labelled WBC holds a platelet, so that no honest detector reaches 1
here.

Beside it stands a dozen lines fitted to these very pictures (blue minus green, Otsu, closing, a
size limit), and both run again under another white balance and exposure: other laboratories'
pictures differ at least by that.

Pixel size: red cells are 101 px wide on average, so 0.075 um at 7.5 um.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import time
import xml.etree.ElementTree as ElementTree
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from skimage.filters import threshold_otsu
from skimage.measure import label, regionprops

from wbcpipe.samples.cell_columns import QcFlag
from wbcpipe.segment.detection.detect import detect_cells
from wbcpipe.segment.stain_separation import nuclear_stain, scale_16bit

PIXEL_UM = 0.075
#: Gains of red, green and blue.
LIGHTS = {
    "as given": (1.0, 1.0, 1.0),
    "yellowish": (1.0, 0.87, 0.58),
    "dark": (0.5, 0.5, 0.5),
    "pink": (1.0, 0.7, 0.8),
}


def read_boxes(path: Path) -> np.ndarray:
    """WBC boxes (N, 4) as ymin, xmin, ymax, xmax."""
    objects = ElementTree.parse(path).getroot().iter("object")
    sides = ("ymin", "xmin", "ymax", "xmax")
    boxes = [
        [float(item.findtext(f"bndbox/{side}", "nan")) for side in sides]
        for item in objects
        if item.findtext("name") == "WBC"
    ]
    return np.array(boxes).reshape(-1, 4)


def ours(rgb: np.ndarray) -> np.ndarray:
    """Centres (N, 2) found by wbcpipe."""
    planes = scale_16bit(rgb)
    found = detect_cells(
        nuclear_stain(planes).detection_channel(planes, PIXEL_UM), PIXEL_UM, "stained"
    )
    return np.stack([found.y_px, found.x_px], -1)[(found.quality & QcFlag.DEBRIS) == 0]


def twelve_lines(rgb: np.ndarray) -> np.ndarray:
    """Centres (N, 2) found by a threshold on blue against green and a size limit."""
    values = ndimage.gaussian_filter(rgb[..., 2].astype(float) - rgb[..., 1], 2)
    mask = ndimage.binary_closing(values > max(threshold_otsu(values), 15), iterations=8)
    regions = [region for region in regionprops(label(mask)) if region.area * PIXEL_UM**2 > 15]
    return np.array([region.centroid for region in regions]).reshape(-1, 2)


def compare(found: np.ndarray, boxes: np.ndarray) -> tuple[int, int, int]:
    """Right, wrong, missed."""
    inside = np.all((found[:, None] >= boxes[:, :2]) & (found[:, None] <= boxes[:, 2:]), axis=-1)
    rows, columns = linear_sum_assignment(~inside)
    right = int(inside[rows, columns].sum())
    return right, len(found) - right, len(boxes) - right


def measure(folder: Path) -> list[dict[str, Any]]:
    """One row for each light and detector."""
    pictures = sorted((folder / "JPEGImages").glob("*.jpg"))
    if not pictures:
        raise SystemExit(f"{folder}: no BCCD pictures there; give their folder with --folder.")
    rows = []
    detectors = (("wbcpipe", ours), ("a dozen lines", twelve_lines))
    for (light, gains), (name, detector) in itertools.product(LIGHTS.items(), detectors):
        counts, seconds, wrong_in = np.zeros(3, int), 0.0, []
        for path in pictures:
            rgb = (np.asarray(Image.open(path).convert("RGB")) * np.array(gains)).astype(np.uint8)
            start = time.perf_counter()
            found = detector(rgb)
            seconds += time.perf_counter() - start
            result = compare(found, read_boxes(folder / "Annotations" / f"{path.stem}.xml"))
            counts += result
            if result[1] or result[2]:
                wrong_in.append(path.stem)
        right, wrong, missed = counts.tolist()
        rows.append(
            {
                "light": light,
                "detector": name,
                "pictures": len(pictures),
                "right": right,
                "wrong": wrong,
                "missed": missed,
                "precision": right / (right + wrong),
                "recall": right / (right + missed),
                "f1": 2 * right / (2 * right + wrong + missed),
                "ms_per_picture": 1000 * seconds / len(pictures),
                "pictures_with_errors": wrong_in,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--folder", type=Path, default=Path(__file__).parents[2] / "shared" / "data" / "bccd"
    )
    arguments = parser.parse_args()
    rows = measure(arguments.folder)
    if arguments.json:
        versions = {name: version(name) for name in ("wbcpipe", "numpy", "scipy", "scikit-image")}
        print(
            json.dumps(
                {
                    "name": "detection_bccd",
                    "ratio": rows[0]["f1"] / rows[1]["f1"],
                    "rows": rows,
                    "versions": versions,
                    "cpu": platform.processor() or platform.machine(),
                }
            )
        )
        return
    print(
        f"{'light':<12}{'detector':<16}{'right':>7}{'wrong':>7}{'missed':>8}{'precision':>11}{'recall':>9}{'F1':>8}{'ms/picture':>12}"
    )
    for row in rows:
        print(
            f"{row['light']:<12}{row['detector']:<16}{row['right']:>7}{row['wrong']:>7}{row['missed']:>8}{row['precision']:>11.4f}"
            f"{row['recall']:>9.4f}{row['f1']:>8.4f}{row['ms_per_picture']:>12.1f}"
        )
    print("wbcpipe's errors are in: " + ", ".join(rows[0]["pictures_with_errors"]))


if __name__ == "__main__":
    main()
