"""White cells in fields whose red cells resemble them.

Real smears, with what other laboratories' fields show put in.

    python benchmarks/foreign_fields.py [--every N] [--json]

Every N-th field of `bccd` and all of `chula/fields`, as given and changed. Only what lies outside
of the white cells' boxes is changed, or only what lies inside; the field stop and the scale bar are
drawn over all. Right, wrong and missed are counted as in `detection_bccd`; a cell whose box the
stop or the bar covers counts neither way.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from boxed_fields import read_boxes as read_table
from detection_bccd import PIXEL_UM, compare, read_boxes
from PIL import Image, ImageDraw
from scipy import ndimage

from wbcpipe.samples.cell_columns import QcFlag
from wbcpipe.segment.detection.detect import detect_cells
from wbcpipe.segment.stain_separation import nuclear_stain, scale_16bit

#: An image (Y, X, 3) in 0 to 255, the share of white cell (Y, X, 1) of each pixel, and the pixel
#: size.
Change = Callable[[np.ndarray, np.ndarray, float], np.ndarray]
_FOLDER = Path(__file__).parents[2] / "shared" / "data"


def density_factors(outside: tuple[float, float, float], inside: float = 1.0) -> Change:
    """Multiply the optical densities of the planes outside of the boxes, and of all planes
    inside.
    """

    def change(rgb: np.ndarray, white: np.ndarray, pixel_um: float) -> np.ndarray:
        light = _light(rgb, pixel_um)
        density = np.log10((light + 1) / (rgb + 1))
        factors = white * inside + (1 - white) * np.array(outside)
        return (light + 1) * 10 ** -(density * factors) - 1

    return change


def dark_rims(density: float, colour: tuple[float, float, float] = (1.1, 1.0, 0.9)) -> Change:
    """Darken the edges outside of the boxes by up to a density, as refraction does, and sharpen
    them.
    """

    def change(rgb: np.ndarray, white: np.ndarray, pixel_um: float) -> np.ndarray:
        grey = rgb.mean(-1)
        rim = ndimage.gaussian_gradient_magnitude(grey, 0.25 / pixel_um)
        rim = np.clip(rim / np.percentile(rim, 97), 0, 1)[..., None] ** 1.5
        sharp = rgb + 1.0 * (
            rgb - ndimage.gaussian_filter(rgb, (0.4 / pixel_um, 0.4 / pixel_um, 0))
        )
        dark = np.clip(sharp, 0, 255) * 10 ** -(density * rim * np.array(colour))
        return white * rgb + (1 - white) * dark

    return change


def _coloured_light(rgb: np.ndarray, _white: np.ndarray, _pixel_um: float) -> np.ndarray:
    """Give each plane a vignette of its own."""
    y, x = (np.linspace(-1, 1, side) for side in rgb.shape[:2])
    radius2 = np.minimum((y[:, None] - 0.2) ** 2 + (x[None] + 0.1) ** 2, 2)
    return (
        rgb
        * (1 - np.array([0.0, 0.12, 0.2]) * radius2[..., None])
        * (1 - 0.15 * np.exp(-3 * radius2)[..., None])
    )


def _field_stop(rgb: np.ndarray, _white: np.ndarray, _pixel_um: float) -> np.ndarray:
    """Blacken everything beyond a circle, with a soft edge, as an eyepiece does."""
    away = _from_centre(rgb.shape)
    return 12 + (rgb - 12) * np.clip((_STOP_RADIUS - away) * 40, 0, 1)[..., None]


def _scale_bar(rgb: np.ndarray, _white: np.ndarray, pixel_um: float) -> np.ndarray:
    """Burn in a black bar of 10 um with its text, and a red time stamp."""
    picture = Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    (height, width), unit = rgb.shape[:2], 1 / pixel_um
    draw.rectangle(
        (width - 13 * unit, height - 4 * unit, width - 3 * unit, height - 3 * unit), fill=(0, 0, 0)
    )
    draw.text((width - 11 * unit, height - 8 * unit), "10 um", fill=(0, 0, 0), font_size=3 * unit)
    draw.text((2 * unit, 1 * unit), "2024-03-11", fill=(200, 20, 120), font_size=3 * unit)
    return np.asarray(picture, float)


def _then(*changes: Change) -> Change:
    def change(rgb: np.ndarray, white: np.ndarray, pixel_um: float) -> np.ndarray:
        for one in changes:
            rgb = np.clip(one(rgb, white, pixel_um), 0, 255)
        return rgb

    return change


_STOP_RADIUS = 0.72
_GREY_RED_CELLS = density_factors((2.0, 0.9, 0.7))
CHANGES: dict[str, Change] = {
    "as given": lambda rgb, _white, _pixel_um: rgb,
    "dark rims": dark_rims(0.35),
    "dark blue rims": dark_rims(0.35, (1.4, 1.1, 0.6)),
    "blue-grey red cells": _GREY_RED_CELLS,
    "blue-grey, denser": density_factors((3.5, 1.5, 1.1)),
    "white cells at 80 %": density_factors((1.0, 1.0, 1.0), 0.8),
    "white cells at 70 %": density_factors((1.0, 1.0, 1.0), 0.7),
    "white cells at 60 %": density_factors((1.0, 1.0, 1.0), 0.6),
    "rims, blue-grey": _then(_GREY_RED_CELLS, dark_rims(0.3)),
    "rims, blue-grey, 70 %": _then(density_factors((2.0, 0.9, 0.7), 0.7), dark_rims(0.25)),
    "coloured light": _coloured_light,
    "rims, coloured light": _then(dark_rims(0.3), _coloured_light),
    "field stop": _field_stop,
    "scale bar and text": _scale_bar,
}


def fields(folder: Path, every: int) -> Iterator[tuple[str, np.ndarray, np.ndarray, float]]:
    """Yield set, image (Y, X, 3), boxes (N, 4) and pixel size of each field."""
    for path in sorted((folder / "bccd" / "JPEGImages").glob("*.jpg"))[::every]:
        boxes = read_boxes(folder / "bccd" / "Annotations" / f"{path.stem}.xml")
        yield "bccd", np.asarray(Image.open(path).convert("RGB")), boxes, PIXEL_UM
    table, pixel_um = read_table(folder / "chula" / "fields")
    for path, boxes in table.items():
        yield "chula", np.asarray(Image.open(path).convert("RGB")), boxes, pixel_um


def changed(rgb: np.ndarray, boxes: np.ndarray, pixel_um: float, change: Change) -> np.ndarray:
    """Return the changed image, (Y, X, 3) uint8."""
    white = np.zeros((*rgb.shape[:2], 1))
    for top, left, bottom, right in boxes.astype(int):
        white[max(top, 0) : bottom, max(left, 0) : right] = 1
    white = ndimage.gaussian_filter(white, (0.3 / pixel_um, 0.3 / pixel_um, 0))
    return np.clip(np.round(change(rgb.astype(float), white, pixel_um)), 0, 255).astype(np.uint8)


def find(rgb: np.ndarray, pixel_um: float) -> np.ndarray:
    """Return the centres (N, 2) of the cells found, debris left out."""
    planes = scale_16bit(rgb)
    found = detect_cells(
        nuclear_stain(planes).detection_channel(planes, pixel_um), pixel_um, "stained"
    )
    return np.stack([found.y_px, found.x_px], -1)[(found.quality & QcFlag.DEBRIS) == 0]


def measure(folder: Path, every: int) -> list[dict[str, Any]]:
    """One row for each set and change."""
    rows: dict[tuple[str, str], np.ndarray] = {}
    for name, rgb, boxes, pixel_um in fields(folder, every):
        for title, change in CHANGES.items():
            found, expected = find(changed(rgb, boxes, pixel_um, change), pixel_um), boxes
            if title == "field stop":
                inside = _from_centre(rgb.shape) < _STOP_RADIUS - 0.05
                middles = ((boxes[:, :2] + boxes[:, 2:]) / 2).astype(int)
                seen = inside[tuple(np.minimum(middles, np.array(inside.shape) - 1).T)]
                # A cell that the stop cuts counts neither way.
                cut = boxes[~seen]
                inside_cut = np.all(
                    (found[:, None] >= cut[:, :2]) & (found[:, None] <= cut[:, 2:]), axis=-1
                ).any(1)
                found, expected = found[~inside_cut], boxes[seen]
            rows[name, title] = rows.get((name, title), np.zeros(3, int)) + compare(found, expected)
    return [
        {
            "set": name,
            "change": title,
            "right": int(right),
            "wrong": int(wrong),
            "missed": int(missed),
            "precision": right / max(1, right + wrong),
            "recall": right / max(1, right + missed),
        }
        for (name, title), (right, wrong, missed) in rows.items()
    ]


def _from_centre(shape: tuple[int, ...]) -> np.ndarray:
    y, x = np.ogrid[: shape[0], : shape[1]]
    return np.hypot(y - shape[0] / 2, x - shape[1] / 2) / np.hypot(shape[0] / 2, shape[1] / 2)


def _light(rgb: np.ndarray, pixel_um: float) -> np.ndarray:
    """Return the light without cells (Y, X, 3): the brightest within 15 um, smoothed."""
    step = max(1, round(1.0 / pixel_um))
    coarse = ndimage.percentile_filter(rgb[::step, ::step], 85, size=(31, 31, 1), mode="nearest")
    smooth = ndimage.gaussian_filter(coarse, (8, 8, 0), mode="nearest")
    zoom = (rgb.shape[0] / smooth.shape[0], rgb.shape[1] / smooth.shape[1], 1)
    return ndimage.zoom(smooth, zoom, order=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--every", type=int, default=12, help="take every N-th field of bccd")
    parser.add_argument("--folder", type=Path, default=_FOLDER)
    arguments = parser.parse_args()
    if not (arguments.folder / "bccd" / "JPEGImages").is_dir():
        raise SystemExit(
            f"{arguments.folder}: bccd and chula are not there; give their folder with --folder."
        )
    rows = measure(arguments.folder, arguments.every)
    if arguments.json:
        versions = {name: version(name) for name in ("wbcpipe", "numpy", "scipy")}
        ratio = min(row["recall"] for row in rows)
        print(
            json.dumps(
                {"name": "foreign_fields", "ratio": ratio, "rows": rows, "versions": versions}
            )
        )
        return
    print("| set | change | right | wrong | missed | precision | recall |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        counts = " | ".join(str(row[name]) for name in ("right", "wrong", "missed"))
        print(
            f"| {row['set']} | {row['change']} | {counts} | {row['precision']:.3f} | "
            f"{row['recall']:.3f} |"
        )


if __name__ == "__main__":
    main()
