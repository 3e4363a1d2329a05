"""Autofocus and the surface of focus recover what was planted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import ndimage

from wbcpipe.acquire.autofocus import climb_to_focus, search_focus, sharpness
from wbcpipe.acquire.config import load_scope
from wbcpipe.acquire.focus_surface import FocusSurface, load_surface
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.acquire.specimen import OpticalState, Specimen, SpecimenPlan, VirtualMicroscope
from wbcpipe.acquire.surface_fit import FocusPoint, fit_surface
from wbcpipe.errors import HardwareError, SampleStateError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

LIMITS_UM = (-100.0, 100.0)
POLICY = load_scope("demo").focus


def planted(focus_um: float, *, empty: bool = False) -> Callable[[float], NDArray[np.uint16]]:
    """Discs blurred by their distance from the focus, under shot noise."""
    rng = np.random.default_rng(5)
    scene = np.full((128, 128), 30_000.0)
    if not empty:
        y, x = np.mgrid[:128, :128]
        for row, column in rng.uniform(10, 118, (14, 2)):
            scene[np.hypot(y - row, x - column) < 7] *= 0.5

    def take(z_um: float) -> NDArray[np.uint16]:
        blurred = ndimage.gaussian_filter(scene, np.hypot(1.5, 1.2 * (z_um - focus_um)))
        return np.asarray(rng.poisson(blurred), np.uint16)

    return take


@pytest.mark.parametrize("focus_um", [-2.9, -0.4, 0.0, 1.3, 6.2])
def test_climbing_finds_a_planted_focus(focus_um: float) -> None:
    found = climb_to_focus(planted(focus_um), 0.0, 1.5, LIMITS_UM)
    assert found is not None
    assert found.z_um == pytest.approx(focus_um, abs=0.15)
    assert found.frames <= 12


@pytest.mark.parametrize("focus_um", [-27.0, -8.1, 14.4])
def test_a_wide_search_finds_a_distant_focus(focus_um: float) -> None:
    found = search_focus(planted(focus_um), 0.0, 30.0, 3.0, 1.5, LIMITS_UM)
    assert found is not None
    assert found.z_um == pytest.approx(focus_um, abs=0.15)


def test_an_empty_place_has_no_focus() -> None:
    assert climb_to_focus(planted(0.0, empty=True), 0.0, 1.5, LIMITS_UM) is None
    assert search_focus(planted(0.0, empty=True), 0.0, 12.0, 3.0, 1.5, LIMITS_UM) is None


def test_the_limits_of_z_are_never_left() -> None:
    seen: list[float] = []
    take = planted(9.0)

    def watched(z_um: float) -> NDArray[np.uint16]:
        seen.append(z_um)
        return take(z_um)

    assert search_focus(watched, 0.0, 30.0, 3.0, 1.5, (-5.0, 5.0)) is None
    assert min(seen) >= -5.0
    assert max(seen) <= 5.0


def test_sharpness_does_not_follow_the_lamp() -> None:
    image = planted(0.0)(0.0)
    assert sharpness((image // 2).astype(np.uint16)) == pytest.approx(sharpness(image), rel=0.02)
    assert sharpness(np.zeros((64, 64), np.uint16)) == 0.0


def test_a_quadratic_is_recovered_and_an_outlier_left_out() -> None:
    def truth(x: float, y: float) -> float:
        return 3.0 + 1e-3 * x - 5e-4 * y + 2e-7 * x * x

    places = [(x, y) for x in (-2500, 0, 2500) for y in (-2500, 0, 2500)]
    points = [FocusPoint(x, y, truth(x, y)) for x, y in places]
    assert fit_surface(points)(1000, -700) == pytest.approx(truth(1000, -700), abs=1e-6)
    points[4] = FocusPoint(0, 0, 25.0)
    assert fit_surface(points)(1000, -700) == pytest.approx(truth(1000, -700), abs=0.05)


def test_few_points_make_a_plane_or_a_level() -> None:
    corners = [FocusPoint(0, 0, 1.0), FocusPoint(1000, 0, 2.0), FocusPoint(0, 1000, 3.0), FocusPoint(1000, 1000, None)]
    assert fit_surface(corners)(1000, 1000) == pytest.approx(4.0)
    assert fit_surface(corners[:1])(500, 500) == 1.0
    assert fit_surface([FocusPoint(x, 0.0, 1.0 + x) for x in (0.0, 1.0, 2.0)])(9.0, 9.0) == 2.0
    with pytest.raises(HardwareError, match="no focus at any point of the slot"):
        fit_surface(corners[3:])


def _finder(scope_specimen: Specimen) -> Callable[..., float | None]:
    renderer = VirtualMicroscope(scope_specimen)
    roi = (832, 832, 384, 384)

    def find(x_um: float, y_um: float, near_um: float, *, wide: bool) -> float | None:
        def take(z_um: float) -> NDArray[np.uint16]:
            return renderer.expose(OpticalState(x_um, y_um, z_um, POLICY.modality, 5.0, 1, roi))

        near_um -= POLICY.offset_um
        step_um = POLICY.fine_step_um
        if wide:
            found = search_focus(take, near_um, POLICY.range_um, POLICY.coarse_step_um, step_um, LIMITS_UM)
        else:
            found = climb_to_focus(take, near_um, step_um, LIMITS_UM)
        return None if found is None else round(found.z_um + POLICY.offset_um, 3)

    return find


def test_the_surface_lies_within_half_a_micrometre_of_the_specimens(tmp_path: Path) -> None:
    specimen = Specimen(SpecimenPlan(11))
    plan = AcquisitionPlan.from_scope(load_scope("demo"), "A")
    places = [(field.x_um, field.y_um) for field in plan.fields()[:12]]
    surface = FocusSurface(plan, POLICY)
    assert surface.measure(places, _finder(specimen)) > 0
    errors_um = [surface.z_um(x, y) - specimen.focus_um(x, y) for x, y in places]
    assert np.abs(errors_um).max() <= 0.5
    surface.save(tmp_path / "focus.json")
    again = load_surface(tmp_path / "focus.json", plan, POLICY)
    assert [again.z_um(x, y) for x, y in places] == [surface.z_um(x, y) for x, y in places]
    assert again.measure(places, _finder(specimen)) == 0


def test_what_was_wanted_first_does_not_matter() -> None:
    plan = AcquisitionPlan(
        slot="A", field_width_um=200, field_height_um=200, x_um=(-1000.0, 1000.0), y_um=(-1000.0, 1000.0)
    )

    def find(x_um: float, y_um: float, near_um: float, *, wide: bool) -> float | None:
        del near_um, wide
        return None if x_um == y_um == 0.0 else round(1e-3 * x_um + np.sin(y_um / 300), 3)

    places = [(field.x_um, field.y_um) for field in plan.fields()]
    at_once, bit_by_bit = FocusSurface(plan, POLICY), FocusSurface(plan, POLICY)
    at_once.measure(places, find)
    first = []
    for place in places:
        bit_by_bit.measure([place], find)
        first.append(bit_by_bit.z_um(*place))
    assert first == [at_once.z_um(*place) for place in places]


def test_a_damaged_surface_is_named(tmp_path: Path) -> None:
    plan = AcquisitionPlan.from_scope(load_scope("demo"), "A")
    path = tmp_path / "focus.json"
    path.write_text('{"format_version": 1}', encoding="utf-8")
    with pytest.raises(SampleStateError, match=r"focus\.json: not a surface of focus"):
        load_surface(path, plan, POLICY)
