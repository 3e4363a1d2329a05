"""Calibration recovers what was planted, on arrays and on the real core."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import ndimage

from wbcpipe.acquire.calibration.cli import calibrate
from wbcpipe.acquire.calibration.compare import check_calibration
from wbcpipe.acquire.calibration.dark import dark_figures, measure_dark
from wbcpipe.acquire.calibration.flat import (
    advise_exposure,
    estimate_shading,
    lamp_figures,
    measure_flat,
    tile_levels,
)
from wbcpipe.acquire.calibration.geometry import Move, camera_affine, fit_moves, prepare, register
from wbcpipe.acquire.calibration.microscope_probe import MicroscopeProbe, spread_places
from wbcpipe.acquire.calibration.offsets import measure_offsets
from wbcpipe.acquire.calibration.process import CalibrationRequest, run_calibration
from wbcpipe.acquire.calibration.travel import measure_geometry
from wbcpipe.acquire.config.calibration_file import (
    calibration_path,
    calibration_reference,
    new_record,
    save_calibration,
    setup_sha256,
)
from wbcpipe.acquire.config.calibration_record import CalibrationParts, CalibrationRecord, LightDose
from wbcpipe.acquire.config.scope import load_scope
from wbcpipe.acquire.simulation.optics.illumination import illumination_lattice
from wbcpipe.acquire.simulation.optics.light_path import OpticalState
from wbcpipe.acquire.simulation.optics.microscope import VirtualMicroscope
from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
from wbcpipe.acquire.simulation.specimen.slide import Specimen
from wbcpipe.acquire.simulation.virtual_scope import VirtualScope
from wbcpipe.errors import (
    ConfigError,
    DeviceCrashError,
    HardwareError,
    InterruptedRunError,
    SampleStateError,
)
from wbcpipe.system.files import write_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.acquire.config.scope import Scope


class PlantedScope(VirtualScope):
    """A virtual scope whose stage and colours are not what they say.

    Its stage really goes ``transform`` times as far as it says, stops ``backlash_um`` (x, y) short
    of where it comes from the far side, and its colours focus ``focus_um`` higher.
    """

    transform: NDArray[np.float64] = np.eye(2)
    backlash_um: tuple[float, float] = (0.0, 0.0)
    focus_um: dict[str, float]
    _side: NDArray[np.float64] = np.zeros(2)

    def move_xy(self, x_um: float, y_um: float) -> tuple[float, float]:
        going = np.sign(np.array([x_um, y_um]) - self.stage.xy_um())
        self._side = np.where(going == 0, self._side, going)
        return super().move_xy(x_um, y_um)

    def observe(self, frame: int | None = None) -> OpticalState:
        seen = super().observe(frame)
        x_um, y_um = self.transform @ (seen.x_um, seen.y_um) + np.where(
            self._side < 0, self.backlash_um, 0.0
        )
        away_um = getattr(self, "focus_um", {}).get(seen.light, 0.0)
        return replace(seen, x_um=float(x_um), y_um=float(y_um), z_um=seen.z_um - away_um)


def turned(degrees: float, *, scale: float = 1.0, skew_deg: float = 0.0) -> NDArray[np.float64]:
    right, down = math.radians(degrees), math.radians(degrees + skew_deg)
    return scale * np.array([[math.cos(right), -math.sin(down)], [math.sin(right), math.cos(down)]])


# --- on arrays


def test_dark_figures_are_those_planted() -> None:
    rng = np.random.default_rng(3)
    pattern = rng.normal(0, 2.0, (200, 200))
    frames = 100 + pattern + rng.normal(0, 5.0, (6, 200, 200))
    frames[:, [10, 50, 150], [20, 60, 199]] += 500
    figures = dark_figures(np.clip(np.round(frames), 0, 65535).astype(np.uint16), 65535)
    assert figures.level == pytest.approx(100, abs=0.1)
    assert figures.read_noise == pytest.approx(5.0, rel=0.02)
    assert figures.pattern == pytest.approx(2.0, rel=0.05)
    assert figures.hot == ((10, 20), (50, 60), (150, 199))


def test_shading_is_separated_from_cells_and_from_a_fading_lamp() -> None:
    rng = np.random.default_rng(4)
    y, x = np.mgrid[-1:1:24j, -1:1:32j]
    planted = 1 - 0.12 * (x**2 + y**2) + 0.03 * x
    levels = (
        planted
        * 30_000
        * np.linspace(1.0, 0.8, 20)[:, None, None]
        * (1 + rng.normal(0, 0.005, (20, 24, 32)))
    )
    levels[rng.random(levels.shape) < 0.1] *= 0.6  # tiles full of cells
    shading = estimate_shading(levels)
    assert np.abs(shading.grid / (planted / planted[12, 16]) - 1).max() < 0.01
    assert shading.falloff == pytest.approx(
        1 - np.mean(planted[[0, 0, -1, -1], [0, -1, 0, -1]]), abs=0.01
    )
    assert 0.0005 < shading.error < 0.005


@pytest.mark.parametrize(
    ("level", "advice", "better_ms"),
    [(0.66, "keep", 10.0), (0.1, "lengthen", 70.0), (1.0, "shorten", 7.0)],
)
def test_exposures_are_advised_by_what_they_use(
    level: float, advice: str, better_ms: float
) -> None:
    assert advise_exposure(10.0, level * 60_000, 60_000) == (advice, better_ms)


def test_a_lamps_drift_is_told_from_its_flicker() -> None:
    times_s = np.arange(60.0)
    levels = (
        1000 * (1 - 0.002 * times_s / 60) * (1 + np.random.default_rng(5).normal(0, 0.0004, 60))
    )
    figures = lamp_figures(times_s, levels)
    assert figures.drift_per_minute == pytest.approx(-0.002, abs=3 * figures.drift_se)
    assert figures.relative_sd == pytest.approx(0.0004, rel=0.25)


@pytest.mark.parametrize("shift_px", [(0.0, 0.0), (7.31, -4.27), (-60.5, 33.9)])
def test_registration_finds_a_planted_shift_under_uneven_light(
    shift_px: tuple[float, float],
) -> None:
    rng = np.random.default_rng(6)
    wide = ndimage.gaussian_filter(rng.normal(size=(400, 400)), 3.0)
    wide = 20_000 * (1 + 0.3 * wide / wide.std())
    lamp = 1 - 0.3 * np.hypot(*np.mgrid[-1:1:256j, -1:1:256j])
    hot = np.zeros((256, 256))
    hot[rng.integers(0, 256, 40), rng.integers(0, 256, 40)] = 30_000
    right, down = shift_px
    frames = [
        np.clip(cut[72:328, 72:328] * lamp + hot + rng.normal(0, 100, (256, 256)), 0, 65535).astype(
            np.uint16
        )
        for cut in (wide, ndimage.shift(wide, (down, right), order=3, mode="reflect"))
    ]
    found = register(prepare(frames[0]), prepare(frames[1]), (round(right) + 3, round(down) - 2))
    assert found is not None
    assert found[0] == pytest.approx(shift_px, abs=0.05)


def test_other_places_are_not_taken_for_one() -> None:
    rng = np.random.default_rng(7)
    frames = [
        prepare(
            (20_000 + 5000 * ndimage.gaussian_filter(rng.normal(size=(128, 128)), 3)).astype(
                np.uint16
            )
        )
        for _ in range(2)
    ]
    assert register(frames[0], frames[1]) is None
    assert register(np.zeros_like(frames[0]), np.zeros_like(frames[0])) is None


def moves_of(matrix: NDArray[np.float64], noise_px: float, seed: int) -> list[Move]:
    rng = np.random.default_rng(seed)
    moves = []
    for _ in range(40):
        stage = rng.uniform(-40, 40, 2)
        right, down = -np.linalg.inv(matrix) @ stage + rng.normal(0, noise_px, 2)
        moves.append(Move((float(stage[0]), float(stage[1])), (float(right), float(down)), 1.0))
    return moves


def test_the_affine_fit_withstands_outliers_and_its_errors_are_true() -> None:
    matrix = 0.1 * turned(2.0, scale=1.02, skew_deg=0.5)
    away = []
    for seed in range(30):
        moves = moves_of(matrix, 0.05, seed)
        moves[3] = Move(moves[3].stage_um, (400.0, -300.0), 0.6)
        fit = fit_moves(moves)
        away.append((fit.matrix - matrix).ravel() / np.sqrt(np.diag(fit.covariance)))
    # In units of the standard error given: were it true, these would scatter by 1.
    assert 0.7 < np.std(away) < 1.4
    figures = camera_affine(fit, load_scope("demo").camera)
    assert figures.pixel_um == pytest.approx(
        math.sqrt(np.linalg.det(matrix)), abs=4 * figures.pixel_um_se
    )
    assert figures.skew_deg == pytest.approx(0.5, abs=4 * figures.skew_deg_se)
    assert figures.turn_deg == pytest.approx(2.25, abs=4 * figures.turn_deg_se)


@pytest.mark.parametrize(
    "affine", [(1, 0, 0, 1), (-1, 0, 0, 1), (0, 1, 1, 0), (0, -1, 1, 0), (0.02, -1, 1, 0.02)]
)
def test_figures_are_of_the_cameras_own_pixels(affine: tuple[float, ...]) -> None:
    (a, b, c, d) = affine
    camera = load_scope("demo").camera.model_copy(
        update={"stage_affine": ((a, b), (c, d)), "binning": 2}
    )
    right = np.array([[a, b], [c, d]])
    # Frames are laid as the stage lies, by the whole turns of the file; what is left shows in them.
    seen = 0.2 * right @ np.linalg.inv(np.round(right))
    figures = camera_affine(fit_moves(moves_of(seen, 0.001, 1)), camera)
    assert np.array(figures.stage_affine) == pytest.approx(right, abs=1e-3)
    assert figures.pixel_um == pytest.approx(0.1, rel=1e-3)
    assert figures.mirrored == (a * d - b * c < 0)


def test_moves_along_one_line_are_not_enough() -> None:
    with pytest.raises(HardwareError, match="do not show how pixels lie"):
        fit_moves([Move((float(step), 0.0), (-10.0 * step, 0.0), 1.0) for step in range(1, 6)])


def test_places_fill_an_area_evenly_and_stay_in_it() -> None:
    places = np.array(spread_places((0.0, 400.0), (0.0, 200.0), (20.0, 10.0), 64))
    assert tuple(places[0]) == (200.0, 100.0)
    assert (places >= (20, 10)).all()
    assert (places <= (380, 190)).all()
    counts, _, _ = np.histogram2d(places[:, 0], places[:, 1], bins=4)
    assert counts.min() >= 2
    assert spread_places((0.0, 10.0), (0.0, 10.0), (20.0, 20.0), 3) == [(5.0, 5.0)] * 3


# --- on the real core


def planted(scope: Scope, specimen: SpecimenPlan, **what: Any) -> PlantedScope:
    microscope = PlantedScope(scope, specimen)
    for name, value in what.items():
        setattr(microscope, name, value)
    return microscope


@pytest.mark.parametrize(
    "transform",
    [turned(1.3, scale=1.02, skew_deg=0.4), np.array([[0.0, 1.0], [1.0, 0.0]])],
    ids=["2 per cent, turned and skewed", "mirrored quarter turn"],
)
def test_geometry_recovers_the_planted_stage(
    make_scope: Callable[..., Scope],
    specimen: SpecimenPlan,
    transform: NDArray[np.float64],
) -> None:
    scope = make_scope()
    # Where the stage says that it moved by s, it moved by T s: a pixel p is inverse(T) p of the
    # stage's own lengths.
    expected = 0.1 * np.linalg.inv(transform)
    with planted(scope, specimen, transform=transform, backlash_um=(0.7, -0.4)) as microscope:
        figures = measure_geometry(MicroscopeProbe(microscope, scope, "A"))
        assert not microscope.link.shutter.is_open()
    side = math.sqrt(abs(np.linalg.det(expected)))
    assert figures.pixel_um == pytest.approx(side, rel=5e-4)
    assert np.array(figures.stage_affine) == pytest.approx(expected / side, abs=1e-3)
    assert figures.mirrored == (np.linalg.det(transform) < 0)
    assert figures.residual_rms_px < 0.1
    # From the far side it stops short by what was planted; seen in the stage's own lengths.
    seen_um = np.linalg.inv(transform) @ [0.7, 0.0], np.linalg.inv(transform) @ [0.0, -0.4]
    assert figures.backlash.x_um == pytest.approx(seen_um[0][0], abs=0.02)
    assert figures.backlash.y_um == pytest.approx(seen_um[1][1], abs=0.02)
    assert figures.backlash.repeatability_um is not None
    assert figures.backlash.repeatability_um < 0.01


def test_a_specimen_that_does_not_move_is_no_geometry(
    make_scope: Callable[..., Scope], specimen: SpecimenPlan
) -> None:
    scope = make_scope()
    with (
        planted(scope, specimen, transform=np.zeros((2, 2))) as microscope,
        pytest.raises(HardwareError, match=r"does not follow the stage|could be followed"),
    ):
        measure_geometry(MicroscopeProbe(microscope, scope, "A"))


def test_dark_of_the_virtual_camera(
    make_scope: Callable[..., Scope], specimen: SpecimenPlan
) -> None:
    scope = make_scope()
    with planted(scope, specimen) as microscope:
        entries = measure_dark(MicroscopeProbe(microscope, scope, "A")).exposures
    assert [entry.exposure_ms for entry in entries] == [5.0, 20.0]
    assert entries[0].modalities == ("color1", "color2", "color3")
    for entry in entries:
        assert entry.level == pytest.approx(100, abs=0.5)
        assert entry.read_noise == pytest.approx(1.6 * (65535 - 100) / 30_000, rel=0.03)
        assert entry.hot_pixels == 1  # 12 a megapixel


def test_flat_of_the_virtual_scope(
    make_scope: Callable[..., Scope], specimen: SpecimenPlan
) -> None:
    scope = make_scope(("[-60.0, 60.0]", "[-600.0, 600.0]"))
    with planted(scope, specimen) as microscope:
        probe = MicroscopeProbe(microscope, scope, "A")
        figures = measure_flat(probe, {5.0: 100.0, 20.0: 100.0}).modalities
    for name, limit in (
        ("color1", 0.01),
        ("color2", 0.006),
        ("color3", 0.006),
        ("fluorescence", 0.03),
    ):
        truth = illumination_lattice(specimen.seed, name, (256, 256))
        grid = np.array(figures[name].shading)
        # Truth at the centre of each tile: the lattice has a point every 16 pixels from pixel 0 on.
        at = (np.arange(len(grid)) + 0.5) * 256 / len(grid) / 16
        there = ndimage.map_coordinates(truth, np.meshgrid(at, at, indexing="ij"), order=1)
        away = grid / grid.mean() - there / there.mean()
        assert np.sqrt(np.mean(np.square(away))) < limit, name
        assert figures[name].exposure_advice == (
            "keep" if name != "fluorescence" else figures[name].exposure_advice
        )
    assert probe.dose()["fluorescence"] == LightDose(exposures=12, total_ms=240.0)


def test_offsets_recover_what_was_planted(make_scope: Callable[..., Scope]) -> None:
    specimen = SpecimenPlan(7, "buffy-coat")
    scope = make_scope()
    scope = scope.model_copy(update={"focus": scope.focus.model_copy(update={"offset_um": 0.0})})
    with planted(scope, specimen, focus_um={"color2": 1.5, "fluorescence": -1.2}) as microscope:
        figures = measure_offsets(MicroscopeProbe(microscope, scope, "A"))
    offsets = figures.z_offset_um
    assert offsets["color1"] == 0.0
    # Refraction makes the colours look sharpest at planes of their own, some tenths of a micrometre
    # apart.
    assert offsets["color2"] == pytest.approx(1.5, abs=0.4)
    assert offsets["color3"] == pytest.approx(0.0, abs=0.4)
    assert figures.focus_offset_se_um is not None
    assert figures.focus_offset_um == pytest.approx(-1.2, abs=0.4 + 3 * figures.focus_offset_se_um)


def test_stopping_leaves_the_shutter_closed(
    make_scope: Callable[..., Scope], specimen: SpecimenPlan
) -> None:
    scope = make_scope()
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls > 12:
            raise InterruptedRunError("stop")

    with planted(scope, specimen) as microscope:
        with pytest.raises(InterruptedRunError):
            measure_geometry(MicroscopeProbe(microscope, scope, "A", check=check))
        assert not microscope.link.shutter.is_open()


def test_a_scope_without_a_shutter_takes_its_dark_frames_in_the_dark(
    make_scope: Callable[..., Scope], specimen: SpecimenPlan
) -> None:
    scope = make_scope(
        (
            'shutter_device = "LED Shutter"',
            'dark = { settings = [{ device = "LED", property = "State", value = "0" }] }',
        )
    )
    with planted(scope, specimen) as microscope:
        microscope.switch_light("color1")
        (first, *_) = measure_dark(MicroscopeProbe(microscope, scope, "A")).exposures
    assert first.level == pytest.approx(100.0, abs=2.0)


def test_an_empty_slot_is_told(make_scope: Callable[..., Scope], specimen: SpecimenPlan) -> None:
    scope = make_scope(
        ("range_um = 30.0", "range_um = 6.0"), ("[-100.0, 100.0]", "[-100.0, -90.0]")
    )
    with (
        planted(scope, specimen) as microscope,
        pytest.raises(HardwareError, match="lay a stained slide there"),
    ):
        MicroscopeProbe(microscope, scope, "A").find_focus()


# --- the file, and doctor

DARK = {
    "exposure_ms": 5.0,
    "modalities": ["color1"],
    "level": 100.0,
    "level_se": 0.1,
    "read_noise": 3.5,
    "pattern": 1.0,
    "hot_pixels": 1,
    "hot_share": 0.0,
    "hot": [[3, 4]],
    "frames": 6,
}


def figures_of(scope: Scope) -> dict[str, Any]:
    """Figures that agree with the demo scope."""
    offset = {"um": 0.1, "se_um": 0.05, "places": 5, "reliable": True}
    return {
        "dark": {
            "exposures": [DARK],
        },
        "flat": {
            "modalities": {
                "color1": {
                    "shading": [[1.0]],
                    "shading_se": 0.001,
                    "falloff": 0.2,
                    "background": 40_000.0,
                    "exposure_ms": 5.0,
                    "used_of_full_scale": 0.7,
                    "saturated_share": 0.0,
                    "exposure_advice": "keep",
                    "better_exposure_ms": 5.0,
                    "dark_level": 100.0,
                    "places": 12,
                    "lamp": {
                        "relative_sd": 0.001,
                        "drift_per_minute": 0.0,
                        "drift_se": 0.001,
                        "seconds": 2.0,
                        "frames": 20,
                    },
                }
            }
        },
        "geometry": {
            "pixel_um": scope.camera.pixel_um,
            "pixel_um_se": 1e-5,
            "stage_affine": [[1.0, 0.0], [0.0, 1.0]],
            "stage_affine_se": [[1e-4, 1e-4], [1e-4, 1e-4]],
            "pixel_right_um": scope.camera.pixel_um,
            "pixel_down_um": scope.camera.pixel_um,
            "turn_deg": 0.0,
            "turn_deg_se": 0.01,
            "skew_deg": 0.0,
            "skew_deg_se": 0.01,
            "mirrored": False,
            "residual_rms_px": 0.05,
            "moves": 48,
            "moves_tried": 48,
            "places": 3,
            "similarity": 0.9,
            "backlash": {"repeats": 3, "x_um": 0.5, "y_um": -0.2, "repeatability_um": 0.1},
        },
        "offsets": {
            "reference": "color1",
            "z_offset_um": {"color1": 0.0, "color2": 0.1, "fluorescence": -0.1},
            "from_reference_um": {"color2": offset, "fluorescence": dict(offset)},
            "focus_offset_um": 0.1,
            "focus_offset_se_um": 0.05,
            "places": 5,
        },
    }


def written(
    scope: Scope, data: Path, change: Callable[[dict[str, Any]], None] = lambda _: None
) -> Path:
    path = calibration_path(scope, data)
    record = new_record(
        scope, "A", CalibrationParts.model_validate(figures_of(scope)), {}, 1.0, None
    )
    save_calibration(path, record)
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["sha256"]  # as in a file that is written by hand
    change(content["parts"])
    write_json(path, content)
    return path


def test_a_calibration_that_agrees_is_no_warning(tmp_path: Path, small_scope: Scope) -> None:
    path = written(small_scope, tmp_path)
    found = list(check_calibration(small_scope, tmp_path))
    assert {finding.status for finding in found} == {"ok"}
    assert "pixel size" in found[-1].detail
    reference = calibration_reference(small_scope, tmp_path)
    assert reference is not None
    assert reference.date == json.loads(path.read_text(encoding="utf-8"))["date"]
    assert len(reference.sha256) == 64


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("geometry.pixel_um", 0.1015, r"write camera\.pixel_um = 0\.10150"),
        (
            "dark.exposures",
            [{**DARK, "level": 130.0}],
            r"130\.0 in the dark, the file says 100; write frame_checks\.camera_offset = 130\.0",
        ),
        (
            "geometry.stage_affine",
            [[-1.0, 0.0], [0.0, 1.0]],
            r"flipped .* write camera\.stage_affine = \[\[-1\.0000",
        ),
        (
            "geometry.stage_affine",
            [[0.9994, -0.034], [0.034, 0.9994]],
            r"write camera\.stage_affine = \[\[0\.9994, -0",
        ),
        ("geometry.stage_affine", [[0.98, -0.2], [0.2, 0.98]], "turn the camera by that angle"),
        ("geometry.backlash.y_um", -9.0, "backlash compensation"),
        ("offsets.z_offset_um.color2", 0.8, r"write modalities\.color2\.z_offset_um = 0\.80"),
        ("offsets.focus_offset_um", -0.9, r"write focus\.offset_um = -0\.90"),
        ("offsets.from_reference_um.fluorescence.reliable", False, "places disagree"),
        (
            "flat.modalities.color1.exposure_advice",
            "shorten",
            r"write modalities\.color1\.exposure_ms = 5",
        ),
        ("flat.modalities.color1.lamp.relative_sd", 0.03, "flickers"),
        ("geometry.pixel_um", None, r"'parts\.geometry\.pixel_um'.*calibrate again"),
    ],
    ids=lambda part: part if isinstance(part, str) and "." in part and " " not in part else "",
)
def test_doctor_says_what_to_write(
    tmp_path: Path, small_scope: Scope, place: str, value: Any, words: str
) -> None:
    def change(parts: dict[str, Any]) -> None:
        *way, last = place.split(".")
        for key in way:
            parts = parts[key]
        parts[last] = value

    written(small_scope, tmp_path, change)
    warnings = [
        finding for finding in check_calibration(small_scope, tmp_path) if finding.status == "warn"
    ]
    assert len(warnings) == 1
    assert re.search(words, warnings[0].detail), warnings[0].detail


def test_age_setup_and_damage_are_told(tmp_path: Path, make_scope: Callable[..., Scope]) -> None:
    scope = make_scope()
    path = written(scope, tmp_path)
    later = datetime.now(UTC) + timedelta(days=91)
    assert "91 days old" in next(iter(check_calibration(scope, tmp_path, later))).detail
    assert "allows 90" in next(iter(check_calibration(scope, tmp_path, later))).detail
    other = scope.model_copy(
        update={"calibration": scope.calibration.model_copy(update={"objective": "20x"})}
    )
    assert any(
        "objective 'virtual 65x'" in found.detail for found in check_calibration(other, tmp_path)
    )
    dimmer = make_scope(("color2,LED,Label,550nm", "color2,LED,Label,Closed"))
    assert any("have changed" in found.detail for found in check_calibration(dimmer, tmp_path))
    # What a calibration corrects does not make it out of date.
    corrected = make_scope(
        ("pixel_um = 0.1 ", "pixel_um = 0.1001 "), ("exposure_ms = 20.0", "exposure_ms = 30.0")
    )
    assert setup_sha256(corrected) == setup_sha256(make_scope())
    path.write_text("{", encoding="utf-8")
    found = list(check_calibration(scope, tmp_path))
    assert [finding.status for finding in found] == ["warn"]
    with pytest.raises(SampleStateError, match="not readable as JSON"):
        CalibrationRecord.read_if_present(path)
    assert calibration_reference(scope, tmp_path) is None


def test_without_a_calibration_only_a_real_scope_is_warned_of(tmp_path: Path) -> None:
    for name, status in (("demo", "ok"), ("squid-daheng", "warn")):
        (found,) = check_calibration(load_scope(name), tmp_path)
        assert found.status == status
        assert f"wbcpipe calibrate --scope {name}" in found.detail
    assert calibration_reference(load_scope("demo"), tmp_path) is None


def test_the_command_writes_keeps_and_takes_over(
    tmp_path: Path, make_scope: Callable[..., Scope]
) -> None:
    scope = make_scope()
    path = written(scope, tmp_path)
    before = path.read_bytes()
    arguments = ["--scope", str(scope.path), "--data", str(tmp_path), "--only", "dark", "--json"]
    outcome = json.loads(CliRunner().invoke(calibrate, arguments, catch_exceptions=False).stdout)
    assert outcome["path"] == str(path)
    assert (path.parent / outcome["kept"]).read_bytes() == before
    document = json.loads(path.read_text(encoding="utf-8"))
    assert list(document["parts"]) == ["dark", "flat", "geometry", "offsets"]
    assert document["parts"]["dark"]["exposures"][0]["frames"] == 6
    assert document["parts"]["geometry"] == json.loads(before)["parts"]["geometry"]
    assert document["software"]["pymmcore"].split(".")[3] == "75"
    assert [entry["name"] for entry in outcome["findings"]][:2] == ["camera offset", "dark"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "dark,flatt"], "flatt is no part; parts: dark, flat, geometry, offsets"),
        (["--slot", "Q"], "has no slot 'Q'"),
    ],
)
def test_what_is_refused_moves_nothing(tmp_path: Path, arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        CliRunner().invoke(
            calibrate, [*arguments, "--data", str(tmp_path / "d")], catch_exceptions=False
        )
    assert not (tmp_path / "d").exists()


def test_a_crashing_driver_is_reported(
    make_scope: Callable[..., Scope], specimen: SpecimenPlan
) -> None:
    line = "ConfigGroup,Illumination,color1,LED,Label,385nm\n"
    crash = "ConfigGroup,Illumination,color1,Camera,SimulateCrash,Dereference Null Pointer\n"
    request = CalibrationRequest(make_scope((line, line + crash)), "A", ("geometry",), specimen)
    with pytest.raises(DeviceCrashError, match="SIGSEGV"):
        run_calibration(request, lambda _task, _done, _total: None)


def test_tiles_of_a_frame_are_its_background() -> None:
    vm = VirtualMicroscope(Specimen(SpecimenPlan(7)), sensor_px=(256, 256))
    frame = vm.expose(OpticalState(0.0, 0.0, vm.specimen.focus_um(0.0, 0.0), "color3", 5.0))
    levels = tile_levels(frame, 85)
    assert levels.shape == (32, 32)
    assert np.median(levels) == pytest.approx(np.percentile(frame, 85), rel=0.05)
