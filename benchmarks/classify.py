"""How fast cells are called: engines side by side, MM-MIMO against late fusion, and the whole stage from Zarr.

    python benchmarks/classify.py [--cells 768] [--repeats 5] [--threads 2] [--json]

Engines run a ShuffleNet V2 MM-MIMO of random weights on 4 x 224 x 224 pictures, batches of 64, in turn; medians count.
The whole stage is `classify_sample` with the shipped `virtual-shufflenet` on synthetic crops, from the store to the
calls in it, against the same engine on pictures ready in memory; the engine is made once for both.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
import zarr

from wbcpipe.classify import predict
from wbcpipe.classify.bundle import load_bundle
from wbcpipe.classify.engines import OpenVinoEngine, TorchEngine, engine_for, fast_bfloat16
from wbcpipe.classify.export import OnnxEngine, traced
from wbcpipe.classify.networks import build_network
from wbcpipe.samples import Sample
from wbcpipe.segment.cells import COLUMNS, CellBlock, CellStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

SHAPE = (4, 224, 224)
BATCH = 64
BACKBONE = "shufflenet_v2_x1_0"
MODALITIES = ("color1", "color2", "color3", "fluorescence")
PACKAGES = ("wbcpipe", "torch", "torchvision", "openvino", "onnxruntime", "zarr", "numpy")


def eager(method: str) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """torch as it comes: float32, no folding, planes first."""
    network = build_network(method, BACKBONE, 4, 1, 5).eval()

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return network(torch.from_numpy(images)).numpy()

    return run


def engines() -> dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]]:
    cpu = torch.device("cpu")
    mimo = build_network("mm-mimo", BACKBONE, 4, 1, 5).eval()
    late = build_network("late-fusion", BACKBONE, 4, 1, 5).eval()
    found = {"torch eager float32": eager("mm-mimo"), "torch float32": TorchEngine(mimo, cpu)}
    if fast_bfloat16():
        found["torch bfloat16"] = TorchEngine(mimo, cpu, "bfloat16")
    last = found["torch float32"]
    if importlib.util.find_spec("openvino"):
        found["OpenVINO float32"] = last = OpenVinoEngine(mimo, "float32", SHAPE)
        if fast_bfloat16():
            found["OpenVINO bfloat16"] = OpenVinoEngine(mimo, "bfloat16", SHAPE)
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnxscript"):
        found["ONNX Runtime float32"] = OnnxEngine(traced(mimo, SHAPE).SerializeToString())
    same = OpenVinoEngine(late, "float32", SHAPE) if isinstance(last, OpenVinoEngine) else TorchEngine(late, cpu)
    return {**found, "late fusion": same}


def rates(runs: dict[str, Callable[[NDArray[np.float32]], object]], repeats: int) -> dict[str, float]:
    """Cells a second of each, in turn."""
    images = np.random.default_rng(0).normal(0, 1, (BATCH, *SHAPE)).astype(np.float32)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run(images)
    for _ in range(repeats):
        for name, run in runs.items():
            start_s = time.perf_counter()
            run(images)
            seconds[name].append(time.perf_counter() - start_s)
    return {name: BATCH / statistics.median(times) for name, times in seconds.items()}


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
        key: np.zeros((count, *(images.shape[1] - 1 if d == "M-1" else int(d) for d in shape)), dtype)
        for key, (dtype, shape) in COLUMNS.items()
    }
    return CellBlock(images, np.zeros((count, *images.shape[2:]), np.uint8), columns, [""] * count)


def synthetic_sample(folder: Path, count: int) -> Sample:
    sample = Sample.at(folder, "bench")
    sample.path.mkdir()
    CellStore.create(
        sample.cells_path,
        [block_of(smooth_crops(count))],
        modalities=MODALITIES,
        attributes={"pixel_um": 0.1, "classes": [], "provenance": {}},
    )
    return sample


def whole_stage(count: int, repeats: int) -> dict[str, float]:
    """Seconds of the stage on ``count`` cells, and of the same engine on prepared pictures."""
    bundle = load_bundle("virtual-shufflenet")
    runs = engine_for(bundle)
    kept, predict.engine_for = predict.engine_for, lambda *_: runs  # made once, as its making does not grow
    stage_s, bare_s = [], []
    try:
        with tempfile.TemporaryDirectory() as folder:
            sample = synthetic_sample(Path(folder), count)
            store = CellStore(sample.cells_path)
            classifier = predict.Classifier(bundle, engine=runs)
            prepared = classifier.prepare(store.images(0, count))
            for _ in range(repeats):
                start_s = time.perf_counter()
                for at in range(0, count, BATCH):
                    runs(prepared[at : at + BATCH])
                bare_s.append(time.perf_counter() - start_s)
                zarr.open_group(str(sample.cells_path), mode="r+").attrs.pop("classified", None)
                start_s = time.perf_counter()
                predict.classify_sample(sample, bundle, batch_size=BATCH)
                stage_s.append(time.perf_counter() - start_s)
    finally:
        predict.engine_for = kept
    return {
        "engine": runs.name,
        "stage_s": statistics.median(stage_s),
        "bare_s": statistics.median(bare_s),
        "share": statistics.median(bare_s) / statistics.median(stage_s),
    }


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=768)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    speed = rates(engines(), options.repeats)
    base = speed["torch eager float32"]
    same = speed.get("OpenVINO float32", speed["torch float32"])
    stage = whole_stage(options.cells, options.repeats)
    rows: list[dict[str, Any]] = [
        {"what": name, "cells_per_s": rate, "x_eager": rate / base} for name, rate in speed.items()
    ]
    result = {
        "name": "classify",
        "ratio": same / base,
        "rows": rows,
        "mm_mimo_x_late_fusion": same / speed["late fusion"],
        "stage": stage,
        "threads": options.threads,
        "versions": versions(),
        "cpu": cpu_name(),
    }
    if options.json:
        print(json.dumps(result))
        return
    print(f"{options.repeats} times in turn, {options.threads} threads, {result['cpu']}")
    for row in rows:
        print(f"{row['what']:22} {row['cells_per_s']:8.0f} cells/s {row['x_eager']:6.2f} x eager")
    print(f"MM-MIMO is {result['mm_mimo_x_late_fusion']:.2f} x as fast as late fusion on the same engine")
    print(
        f"whole stage, {options.cells} cells, {stage['engine']}: {options.cells / stage['stage_s']:.0f} cells/s, "
        f"{100 * stage['share']:.0f} % of the bare engine's {options.cells / stage['bare_s']:.0f}"
    )


if __name__ == "__main__":
    main()
