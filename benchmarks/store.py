"""How crops are kept.

What packing them costs in bytes and time, and the memory that writing a store takes.

    python benchmarks/store.py [--sample CELLS_ZARR] [--cells 128] [--written 600] [--json]

Crops are synthetic, as smooth as cells are and with a camera's noise, or those of a store. Times
are processor time of one thread, in memory, by zarr's own codecs. Memory is how far a fresh process
grows beyond its imports while `CellStore.create` takes ``--written`` cells in blocks of 8, as
segmentation makes them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from numcodecs import Blosc, Zstd, blosc
from numcodecs.checksum32 import CRC32C

from classify import block_of, cpu_name, smooth_crops, versions
from wbcpipe.imaging.arrays import bin_2x2
from wbcpipe.samples.cell_attributes import CellAttributes
from wbcpipe.samples.cell_store import CellStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from wbcpipe.samples.cell_store import CellBlock

CODECS = {
    "zstd 0, as zarr takes by itself": Zstd(level=0),
    "zstd 3, bytes shuffled": Blosc("zstd", 3, Blosc.SHUFFLE),
    "zstd 3, bits shuffled": Blosc("zstd", 3, Blosc.BITSHUFFLE),
    "lz4 5, bytes shuffled": Blosc("lz4", 5, Blosc.SHUFFLE),
    "lz4 5, bits shuffled": Blosc("lz4", 5, Blosc.BITSHUFFLE),
    "a checksum, not packed": CRC32C(location="end"),
}
REPEATS = 5
BLOCK = 8


def packing(cells: NDArray[np.uint16]) -> list[dict[str, Any]]:
    blosc.use_threads = False
    rows = []
    for name, codec in CODECS.items():
        start_s = time.process_time()
        packed = [codec.encode(np.ascontiguousarray(cell)) for cell in cells]
        write_s = time.process_time() - start_s
        room, read_s = np.empty_like(cells[0]), []
        for _ in range(REPEATS):
            start_s = time.process_time()
            for content in packed:
                codec.decode(content, room)
            read_s.append(time.process_time() - start_s)
        row = {
            "codec": name,
            "side_px": cells.shape[-1],
            "kb": sum(map(len, packed)) / len(cells) / 1e3,
        }
        rows.append(
            {
                **row,
                "write_ms": 1e3 * write_s / len(cells),
                "read_ms": 1e3 * min(read_s) / len(cells),
            }
        )
    return rows


def status_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def write(crops: Path, count: int) -> None:
    """Write a store and print how far this process grew; runs in a process of its own."""
    some = np.load(crops, allow_pickle=False)

    def blocks() -> Iterator[CellBlock]:
        for start in range(0, count, BLOCK):
            yield block_of(some[np.arange(start, min(start + BLOCK, count)) % len(some)])

    with tempfile.TemporaryDirectory() as folder:
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        before_mb, start_s = status_mb("VmRSS"), time.process_time()
        path = Path(folder) / "cells.zarr"
        CellStore.create(
            path, blocks(), CellAttributes(modalities=("a", "b", "c", "d"), pixel_um=0.1)
        )
        seconds = time.process_time() - start_s
        kept = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    found = {"cells": count, "grew_mb": status_mb("VmHWM") - before_mb, "kb": kept / count / 1e3}
    print(json.dumps({**found, "write_ms": 1e3 * seconds / count}))


def writing(crops: NDArray[np.uint16], counts: list[int]) -> list[dict[str, Any]]:
    """What `write` prints, for each count."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "crops.npy"
        np.save(path, crops)
        return [
            json.loads(
                subprocess.run(
                    [sys.executable, __file__, "--child", str(path), "--written", str(count)],
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout
            )
            for count in counts
        ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sample", type=Path, help="a cells.zarr whose crops to take")
    parser.add_argument("--cells", type=int, default=128)
    parser.add_argument("--written", type=int, default=600)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    options = parser.parse_args()
    if options.child:
        write(options.child, options.written)
        return
    crops = (
        CellStore(options.sample).images(0, options.cells)
        if options.sample
        else smooth_crops(options.cells)
    )
    rows = [*packing(crops), *packing(bin_2x2(crops))]
    memory = (
        writing(crops, [options.written, 2 * options.written]) if sys.platform == "linux" else []
    )
    if options.json:
        ratio = rows[-1]["read_ms"] / rows[0]["read_ms"]
        found = {"name": "store", "ratio": ratio, "rows": rows, "writing": memory}
        print(json.dumps({**found, "versions": versions(), "cpu": cpu_name()}))
        return
    print(f"{len(crops)} crops of {crops.shape[1:]}, {cpu_name()}")
    for row in rows:
        print(
            f"{row['side_px']:4} px  {row['codec']:32} {row['kb']:6.1f} KB  write "
            f"{row['write_ms']:5.2f} ms  read {row['read_ms']:5.3f} ms"
        )
    for row in memory:
        print(
            f"a store of {row['cells']} cells: {row['kb']:.0f} KB and {row['write_ms']:.2f} ms a "
            f"cell, the process grows by {row['grew_mb']:.0f} MB"
        )


if __name__ == "__main__":
    main()
