"""12 fields of 4 x 2048 x 2048, exposures 5/5/5/20 ms, on the real core.

Wbcpipe, pycromanager and pymmcore-plus.

The floor is what no software can save: the exposures, and the same stage moves with nothing between
them. wbcpipe runs its own path (`AcquisitionSession`: OME-TIFF, one file a field, flushed) with
sequences that the hardware times, the same with a look at the first frame that decides about
fluorescence, and with a command for each frame. pycromanager's `Acquisition` writes NDTiff;
pymmcore-plus's engine writes OME-TIFF, or discards its frames. Neither of these flushes its files
to the disk. "Light to dark" is the time from the first exposure's beginning to the last one's
end: the capture without the last files. Every run has a process of its own; runs are interleaved,
    the median counts.
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
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wbcpipe.acquire.capture import empty_fields
from wbcpipe.acquire.capture.session import AcquisitionSession
from wbcpipe.acquire.config.scope import Scope, load_scope
from wbcpipe.acquire.hardware.camera import stop_sequence
from wbcpipe.acquire.hardware.core_link import CoreLink
from wbcpipe.acquire.hardware.device_adapters import adapter_folder
from wbcpipe.acquire.hardware.device_sequences import DeviceSequences
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.acquire.request import AcquisitionRequest
from wbcpipe.samples.sample import Sample

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
    "core": "the core alone: hardware sequences, frames dropped",
    "files": "the files alone, flushed",
    "sequence": "wbcpipe, hardware sequences, OME-TIFF flushed",
    "look": "the same, bare glass left without fluorescence",
    "command": "wbcpipe, by command, OME-TIFF flushed",
    "pycromanager": "pycromanager Acquisition, NDTiff",
    "plus-tiff": "pymmcore-plus MDA engine, OME-TIFF",
    "plus-none": "pymmcore-plus MDA engine, discarded",
}
NEEDS = {"plus-tiff": "pymmcore_plus", "plus-none": "pymmcore_plus"}
PACKAGES = (
    "wbcpipe",
    "pycromanager",
    "pymmcore",
    "mm-test-adapters",
    "pymmcore-plus",
    "useq-schema",
    "tifffile",
)


def bench_scope(sequencing: str, *, look: bool = False) -> Scope:
    """The demo scope with its camera's own pixels, which are all alike: so nothing judges what they
    show.

    With ``look`` each field's first frame is looked at before fluorescence, whatever comes of it.
    """
    scope = load_scope("demo")
    parts = {
        "focus": {"method": "fixed"},
        "light": {"sequencing": sequencing},
        "frame_checks": {"enabled": False},
        "scan": {"skip_empty": look},
    }
    changed = {
        name: getattr(scope, name).model_copy(update=change) for name, change in parts.items()
    }
    return scope.model_copy(update={"virtual": False, **changed})


def places_um(scope: Scope) -> list[tuple[float, float]]:
    """One row of fields: those to warm up, then those that count; all moves are equally long."""
    fields = AcquisitionPlan.from_scope(scope, "A").fields()[: WARM + FIELDS]
    if len({field.y_um for field in fields}) > 1:
        raise SystemExit("the demo slot's rows are too short for this benchmark")
    return [(field.x_um, field.y_um) for field in fields]


def warm_memory(folder: Path) -> None:
    """Write and remove more bytes than the run will: what a run costs shall not hang on the state
    of free memory.

    A virtual machine's memory that nothing used for seconds may be its host's again; to get a frame
    of it back took 17 ms where a frame was written in 2. Three times as much leaves enough when
    other processes take of it.
    """
    content = np.ones(FIELD_BYTES, np.uint8)
    paths = [folder / f"warm-{number}" for number in range(3 * FIELDS)]
    for path in paths:
        path.write_bytes(content.data)
    for path in paths:
        path.unlink()


def files_alone(folder: Path) -> tuple[float, float]:
    """Seconds to write and flush as many bytes, with nothing else: no software is faster than the
    disk.
    """
    content = np.ones(FIELD_BYTES, np.uint8)
    warm_memory(folder)
    start_s = time.perf_counter()
    for number in range(FIELDS):
        with (folder / f"file-{number}").open("wb") as handle:
            handle.write(content.data)
            handle.flush()
            os.fsync(handle.fileno())
    return time.perf_counter() - start_s, 0.0


def floor(folder: Path) -> tuple[float, float]:
    """Seconds of the exposures and of the moves.

    The second figure leaves out the move to the first field.
    """
    del folder
    scope = bench_scope("off")
    link = CoreLink(scope)
    moves_s = []
    try:
        for index, place_um in enumerate(places_um(scope)):
            start_s = time.perf_counter()
            link.call("set_xy_position", *place_um)
            link.wait_for((scope.stage.xy_device,), 10.0, "moving the stage")
            if index >= WARM:
                moves_s.append(time.perf_counter() - start_s)
    finally:
        link.close()
    exposures_s = sum(EXPOSURE_MS) * FIELDS / 1000
    return exposures_s + sum(moves_s), exposures_s + sum(moves_s[1:])


def core_alone(folder: Path) -> tuple[float, float]:
    """Seconds of the same moves and sequences with nothing done to their frames: what the core and
    its camera take.
    """
    del folder
    scope = bench_scope("off")
    link = CoreLink(scope)
    try:
        sequences = DeviceSequences(scope, link)
        sequences.load_exposures(EXPOSURE_MS)
        link.call("initialize_circular_buffer")
        for index, place_um in enumerate(places_um(scope)):
            if index == WARM:
                start_s = time.perf_counter()
            link.call("set_xy_position", *place_um)
            link.wait_for((scope.stage.xy_device,), 10.0, "moving the stage")
            sequences.start()
            link.call("start_sequence_acquisition", len(EXPOSURE_MS), 0.0, True)
            while link.call("is_sequence_running"):
                time.sleep(0.0002)
            sequences.stop()
            stop_sequence(link, 10.0)
        return time.perf_counter() - start_s, 0.0
    finally:
        link.close()


def ours(folder: Path, sequencing: str, *, look: bool = False) -> tuple[float, float]:
    """Seconds until the last file is whole on the disk, and from light to dark."""
    scope = bench_scope(sequencing, look=look)
    empty_fields.EMPTY_BELOW_UM2 = -1.0  # type: ignore[misc] # this camera's frames show nothing, and are all taken
    sample = Sample.open(folder, "bench")
    with AcquisitionSession(
        AcquisitionRequest(sample, scope, AcquisitionPlan.from_scope(scope, "A"))
    ) as session:
        session.take(range(WARM))
        warm_memory(folder)
        start_s = time.perf_counter()
        session.take(range(WARM, WARM + FIELDS))
        seconds = time.perf_counter() - start_s
    files = list(sample.raw_path().glob("*.ome.tif"))
    assert len(files) == WARM + FIELDS, files
    first, last = session.inventory.taken[WARM], session.inventory.taken[WARM + FIELDS - 1]
    apart = datetime.fromisoformat(last.acquired) - datetime.fromisoformat(first.acquired)
    return seconds, apart.total_seconds() + last.frames[-1].time_s + last.frames[
        -1
    ].exposure_ms / 1000


def pycromanager(folder: Path) -> tuple[float, float]:
    """Seconds until `Acquisition` has written its data set."""
    from pycromanager import Acquisition, Core, start_headless, stop_headless

    scope = bench_scope("off")
    start_headless(
        str(adapter_folder(scope)), config_file=str(scope.config_path), python_backend=True
    )
    core = Core()
    core.set_auto_shutter(True)
    core.set_property(
        "LED", "Sequence", "Off"
    )  # its Python engine raises NotImplementedError for sequences

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
    return seconds, 0.0


def pymmcore_plus(folder: Path, *, keep: bool) -> tuple[float, float]:
    """Seconds of pymmcore-plus's engine, which sequences what the devices let it.

    Then below 0 if frames were lost.
    """
    import useq
    from pymmcore_plus import CMMCorePlus

    scope = bench_scope("off")
    core = CMMCorePlus()
    core.setDeviceAdapterSearchPaths([str(adapter_folder(scope))])
    core.loadSystemConfiguration(str(scope.config_path))
    core.setAutoShutter(True)
    core.definePixelSizeConfig("objective")
    core.setPixelSizeUm("objective", scope.camera.pixel_um)  # without one its OME-TIFF is refused

    def acquire(name: str, places: list[tuple[float, float]]) -> float:
        plan = useq.MDASequence(
            axis_order="pc",
            stage_positions=places,
            channels=[
                {"group": "Illumination", "config": preset, "exposure": exposure_ms}
                for preset, exposure_ms in zip(PRESETS, EXPOSURE_MS, strict=True)
            ],
        )
        taken.clear()
        core.mda.events.frameReady.connect(lambda *_: taken.append(None), check_nargs=False)
        start_s = time.perf_counter()
        core.mda.run(plan, output=str(folder / f"{name}.ome.tiff") if keep else None)
        seconds = time.perf_counter() - start_s
        core.mda.events.frameReady.disconnect()
        return seconds

    places = places_um(scope)
    taken: list[None] = []
    acquire("warm", places[:WARM])
    warm_memory(folder)
    seconds = acquire("bench", places[WARM:])
    core.unloadAllDevices()
    if len(taken) < FIELDS * len(PRESETS):
        print(f"{FIELDS * len(PRESETS) - len(taken)} frames were lost", file=sys.stderr)
        return seconds, -1.0
    return seconds, 0.0


RUNS: dict[str, Callable[[Path], tuple[float, float]]] = {
    "floor": floor,
    "core": core_alone,
    "files": files_alone,
    "sequence": lambda folder: ours(folder, "on"),
    "look": lambda folder: ours(folder, "on", look=True),
    "command": lambda folder: ours(folder, "off"),
    "pycromanager": pycromanager,
    "plus-tiff": lambda folder: pymmcore_plus(folder, keep=True),
    "plus-none": lambda folder: pymmcore_plus(folder, keep=False),
}


def run_apart(key: str, folder: Path) -> tuple[float, float]:
    """One run in a process of its own, its files removed afterwards."""
    scratch = Path(tempfile.mkdtemp(prefix="acquire-", dir=folder))
    try:
        command = [sys.executable, __file__, "--run", key, "--dir", str(scratch)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if result.returncode:
            raise SystemExit(f"{key}: {result.stderr.strip()[-2000:]}")
        seconds, dark_s = json.loads(result.stdout.splitlines()[-1])
        return float(seconds), float(dark_s)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def cpu_name() -> str:
    for line in (
        Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ()
    ):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def measure(repeats: int, folder: Path) -> dict[str, Any]:
    """Every row of the table; the ratio is that of the hardware sequences."""
    keys = [key for key in ROWS if key not in NEEDS or importlib.util.find_spec(NEEDS[key])]
    runs: dict[str, list[tuple[float, float]]] = {key: [] for key in keys}
    for _ in range(repeats):
        for key in keys:
            runs[key].append(run_apart(key, folder))
    floor_s, floor_dark_s = (
        statistics.median(column) for column in zip(*runs["floor"], strict=True)
    )
    rows: list[dict[str, Any]] = []
    for key, what in ROWS.items():
        if key not in runs:
            rows.append({"what": what, "median_s": None, "note": "not installed"})
            continue
        seconds, dark_s = (sorted(column) for column in zip(*runs[key], strict=True))
        row = {
            "what": what,
            "median_s": statistics.median(seconds),
            "least_s": seconds[0],
            "most_s": seconds[-1],
        }
        row["x_floor"] = row["median_s"] / floor_s
        if dark_s[0] < 0:
            row["note"] = f"{sum(value < 0 for value in dark_s)} of {repeats} runs lost frames"
        if dark_s[-1] > 0:
            row |= {"light_to_dark_s": statistics.median(dark_s)}
            row["light_to_dark_x_floor"] = row["light_to_dark_s"] / floor_dark_s
        rows.append(row)
    return {
        "name": "acquire",
        "ratio": next(row["x_floor"] for row in rows if row["what"] == ROWS["sequence"]),
        "rows": rows,
        "versions": {"python": platform.python_version(), "numpy": np.__version__}
        | {package: installed(package) for package in PACKAGES},
        "cpu": cpu_name(),
        "repeats": repeats,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--dir", type=Path, default=Path(tempfile.gettempdir()), help="where the files are written"
    )
    parser.add_argument("--run", choices=list(RUNS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(RUNS[options.run](options.dir)))
        return
    result = measure(options.repeats, options.dir)
    if options.json:
        print(json.dumps(result))
        return
    print(
        f"{FIELDS} fields x 4 x 2048^2; {options.repeats} runs of each, interleaved; "
        f"{result['cpu']}"
    )
    print(
        f"{'what runs it':38} {'median s':>8} {'least':>7} {'most':>7} {'x floor':>8} "
        f"{'light to dark':>14}"
    )
    for row in result["rows"]:
        if row["median_s"] is None:
            print(f"{row['what']:38} {row['note']}")
            continue
        dark = (
            f"{row['light_to_dark_x_floor']:14.2f}"
            if "light_to_dark_x_floor" in row
            else f"  {row.get('note', '')}"
        )
        figures = (
            f"{row['median_s']:8.3f} {row['least_s']:7.3f} {row['most_s']:7.3f} "
            f"{row['x_floor']:8.2f}"
        )
        print(f"{row['what']:38} {figures} {dark}".rstrip())


if __name__ == "__main__":
    main()
