"""How detection and masks bear other laboratories.

Real smears seen again through other stains, cameras and light.

Fields of `bccd` are counted against their authors' boxes as in `detection_bccd`. Pictures of `pbc5`
have a cell in the
middle: one must be found within 4 um of it, once. The nucleus's mask of each cell is compared with
the one of the untouched picture (Dice; no drawn masks are at hand). Nothing but the pixel size and
the kind of stain is given.

Pixel sizes: 0.075 um for bccd (red cells are 101 px wide on average), 0.1 um for pbc5.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from detection_bccd import PIXEL_UM, compare, read_boxes
from PIL import Image
from scipy import ndimage

from wbcpipe.samples.cell_columns import QcFlag
from wbcpipe.segment.detection.detect import detect_cells
from wbcpipe.segment.detection.masks import NUCLEUS, cell_mask
from wbcpipe.segment.importers.cells import centred_crop
from wbcpipe.segment.stain_separation import background_colour, nuclear_stain, scale_16bit

Change = Callable[[np.ndarray, float], tuple[np.ndarray, float]]
_PBC_UM = 0.1
_CROP_UM, _CROP_PX = 0.1, 224


def _stain(*factors: float) -> Change:
    """Multiply the optical densities of red, green and blue."""

    def change(rgb: np.ndarray, pixel_um: float) -> tuple[np.ndarray, float]:
        background = np.percentile(rgb, 90, axis=(0, 1)) / 255
        density = np.log10((background + 1 / 255) / (rgb / 255 + 1 / 255)) * np.array(factors)
        return _bytes(255 * ((background + 1 / 255) * 10**-density - 1 / 255)), pixel_um

    return change


def _light(field: Callable[[np.ndarray, np.ndarray], np.ndarray], *gains: float) -> Change:
    """Multiply by a function of (y, x) in -1 to 1, and by gains of the planes."""

    def change(rgb: np.ndarray, pixel_um: float) -> tuple[np.ndarray, float]:
        y, x = (np.linspace(-1, 1, side) for side in rgb.shape[:2])
        return _bytes(
            rgb * field(y[:, None], x[None])[..., None] * np.array(gains or (1.0, 1.0, 1.0))
        ), pixel_um

    return change


def _scale(factor: float) -> Change:
    def change(rgb: np.ndarray, pixel_um: float) -> tuple[np.ndarray, float]:
        picture = Image.fromarray(rgb)
        side = (round(picture.width * factor), round(picture.height * factor))
        filtered = picture.resize(
            side, Image.Resampling.BICUBIC if factor > 1 else Image.Resampling.BOX
        )
        return np.asarray(filtered), pixel_um / factor

    return change


def _jpeg(quality: int) -> Change:
    def change(rgb: np.ndarray, pixel_um: float) -> tuple[np.ndarray, float]:
        stream = io.BytesIO()
        Image.fromarray(rgb).save(stream, "JPEG", quality=quality)
        return np.asarray(Image.open(stream).convert("RGB")), pixel_um

    return change


def _values(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Change the values (Y, X, 3) in 0 to 255."""
    return lambda rgb, pixel_um: (_bytes(change(rgb.astype(float))), pixel_um)


def _blur(sigma_um: float) -> Change:
    def change(rgb: np.ndarray, pixel_um: float) -> tuple[np.ndarray, float]:
        sigma = sigma_um / pixel_um
        return _bytes(ndimage.gaussian_filter(rgb.astype(float), (sigma, sigma, 0))), pixel_um

    return change


def _noise(level: float) -> Change:
    return _values(lambda rgb: rgb + np.random.default_rng(0).normal(0, level, rgb.shape))


def _round_stop(rgb: np.ndarray, pixel_um: float) -> tuple[np.ndarray, float]:
    """Black beyond a circle that cuts the corners off, as through an eyepiece."""
    height, width = rgb.shape[:2]
    y, x = np.ogrid[:height, :width]
    away = np.hypot(y - height / 2, x - width / 2) / np.hypot(height / 2, width / 2)
    return _bytes(3 + (rgb - 3.0) * np.clip((0.9 - away) * 20, 0, 1)[..., None]), pixel_um


def _both(first: Change, second: Change) -> Change:
    return lambda rgb, pixel_um: second(*first(rgb, pixel_um))


def _grey_share(rgb: np.ndarray) -> np.ndarray:
    return (rgb @ np.array([0.3, 0.59, 0.11]))[..., None]


def _even(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.ones(np.broadcast_shapes(y.shape, x.shape))


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


CHANGES: dict[str, Change] = {
    "as given": lambda rgb, pixel_um: (rgb, pixel_um),
    "half the stain": _stain(0.5, 0.5, 0.5),
    "stain x 2.2": _stain(2.2, 2.2, 2.2),
    "bluer stain (green x 0.6)": _stain(1, 0.6, 1),
    "redder stain (red x 0.6)": _stain(0.6, 1, 1),
    "blue density x 1.5": _stain(1, 1, 1.5),
    "blue density x 0.6": _stain(1, 1, 0.6),
    "yellowish light": _light(_even, 1, 0.87, 0.58),
    "light x 0.4": _light(_even, 0.4, 0.4, 0.4),
    "light x 1.3, clipped": _light(_even, 1.3, 1.3, 1.3),
    "corners lose 60 %": _light(lambda y, x: 1 - 0.3 * (y**2 + x**2)),
    "one side at half light": _light(lambda y, x: 0.75 + 0.25 * x + 0 * y),
    "gamma 0.6": lambda rgb, pixel_um: (_bytes(255 * (rgb / 255) ** 0.6), pixel_um),
    "gamma 1.8": lambda rgb, pixel_um: (_bytes(255 * (rgb / 255) ** 1.8), pixel_um),
    "pixels x 3.3": _scale(0.3),
    "pixels x 2": _scale(0.5),
    "pixels x 0.5": _scale(2.0),
    "blur of 0.4 um": _blur(0.4),
    "noise of 10 in 255": _noise(10),
    "JPEG of quality 20": _jpeg(20),
    "stain x 0.3": _stain(0.3, 0.3, 0.3),
    "stain x 0.4, noise of 8": _both(_stain(0.4, 0.4, 0.4), _noise(8)),
    "green density x 0.3": _stain(1, 0.3, 1),
    "red density x 0.3": _stain(0.3, 1, 1),
    "blue density x 2": _stain(1, 1, 2),
    "blue density x 0.3": _stain(1, 1, 0.3),
    "bluish light": _light(_even, 0.6, 0.8, 1),
    "greenish light": _light(_even, 0.7, 1, 0.7),
    "light x 1.6, clipped": _light(_even, 1.6, 1.6, 1.6),
    "light x 0.25, noise of 4": _both(_light(_even, 0.25, 0.25, 0.25), _noise(4)),
    "corners lose 85 %": _light(lambda y, x: 1 - 0.425 * (y**2 + x**2)),
    "one side at 30 % light": _light(lambda y, x: 0.65 + 0.35 * x + 0 * y),
    "round field stop": _round_stop,
    "half the contrast, bright": _values(lambda rgb: 0.5 * rgb + 110),
    "black level of 60": _values(lambda rgb: 0.75 * rgb + 60),
    "colours x 0.4": _values(lambda rgb: _grey_share(rgb) + 0.4 * (rgb - _grey_share(rgb))),
    "colours x 1.8": _values(lambda rgb: _grey_share(rgb) + 1.8 * (rgb - _grey_share(rgb))),
    "planes mixed": _values(
        lambda rgb: rgb @ np.array([[0.7, 0.2, 0.1], [0.2, 0.6, 0.3], [0.1, 0.2, 0.6]])
    ),
    "gamma 0.5": _values(lambda rgb: 255 * (rgb / 255) ** 0.5),
    "gamma 2.2": _values(lambda rgb: 255 * (rgb / 255) ** 2.2),
    "pixels x 4": _scale(0.25),
    "pixels x 0.4": _scale(2.5),
    "blur of 0.8 um": _blur(0.8),
    "blur of 1.2 um": _blur(1.2),
    "noise of 20 in 255": _noise(20),
    "JPEG of quality 10": _jpeg(10),
}


def centres(planes: np.ndarray, pixel_um: float) -> np.ndarray:
    """Cells (N, 2) found in planes (3, Y, X) of 16 bits, debris left out."""
    found = detect_cells(
        nuclear_stain(planes).detection_channel(planes, pixel_um), pixel_um, "stained"
    )
    return np.stack([found.y_px, found.x_px], -1)[(found.quality & QcFlag.DEBRIS) == 0]


def nucleus(planes: np.ndarray, pixel_um: float) -> np.ndarray:
    """Nucleus (224, 224) of the cell in the middle of planes (3, Y, X)."""
    picture = np.concatenate([planes, nuclear_stain(planes).channel(planes)[None]])
    crop = centred_crop(picture, pixel_um, _CROP_UM, _CROP_PX)
    return np.asarray(
        cell_mask(crop[3], crop[:3], _CROP_UM, empty=background_colour(planes) * 65535) == NUCLEUS
    )


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """2 |A and B| / (|A| + |B|)."""
    return float(2 * (one & other).sum() / max(1, one.sum() + other.sum()))


def measure(folder: Path, pictures: int) -> list[dict[str, Any]]:
    """One row for each change."""
    fields = sorted((folder / "bccd" / "JPEGImages").glob("*.jpg"))
    with (folder / "pbc5" / "manifest.csv").open(newline="") as handle:
        cells = [folder / "pbc5" / row["file"] for row in csv.DictReader(handle)]
    fields, cells = (paths[:: max(1, len(paths) // pictures)] for paths in (fields, cells))
    if not fields or not cells:
        raise SystemExit(f"{folder}: bccd and pbc5 are not there; give their folder with --folder.")
    plain = [nucleus(scale_16bit(_read(path)), _PBC_UM) for path in cells]
    rows = []
    for name, change in CHANGES.items():
        counts = np.zeros(3, int)
        for path in fields:
            rgb, pixel_um = change(_read(path), PIXEL_UM)
            boxes = (
                read_boxes(folder / "bccd" / "Annotations" / f"{path.stem}.xml")
                * PIXEL_UM
                / pixel_um
            )
            counts += compare(centres(scale_16bit(rgb), pixel_um), boxes)
        once, overlaps = 0, []
        for path, mask in zip(cells, plain, strict=True):
            rgb, pixel_um = change(_read(path), _PBC_UM)
            planes = scale_16bit(rgb)
            middle = (np.array(planes.shape[1:]) - 1) / 2
            once += int(
                (np.abs(centres(planes, pixel_um) - middle).max(1) * pixel_um < 4).sum() == 1
            )
            overlaps.append(dice(nucleus(planes, pixel_um), mask))
        right, wrong, missed = counts.tolist()
        rows.append(
            {
                "change": name,
                "recall": right / (right + missed),
                "precision": right / max(1, right + wrong),
                "found_once": once / len(cells),
                "dice_mean": float(np.mean(overlaps)),
                "dice_5_percent": float(np.percentile(overlaps, 5)),
            }
        )
    return rows


def _read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--pictures", type=int, default=9, help="of each set, for each change")
    parser.add_argument(
        "--folder", type=Path, default=Path(__file__).parents[2] / "shared" / "data"
    )
    arguments = parser.parse_args()
    rows = measure(arguments.folder, arguments.pictures)
    if arguments.json:
        versions = {name: version(name) for name in ("wbcpipe", "numpy", "scipy")}
        print(json.dumps({"name": "generality", "rows": rows, "versions": versions}))
        return
    print(
        "| change | bccd recall | precision | pbc5 found once | nucleus Dice with `as given` | "
        "worst 5 % |"
    )
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['change']} | {row['recall']:.3f} | {row['precision']:.3f} | "
            f"{row['found_once']:.3f} | {row['dice_mean']:.3f} | {row['dice_5_percent']:.3f} |"
        )


if __name__ == "__main__":
    main()
