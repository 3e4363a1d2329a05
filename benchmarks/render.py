"""How long the virtual microscope takes for one field: four frames of 2048 x 2048 pixels."""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from wbcpipe.acquire.simulation.optics.light_path import OpticalState
from wbcpipe.acquire.simulation.optics.microscope import VirtualMicroscope
from wbcpipe.acquire.simulation.specimen.plan import Preparation, SpecimenPlan
from wbcpipe.acquire.simulation.specimen.slide import Specimen

EXPOSURE_MS = {"color1": 5.0, "color2": 5.0, "color3": 5.0, "fluorescence": 20.0}
FIELD_UM = 204.8
FIELDS = 5
ALLOWED_S = 1.0


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def render_field(microscope: VirtualMicroscope, x_um: float, **changes: Any) -> float:
    z_um = microscope.specimen.focus_um(x_um, 0.0) + float(changes.pop("defocus_um", 0.3))
    start = time.perf_counter()
    for light, exposure_ms in EXPOSURE_MS.items():
        microscope.expose(OpticalState(x_um, 0.0, z_um, light, exposure_ms, **changes))
    return time.perf_counter() - start


def measure(preparation: Preparation, what: str, **changes: Any) -> dict[str, Any]:
    microscope = VirtualMicroscope(Specimen(SpecimenPlan(7, preparation)))
    render_field(microscope, -FIELD_UM, **changes)
    cpu_s = time.process_time()
    seconds = [render_field(microscope, index * FIELD_UM, **changes) for index in range(FIELDS)]
    cpu_s = (time.process_time() - cpu_s) / FIELDS
    return {
        "preparation": preparation,
        "what": what,
        "field_s": statistics.median(seconds),
        "best_s": min(seconds),
        "cpu_s": cpu_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    as_json = parser.parse_args().json
    rows = [
        measure("blood-film", "full frame, in focus"),
        measure("buffy-coat", "full frame, in focus"),
        measure("blood-film", "full frame, 12 um out", defocus_um=12.0),
        measure("blood-film", "2 x 2 bins", binning=2),
        measure("blood-film", "ROI 512 x 512", roi=(768, 768, 512, 512)),
    ]
    result = {
        "name": "render",
        "ratio": rows[0]["field_s"] / ALLOWED_S,
        "rows": rows,
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
        },
        "cpu": cpu_name(),
    }
    if as_json:
        print(json.dumps(result))
        return
    print(
        f"{'preparation':12} {'what':24} {'median s':>9} {'best s':>7} {'CPU s':>7}   (one field: "
        f"four frames)"
    )
    for row in rows:
        print(
            f"{row['preparation']:12} {row['what']:24} {row['field_s']:9.2f} {row['best_s']:7.2f} "
            f"{row['cpu_s']:7.2f}"
        )
    print(f"allowed: {ALLOWED_S:.1f} s a field; used: {100 * result['ratio']:.0f} %")


if __name__ == "__main__":
    main()
