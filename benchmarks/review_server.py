"""What the review server needs for a strip, a page, an edit: over HTTP, at 2,000 and 10,000 cells.

    python benchmarks/review_server.py [--cells 2000 10000] [--strips 128] [--edits 100] [--json]

Crops are synthetic, as smooth as cells are and with a camera's noise. Strips are made of crops of
224 pixels; the large samples have crops of 16 pixels, since their edits do not read them. Client
and server share the machine's cores, also with the thread that makes strips ahead.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import uvicorn

from classify import block_of, cpu_name, smooth_crops, versions
from wbcpipe.report.cell_thumbnails import measure_contrast
from wbcpipe.review.images.strips import make_strip
from wbcpipe.review.server.address import ServerAddress, listen
from wbcpipe.review.server.app import ReviewApp
from wbcpipe.review.server.guard import cookie_name
from wbcpipe.review.server.options import ServerOptions
from wbcpipe.samples.cell_attributes import CellAttributes
from wbcpipe.samples.cell_columns import CLASSES
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.classification_record import Classification
from wbcpipe.samples.fields import MODALITIES
from wbcpipe.samples.records import SampleRecord
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from numpy.typing import NDArray


def write_sample(root: Path, name: str, crops: NDArray[np.uint16]) -> Sample:
    """Write a classified sample; cells are a cell's width apart."""
    sample = Sample.open(root, name)
    sample.write(SampleRecord(sample=name, modalities=MODALITIES))
    block, number = block_of(crops), len(crops)
    block.columns["field_index"] = np.arange(number) // 12
    block.columns["x_um"] = 20.0 * (np.arange(number) % 100)
    block.columns["y_um"] = 20.0 * (np.arange(number) // 100)
    attributes = CellAttributes(modalities=MODALITIES, pixel_um=0.1, classes=CLASSES)
    store = CellStore.create(sample.cells_path, [block], attributes)
    rng = np.random.default_rng(1)
    probability = rng.dirichlet([0.6, 0.3, 0.1, 0.1, 0.05], (number, 4)).astype(np.float32)
    mean = probability.mean(axis=1)
    store.write_predictions(
        probability,
        [CLASSES[best] for best in mean.argmax(axis=1)],
        mean.max(axis=1),
        np.full(number, 0.1, np.float32),
        classification=Classification(
            bundle="none", sha256="0" * 64, classes=CLASSES, heads=MODALITIES, threshold=0.0
        ),
    )
    return sample


def strips(root: Path, count: int) -> dict[str, Any]:
    """Make strips of some cells, one after the other."""
    store = CellStore(write_sample(root, "strips", smooth_crops(count)).cells_path)
    contrast = measure_contrast(store, range(count), wavelengths_nm={})
    crops = store.images()
    make_strip(crops[0], contrast)  # it loads the encoder
    start_s = time.process_time()
    made = [make_strip(crop, contrast) for crop in crops]
    seconds = time.process_time() - start_s
    return {"strip_cpu_ms": 1e3 * seconds / count, "strip_kb": sum(map(len, made)) / count / 1e3}


class Browser:
    """One connection of a reader."""

    def __init__(self, options: ServerOptions) -> None:
        self._connection = HTTPConnection("127.0.0.1", options.address.port)
        self._headers = {
            "cookie": f"{cookie_name(options.address)}={options.sessions.begin('reader')}",
            "origin": options.address.url,
            "content-type": "application/json",
        }

    def send(self, method: str, path: str, body: Any = None) -> tuple[float, bytes]:
        """Return the time of a request in ms, and the answer."""
        start_s = time.perf_counter()
        self._connection.request(
            method, path, None if body is None else json.dumps(body), self._headers
        )
        answer = self._connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content
        return 1e3 * (time.perf_counter() - start_s), content


def requests(options: ServerOptions, cells: int, edits: int) -> dict[str, Any]:
    """Send what a page sends."""
    rng = np.random.default_rng(2)
    write_sample(
        options.root, f"S{cells}", rng.integers(0, 65535, (cells, 4, 16, 16)).astype(np.uint16)
    )
    browser, path = Browser(options), f"/api/samples/S{cells}"
    first_ms, content = browser.send("GET", path)
    again_ms = min(browser.send("GET", path)[0] for _ in range(3))
    page = json.loads(content)
    head, edit_ms, poll_ms = "", [], []
    cpu_s = 0.0
    for row in rng.permutation(cells)[:edits]:
        change = {"cell": page["cells"]["key"][row], "from": "", "to": CLASSES[row % 5]}
        body = {"base": head, "entries": [{"action": "assign", "cells": [change]}]}
        before_s = time.process_time()
        took_ms, content = browser.send("POST", f"{path}/entries", body)
        cpu_s += time.process_time() - before_s
        head = json.loads(content)["head"]
        edit_ms.append(took_ms)
        poll_ms.append(browser.send("GET", f"{path}/entries?after={head}")[0])
    rows = rng.integers(0, cells, edits)
    strip_ms = [
        browser.send("GET", f"{path}/strips/{row}.webp?v={page['digest']}")[0] for row in rows
    ]
    similar_ms = [browser.send("GET", f"{path}/similar?rows={row}")[0] for row in rows[:10]]
    return {
        "cells": cells,
        "page_mb": len(json.dumps(page)) / 1e6,
        "page_first_ms": first_ms,
        "page_ms": again_ms,
        "edit_cpu_ms": 1e3 * cpu_s / edits,
        **{
            f"{name}_{part}_ms": float(np.percentile(values, percentile))
            for name, values in (
                ("edit", edit_ms),
                ("poll", poll_ms),
                ("strip", strip_ms),
                ("similar", similar_ms),
            )
            for part, percentile in (("median", 50), ("p95", 95))
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=int, nargs="+", default=[2000, 10_000])
    parser.add_argument("--strips", type=int, default=128)
    parser.add_argument("--edits", type=int, default=100)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, listen("127.0.0.1", 0) as listening:
        root = Path(folder)
        made = strips(root, given.strips)
        options = ServerOptions(
            root=root, address=ServerAddress("127.0.0.1", listening.getsockname()[1])
        )
        app = ReviewApp(options)
        config = uvicorn.Config(
            app.asgi, http="h11", ws="none", lifespan="off", log_config=None, access_log=False
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        rows = [requests(options, cells, given.edits) for cells in given.cells]
        server.should_exit = True
        thread.join()
        app.close()
    if given.json:
        ratio = (
            rows[0]["edit_p95_ms"] / 100
        )  # of the time that a key may take until the differential is painted
        found = {"name": "review_server", "ratio": ratio, "strips": made, "rows": rows}
        print(json.dumps({**found, "versions": versions(), "cpu": cpu_name()}))
        return
    print(
        f"a strip: {made['strip_kb']:.1f} KB, {made['strip_cpu_ms']:.1f} ms of one core; "
        f"{cpu_name()}"
    )
    for row in rows:
        sizes = (
            f"{row['page_mb']:.2f} MB, {row['page_first_ms']:.0f} ms, then {row['page_ms']:.0f} ms"
        )
        print(
            f"{row['cells']} cells: page {sizes}; an edit takes {row['edit_cpu_ms']:.1f} ms of a "
            f"core"
        )
        for name in ("edit", "poll", "strip", "similar"):
            print(
                f"  {name:8} median {row[f'{name}_median_ms']:6.1f} ms   p95 "
                f"{row[f'{name}_p95_ms']:6.1f} ms"
            )


if __name__ == "__main__":
    main()
