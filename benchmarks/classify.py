"""How fast cells are called.

Engines side by side, MM-MIMO against late fusion, and the whole stage from Zarr.

    python benchmarks/classify.py [--cells 4096] [--repeats 5] [--threads 2]
        [--bundle virtual-shufflenet] [--json]

Engines run a ShuffleNet V2 MM-MIMO of random weights on 4 x 224 x 224 pictures, in batches that
suit each, in turn, all streams busy; medians count. A GPU is measured where there is one, and runs
the whole stage then. That is `classify_sample` on synthetic crops, from the store to the calls in
it, against the same engine in the same streams and batches on pictures that are ready in memory;
the engine is made once for both. It runs at the bundle's side, at that side from a store without
crops of half the side, and at 224 px with the same weights. Processor time tells more where other
programs run beside. Steps are processor time of one thread.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

from wbcpipe.classify import stage
from wbcpipe.classify.inference import openvino_engine
from wbcpipe.classify.inference import select_engine as selection
from wbcpipe.classify.inference.classifier import Classifier
from wbcpipe.classify.inference.engine import TorchEngine
from wbcpipe.classify.inference.openvino_engine import OpenVinoEngine
from wbcpipe.classify.inference.parallel_batches import stream_pool
from wbcpipe.classify.models.bundle import load_bundle
from wbcpipe.classify.models.classes import BATCH_SIZE, Method
from wbcpipe.classify.networks import build_network
from wbcpipe.samples.cell_attributes import CellAttributes
from wbcpipe.samples.cell_columns import COLUMNS, entry_shape
from wbcpipe.samples.cell_store import CELLS_PER_CHUNK, HALF, CellBlock, CellStore
from wbcpipe.samples.complete_store import METADATA, group_metadata
from wbcpipe.samples.sample import Sample
from wbcpipe.system.files import write_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from wbcpipe.classify.inference.engine import Engine
    from wbcpipe.classify.models.bundle import Bundle
    from wbcpipe.classify.networks import FusionNetwork

SHAPE = (4, 224, 224)
BACKBONE: Final = "shufflenet_v2_x1_0"
MODALITIES = ("color1", "color2", "color3", "fluorescence")
EAGER = "torch eager float32"
PREPARED = 2048
"""Pictures kept ready for the bare engine: more of them would fill the memory."""
PACKAGES = ("wbcpipe", "torch", "torchvision", "openvino", "zarr", "numcodecs", "numpy")


class Eager:
    """torch as it comes: float32, no folding, planes first, one batch at a time on all threads."""

    name, streams, crop_logits = "torch eager", 1, None

    def __init__(self, method: Method, batch_size: int = BATCH_SIZE) -> None:
        self.batch_size = batch_size
        self._network = build_network(method, BACKBONE, 4, 1, 5).eval()

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return self._network(torch.from_numpy(images)).numpy()


class OneLane(OpenVinoEngine):
    """OpenVINO with one batch at a time on all threads: what streams must not be slower than."""

    def __init__(self, network: FusionNetwork) -> None:
        with patch.object(openvino_engine, "share_threads", lambda threads: (1, threads)):
            super().__init__(network, SHAPE)


def engines() -> dict[str, Any]:
    cpu = torch.device("cpu")
    mimo = build_network("mm-mimo", BACKBONE, 4, 1, 5).eval()
    late = build_network("late-fusion", BACKBONE, 4, 1, 5).eval()
    found: dict[str, Any] = {
        EAGER: Eager("mm-mimo"),
        f"{EAGER}, 8 at once": Eager("mm-mimo", 8),
        "torch float32": TorchEngine(mimo, cpu),
    }
    last = found["torch float32"]
    if importlib.util.find_spec("openvino"):
        found["OpenVINO float32, one lane"] = OneLane(mimo)
        found["OpenVINO float32"] = last = OpenVinoEngine(mimo, SHAPE)
    same = (
        OpenVinoEngine(late, SHAPE) if isinstance(last, OpenVinoEngine) else TorchEngine(late, cpu)
    )
    found["late fusion"] = same
    if torch.cuda.is_available():
        found["GPU"] = TorchEngine(mimo, torch.device("cuda"), "float16")
        found["GPU, late fusion"] = TorchEngine(late, torch.device("cuda"), "float16")
    return found


def seconds_of(work: Callable[[], object]) -> NDArray[np.float64]:
    """Seconds on the clock, and of all cores together."""
    start = time.perf_counter(), time.process_time()
    work()
    return np.subtract((time.perf_counter(), time.process_time()), start)


def bare(engine: Engine, batches: list[NDArray[np.float32]]) -> NDArray[np.float64]:
    """`seconds_of` all streams of an engine at work."""
    with stream_pool(engine) as pool:
        list(
            pool.map(engine, batches[: engine.streams])
        )  # threads are there, and have their memory
        return seconds_of(lambda: list(pool.map(engine, batches)))


def rates(runs: dict[str, Any], repeats: int) -> dict[str, NDArray[np.float64]]:
    """Cells a second of each (repeats,), in turn."""
    cells = 4 * BATCH_SIZE * max(run.streams for run in runs.values())
    images = np.random.default_rng(0).normal(0, 1, (cells, *SHAPE)).astype(np.float32)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            seconds[name].append(float(bare(run, parts_of(images, run.batch_size))[0]))
    return {name: cells / np.array(times) for name, times in seconds.items()}


def parts_of(images: NDArray[np.float32], size: int) -> list[NDArray[np.float32]]:
    """Batches of one size; what is left over is left out."""
    return [images[start : start + size] for start in range(0, len(images) - size + 1, size)]


def times_as_fast(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Median over turns: what both suffered from is left out."""
    return float(np.median(one / other))


def smooth_crops(count: int) -> NDArray[np.uint16]:
    """Crops (count, 4, 224, 224) as smooth as cells are, with a camera's noise."""
    rng = np.random.default_rng(1)
    coarse = torch.from_numpy(rng.normal(0, 1, (count, 4, 28, 28)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(coarse, size=224, mode="bilinear").numpy()
    noise = rng.standard_normal(smooth.shape, np.float32)
    return (20_000 + 4_000 * smooth + 60 * noise).clip(0, 65_535).astype(np.uint16)


def block_of(images: NDArray[np.uint16]) -> CellBlock:
    count = len(images)
    columns = {
        key: np.zeros((count, *entry_shape(column, images.shape[1])), column.dtype)
        for key, column in COLUMNS.items()
    }
    return CellBlock(images, np.zeros((count, *images.shape[2:]), np.uint8), columns, [""] * count)


def synthetic_sample(folder: Path, count: int) -> Sample:
    sample = Sample.open(folder, "bench")
    sample.path.mkdir()
    crops = smooth_crops(CELLS_PER_CHUNK)
    CellStore.create(
        sample.cells_path,
        (block_of(crops[: count - start]) for start in range(0, count, len(crops))),
        CellAttributes(modalities=MODALITIES, pixel_um=0.1),
    )
    return sample


def whole_stage(bundle: Bundle, engine: Engine, sample: Sample, repeats: int) -> dict[str, Any]:
    """Seconds of the stage, and of the same engine on prepared pictures."""
    store = CellStore(sample.cells_path)
    classifier = Classifier(bundle, engine=engine)
    side_px = bundle.info.side if bundle.info.side in store.sides_px else None
    crops = store.images(0, PREPARED, side_px=side_px)
    size = classifier.batch_size
    batches = parts_of(
        np.concatenate(
            [classifier.prepare(crops[at : at + 64]) for at in range(0, len(crops), 64)]
        ),
        size,
    )
    bare_s, stage_s = [], []
    with patch.object(selection, "select_engine", lambda *_, **__: engine):
        for _ in range(repeats):
            bare_s.append(bare(engine, batches) * len(store) / (size * len(batches)))
            CellStore(sample.cells_path).discard_predictions()
            stage_s.append(seconds_of(lambda: stage.classify_sample(sample, bundle)))
    room = classifier.image_buffer()
    steps = {
        "read": core_ms(
            lambda at: store.images(at, at + size, side_px=side_px, out=crops[:size]),
            len(batches),
            size,
        ),
        "prepare and call": core_ms(
            lambda at: classifier.probability_of(crops[at : at + size], room), len(batches), size
        ),
        "network": core_ms(lambda at: engine(batches[at // size]), len(batches), size),
    }
    (bare_clock_s, bare_core_s), (clock_s, core_s) = (
        np.median(bare_s, axis=0),
        np.median(stage_s, axis=0),
    )
    return {
        "engine": engine.name,
        "batch_size": size,
        "side_px": bundle.info.side,
        "read_px": side_px or store.sides_px[0],
        "stage_per_s": len(store) / clock_s,
        "bare_per_s": len(store) / bare_clock_s,
        "share": bare_clock_s / clock_s,
        "stage_core_ms": 1e3 * core_s / len(store),
        "bare_core_ms": 1e3 * bare_core_s / len(store),
        "share_of_core_time": bare_core_s / core_s,
        "core_ms": steps,
    }


def core_ms(step: Callable[[int], object], count: int, size: int) -> float:
    """Processor time of a step for one cell, one batch after the other; the best of three."""
    best = float("inf")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(3):
        start_s = time.process_time()
        for start in range(0, size * count, size):
            step(start)
        best = min(best, time.process_time() - start_s)
    torch.set_num_threads(threads)
    return 1e3 * best / (size * count)


def without_half(path: Path) -> None:
    """Remove the crops of half the side from a store."""
    attributes = CellStore(path).attributes
    arrays = {name: digest for name, digest in attributes.arrays.items() if name != HALF}
    write_json(path / METADATA, group_metadata(attributes.model_copy(update={"arrays": arrays})))
    shutil.rmtree(path / HALF)


def stages(name: str, count: int, repeats: int) -> list[dict[str, Any]]:
    """The stage at the bundle's side, at that side from whole crops, and at 224 px."""
    bundle = load_bundle(name)
    wide = dataclasses.replace(
        bundle, info=bundle.info.model_copy(update={"side": bundle.info.crop_px})
    )
    of_bundle, of_wide = selection.select_engine(bundle), selection.select_engine(wide)
    with tempfile.TemporaryDirectory() as folder:
        sample = synthetic_sample(Path(folder), count)
        rows = [
            whole_stage(bundle, of_bundle, sample, repeats),
            whole_stage(wide, of_wide, sample, repeats),
        ]
        without_half(sample.cells_path)
        return [*rows, whole_stage(bundle, of_bundle, sample, repeats)]


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=int, default=768)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--bundle", default="virtual-shufflenet")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    speed = rates(engines(), options.repeats)
    base = max(speed[EAGER], speed[f"{EAGER}, 8 at once"], key=lambda rate: float(np.median(rate)))
    same = speed.get("OpenVINO float32", speed["torch float32"])
    result = {
        "name": "classify",
        "ratio": times_as_fast(same, base),
        "rows": [
            {
                "what": name,
                "cells_per_s": float(np.median(rate)),
                "x_eager": times_as_fast(rate, base),
            }
            for name, rate in speed.items()
        ],
        "mm_mimo_x_late_fusion": times_as_fast(same, speed["late fusion"]),
        "stages": stages(options.bundle, options.cells, options.repeats),
        "threads": options.threads,
        "versions": versions(),
        "cpu": cpu_name(),
    }
    print(json.dumps(result) if options.json else table(result, options.repeats))


def table(result: dict[str, Any], repeats: int) -> str:
    lines = [f"{repeats} times in turn, {result['threads']} threads, {result['cpu']}"]
    lines += [
        f"{row['what']:32} {row['cells_per_s']:8.0f} cells/s {row['x_eager']:6.2f} x eager"
        for row in result["rows"]
    ]
    lines.append(
        f"MM-MIMO is {result['mm_mimo_x_late_fusion']:.2f} x as fast as late fusion on the same "
        f"engine"
    )
    for row in result["stages"]:
        steps = ", ".join(f"{step} {cost:.3f}" for step, cost in row["core_ms"].items())
        lines.append(
            f"whole stage at {row['side_px']} px from crops of {row['read_px']} px, "
            f"{row['engine']}, {row['batch_size']} at once: "
            f"{row['stage_per_s']:.0f} cells/s, {100 * row['share']:.0f} % of the bare engine's "
            f"{row['bare_per_s']:.0f}; of processor time {row['bare_core_ms']:.3f} of "
            f"{row['stage_core_ms']:.3f} ms a cell, {100 * row['share_of_core_time']:.0f} % "
            f"(alone: {steps})"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
