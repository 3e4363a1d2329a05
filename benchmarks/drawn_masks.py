"""Cells found in other laboratories' pictures, and their masks, against cells and nuclei that
experts drew.

    git clone https://github.com/zxaoyou/segmentation_WBC
    python benchmarks/drawn_masks.py --folder segmentation_WBC [--changes --every N] [--json]

Two sets of single white cells with the outlines of nucleus and cytoplasm (Zheng, Wang, Wang and
Liu, Micron 107 (2018) 55, doi:10.1016/j.micron.2018.01.010): 300 pictures of 120 x 120 pixels, a
rapid stain, red cells lysed (Jiangxi Tecom); 100 of 300 x 300 from CellaVision's blog. Given are
the pixel size, read off the red cells (7.5 um), and the kind of stain. They take the whole way from
file to ``cells.zarr``. With --changes every N-th picture is seen again through the stains, cameras
and light of `generality`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from generality import CHANGES, Change
from PIL import Image
from scipy import ndimage

from wbcpipe.samples.cell_columns import QcFlag
from wbcpipe.samples.sample import Sample
from wbcpipe.segment.detection.masks import NUCLEUS
from wbcpipe.segment.importers.fields import import_fields
from wbcpipe.segment.importers.inputs import FieldImport
from wbcpipe.segment.run import segment_sample

if TYPE_CHECKING:
    from wbcpipe.samples.cell_store import CellStore

#: Set to its pixel size.
SETS = {"Dataset 1": 0.2, "Dataset 2": 0.1}
CROP_UM = 0.1
#: Grey levels of the drawn masks above which a pixel is of the cell, or of its nucleus.
CELL, DRAWN_NUCLEUS = 60, 200


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """2 |A and B| / (|A| + |B|)."""
    return float(2 * (one & other).sum() / max(1, one.sum() + other.sum()))


def in_picture(
    store: CellStore, rows: np.ndarray, shape: tuple[int, int], pixel_um: float
) -> np.ndarray:
    """The masks of some cells, laid back into their picture: (Y, X) uint8."""
    whole = np.zeros(shape, np.uint8)
    for row in rows:
        mask = store.masks(row, row + 1)[0]
        centre = np.array([store.column("y_px")[row], store.column("x_px")[row]])
        if abs(pixel_um / store.pixel_um - 1) < 1e-6:
            centre = np.floor(centre) + 0.5  # as `segment.segment_field.crop_centres` puts it
        places = (np.indices(shape) - centre[:, None, None]) * pixel_um / store.pixel_um + (
            mask.shape[0] - 1
        ) / 2
        whole = np.maximum(whole, ndimage.map_coordinates(mask, places, order=0))
    return whole


def measure(folder: Path, name: str, scratch: Path, change: Change, every: int) -> dict[str, Any]:
    """One row: a set's pictures, changed, against its drawn masks."""
    pixel_um, files = SETS[name], sorted((folder / name).glob("*.bmp"))[::every]
    if not files:
        raise SystemExit(
            f"{folder / name}: no pictures there; clone the repository named above, give it as "
            f"--folder."
        )
    sample = Sample.open(scratch, name.replace(" ", "-"))
    pictures = scratch / f"{sample.name}-png"
    pictures.mkdir()
    for file in files:
        rgb, seen_um = change(np.asarray(Image.open(file).convert("RGB")), pixel_um)
        Image.fromarray(rgb).save(pictures / f"{file.stem}.png")
    pixel_um = seen_um
    import_fields([pictures], sample, FieldImport("stained-rgb", pixel_um))
    store = segment_sample(sample, pixel_um=CROP_UM)
    field, quality = store.column("field_index"), store.column("qc_flags")
    y, x = (store.column(f"{axis}_px") for axis in "yx")
    right = wrong = 0
    nuclei, cells = [], []
    for index, file in enumerate(files):
        side = Image.open(pictures / f"{file.stem}.png").size
        drawn = np.asarray(
            Image.open(file.with_suffix(".png")).convert("L").resize(side, Image.Resampling.NEAREST)
        )
        rows = np.flatnonzero((field == index) & ((quality & QcFlag.DEBRIS) == 0))
        centres = np.round(np.stack([y[rows], x[rows]])).astype(int)
        own = drawn[tuple(np.clip(centres, 0, np.array(drawn.shape)[:, None] - 1))] > CELL
        right += bool(own.any())
        # One too many of the drawn cell is wrong; so is any other, but at the border, where none
        # was drawn.
        wrong += max(0, int(own.sum()) - 1) + int(
            (~own & ((quality[rows] & QcFlag.BORDER) == 0)).sum()
        )
        if own.any():
            mask = in_picture(store, rows[own], drawn.shape, pixel_um)
            nuclei.append(dice(mask == NUCLEUS, drawn > DRAWN_NUCLEUS))
            cells.append(dice(mask > 0, drawn > CELL))
    return {
        "change": "",
        "set": name,
        "pictures": len(files),
        "recall": right / len(files),
        "precision": right / max(1, right + wrong),
        "nucleus_dice": float(np.mean(nuclei)),
        "nucleus_dice_5_percent": float(np.percentile(nuclei, 5)),
        "cell_dice": float(np.mean(cells)),
        "cell_dice_5_percent": float(np.percentile(cells, 5)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("segmentation_WBC"),
        help="clone of the sets' repository",
    )
    parser.add_argument(
        "--changes", action="store_true", help="as other laboratories might show them, too"
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every N-th picture")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    if not arguments.folder.is_dir():
        raise SystemExit(
            f"skipped: {arguments.folder} is not there; clone the repository named above for "
            f"--folder."
        )
    rows = []
    for title, change in (
        CHANGES.items() if arguments.changes else [("as given", CHANGES["as given"])]
    ):
        for name in SETS:
            with tempfile.TemporaryDirectory() as scratch:
                row = measure(arguments.folder, name, Path(scratch), change, arguments.every)
            rows.append(row | {"change": title})
    if arguments.json:
        ratio = min(row["nucleus_dice"] for row in rows)
        versions = {name: version(name) for name in ("wbcpipe", "numpy", "scipy", "scikit-image")}
        print(
            json.dumps({"name": "drawn_masks", "ratio": ratio, "rows": rows, "versions": versions})
        )
        return
    print(
        "| change | set | pictures | recall | precision | nucleus Dice | worst 5 % | cell Dice | "
        "worst 5 % |"
    )
    print("|---" * 9 + "|")
    for row in rows:
        print(
            "| "
            + " | ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values())
            + " |"
        )


if __name__ == "__main__":
    main()
