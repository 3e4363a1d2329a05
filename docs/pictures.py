"""Make the pictures of the tutorial from a scan of the virtual scope: ``python docs/pictures.py``.

Needs a Chromium on the path and playwright, for the report in light and dark. ``--data FOLDER``
takes the sample ``first`` of a data root instead of scanning again.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import tifffile
from PIL import Image, ImageDraw
from playwright.sync_api import sync_playwright

import wbcpipe

if TYPE_CHECKING:
    from numpy.typing import NDArray

IMAGES: Final = Path(__file__).parent / "images"
_GAP_PX: Final = 6
_WIDTH_PX: Final = 880


def _grey(plane: NDArray[np.uint16], low: float, high: float) -> Image.Image:
    scaled = np.clip((plane - low) / (high - low), 0, 1) * 255
    return Image.fromarray(scaled.astype(np.uint8))


def _row(planes: NDArray[np.uint16], side_px: int) -> Image.Image:
    """Return the modalities of one image beside one another; planes: (4, y, x)."""
    row = Image.new("L", (4 * side_px + 3 * _GAP_PX, side_px), 255)
    for number, plane in enumerate(planes):
        low, high = np.percentile(plane, (0.2, 99.8))
        tile = _grey(plane, low, high).resize((side_px, side_px), Image.Resampling.LANCZOS)
        row.paste(tile, (number * (side_px + _GAP_PX), 0))
    return row


def draw_field(sample: wbcpipe.Sample) -> None:
    """Draw the four frames of the first field."""
    path = sorted(sample.raw_path().glob("field_*.ome.tif"))[0]
    planes = tifffile.imread(path)[:, 512:1536, 512:1536]
    _row(planes, (_WIDTH_PX - 3 * _GAP_PX) // 4).save(IMAGES / "tutorial-field.png", optimize=True)


def draw_cells(sample: wbcpipe.Sample, cells: int = 6) -> None:
    """Draw some cells with their classes, one a row of four modalities, in two columns."""
    store = wbcpipe.CellStore(sample.cells_path)
    images, classes = store.images(), store.predicted_classes()
    complete = np.flatnonzero(store.column("qc_flags") == 0)
    order = sorted(complete, key=lambda row: (classes[row], row))
    chosen = [order[index] for index in np.linspace(0, len(order) - 1, cells).astype(int)]
    side_px, label_px = 92, 54
    width = label_px + 4 * side_px + 3 * _GAP_PX
    sheet = Image.new("L", (2 * width + 3 * _GAP_PX, (cells // 2) * (side_px + _GAP_PX)), 255)
    draw = ImageDraw.Draw(sheet)
    for number, row in enumerate(chosen):
        x = (number % 2) * (width + 3 * _GAP_PX)
        y = (number // 2) * (side_px + _GAP_PX)
        draw.text((x + 4, y + side_px // 2 - 6), str(classes[row]), fill=0, font_size=15)
        sheet.paste(_row(images[row], side_px), (x + label_px, y))
    sheet.save(IMAGES / "tutorial-cells.png", optimize=True)


def photograph_report(sample: wbcpipe.Sample) -> None:
    """Photograph the report in both themes."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for theme in ("light", "dark"):
            scheme: Any = theme
            size: Any = {"width": _WIDTH_PX, "height": 760}
            page = browser.new_page(viewport=size, color_scheme=scheme)
            page.goto((sample.path / "report.html").resolve().as_uri())
            path = IMAGES / f"tutorial-report-{theme}.png"
            page.screenshot(path=path)
            Image.open(path).convert("P", palette=Image.Palette.ADAPTIVE).save(path, optimize=True)
        browser.close()


def main() -> None:
    """Scan, and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="data root with a sample 'first'")
    root = parser.parse_args().data
    with tempfile.TemporaryDirectory() as scratch:
        if root is None:
            root = Path(scratch)
            words = ["run", "--sample", "first", "--scope", "demo", "--fields", "4"]
            subprocess.run(
                [sys.executable, "-m", "wbcpipe", *words, "--data", str(root)], check=True
            )
        sample = wbcpipe.Sample.open(root, "first")
        draw_field(sample)
        draw_cells(sample)
        photograph_report(sample)


if __name__ == "__main__":
    main()
