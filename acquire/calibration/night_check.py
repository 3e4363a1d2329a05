"""Measure in half a minute what a night depends on.

Light, shape of the illumination, dark level, focus, stage.

Few frames: bright field, and at most one of fluorescence, beside the scan area where no cell is
counted. The figures are compared elsewhere; nothing here knows what they should be.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from wbcpipe.acquire.calibration.dark import dark_figures
from wbcpipe.acquire.calibration.flat import (
    BRIGHT_PERCENTILE,
    BRIGHT_QUANTILE,
    FLUORESCENCE_PERCENTILE,
    estimate_shading,
    lamp_figures,
    tile_levels,
)
from wbcpipe.acquire.calibration.process import run_in_child
from wbcpipe.acquire.focus.autofocus import sharpness
from wbcpipe.imaging.translation import measure_translation, registered_correlation

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from wbcpipe.acquire.calibration.microscope_probe import MicroscopeProbe
    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan

__all__ = [
    "SHADING_SIDE",
    "NightFigures",
    "NightMeasurement",
    "coarse_grid",
    "measure_night",
    "run_measurement",
]

#: Rows and columns of the shape of the illumination: a tile of a field is then wider than any group
#: of red cells.
SHADING_SIDE: Final = 8
_DARK_FRAMES: Final = 3
_PLACES: Final = 6
_LAMP_FRAMES: Final = 8
#: Searches from other heights; with the first one they give the repeatability of the focus.
_REPEATS: Final = 2
#: Distance of the fluorescence frame from the scan area, in fields: the lamp lights more than the
#: camera sees.
_BESIDE: Final = 1.5
#: Two frames of one position that agree less do not show how far the stage missed.
_MIN_AGREEMENT: Final = 0.5
_UPSAMPLING: Final = 10


@dataclass(frozen=True)
class NightMeasurement:
    """What to measure.

    Attributes:
        scope, slot: where the slide lies.
        fluorescence: take one fluorescence frame.
        specimen: on a virtual scope, what lies on the stage.
    """

    scope: Scope
    slot: str
    fluorescence: bool = True
    specimen: SpecimenPlan | None = None


@dataclass(frozen=True)
class NightFigures:
    """What was measured.

    Attributes:
        figures: name to value. ``light.<modality>``: background in pixel values above dark.
            ``lamp_sd.<modality>``: standard deviation of successive frames, in per cent.
            ``dark_level.<t>ms``, ``read_noise.<t>ms``, ``hot_pixels.<t>ms``: without light, for
            each exposure t. ``focus_um``: Z of the slide's surface. ``focus_repeat_um``: largest
            difference of the searches. ``sharpness``: at the focus. ``stage_return_um``: distance
            between two arrivals at one position.
        shading: modality to the shape of its illumination, (8, 8), 1 in the middle; bright field
            only.
        notes: what could not be measured, in words.
        frames, fluorescence_frames: number of exposures with light.
        seconds: the measurement took, without opening the microscope.
    """

    figures: dict[str, float]
    shading: dict[str, tuple[tuple[float, ...], ...]]
    notes: tuple[str, ...]
    frames: int
    fluorescence_frames: int
    seconds: float


def run_measurement(
    request: NightMeasurement, progress: Callable[[str, int, int], None]
) -> NightFigures:
    """Measure in a child process; see `run_in_child` for the errors.

    Raises:
        HardwareError: a device failed, or no position of the slot shows anything to focus on.
    """
    return run_in_child(measure_night, request, progress, name="wbcpipe-night-check")


def measure_night(probe: MicroscopeProbe, request: NightMeasurement) -> NightFigures:
    """Measure at an opened microscope.

    Fluorescence comes last, and the shutter stays closed between frames.
    """
    started_s = time.monotonic()
    notes: list[str] = []
    dark = _measure_dark(probe)
    figures = {**dark, **_measure_focus(probe, notes)}
    here_um = probe.position_um
    before = _centre(probe)
    figures |= _measure_lamps(probe, dark)
    light, shading = _measure_light(probe, dark)
    figures |= light
    probe.go(*here_um)
    figures |= _stage_return(probe, before, notes)
    if request.fluorescence:
        figures |= _measure_fluorescence(probe, dark, notes)
    dose = probe.dose()
    return NightFigures(
        figures=figures,
        shading=shading,
        notes=tuple(notes),
        frames=sum(entry.exposures for entry in dose.values()),
        fluorescence_frames=dose["fluorescence"].exposures if "fluorescence" in dose else 0,
        seconds=round(time.monotonic() - started_s, 2),
    )


def coarse_grid(
    grid: NDArray[np.float64], quantile: float = BRIGHT_QUANTILE
) -> NDArray[np.float64]:
    """Return a quantile of each of 8 x 8 blocks of tiles, (..., rows, columns) to (..., 8, 8).

    Red cells darken a tile; of the tiles of a block some are empty.
    """
    rows = np.array_split(np.arange(grid.shape[-2]), min(SHADING_SIDE, grid.shape[-2]))
    columns = np.array_split(np.arange(grid.shape[-1]), min(SHADING_SIDE, grid.shape[-1]))
    blocks = [
        [
            np.quantile(
                grid[..., row[0] : row[-1] + 1, column[0] : column[-1] + 1], quantile, (-2, -1)
            )
            for column in columns
        ]
        for row in rows
    ]
    return np.moveaxis(np.array(blocks), (0, 1), (-2, -1))


def _measure_dark(probe: MicroscopeProbe) -> dict[str, float]:
    figures: dict[str, float] = {}
    times = sorted({modality.exposure_ms for _, modality in probe.scope.modalities.items()})
    for number, exposure_ms in enumerate(times):
        frames = []
        for x_um, y_um in probe.places(_DARK_FRAMES):
            # Stray light would differ from place to place; and a virtual camera's noise belongs to
            # the place.
            probe.go(x_um, y_um)
            frames.append(probe.dark(exposure_ms))
        found = dark_figures(np.stack(frames), probe.scope.camera.saturation)
        figures[f"dark_level.{exposure_ms:g}ms"] = found.level
        figures[f"read_noise.{exposure_ms:g}ms"] = found.read_noise
        figures[f"hot_pixels.{exposure_ms:g}ms"] = float(found.hot_pixels)
        probe.progress("night check: dark frames", number + 1, len(times))
    return figures


def _measure_focus(probe: MicroscopeProbe, notes: list[str]) -> dict[str, float]:
    """Focus at a position that shows something, from three heights, and stay there."""
    policy = probe.scope.focus
    if policy.method == "fixed":
        probe.go(*probe.places(1)[0])
        probe.at_z(policy.fixed_um)
        notes.append("the focus is fixed: it was not measured")
        return {"sharpness": sharpness(_centre(probe))}
    first_um = probe.find_focus()
    found = [first_um]
    for number in range(_REPEATS):
        again_um = probe.focus()
        if again_um is not None:
            found.append(again_um)
        probe.progress("night check: focus", number + 1, _REPEATS)
    best_um = float(np.median(found))
    probe.at_z(best_um)
    figures = {"focus_um": best_um + policy.offset_um, "sharpness": sharpness(_centre(probe))}
    if len(found) > _REPEATS:
        figures["focus_repeat_um"] = max(found) - min(found)
    else:
        notes.append("a second search found no focus where the first had found one")
    return {name: round(value, 5) for name, value in figures.items()}


def _centre(probe: MicroscopeProbe) -> NDArray[np.uint16]:
    """Return the centre (y, x) of the present field in the light of the focus."""
    policy = probe.scope.focus
    with probe.microscope.focus_region(policy.window_px) as frame_px:
        return probe.frame(policy.modality, frame_px=frame_px)


def _measure_lamps(probe: MicroscopeProbe, dark: dict[str, float]) -> dict[str, float]:
    figures = {}
    names = _bright(probe)
    for number, name in enumerate(names, 1):
        times_s, levels = [], []
        with probe.microscope.focus_region(probe.scope.focus.window_px) as frame_px:
            for _ in range(_LAMP_FRAMES):
                levels.append(
                    float(probe.frame(name, frame_px=frame_px).mean()) - _level(probe, dark, name)
                )
                times_s.append(time.monotonic())
        if min(levels) > 0:
            figures[f"lamp_sd.{name}"] = round(
                100 * lamp_figures(times_s, np.array(levels)).relative_sd, 4
            )
        probe.progress("night check: lamps", number, len(names))
    return figures


def _measure_light(
    probe: MicroscopeProbe, dark: dict[str, float]
) -> tuple[dict[str, float], dict[str, tuple[tuple[float, ...], ...]]]:
    """Return the background of each bright-field modality, and the shape of its illumination."""
    tiles: dict[str, list[NDArray[np.float64]]] = {name: [] for name in _bright(probe)}
    for number, (x_um, y_um) in enumerate(probe.places(_PLACES), 1):
        probe.go(x_um, y_um)
        for name, seen in tiles.items():
            levels = tile_levels(probe.frame(name), BRIGHT_PERCENTILE) - _level(probe, dark, name)
            seen.append(coarse_grid(levels))
        probe.progress("night check: light", number, _PLACES)
    figures, shading = {}, {}
    for name, seen in tiles.items():
        found = estimate_shading(np.stack(seen), BRIGHT_QUANTILE)
        figures[f"light.{name}"] = round(float(np.median(found.levels)), 1)
        shading[name] = tuple(map(tuple, np.round(found.grid, 4).tolist()))
    return figures, shading


def _stage_return(
    probe: MicroscopeProbe, before: NDArray[np.uint16], notes: list[str]
) -> dict[str, float]:
    """Compare the present field with a frame of the same position before the tour of the slot."""
    first, second = before.astype(np.float64), _centre(probe).astype(np.float64)
    shift_px = measure_translation(first - first.mean(), second - second.mean(), _UPSAMPLING)
    if registered_correlation(first, second, shift_px) < _MIN_AGREEMENT:
        notes.append(
            "the stage did not return to a position within half a frame of the focus window"
        )
        return {}
    return {
        "stage_return_um": round(float(np.hypot(*shift_px)) * probe.scope.camera.image_pixel_um, 3)
    }


def _measure_fluorescence(
    probe: MicroscopeProbe, dark: dict[str, float], notes: list[str]
) -> dict[str, float]:
    place_um = probe.place_beside(_BESIDE)
    if place_um is None:
        notes.append(
            "the stage reaches no position beside the scan area: fluorescence was not measured"
        )
        return {}
    probe.go(*place_um)
    frame = probe.frame("fluorescence")
    probe.progress("night check: fluorescence", 1, 1)
    level = float(np.percentile(frame, FLUORESCENCE_PERCENTILE)) - _level(
        probe, dark, "fluorescence"
    )
    return {"light.fluorescence": round(level, 1)}


def _bright(probe: MicroscopeProbe) -> list[str]:
    return [name for name, _ in probe.scope.modalities.items() if name != "fluorescence"]


def _level(probe: MicroscopeProbe, dark: dict[str, float], modality: str) -> float:
    return dark[f"dark_level.{probe.scope.modalities.named(modality).exposure_ms:g}ms"]
