"""Latency of the review page in a real browser, from the key to what it changes on the screen.

    python benchmarks/review_latency.py [--cells 2000 10000] [--keys 60] [--json]

Needs the extras `review` and `browser`, and Chromium. The cells are drawn; the server is that of
`wbcpipe review`, which flushes every edit to the disk. For each number of cells the script presses
keys of four kinds, one after the other:

- next: the right arrow;
- jump: End, Home, Page Down and Page Up, next class, next cell that can still change the result;
- assign: a class key, which also moves on;
- undo.

Times are measured inside the browser, from the key's own time stamp to the frame after that in
which the change was
drawn: of the tiles (cursor, class, counts and percentages, which the page computes), and of the
differential as the server computed it (intervals, flags, the cells that are left to look at), which
follows an edit that is on the disk.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from playwright.sync_api import sync_playwright

from classify import cpu_name, versions
from wbcpipe.samples.cell_attributes import CellAttributes
from wbcpipe.samples.cell_columns import CLASSES, UNIDENTIFIED
from wbcpipe.samples.cell_store import CellBlock, CellStore
from wbcpipe.samples.classification_record import Classification
from wbcpipe.samples.records import SampleRecord
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from playwright.sync_api import Page

MODALITIES = ("color1", "color2", "color3", "fluorescence")
SIDE, BLOCK, GOAL_MS = 80, 256, 100.0
PAUSE_MS = 120
KEYS = {
    "next": ["ArrowRight"],
    "jump": ["End", "Home", "PageDown", "PageDown", ",", "PageUp", "."],
    "assign": ["l", "e", "n", "m", "b"],
    "undo": ["Control+z"],
}

#: Runs in the page: notes for each key when its frame was drawn, and when that with the server's
#: differential was.
PROBE = """() => {
  const page = window.wbcpipeReview;
  const times = (window.latency = { tiles: [], differential: [] });
  const drawn = (started, list) => requestAnimationFrame(() => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => list.push(performance.now() - started);
    channel.port2.postMessage(0);
  });
  let waiting = null;
  addEventListener("keydown", (event) => {
    if (event.key === "Control") return;
    drawn(event.timeStamp, times.tiles);
    waiting = event.timeStamp;
  }, true);
  page.review.on("differential", () => {
    if (page.review.estimated || waiting === null) return;
    drawn(waiting, times.differential);
    waiting = null;
  });
}"""


def blocks(cells: int, rng: np.random.Generator) -> Iterator[CellBlock]:
    """Draw cells: a disc with one or three lobes, and noise."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    disc = np.hypot(y, x) < 0.36 * SIDE
    for start in range(0, cells, BLOCK):
        number = min(BLOCK, cells - start)
        images = np.empty((number, 4, SIDE, SIDE), np.uint16)
        masks = np.empty((number, SIDE, SIDE), np.uint8)
        for index in range(number):
            centres = rng.uniform(-0.14 * SIDE, 0.14 * SIDE, (1 + 2 * (index % 2), 2))
            nucleus = np.any([np.hypot(y - cy, x - cx) < 0.15 * SIDE for cy, cx in centres], axis=0)
            for channel in range(3):
                images[index, channel] = 50000 - 6000 * (channel + 1) * disc - 9000 * nucleus
            images[index, 3] = 2000 + 6000 * disc + 30000 * nucleus
            masks[index] = disc.astype(np.uint8) + nucleus
        noise = rng.normal(0, 900, images.shape)
        images[:] = np.clip(images + noise, 0, 65535).astype(np.uint16)
        yield CellBlock(
            images=images, masks=masks, columns=columns(start, number, rng), label=[""] * number
        )


def columns(start: int, number: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    field = (start + np.arange(number)) // 20
    y_px, x_px = rng.uniform(100, 1900, number), rng.uniform(100, 1900, number)
    return {
        "field_index": field,
        "y_px": y_px,
        "x_px": x_px,
        "y_um": 210.0 * (field // 32) + 0.1 * y_px,
        "x_um": 210.0 * (field % 32) + 0.1 * x_px,
        "area_um2": rng.uniform(80, 220, number),
        "nucleus_area_um2": np.full(number, 50.0),
        "sharpness": np.ones(number),
        "shift_px": np.zeros((number, 3, 2)),
        "shift_residual_px": np.zeros((number, 3)),
        "qc_flags": np.where(rng.random(number) < 0.05, 8, 0).astype(np.uint16),
    }


def write_sample(root: Path, name: str, cells: int) -> None:
    rng = np.random.default_rng(cells)
    sample = Sample.open(root, name)
    sample.write(SampleRecord.model_validate({"sample": name}))
    attributes = CellAttributes(
        modalities=MODALITIES,
        pixel_um=0.28,
        classes=CLASSES,
        field_quality={},
        provenance={"software": "benchmark"},
    )
    store = CellStore.create(sample.cells_path, blocks(cells, rng), attributes)
    calls = rng.choice(5, cells, p=[0.62, 0.26, 0.06, 0.05, 0.01])
    doubt = rng.exponential(0.1, cells).clip(0, 0.7)
    probability = np.repeat((doubt / 4)[:, None, None], 4, axis=1).repeat(5, axis=2)
    probability[np.arange(cells), :, calls] = (1 - doubt)[:, None]
    names = [
        UNIDENTIFIED if d > 0.5 else CLASSES[call] for call, d in zip(calls, doubt, strict=True)
    ]
    heads = Classification(
        bundle="benchmark",
        sha256="c" * 64,
        classes=CLASSES,
        heads=MODALITIES,
        threshold=0.5,
        risk_control=None,
    )
    store.write_predictions(
        probability.astype(np.float32),
        names,
        (1 - doubt).astype(np.float32),
        np.zeros(cells, np.float32),
        classification=heads,
    )


def summary(times: list[float]) -> dict[str, Any]:
    ordered = sorted(times)
    return {
        "number": len(ordered),
        "median_ms": statistics.median(ordered),
        "p95_ms": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        "max_ms": ordered[-1],
    }


def press(page: Page, kind: str, keys: int) -> list[dict[str, Any]]:
    """Press keys of one kind.

    Return one row for what was drawn at once, and one for the server's differential.
    """
    page.evaluate("latency.tiles.length = latency.differential.length = 0")
    for number in range(keys):
        page.keyboard.press(KEYS[kind][number % len(KEYS[kind])])
        page.wait_for_timeout(PAUSE_MS)
    page.wait_for_function("() => !wbcpipeReview.journal.unsaved")
    page.wait_for_timeout(300)
    found = page.evaluate("latency")
    rows = [{"key": kind, "drawn": "tiles and counts", **summary(found["tiles"])}]
    if kind in ("assign", "undo") and found["differential"]:
        rows.append(
            {"key": kind, "drawn": "the server's differential", **summary(found["differential"])}
        )
    return rows


def measure(page: Page, url: str, cells: int, keys: int) -> dict[str, Any]:
    started_s = time.perf_counter()
    page.goto(url)
    page.wait_for_selector("body[data-ready]", timeout=120_000)
    load_s = time.perf_counter() - started_s
    page.wait_for_function(
        "() => !document.querySelector('.tile.loading:not([hidden])')", timeout=120_000
    )
    page.wait_for_timeout(2000)
    page.evaluate(PROBE)
    rows = [{"cells": cells, **row} for kind in KEYS for row in press(page, kind, keys)]
    live = page.evaluate("document.querySelectorAll('.tile').length")
    return {"cells": cells, "load_s": load_s, "live_tiles": live, "rows": rows}


@contextlib.contextmanager
def serve(root: Path) -> Iterator[str]:
    """Run `wbcpipe review` as a process of its own; yield the link that it prints."""
    command = [
        sys.executable,
        "-m",
        "wbcpipe",
        "review",
        "--data",
        str(root),
        "--reader",
        "benchmark",
        "--port",
        "0",
    ]
    with subprocess.Popen(
        [*command, "--no-browser"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        if "http" not in line:
            sys.exit(f"review_latency.py: `wbcpipe review` did not start: {line.strip()}")
        yield line[line.index("http") :].strip()
        server.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=int, nargs="+", default=[2000, 10_000])
    parser.add_argument("--keys", type=int, default=60, help="of each kind")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("review_latency.py: no Chromium on the path; install the package `chromium`.")
    found = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        root = Path(folder)
        for cells in options.cells:
            write_sample(root, f"cells-{cells}", cells)
        with serve(root) as link:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.goto(link)
            address = link[: link.index("/login")]
            found = [
                measure(page, f"{address}/samples/cells-{cells}", cells, options.keys)
                for cells in options.cells
            ]
            version = browser.version
            browser.close()
    rows = [row for one in found for row in one["rows"]]
    worst = max(row["p95_ms"] for row in rows if row["cells"] == min(options.cells))
    if options.json:
        answer = {"name": "review_latency", "ratio": worst / GOAL_MS, "rows": rows, "pages": found}
        print(
            json.dumps(
                {**answer, "versions": {**versions(), "chromium": version}, "cpu": cpu_name()}
            )
        )
        return
    print(f"{'cells':>6}  {'key':7} {'drawn':26} {'median ms':>9} {'p95 ms':>7} {'max ms':>7}")
    for row in rows:
        figures = f"{row['median_ms']:9.1f} {row['p95_ms']:7.1f} {row['max_ms']:7.1f}"
        print(f"{row['cells']:6}  {row['key']:7} {row['drawn']:26} {figures}")
    for one in found:
        print(
            f"{one['cells']} cells: page ready after {one['load_s']:.1f} s, {one['live_tiles']} "
            f"live tiles"
        )
    print(
        f"largest p95 at {min(options.cells)} cells: {worst:.1f} ms of {GOAL_MS:.0f}; Chromium "
        f"{version}"
    )


if __name__ == "__main__":
    main()
