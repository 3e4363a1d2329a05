"""Time `import cells` against an earlier version of the code, and compare what both import.

    git worktree add /tmp/before/wbcpipe 93c947c
    python benchmarks/import_cells.py [--before /tmp/before] [--folder ../shared/data/pbc5]
                                      [--cells 300] [--repeats 3] [--elapsed] [--json]

``--before`` is the folder above the earlier ``wbcpipe``; without it the present code alone is
timed. Each version imports the same images, in turn, in processes of their own; of the repeats the
fastest counts, start of the interpreter left out. Time is that of the processor, in one process;
with ``--elapsed`` that of the clock, in as many processes as the command takes (the earlier version
took one).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from wbcpipe.samples.cell_store import CellStore

PBC5 = Path(__file__).parents[2] / "shared" / "data" / "pbc5"
WORKER = """
import inspect, sys, time
from pathlib import Path
from wbcpipe.samples.sample import Sample
from wbcpipe.segment.importers.cells import import_cells
from wbcpipe.segment.importers import inputs
CellImport = inputs.CellImport
jobs, root, *files = sys.argv[1:]
clock = time.process_time if jobs == "1" else time.perf_counter
jobs = {"jobs": int(jobs)} if "jobs" in inspect.signature(import_cells).parameters else {}
start_s = clock()
request = CellImport("stained-rgb", 0.1)
import_cells([Path(file) for file in files], Sample.open(Path(root), "cells"), request, **jobs)
print(clock() - start_s)
"""


def imported(code: Path, files: list[Path], root: Path, jobs: int) -> float:
    """Import the files into ``root`` with a version of the code; 0 jobs: as many as it takes.

    Return the seconds: of the processor for one job, else of the clock.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(code),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", WORKER, str(jobs), str(root), *map(str, files)]
    done = subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True, cwd=code
    )
    return float(done.stdout.split()[-1])


def compared(before: Path, now: Path) -> dict[str, float]:
    """Compare two stores of the same images."""
    import zarr  # the earlier store is of another version: its arrays are read as they are

    one, other = zarr.open_group(before, mode="r"), CellStore(now)
    images = np.asarray(one["images"]), np.asarray(other.images())
    masks = [np.asarray(store) > 0 for store in (one["masks"], other.column("masks"))]
    both, either = (
        np.count_nonzero(f(*masks), axis=(1, 2)) for f in (np.logical_and, np.logical_or)
    )
    different = np.abs(images[0].astype(int) - images[1]).max(axis=(1, 2, 3))
    return {
        "cells": len(images[1]),
        "cells_with_equal_images": int(np.count_nonzero(different == 0)),
        "largest_difference_of_65535": int(different.max()),
        "median_mask_iou": round(float(np.median(both / np.maximum(either, 1))), 4),
        "masks_with_iou_below_0_8": int(np.count_nonzero(both < 0.8 * either)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, default=PBC5, help="with a folder of images per class"
    )
    parser.add_argument("--before", type=Path)
    parser.add_argument("--cells", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--elapsed", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = sorted(options.folder.absolute().glob("*/*.jpg"))
    files = found[:: max(1, len(found) // options.cells)][: options.cells]
    codes = {"now": Path(__file__).absolute().parents[2]}
    if options.before:
        codes = {"before": options.before.absolute(), **codes}
    times: dict[str, list[float]] = {name: [] for name in codes}
    jobs = 0 if options.elapsed else 1
    result: dict[str, Any] = {"name": "import_cells", "time": "clock" if jobs == 0 else "processor"}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(options.repeats):
            for name, code in codes.items():
                times[name].append(imported(code, files, Path(folder, f"{name}{repeat}"), jobs))
        if options.before:
            stores = [Path(folder, f"{name}0", "cells", "cells.zarr") for name in codes]
            result |= compared(*stores)
    best = {name: 1e3 * min(values) / len(files) for name, values in times.items()}
    result |= {f"{name}_ms_per_cell": round(value, 1) for name, value in best.items()}
    if options.before:
        result["ratio"] = round(best["before"] / best["now"], 2)
    print(
        json.dumps(result)
        if options.json
        else "\n".join(f"{name}: {value}" for name, value in result.items())
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
