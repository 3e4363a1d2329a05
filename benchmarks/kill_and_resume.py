"""Kill `wbcpipe run` at random moments, run it again, and compare with a run that was never broken.

    python benchmarks/kill_and_resume.py [--kills 5] [--cells 60] [--seed 1] [--json]

The moments are drawn so that the kills spread over the length of the run, whatever stage they hit.
The ratio is the broken run's whole working time over the unbroken run's: what resuming costs.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from wbcpipe import __version__
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.records import DIGEST


def command(data: Path, cells: int, extra: list[str]) -> list[str]:
    run = [
        sys.executable,
        "-m",
        "wbcpipe",
        "run",
        "--sample",
        "demo",
        "--cells",
        str(cells),
        "--data",
        str(data),
    ]
    return run + extra


def differences(first: Path, second: Path) -> list[str]:
    """What differs between two sample directories, timestamps aside."""
    found = []
    one, two = CellStore(first / "cells.zarr"), CellStore(second / "cells.zarr")
    names = sorted(path.name for path in one.path.iterdir() if path.is_dir())
    if names != sorted(path.name for path in two.path.iterdir() if path.is_dir()):
        found.append("cells.zarr: different arrays")
    for name in names:
        columns = one.column(name), two.column(name)
        if not np.array_equal(
            *columns, equal_nan=columns[0].dtype.kind == "f"
        ):  # NaN: nothing to measure
            found.append(f"cells.zarr/{name}")
    attributes = [
        without_times(store.attributes.model_dump(mode="json", exclude={"sha256"}))
        for store in (one, two)
    ]
    if attributes[0] != attributes[1]:
        found.append("cells.zarr attributes")
    documents = [
        json.loads((folder / "differential.json").read_text()) for folder in (first, second)
    ]
    for document in documents:
        document.pop(DIGEST, None)  # it is of the time of writing too
    if without_times(documents[0]) != without_times(documents[1]):
        found.append("differential.json")
    return found


def without_times(content: object) -> object:
    if isinstance(content, dict):
        return {
            key: without_times(value)
            for key, value in content.items()
            if key not in ("created", "time")
        }
    if isinstance(content, list):
        return [without_times(value) for value in content]
    return content


def timed(words: list[str], kill_after_s: float | None = None) -> tuple[float, int]:
    began = time.monotonic()
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            process.wait(kill_after_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return time.monotonic() - began, process.returncode


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--cells", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options, extra = parser.parse_known_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, broken = Path(folder, "whole"), Path(folder, "broken")
        whole_s, code = timed(command(whole, options.cells, extra))
        if code:
            print(f"the unbroken run failed with exit code {code}", file=sys.stderr)
            return 1
        rows, broken_s = [], 0.0
        for kill in range(options.kills):
            moment_s = rng.uniform(2.0, max(1.6 * whole_s / options.kills, 3.0))
            spent, code = timed(command(broken, options.cells, extra), moment_s)
            broken_s += spent
            rows.append({"kill": kill + 1, "after_s": round(spent, 1), "exit_code": code})
        spent, code = timed(command(broken, options.cells, extra))
        broken_s += spent
        rows.append({"kill": 0, "after_s": round(spent, 1), "exit_code": code})
        again_s, _ = timed(command(broken, options.cells, extra))
        found = differences(whole / "demo", broken / "demo")
    result = {
        "name": "kill_and_resume",
        "ratio": round(broken_s / whole_s, 3),
        "unbroken_s": round(whole_s, 1),
        "again_s": round(again_s, 1),
        "differences": found,
        "rows": rows,
        "versions": {
            "wbcpipe": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
        "cpu": platform.processor() or platform.machine(),
    }
    if options.json:
        print(json.dumps(result))
    else:
        print(f"unbroken run {whole_s:.1f} s; run again when complete {again_s:.1f} s")
        for row in rows:
            what = f"killed {row['kill']}" if row["kill"] else "then ran to its end"
            print(f"  {what:>20}: after {row['after_s']:6.1f} s, exit code {row['exit_code']}")
        print("differences:", ", ".join(found) or "none")
    return int(bool(found) or code != 0)


if __name__ == "__main__":
    sys.exit(main())
