"""12 fields of 4 x 2048 x 2048, exposures 5/5/5/20 ms, on the real core: wbcpipe, pycromanager and pymmcore-plus.

The floor is what no software can save: the exposures, and the same stage moves with nothing between them. wbcpipe
runs its own path (`AcquisitionSession`: OME-TIFF, one file a field, flushed to the disk) with bursts that the hardware
times and with a command for each frame. pycromanager's `Acquisition` writes NDTiff; pymmcore-plus's engine writes
OME-TIFF, or discards its frames. Neither of these flushes its files to the disk. Every run has a process of its own;
runs are interleaved, the median counts.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wbcpipe.acquire.config import Scope, load_scope
from wbcpipe.acquire.mmcore import CoreLink, adapter_folder
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.acquire.session import AcquisitionSession
from wbcpipe.samples import Sample

if TYPE_CHECKING:
    from collections.abc import Callable

FIELDS = 12
#: Taken before the clock runs, so that files, memory and devices are warm for all alike.
WARM = 3
PRESETS = ("color1", "color2", "color3", "fluorescence")
EXPOSURE_MS = (5.0, 5.0, 5.0, 20.0)
FIELD_BYTES = 4 * 2 * 2048 * 2048
ROWS = {
    "floor": "floor: exposures + stage moves",
    "files": "the files alone, flushed",
    "burst": "wbcpipe, bursts, OME-TIFF flushed",
    "command": "wbcpipe, by command, OME-TIFF flushed",
    "pycromanager": "pycromanager Acquisition, NDTiff",
    "plus-tiff": "pymmcore-plus MDA engine, OME-TIFF",
    "plus-none": "pymmcore-plus MDA engine, discarded",
}
NEEDS = {"plus-tiff": "pymmcore_plus", "plus-none": "pymmcore_plus"}
PACKAGES = ("wbcpipe", "pycromanager", "pymmcore", "mm-test-adapters", "pymmcore-plus", "useq-schema", "tifffile")


def bench_scope(sequencing: str) -> Scope:
    """The demo scope with its camera's own pixels, focus fixed."""
    scope = load_scope("demo")
    parts = {"focus": {"method": "fixed"}, "light": {"sequencing": sequencing}}
    changed = {name: getattr(scope, name).model_copy(update=change) for name, change in parts.items()}
    return scope.model_copy(update={"virtual": False, **changed})


def places_um(scope: Scope) -> list[tuple[float, float]]:
    """One row of fields: those to warm up, then those that count; all moves are equally long."""
    fields = AcquisitionPlan.from_scope(scope, "A").fields()[: WARM + FIELDS]
    if len({field.y_um for field in fields}) > 1:
        raise SystemExit("the demo slot's rows are too short for this benchmark")
    return [(field.x_um, field.y_um) for field in fields]


def warm_memory(folder: Path) -> None:
    """Write and remove as many bytes as the run will: what a run costs shall not hang on the state of free memory."""
    content = np.ones(FIELD_BYTES, np.uint8)
    for number in range(FIELDS):
        (folder / f"warm-{number}").write_bytes(content.data)
    for number in range(FIELDS):
        (folder / f"warm-{number}").unlink()


def files_alone(folder: Path) -> float:
    """Seconds to write and flush as many bytes, with nothing else: no software is faster than the disk."""
    content = np.ones(FIELD_BYTES, np.uint8)
    warm_memory(folder)
    start_s = time.perf_counter()
    for number in range(FIELDS):
        with (folder / f"file-{number}").open("wb") as handle:
            handle.write(content.data)
            handle.flush()
            os.fsync(handle.fileno())
    return time.perf_counter() - start_s


def floor(folder: Path) -> float:
    """Seconds of the exposures and of the moves."""
    del folder
    scope = bench_scope("off")
    link = CoreLink(scope)
    seconds = sum(EXPOSURE_MS) * FIELDS / 1000
    try:
        for index, place_um in enumerate(places_um(scope)):
            start_s = time.perf_counter()
            link.start_xy(*place_um)
            link.wait_for((scope.stage.xy_device,), 10.0, "moving the stage")
            seconds += (time.perf_counter() - start_s) if index >= WARM else 0.0
    finally:
        link.close()
    return seconds


def ours(folder: Path, sequencing: str) -> float:
    """Seconds until the last file is whole on the disk."""
    scope = bench_scope(sequencing)
    sample = Sample.at(folder, "bench")
    with AcquisitionSession(sample, scope, AcquisitionPlan.from_scope(scope, "A")) as session:
        session.take(range(WARM))
        warm_memory(folder)
        start_s = time.perf_counter()
        session.take(range(WARM, WARM + FIELDS))
        seconds = time.perf_counter() - start_s
    files = list(sample.raw_path().glob("*.ome.tif"))
    assert len(files) == WARM + FIELDS, files
    return seconds


def pycromanager(folder: Path) -> float:
    """Seconds until `Acquisition` has written its data set."""
    from pycromanager import Acquisition, Core, start_headless, stop_headless

    scope = bench_scope("off")
    start_headless(str(adapter_folder(scope)), config_file=str(scope.config_path), python_backend=True)
    core = Core()
    core.set_auto_shutter(True)
    core.set_property("LED", "Sequence", "Off")  # its Python engine raises NotImplementedError for sequences

    def acquire(name: str, places: list[tuple[float, float]]) -> float:
        events = [
            {
                "axes": {"position": number, "channel": preset},
                "config_group": ["Illumination", preset],
                "exposure": exposure_ms,
                "x": x_um,
                "y": y_um,
            }
            for number, (x_um, y_um) in enumerate(places)
            for preset, exposure_ms in zip(PRESETS, EXPOSURE_MS, strict=True)
        ]
        with Acquisition(directory=str(folder), name=name, show_display=False) as acquisition:
            start_s = time.perf_counter()
            acquisition.acquire(events)
        seconds = time.perf_counter() - start_s
        acquisition.get_dataset().close()
        return seconds

    places = places_um(scope)
    acquire("warm", places[:WARM])
    warm_memory(folder)
    seconds = acquire("bench", places[WARM:])
    stop_headless()
    return seconds


def pymmcore_plus(folder: Path, *, keep: bool) -> float:
    """Seconds of pymmcore-plus's engine, which sequences what the devices let it."""
    import useq
    from pymmcore_plus import CMMCorePlus

    scope = bench_scope("off")
    core = CMMCorePlus()
    core.setDeviceAdapterSearchPaths([str(adapter_folder(scope))])
    core.loadSystemConfiguration(str(scope.config_path))
    core.setAutoShutter(True)

    def acquire(name: str, places: list[tuple[float, float]]) -> float:
        plan = useq.MDASequence(
            axis_order="pc",
            stage_positions=places,
            channels=[
                {"group": "Illumination", "config": preset, "exposure": exposure_ms}
                for preset, exposure_ms in zip(PRESETS, EXPOSURE_MS, strict=True)
            ],
        )
        taken: list[None] = []
        core.mda.events.frameReady.connect(lambda *_: taken.append(None), check_nargs=False)
        start_s = time.perf_counter()
        core.mda.run(plan, output=str(folder / f"{name}.ome.tiff") if keep else None)
        seconds = time.perf_counter() - start_s
        if len(taken) != len(places) * len(PRESETS):
            raise SystemExit(f"{len(taken)} frames came, {len(places) * len(PRESETS)} were asked for")
        core.mda.events.frameReady.disconnect()
        return seconds

    places = places_um(scope)
    acquire("warm", places[:WARM])
    warm_memory(folder)
    seconds = acquire("bench", places[WARM:])
    core.unloadAllDevices()
    return seconds


RUNS: dict[str, Callable[[Path], float]] = {
    "floor": floor,
    "files": files_alone,
    "burst": lambda folder: ours(folder, "on"),
    "command": lambda folder: ours(folder, "off"),
    "pycromanager": pycromanager,
    "plus-tiff": lambda folder: pymmcore_plus(folder, keep=True),
    "plus-none": lambda folder: pymmcore_plus(folder, keep=False),
}


def run_apart(key: str, folder: Path) -> float:
    """One run in a process of its own, its files removed afterwards."""
    scratch = Path(tempfile.mkdtemp(prefix="acquire-", dir=folder))
    try:
        command = [sys.executable, __file__, "--run", key, "--dir", str(scratch)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if result.returncode:
            raise SystemExit(f"{key}: {result.stderr.strip()[-2000:]}")
        return float(json.loads(result.stdout.splitlines()[-1]))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def measure(repeats: int, folder: Path) -> dict[str, Any]:
    """Every row of the table; the ratio is that of the bursts."""
    keys = [key for key in ROWS if key not in NEEDS or importlib.util.find_spec(NEEDS[key])]
    seconds: dict[str, list[float]] = {key: [] for key in keys}
    for _ in range(repeats):
        for key in keys:
            seconds[key].append(run_apart(key, folder))
    floor_s = statistics.median(seconds["floor"])
    rows = [
        {
            "what": what,
            "median_s": statistics.median(seconds[key]),
            "least_s": min(seconds[key]),
            "most_s": max(seconds[key]),
            "x_floor": statistics.median(seconds[key]) / floor_s,
        }
        if key in seconds
        else {"what": what, "median_s": None, "note": "not installed"}
        for key, what in ROWS.items()
    ]
    return {
        "name": "acquire",
        "ratio": statistics.median(seconds["burst"]) / floor_s,
        "rows": rows,
        "versions": {"python": platform.python_version(), "numpy": np.__version__}
        | {package: installed(package) for package in PACKAGES},
        "cpu": cpu_name(),
        "repeats": repeats,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()), help="where the files are written")
    parser.add_argument("--run", choices=list(RUNS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(RUNS[options.run](options.dir)))
        return
    result = measure(options.repeats, options.dir)
    if options.json:
        print(json.dumps(result))
        return
    print(f"{FIELDS} fields x 4 x 2048^2; {options.repeats} runs of each, interleaved; {result['cpu']}")
    print(f"{'what runs it':38} {'median s':>8} {'least':>7} {'most':>7} {'x floor':>8}")
    for row in result["rows"]:
        if row["median_s"] is None:
            print(f"{row['what']:38} {row['note']:>8}")
            continue
        print(
            f"{row['what']:38} {row['median_s']:8.3f} {row['least_s']:7.3f} {row['most_s']:7.3f} {row['x_floor']:8.2f}"
        )


if __name__ == "__main__":
    main()
