"""Figures of a check against the calibration, the first checks, and the limits of the scope
file.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from wbcpipe.acquire.calibration.night_check import NightFigures
from wbcpipe.acquire.config.calibration_file import calibration_path, new_record, save_calibration
from wbcpipe.acquire.config.calibration_record import (
    CalibrationParts,
    DarkExposure,
    DarkPart,
    FlatModality,
    FlatPart,
)
from wbcpipe.acquire.config.scope import load_scope
from wbcpipe.batch.qc.drift import Reference, compare_with_limits, find_reference, flat_figures
from wbcpipe.batch.qc.records import QcEntry

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope

FLAT = tuple((1.0,) * 32 for _ in range(32))
EIGHT: tuple[tuple[float, ...], ...] = tuple((1.0,) * 8 for _ in range(8))
GOOD = {
    "light.color1": 40000.0,
    "light.fluorescence": 800.0,
    "dark_level.5ms": 100.0,
    "read_noise.5ms": 3.5,
    "hot_pixels.5ms": 49.0,
    "lamp_sd.color1": 0.1,
    "focus_um": 2.0,
    "focus_repeat_um": 0.1,
    "sharpness": 0.002,
    "stage_return_um": 0.2,
}


@pytest.fixture(scope="module")
def scope() -> Scope:
    return load_scope("demo")


def calibrate(scope: Scope, data: Path, **flat: Any) -> None:
    dark = DarkExposure(
        exposure_ms=5.0,
        modalities=("color1",),
        level=100.0,
        level_se=0.01,
        read_noise=3.5,
        pattern=0.0,
        hot_pixels=49,
        hot_share=1e-5,
        hot=(),
        frames=6,
    )
    modality = FlatModality.model_validate(
        {
            "shading": FLAT,
            "shading_se": 0.001,
            "falloff": 0.2,
            "background": 40000.0,
            "exposure_ms": 5.0,
            "used_of_full_scale": 0.6,
            "saturated_share": 0.0,
            "exposure_advice": "keep",
            "better_exposure_ms": 5.0,
            "dark_level": 100.0,
            "places": 24,
            "lamp": None,
            **flat,
        }
    )
    parts = CalibrationParts(
        dark=DarkPart(exposures=(dark,)), flat=FlatPart(modalities={"color1": modality})
    )
    save_calibration(calibration_path(scope, data), new_record(scope, "A", parts, {}, 1.0, None))


def checks(number: int, **figures: float) -> list[QcEntry]:
    time = datetime(2026, 9, 1, tzinfo=UTC)
    shading: dict[str, tuple[tuple[float, ...], ...]] = {"color1": EIGHT}
    return [
        QcEntry(time=time, kind="night_check", figures={**GOOD, **figures}, shading=shading)
        for _ in range(number)
    ]


def statuses(scope: Scope, figures: dict[str, float], reference: Reference) -> dict[str, str]:
    found = compare_with_limits(scope, figures, reference)
    return {name: finding.status for name, finding in zip(figures, found, strict=True)}


def test_the_first_checks_make_the_reference_where_there_is_no_calibration(
    scope: Scope, tmp_path: Path
) -> None:
    early = find_reference(scope, tmp_path, checks(4))
    found = statuses(scope, GOOD, early)
    absolute = ("focus_repeat_um", "focus_um", "lamp_sd.color1", "stage_return_um")
    assert {name for name, status in found.items() if status == "ok"} == set(absolute)
    assert {status for name, status in found.items() if name not in absolute} == {"baseline"}
    text = next(iter(compare_with_limits(scope, {"light.color1": 4e4}, early))).detail
    assert text == "40000 counts; check 5 of 5 that make the reference"
    # The sixth is compared with the median of five; one of them was wrong.
    reference = find_reference(
        scope, tmp_path, [*checks(4), *checks(1, **{"light.color1": 1.0}), *checks(3, sharpness=9)]
    )
    assert reference.figures["light.color1"] == 40000.0
    assert set(statuses(scope, GOOD, reference).values()) == {"ok"}


def test_a_calibration_is_preferred_and_the_checks_fill_what_it_lacks(
    scope: Scope, tmp_path: Path
) -> None:
    calibrate(scope, tmp_path, background=50000.0)
    reference = find_reference(scope, tmp_path, checks(5))
    assert reference.figures["light.color1"] == 50000.0
    assert reference.source["light.color1"].startswith("the calibration of 20")
    assert reference.figures["sharpness"] == 0.002
    assert np.array(reference.shading["color1"]).shape == (8, 8)
    assert statuses(scope, {"light.color1": 40000.0}, reference) == {"light.color1": "drift"}


def test_a_calibration_of_another_exposure_or_objective_is_not_compared(
    scope: Scope, tmp_path: Path
) -> None:
    calibrate(scope, tmp_path, exposure_ms=10.0)
    assert "light.color1" not in find_reference(scope, tmp_path, []).figures
    calibrate(scope, tmp_path)
    other = scope.model_copy(
        update={"calibration": scope.calibration.model_copy(update={"objective": "20x"})}
    )
    assert find_reference(other, tmp_path, []).figures == {}


@pytest.mark.parametrize(
    ("name", "within", "beyond", "words"),
    [
        (
            "light.color1",
            36100.0,
            35900.0,
            r"40000 in the first 5 checks: -10.3 % where at most 10 % .*lamp is on",
        ),
        ("light.color1", 43900.0, 44100.0, "lamp"),
        ("light.fluorescence", 420.0, 380.0, "at most 50 %"),
        ("dark_level.5ms", 109.5, 111.0, "cooled"),
        ("dark_level.5ms", 90.5, 89.0, "cooled"),
        ("read_noise.5ms", 4.3, 4.5, "read-out mode"),
        ("hot_pixels.5ms", 130.0, 140.0, "new ones per megapixel"),
        ("lamp_sd.color1", 0.99, 1.01, "warm up"),
        ("focus_um", -24.9, -25.1, "fixed_um"),
        ("focus_repeat_um", 0.99, 1.01, "vibration"),
        ("sharpness", 0.00081, 0.00079, "clean the objective"),
        ("stage_return_um", 2.9, 3.1, "loose insert"),
        ("flat.color1", 3.9, 4.1, "clean the optics"),
    ],
)
def test_each_limit_lies_where_the_scope_file_says(
    scope: Scope, tmp_path: Path, name: str, within: float, beyond: float, words: str
) -> None:
    reference = find_reference(scope, tmp_path, checks(5))
    assert statuses(scope, {name: within}, reference) == {name: "ok"}
    (finding,) = compare_with_limits(scope, {name: beyond}, reference)
    assert finding.status == "drift"
    assert finding.limit is not None
    assert re.search(words, finding.detail), finding.detail


def test_the_shape_is_compared_apart_from_the_power_of_the_lamp() -> None:
    grid = 0.5 * np.ones((8, 8))
    grid[6, 1] *= 0.93

    def figures(
        shading: np.ndarray[Any, Any], before: tuple[tuple[float, ...], ...]
    ) -> dict[str, float]:
        shape = {"color1": tuple(map(tuple, shading.tolist()))}
        return flat_figures(
            NightFigures({}, shape, (), 0, 0, 0.0), Reference(shading={"color1": before})
        )

    assert figures(grid, EIGHT) == {"flat.color1": pytest.approx(7.0)}
    assert figures(0.5 * np.ones((8, 8)), EIGHT) == {"flat.color1": 0.0}
    assert figures(np.ones((4, 4)), EIGHT) == {}  # another sensor or region
