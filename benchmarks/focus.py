"""How well and how fast the focus is found.

The demo scope's plan over virtual slides, tilted, bowed, with gaps.

The error is Z of the surface less the specimen's own, at the centre of every field of slot A. The
virtual microscope is driven directly, as fast as it renders; one slide is focused through the real
Micro-Manager core too.
"""

import argparse
import importlib.metadata
import json
import platform
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from wbcpipe.acquire.capture.session import AcquisitionSession
from wbcpipe.acquire.config.scope import Scope, load_scope
from wbcpipe.acquire.focus.focus_map import FocusSurface
from wbcpipe.acquire.focus.focuser import FieldFocuser
from wbcpipe.acquire.hardware.protocols import Exposure, Microscope
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.acquire.request import AcquisitionRequest
from wbcpipe.acquire.simulation.optics.light_path import OpticalState
from wbcpipe.acquire.simulation.optics.microscope import VirtualMicroscope
from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
from wbcpipe.acquire.simulation.specimen.slide import Specimen
from wbcpipe.samples.sample import Sample

SEEDS = (21, 22, 23, 24, 25)
ALLOWED_UM = 0.3
ALLOWED_SHARE = 0.95
WIDE_PLACES = 40
#: Of a real scope: a move of Z with its settling, read-out and hand-over of a frame, settling of
#: the stage.
Z_MOVE_S, READ_S, XY_SETTLE_S = 0.010, 0.003, 0.05


class BareScope:
    """What `FieldFocuser` asks of a microscope, without a core: the renderer alone."""

    def __init__(self, scope: Scope, specimen: Specimen) -> None:
        self._renderer = VirtualMicroscope(specimen)
        side, sensor = scope.focus.window_px, scope.camera.sensor_px[0]
        self._roi = ((sensor - side) // 2, (sensor - side) // 2, side, side)
        self._modality = scope.focus.modality
        self._at = (0.0, 0.0, 0.0)
        self.travel_um = 0.0

    def move_xy(self, x_um: float, y_um: float) -> tuple[float, float]:
        self.travel_um += float(np.hypot(x_um - self._at[0], y_um - self._at[1]))
        self._at = (x_um, y_um, self._at[2])
        return x_um, y_um

    def move_z(self, z_um: float) -> float:
        self._at = (*self._at[:2], z_um)
        return z_um

    def switch_light(self, modality: str) -> None:
        pass

    def wait_for_frames(self) -> None:
        pass

    def expose(
        self, exposure_ms: float, out: NDArray[np.uint16], _next_position_um: None = None
    ) -> Exposure:
        self._renderer.expose(
            OpticalState(*self._at, self._modality, exposure_ms, 1, self._roi), out=out
        )
        return Exposure(exposure_ms, self._at[2])


def focuser_of(bare: BareScope, scope: Scope) -> FieldFocuser:
    def nothing(*_: object, **__: object) -> None:
        pass

    frame_px = (scope.focus.window_px, scope.focus.window_px)
    return FieldFocuser(
        cast("Microscope", bare), scope, frame_px, check=nothing, log=nothing, progress=nothing
    )


def measure(scope: Scope, plan: AcquisitionPlan, seed: int) -> tuple[dict[str, Any], FocusSurface]:
    specimen = Specimen(SpecimenPlan(seed))
    bare = BareScope(scope, specimen)
    focuser = focuser_of(bare, scope)
    surface = FocusSurface(plan, scope.focus)
    places = [(field.x_um, field.y_um) for field in plan.fields()]
    start_s = time.perf_counter()
    surface.measure(places, focuser)
    seconds = time.perf_counter() - start_s
    count = focuser.count
    exposure_s = scope.modalities.named(scope.focus.modality).exposure_ms / 1000
    real_s = count.frames * (exposure_s + READ_S + Z_MOVE_S) + count.positions * XY_SETTLE_S
    real_s += bare.travel_um / scope.stage.speed_um_s
    row = {
        "seed": seed,
        **errors(surface, specimen, places),
        "points": surface.points,
        "empty_points": sum(
            point.z_um is None for point in (*surface.coarse, *surface.fine.values())
        ),
        "places": count.positions,
        "frames": count.frames,
        "frames_per_place": count.frames / count.positions,
        "frames_per_field": count.frames / len(places),
        "real_s_per_field": real_s / len(places),
        "seconds": seconds,
    }
    return row, surface


def errors(
    surface: FocusSurface, specimen: Specimen, places: list[tuple[float, float]]
) -> dict[str, float]:
    off_um = np.array([surface.z_um(*place) - specimen.focus_um(*place) for place in places])
    return {
        "fields": len(places),
        "bias_um": float(off_um.mean()),
        "median_um": float(np.median(np.abs(off_um))),
        "p95_um": float(np.percentile(np.abs(off_um), 95)),
        "worst_um": float(np.abs(off_um).max()),
        "share_within": float((np.abs(off_um) <= ALLOWED_UM).mean()),
    }


def through_the_core(
    scope: Scope, plan: AcquisitionPlan, seed: int, bare: FocusSurface
) -> dict[str, Any]:
    """Focus a slide as a run does, all but the taking of fields, and compare with what was found
    without a core.
    """
    fields = plan.fields()
    places = [(field.x_um, field.y_um) for field in fields]
    start_s = time.perf_counter()
    with TemporaryDirectory() as folder:
        sample = Sample.open(Path(folder), "focus")
        with AcquisitionSession(
            AcquisitionRequest(sample, scope, plan, SpecimenPlan(seed))
        ) as session:
            session.focus.measure(fields)
            surface = session.focus.surface
    seconds = time.perf_counter() - start_s
    distance_um = np.array([surface.z_um(*place) - bare.z_um(*place) for place in places])
    return {
        "seed": seed,
        **errors(surface, Specimen(SpecimenPlan(seed)), places),
        "largest_difference_um": float(np.abs(distance_um).max()),
        "seconds": seconds,
    }


def wide_searches(scope: Scope, seed: int) -> dict[str, Any]:
    """Searches through the whole range from far off, at places drawn over the scan area."""
    specimen = Specimen(SpecimenPlan(seed))
    bare = BareScope(scope, specimen)
    focuser = focuser_of(bare, scope)
    rng = np.random.default_rng(seed)
    frames, off_um = [], []
    for x_um, y_um in rng.uniform(-2400, 2400, (WIDE_PLACES, 2)).round(1).tolist():
        before = focuser.count.frames
        truth_um = specimen.focus_um(x_um, y_um)
        start_um = truth_um + rng.uniform(-0.95, 0.95) * scope.focus.range_um
        found_um = focuser(x_um, y_um, round(start_um, 2), wide=True)
        if found_um is not None:
            frames.append(focuser.count.frames - before)
            off_um.append(abs(found_um - truth_um))
    return {
        "seed": seed,
        "places": WIDE_PLACES,
        "found": len(frames),
        "frames_mean": float(np.mean(frames)),
        "frames_most": max(frames),
        "within_12": float(np.mean(np.array(frames) <= 12)),
        "p95_um": float(np.percentile(off_um, 95)),
    }


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--slides", type=int, default=1, choices=range(1, len(SEEDS) + 1), help="virtual slides"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    seeds = SEEDS[: options.slides]
    scope = load_scope("demo")
    plan = AcquisitionPlan.from_scope(scope, "A")
    rows, surfaces = zip(*(measure(scope, plan, seed) for seed in seeds), strict=True)
    core = through_the_core(scope, plan, SEEDS[0], surfaces[0])
    wide = wide_searches(scope, seeds[-1])
    share = min(row["share_within"] for row in rows)
    result = {
        "name": "focus",
        "ratio": (1 - share) / (1 - ALLOWED_SHARE),
        "share_within": share,
        "allowed_um": ALLOWED_UM,
        "rows": rows,
        "core": core,
        "wide": wide,
        "versions": {
            "python": platform.python_version(),
            **{
                name: importlib.metadata.version(name)
                for name in ("wbcpipe", "numpy", "scipy", "pymmcore")
            },
        },
        "cpu": cpu_name(),
    }
    if options.json:
        print(json.dumps(result))
        return
    print(
        "seed fields  median     p95   worst  within 0.3 um  points empty  frames  /place  /field "
        " real ms/field    s"
    )
    for row in rows:
        print(
            f"{row['seed']:4} {row['fields']:6} {row['median_um']:7.3f} {row['p95_um']:7.3f} "
            f"{row['worst_um']:7.3f} {100 * row['share_within']:12.2f} %  {row['points']:6} "
            f"{row['empty_points']:5} {row['frames']:7} "
            f"{row['frames_per_place']:7.2f} {row['frames_per_field']:7.2f} "
            f"{1000 * row['real_s_per_field']:14.0f} "
            f"{row['seconds']:4.0f}"
        )
    print(
        f"through the core, seed {core['seed']}: {100 * core['share_within']:.2f} % within, "
        f"p95 {core['p95_um']:.3f} um, at most {core['largest_difference_um']:.3f} um from the "
        f"above, {core['seconds']:.0f} s"
    )
    print(
        f"whole range of +-{scope.focus.range_um:g} um: {wide['found']} of {wide['places']} "
        f"places, {wide['frames_mean']:.1f} frames, at most {wide['frames_most']}, "
        f"12 or fewer at {100 * wide['within_12']:.0f} %, p95 {wide['p95_um']:.3f} um"
    )
    print(
        f"worst slide: {100 * share:.2f} % of fields within {ALLOWED_UM} um; required "
        f"{100 * ALLOWED_SHARE:.0f} %"
    )


if __name__ == "__main__":
    main()
