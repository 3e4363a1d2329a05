"""Segmentation from files to crops against plain scikit-image, and how it grows with the number of
fields.

    python benchmarks/segment.py [--seeds N] [--repeats N] [--growth N] [--json]

Fields of 4 x 2048 x 2048 of unseen virtual slides, blood films and buffy coats (crowded, with
clumps), whose truth is known. The baseline is what a tutorial gives at full resolution:
phase_cross_correlation (upsampled 10) of the three bright-field frames against fluorescence,
Gaussian, Otsu, distance transform, peak_local_max, watershed, regionprops, crops shifted by whole
pixels, written. Both read the same OME-TIFF; of the repeats of a field the median counts. Cells
nearer than 8 um to a border count neither way.

Growth: samples of N and of 10 N fields of 4 x 1024 x 1024 (those of one slide, repeated at other
places of the stage), each segmented by a process of its own from files to cells.zarr: time of a
field and of a cell, the largest memory of one process, and all cores against one.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.measure import label, regionprops
from skimage.registration import phase_cross_correlation
from skimage.segmentation import watershed

from wbcpipe.acquire.simulation.optics.light_path import OpticalState
from wbcpipe.acquire.simulation.optics.microscope import VirtualMicroscope
from wbcpipe.acquire.simulation.specimen.plan import Preparation, SpecimenPlan
from wbcpipe.acquire.simulation.specimen.slide import Specimen
from wbcpipe.samples.cell_columns import QcFlag
from wbcpipe.samples.fields import (
    MODALITIES,
    FieldInfo,
    FrameInfo,
    field_path,
    read_field,
    write_field,
)
from wbcpipe.samples.records import SampleRecord
from wbcpipe.samples.sample import Sample
from wbcpipe.segment.parallel import available_cores
from wbcpipe.segment.run import segment_sample
from wbcpipe.segment.stage import SampleSegmenter

if TYPE_CHECKING:
    from collections.abc import Callable

FIELDS: dict[Preparation, int] = {"blood-film": 3, "buffy-coat": 2}
SIDE = 2048
#: Not those of any test, training or development.
FIRST_SEED = 9100
PIXEL_UM = 0.1
EXPOSURE_MS = (5.0, 5.0, 5.0, 20.0)


def render(sample: Sample, scope: VirtualMicroscope, fields: int) -> list[FieldInfo]:
    """Write the fields as the acquisition does."""
    sample.write(SampleRecord(sample=sample.name, modalities=MODALITIES))
    sample.raw_path().mkdir(parents=True)
    infos = []
    for index in range(fields):
        x_um, y_um = 1000.0 + 190 * index, 400.0
        z_um = scope.specimen.focus_um(x_um, y_um)
        lights = zip(MODALITIES, EXPOSURE_MS, strict=True)
        frames = np.stack(
            [scope.expose(OpticalState(x_um, y_um, z_um, *light)) for light in lights]
        )
        infos.append(
            FieldInfo(index, x_um, y_um, PIXEL_UM, tuple(FrameInfo(m) for m in MODALITIES))
        )
        write_field(field_path(sample.raw_path(), index), frames, infos[-1])
    return infos


def truth(scope: VirtualMicroscope, info: FieldInfo) -> tuple[np.ndarray, np.ndarray]:
    """Centres (N, 2) of the white cells in the fluorescence frame.

    Shifts (3, N, 2) of the other frames there.
    """
    reach = 102.0
    around = (info.x_um - reach, info.y_um - reach, info.x_um + reach, info.y_um + reach)
    cells = [item for item in scope.specimen.objects_in(*around) if item.label]
    middle = (SIDE - 1) / 2
    places = [
        ((c.x_um - info.x_um) / PIXEL_UM + middle, (c.y_um - info.y_um) / PIXEL_UM + middle, 1)
        for c in cells
    ]
    ideal = np.array(places).reshape(-1, 3)
    views = [
        (ideal @ scope.true_transform(m, info.x_um, info.y_um).T)[:, 1::-1] for m in MODALITIES
    ]
    return views[3], np.stack(views[:3]) - views[3]


def plain(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The baseline: centres (N, 2) and shifts (3, 2)."""
    frames, _ = read_field(path)
    shifts = np.array(
        [phase_cross_correlation(frame, frames[3], upsample_factor=10)[0] for frame in frames[:3]]
    )
    smooth = ndimage.gaussian_filter(frames[3].astype(np.float32), 5)
    mask = smooth > threshold_otsu(smooth)
    distance = ndimage.distance_transform_edt(mask)
    peaks = np.zeros(mask.shape, int)
    places = peak_local_max(distance, min_distance=40, labels=label(mask))
    peaks[tuple(places.T)] = np.arange(1, len(places) + 1)
    regions = [
        r for r in regionprops(watershed(-distance, peaks, mask=mask)) if r.area * PIXEL_UM**2 >= 14
    ]
    centres = np.array([region.centroid for region in regions]).reshape(-1, 2)
    padded = np.pad(frames, ((0, 0), (160, 160), (160, 160)), mode="edge")
    crops = np.empty((len(centres), 4, 224, 224), np.uint16)
    for crop, centre in zip(crops, centres, strict=True):
        for k, shift in enumerate([*shifts, (0.0, 0.0)]):
            top, left = np.clip(
                np.round(centre + shift).astype(int) + 160 - 112, 0, SIDE + 320 - 224
            )
            crop[k] = padded[k, top : top + 224, left : left + 224]
    with tempfile.TemporaryFile() as handle:
        np.save(handle, crops)
    return centres, shifts


def compare(found: np.ndarray, cells: np.ndarray) -> tuple[int, int, int]:
    """Right, wrong, missed; cells nearer than 8 um to the border count neither way."""
    distance = np.linalg.norm(found[:, None] - cells, axis=-1)
    rows, columns = linear_sum_assignment(np.minimum(distance, 1e4))
    good = distance[rows, columns] <= 30
    inner = np.all((cells > 80) & (cells < SIDE - 81), axis=1)
    inner_found = ((found > 80) & (found < SIDE - 81)).all(1)
    right = int(inner[columns[good]].sum())
    wrong = int((inner_found & ~np.isin(np.arange(len(found)), rows[good])).sum())
    return right, wrong, int(inner.sum()) - right


def timed(function: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Median wall time, and the last result."""
    seconds, result = [], None
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)), result


def measure(folder: Path, seeds: int, repeats: int) -> list[dict[str, Any]]:
    """One row for each way and preparation."""
    rows = []
    for preparation, fields in FIELDS.items():
        ways: dict[str, dict[str, Any]] = {
            name: {
                "way": name,
                "of": preparation,
                "s_per_field": [],
                "counts": np.zeros(3, int),
                "errors": [],
            }
            for name in ("wbcpipe", "plain")
        }
        statistics_s = []
        for seed in range(FIRST_SEED, FIRST_SEED + seeds):
            plan = SpecimenPlan(seed=seed, preparation=preparation)
            scope = VirtualMicroscope(Specimen(plan), sensor_px=(SIDE, SIDE), pixel_um=PIXEL_UM)
            with tempfile.TemporaryDirectory(dir=folder) as place:
                statistics_s.append(one_slide(Path(place), scope, fields, repeats, ways))
        rows += [
            summary(row, statistics_s if row["way"] == "wbcpipe" else []) for row in ways.values()
        ]
    return rows


def one_slide(
    folder: Path,
    scope: VirtualMicroscope,
    fields: int,
    repeats: int,
    ways: dict[str, dict[str, Any]],
) -> float:
    """Add one slide to both ways' rows; gives the time of its slide statistics."""
    sample = Sample.open(folder, "benchmark")
    infos = render(sample, scope, fields)
    segmenter = SampleSegmenter(sample)
    start = time.perf_counter()
    segmenter.estimate_statistics(range(fields))
    statistics_s = time.perf_counter() - start
    for info in infos:
        cells, shifts = truth(scope, info)
        path = field_path(sample.raw_path(), info.index)

        def ours(index: int = info.index) -> Any:
            (sample.work_path / "fields" / f"field_{index:05d}.npz").unlink(missing_ok=True)
            return segmenter.segment_field(index)

        seconds, result = timed(ours, repeats)
        columns = result.block.columns
        sure = (columns["qc_flags"] & QcFlag.DEBRIS) == 0
        centres = np.stack([columns["y_px"], columns["x_px"]], -1)[sure].astype(float)
        add(
            ways["wbcpipe"],
            seconds,
            compare(centres, cells),
            errors(centres, columns["shift_px"][sure], cells, shifts),
        )
        seconds, (centres, shift) = timed(functools.partial(plain, path), repeats)
        everywhere = np.broadcast_to(shift, (len(centres), 3, 2))
        add(
            ways["plain"],
            seconds,
            compare(centres, cells),
            errors(centres, everywhere, cells, shifts),
        )
    return statistics_s


def errors(
    found: np.ndarray, shift: np.ndarray, cells: np.ndarray, true_shift: np.ndarray
) -> np.ndarray:
    """Registration errors (n, 3, 2) in pixels at the cells that were found."""
    distance = np.linalg.norm(found[:, None] - cells, axis=-1)
    rows, columns = linear_sum_assignment(np.minimum(distance, 1e4))
    good = distance[rows, columns] <= 30
    return shift[rows[good]] - true_shift[:, columns[good]].transpose(1, 0, 2)


def add(
    row: dict[str, Any], seconds: float, counts: tuple[int, int, int], error: np.ndarray
) -> None:
    row["s_per_field"].append(seconds)
    row["counts"] += counts
    row["errors"].append(error)


def summary(row: dict[str, Any], statistics_s: list[float]) -> dict[str, Any]:
    right, wrong, missed = row["counts"].tolist()
    error = np.concatenate(row["errors"])
    return {
        "way": row["way"],
        "of": row["of"],
        "fields": len(row["s_per_field"]),
        "s_per_field": float(np.median(row["s_per_field"])),
        "statistics_s_once": float(np.median(statistics_s)) if statistics_s else 0.0,
        "recall": right / max(right + missed, 1),
        "precision": right / max(right + wrong, 1),
        "registration_rms_px": float(np.sqrt(np.mean(error**2))),
        "cells": right + missed,
        "missed": missed,
        "wrong": wrong,
    }


def grown(folder: Path, fields: int) -> list[dict[str, Any]]:
    """Samples of ``fields`` and ten times as many, with one process and with one a core."""
    side, slide = 1024, 6
    scope = VirtualMicroscope(
        Specimen(SpecimenPlan(seed=FIRST_SEED)), sensor_px=(side, side), pixel_um=PIXEL_UM
    )
    pictures = []
    for k in range(slide):
        x_um, y_um = 1000.0 + 95 * k, 400.0
        z_um = scope.specimen.focus_um(x_um, y_um)
        lights = zip(MODALITIES, EXPOSURE_MS, strict=True)
        pictures.append(
            np.stack([scope.expose(OpticalState(x_um, y_um, z_um, *light)) for light in lights])
        )
    rows = []
    for number in (fields, 10 * fields):
        sample = Sample.open(folder, f"grown{number}")
        sample.write(SampleRecord(sample=sample.name, modalities=MODALITIES))
        sample.raw_path().mkdir(parents=True)
        channels = tuple(FrameInfo(m) for m in MODALITIES)
        for index in range(number):
            row, column = divmod(index, 40)
            info = FieldInfo(index, 1000.0 + 110 * column, 400.0 + 110 * row, PIXEL_UM, channels)
            write_field(field_path(sample.raw_path(), index), pictures[index % slide], info)
        for jobs in sorted({1, available_cores()}):
            words = [sys.executable, __file__, "--one", str(folder), sample.name, str(jobs)]
            rows.append(
                json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
            )
    return rows


def one(folder: str, name: str, jobs: str) -> dict[str, Any]:
    """Segment a sample anew in this process."""
    sample = Sample.open(Path(folder), name)
    for leftover in (sample.work_path, sample.cells_path):
        shutil.rmtree(leftover, ignore_errors=True)
    number = len(list(sample.raw_path().glob("field_*")))
    start = time.perf_counter()
    peaks: list[float] = []

    def measure_memory(_task: str, _done: int, _total: int) -> None:
        peaks.extend(
            peak_mb(process.pid)
            for process in multiprocessing.active_children()
            if process.pid is not None
        )

    store = segment_sample(sample, pixel_um=PIXEL_UM, progress=measure_memory, jobs=int(jobs))
    seconds = time.perf_counter() - start
    peaks.append(peak_mb(os.getpid()))
    return {
        "fields": number,
        "cells": len(store),
        "jobs": int(jobs),
        "s": seconds,
        "ms_per_field": 1000 * seconds / number,
        "ms_per_cell": 1000 * seconds / len(store),
        "peak_mb": float(np.nanmax(peaks)),
    }


def peak_mb(pid: int) -> float:
    """Largest resident memory of a process so far.

    A child's ``ru_maxrss`` would begin with its parent's.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return float("nan")
    return next(
        (int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")),
        float("nan"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="unseen slides of each preparation")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument(
        "--growth", type=int, default=8, metavar="N", help="fields of the smaller sample; 0: none"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(*arguments.one)))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), arguments.seeds, arguments.repeats)
        growth = grown(Path(folder), arguments.growth) if arguments.growth else []
    seconds = {
        way: np.mean([row["s_per_field"] for row in rows if row["way"] == way])
        for way in ("wbcpipe", "plain")
    }
    ratio = float(seconds["plain"] / seconds["wbcpipe"])
    if arguments.json:
        versions = {
            name: version(name)
            for name in ("wbcpipe", "numpy", "scipy", "scikit-image", "tifffile")
        }
        cpu = platform.processor() or platform.machine()
        content = {
            "name": "segment",
            "ratio": ratio,
            "rows": rows,
            "growth": growth,
            "versions": versions,
            "cpu": cpu,
        }
        print(json.dumps(content))
        return
    print(
        "| slides | way | fields | cells | s a field | recall | precision | missed | wrong | "
        "registration, px RMS |"
    )
    print("|---" * 10 + "|")
    for row in rows:
        print(
            f"| {row['of']} | {row['way']} | {row['fields']} | {row['cells']} | "
            f"{row['s_per_field']:.3f} | {row['recall']:.4f} | {row['precision']:.4f} | "
            f"{row['missed']} | {row['wrong']} | "
            f"{row['registration_rms_px']:.3f} |"
        )
    print(
        f"\n{ratio:.1f} x faster a field; slide statistics, once a run: "
        f"{rows[0]['statistics_s_once']:.2f} s"
    )
    if growth:
        print(
            "\n| fields | cells | processes | s | ms a field | ms a cell | largest memory of a "
            "process, MB |"
        )
        print("|---" * 7 + "|")
    for row in growth:
        print(
            f"| {row['fields']} | {row['cells']} | {row['jobs']} | {row['s']:.1f} | "
            f"{row['ms_per_field']:.0f} | {row['ms_per_cell']:.0f} | {row['peak_mb']:.0f} |"
        )


if __name__ == "__main__":
    main()
