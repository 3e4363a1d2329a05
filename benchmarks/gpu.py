"""Everything that needs a CUDA machine, in one command of at most 8 minutes.

    python benchmarks/gpu.py --out FOLDER [--minutes 8] [--processes 6] [--json]

One after the other: the tests marked `cuda`; each precision of the torch engine against float32 on
the processor; training throughput; then, for the rest of the time, the long study at side 64 in
parallel processes (`long_study.py run --only pbc5-64/`), whose cells are imported meanwhile.
FOLDER holds `gpu.json`, the work folder of the study, and its records as far as they are finished.
Without CUDA the same runs on the processor with small numbers: a rehearsal, whose figures mean
nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from scipy import ndimage
from scipy.special import softmax

from wbcpipe.classify.inference.engine import Precision, TorchEngine
from wbcpipe.classify.metrics import table_lines
from wbcpipe.classify.models.bundle import load_bundle
from wbcpipe.classify.models.normalise import fit_normalisation
from wbcpipe.classify.training.data import CellSet
from wbcpipe.classify.training.progress import StepReport, TrainingOptions
from wbcpipe.classify.training.recipe import Recipe
from wbcpipe.classify.training.train import TrainingTask, train_network

HERE: Final = Path(__file__).parent
CUDA: Final = torch.cuda.is_available()
DEVICE: Final = torch.device("cuda" if CUDA else "cpu")
PRECISIONS: Final[tuple[Precision, ...]] = ("float32", "float16", "bfloat16")
#: Side and batch of each training that is timed.
TRAININGS: Final = ((64, 32), (64, 128), (112, 32), (224, 32), (224, 128)) if CUDA else ((32, 16),)


def cuda_tests() -> dict[str, Any]:
    words = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-n", "0", "tests/classify"]
    with contextlib.suppress(subprocess.TimeoutExpired):
        done = subprocess.run(words, cwd=HERE.parent, capture_output=True, text=True, timeout=120)
        return {
            "exit": done.returncode,
            "last_line": (done.stdout.strip().splitlines() or [""])[-1],
        }
    return {"exit": None, "last_line": "more than 120 s"}


def synchronise() -> None:
    if CUDA:
        torch.cuda.synchronize()


def smooth_images(count: int, side: int) -> np.ndarray:
    """Normalised images (count, 4, side, side) float32 with structure of the size of nuclei."""
    noise = np.random.default_rng(0).normal(size=(count, 4, side, side))
    images = ndimage.gaussian_filter(noise, (0, 0, side / 28, side / 28))
    return (images / images.std()).astype(np.float32)


def engine_rows() -> list[dict[str, Any]]:
    """Speed of each precision, and how far it is from float32 on the processor."""
    rows = []
    for name in ("virtual-shufflenet", "smear-shufflenet"):
        bundle = load_bundle(name)
        network, side = bundle.network(), bundle.info.side
        images = smooth_images(512 if CUDA else 32, side)
        expected = softmax(TorchEngine(network, torch.device("cpu"))(images), axis=-1)
        for precision in PRECISIONS:
            engine = TorchEngine(network, DEVICE, precision)
            found = softmax(engine(images), axis=-1)
            synchronise()
            began_s = time.perf_counter()
            repeats = 8 if CUDA else 1
            for _ in range(repeats):
                engine(images)
            synchronise()
            seconds = time.perf_counter() - began_s
            same = found.mean(1).argmax(-1) == expected.mean(1).argmax(-1)
            rows.append(
                {
                    "bundle": name,
                    "engine": engine.name,
                    "side": side,
                    "batch": len(images),
                    "cells_per_s": round(repeats * len(images) / seconds, 1),
                    "largest_difference": round(float(np.abs(found - expected).max()), 5),
                    "same_calls": round(float(same.mean()), 4),
                }
            )
    return rows


def random_cells(count: int, side: int) -> CellSet:
    random = np.random.default_rng(0)
    names = ("color1", "color2", "color3", "fluorescence")
    return CellSet(
        images=random.integers(0, 65535, (count, 4, side, side), dtype=np.uint16),
        labels=np.arange(count) % 5,
        groups=np.arange(count),
        classes=("NEU", "LYM", "EOS", "MO", "BAS"),
        modalities=names,
        planes=1,
        pixel_um=0.1,
    )


def training_rows() -> list[dict[str, Any]]:
    """Steps a second of MM-MIMO as published; the first half of the steps warms up."""
    rows = []
    for side, batch in TRAININGS:
        steps = 60 if CUDA else 4
        cells = random_cells(4 * batch, side)
        times: list[float] = []

        def note(_: StepReport, times: list[float] = times) -> None:
            synchronise()
            times.append(time.perf_counter())

        recipe = Recipe.published(
            method="mm-mimo",
            side=side,
            start_side=side,
            batch_size=batch,
            epochs=1,
            min_steps=steps,
        )
        task = TrainingTask(cells, fit_normalisation(cells.images), recipe, "mm-mimo")
        with tempfile.TemporaryDirectory() as work:
            train_network(task, Path(work), TrainingOptions(on_step=note))
        half = len(times) // 2
        rate = (len(times) - half - 1) / (times[-1] - times[half])
        rows.append(
            {
                "side": side,
                "batch": batch,
                "steps_per_s": round(rate, 2),
                "cells_per_s": round(rate * batch, 1),
            }
        )
    return rows


def long_study(out: Path, processes: int, until_s: float) -> dict[str, Any]:
    """Run the study at side 64 until the time is over; records are written under `out`."""
    minutes = max(0.1, (until_s - time.monotonic() - 20) / 60)
    words = [sys.executable, str(HERE / "long_study.py"), "run", "--work", str(out / "work")]
    words += ["--records", str(out / "long-study"), "--minutes", f"{minutes:.2f}"]
    words += ["--only", "pbc5-64/"]
    running = [subprocess.Popen(words, stdout=subprocess.DEVNULL) for _ in range(processes)]
    codes = [process.wait() for process in running]
    curves = [
        json.loads(path.read_text())["points"][-1]["step"]
        for path in (out / "work").glob("training/pbc5-64/*/curve.json")
    ]
    return {
        "processes": processes,
        "minutes": round(minutes, 2),
        "exit": codes,
        "finished": len(list((out / "long-study").glob("*/*.json"))),
        "steps": sum(curves),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    parser.add_argument(
        "--minutes",
        type=float,
        default=8.0 if torch.cuda.is_available() else 3.0,
        help="of all together; default: 8, and 3 without CUDA",
    )
    parser.add_argument("--processes", type=int, default=6 if CUDA else 1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    until_s = time.monotonic() + 60 * options.minutes
    options.out.mkdir(parents=True, exist_ok=True)
    importing = subprocess.Popen(
        [
            *(sys.executable, str(HERE / "long_study.py"), "cells", "--only", "pbc5-64/"),
            *("--work", str(options.out / "work")),
        ],
        stdout=subprocess.DEVNULL,
    )
    result: dict[str, Any] = {
        "name": "gpu",
        "device": torch.cuda.get_device_name() if CUDA else "none: a rehearsal on the processor",
        "versions": {name: version(name) for name in ("wbcpipe", "torch", "torchvision", "numpy")},
        "cuda": torch.version.cuda if CUDA else None,
    }
    path = options.out / "gpu.json"
    for name, part in (
        ("tests", cuda_tests),
        ("engines", engine_rows),
        ("training", training_rows),
    ):
        result[name] = part()
        path.write_text(json.dumps(result, indent=1))
    if importing.wait() == 0 and time.monotonic() < until_s - 30:
        result["long_study"] = long_study(options.out, options.processes, until_s)
    path.write_text(json.dumps(result, indent=1))
    if options.json:
        print(json.dumps(result))
        return 0
    print(f"{result['device']}; tests: {result['tests']['last_line']}")
    for name in ("engines", "training"):
        rows = result[name]
        print("\n" + "\n".join(table_lines(list(rows[0]), [list(row.values()) for row in rows])))
    print(f"\nlong study: {result.get('long_study', 'no time left')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
