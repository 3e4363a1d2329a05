"""Autofocus and the surface of focus recover what was planted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import ndimage

from wbcpipe.acquire.config.cfg_reader import read_config
from wbcpipe.acquire.config.micromanager_cfg import configuration_warnings
from wbcpipe.acquire.config.policies import MAX_FOCUS_FRAMES
from wbcpipe.acquire.config.scope import list_scopes, load_scope
from wbcpipe.acquire.focus.autofocus import hill_climb, search_focus, sharpness
from wbcpipe.acquire.focus.focus_map import FocusSurface, load_surface
from wbcpipe.acquire.focus.surface_fit import fit_local, fit_surface
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.acquire.simulation.optics.light_path import OpticalState
from wbcpipe.acquire.simulation.optics.microscope import VirtualMicroscope
from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
from wbcpipe.acquire.simulation.specimen.slide import Specimen
from wbcpipe.errors import HardwareError, SampleStateError
from wbcpipe.samples.records import FocusPoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

LIMITS_UM = (-100.0, 100.0)
POLICY = load_scope("demo").focus


def planted(
    focus_um: float, *, empty: bool = False, dirt_um: float | None = None, lamp: float = 0.0
) -> Callable[[float], NDArray[np.uint16]]:
    """Discs blurred by their distance from the focus, under shot noise.

    Args:
        focus_um: of the discs.
        empty: no discs.
        dirt_um: Z at which a black particle is sharp that outshines all discs.
        lamp: by how much the light grows from frame to frame, as a part of it.
    """
    rng = np.random.default_rng(5)
    scene = np.full((128, 128), 30_000.0)
    if not empty:
        y, x = np.mgrid[:128, :128]
        for row, column in rng.uniform(10, 118, (14, 2)):
            scene[np.hypot(y - row, x - column) < 7] *= 0.5

    frames = iter(range(100))

    def take(z_um: float) -> NDArray[np.uint16]:
        blurred = ndimage.gaussian_filter(scene, np.hypot(1.5, 1.2 * (z_um - focus_um)))
        if dirt_um is not None:
            particle = np.zeros((128, 128))
            particle[60:68, 60:68] = 3.5
            blurred *= np.exp(
                -ndimage.gaussian_filter(particle, np.hypot(1.0, 1.2 * (z_um - dirt_um)))
            )
        return np.asarray(rng.poisson(blurred * (1 + lamp) ** next(frames)), np.uint16)

    return take


@pytest.mark.parametrize("focus_um", [-2.9, -0.4, 0.0, 1.3, 6.2])
def test_climbing_finds_a_planted_focus(focus_um: float) -> None:
    found = hill_climb(planted(focus_um), 0.0, 1.5, LIMITS_UM)
    assert found is not None
    assert found.z_um == pytest.approx(focus_um, abs=0.15)
    assert found.frames <= 12


@pytest.mark.parametrize("focus_um", [-27.0, -8.1, 14.4])
def test_a_wide_search_finds_a_distant_focus(focus_um: float) -> None:
    found = search_focus(planted(focus_um), 0.0, 30.0, 3.0, 1.5, LIMITS_UM)
    assert found is not None
    assert found.z_um == pytest.approx(focus_um, abs=0.15)


def test_an_empty_place_has_no_focus() -> None:
    assert hill_climb(planted(0.0, empty=True), 0.0, 1.5, LIMITS_UM) is None
    assert search_focus(planted(0.0, empty=True), 0.0, 12.0, 3.0, 1.5, LIMITS_UM) is None


@pytest.mark.parametrize("dirt_um", [-4.0, 2.5, 5.0])
def test_a_black_particle_does_not_pull_the_focus(dirt_um: float) -> None:
    found = hill_climb(planted(0.4, dirt_um=dirt_um), 0.0, 1.5, LIMITS_UM)
    assert found is not None
    assert found.z_um == pytest.approx(0.4, abs=0.4)


def test_a_lone_particle_is_no_specimen() -> None:
    assert hill_climb(planted(0.0, empty=True, dirt_um=0.5), 0.0, 1.5, LIMITS_UM) is None


@pytest.mark.parametrize("lamp", [-0.05, 0.05])
def test_a_lamp_that_drifts_through_a_search_does_not_pull_the_focus(lamp: float) -> None:
    found = hill_climb(planted(1.3, lamp=lamp), 0.0, 1.5, LIMITS_UM)
    assert found is not None
    assert found.z_um == pytest.approx(1.3, abs=0.15)


def test_a_climb_without_a_peak_ends_after_12_frames() -> None:
    seen: list[float] = []
    take = planted(16.0)

    def watched(z_um: float) -> NDArray[np.uint16]:
        seen.append(z_um)
        return take(z_um)

    assert hill_climb(watched, 3.0, 0.5, LIMITS_UM) is None
    assert len(seen) <= MAX_FOCUS_FRAMES


@pytest.mark.parametrize("off_um", [-26.0, 9.0])
def test_a_search_through_the_scopes_whole_range_is_economical(off_um: float) -> None:
    specimen = Specimen(SpecimenPlan(11))
    renderer = VirtualMicroscope(specimen)
    truth_um = specimen.focus_um(0.0, 0.0)

    def take(z_um: float) -> NDArray[np.uint16]:
        return renderer.expose(
            OpticalState(0.0, 0.0, z_um, POLICY.modality, 5.0, 1, (832, 832, 384, 384))
        )

    start_um = truth_um + off_um
    found = search_focus(
        take, start_um, POLICY.range_um, POLICY.coarse_step_um, POLICY.fine_step_um, LIMITS_UM
    )
    assert found is not None
    assert found.z_um + POLICY.offset_um == pytest.approx(truth_um, abs=0.15)
    assert found.frames <= MAX_FOCUS_FRAMES


@pytest.mark.parametrize("name", sorted(list_scopes()))
def test_no_search_of_a_shipped_scope_takes_more_than_12_frames(name: str) -> None:
    scope = load_scope(name)
    focus = scope.focus
    assert focus.max_frames <= MAX_FOCUS_FRAMES
    warnings = configuration_warnings(scope, read_config(scope.config_path))
    # Without homing, the stage of the Squid does not know where it is.
    assert [text for text in warnings if "(Home on startup = Yes)" not in text] == []
    # Counted too, over a specimen whose peak lies wherever the climb has to go farthest, or
    # nowhere.
    for peak_um in (*np.linspace(-1.2 * focus.range_um, 1.2 * focus.range_um, 25), math.inf):
        seen: list[float] = []

        def take(
            z_um: float, peak_um: float = peak_um, seen: list[float] = seen
        ) -> NDArray[np.uint16]:
            seen.append(z_um)
            contrast = (
                math.exp(-(((z_um - focus.fixed_um - peak_um) / 8.0) ** 2))
                if math.isfinite(peak_um)
                else 0.0
            )
            board = np.kron(np.indices((16, 16)).sum(axis=0) % 2, np.ones((12, 12)))
            return np.asarray(20_000 * (1 + 0.5 * contrast * board), np.uint16)

        search_focus(
            take,
            focus.fixed_um,
            focus.range_um,
            focus.coarse_step_um,
            focus.fine_step_um,
            (-1e5, 1e5),
        )
        assert 0 < len(seen) <= MAX_FOCUS_FRAMES


def test_a_scope_file_with_a_long_search_is_told() -> None:
    scope = load_scope("demo")
    focus = scope.focus.model_copy(update={"coarse_step_um": 4.0})
    told = configuration_warnings(
        scope.model_copy(update={"focus": focus}), read_config(scope.config_path)
    )
    assert any(
        "may take 22 frames; 12 do with 'coarse_step_um' of 10 or more" in text for text in told
    )
    fixed = scope.model_copy(update={"focus": focus.model_copy(update={"method": "fixed"})})
    assert not configuration_warnings(fixed, read_config(scope.config_path))


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
    points[0] = FocusPoint(-2500, -2500, 30.0)
    assert fit_surface(points)(1000, -700) == pytest.approx(truth(1000, -700), abs=0.1)


def test_a_slot_of_many_points_outvotes_a_third_that_is_wrong() -> None:
    places = [(x, y) for x in range(-2000, 2001, 500) for y in range(-2000, 2001, 500)]
    rng = np.random.default_rng(3)
    wrong = set(rng.choice(len(places), 27, replace=False).tolist())
    points = [
        FocusPoint(x, y, 1e-3 * x + (rng.uniform(8, 30) if at in wrong else 0.0))
        for at, (x, y) in enumerate(places)
    ]
    assert fit_surface(points)(700, 300) == pytest.approx(0.7, abs=0.05)


def test_a_local_surface_follows_its_points_and_not_the_odd_one() -> None:
    def truth(x: float, y: float) -> float:
        return 5.0 + 2e-3 * x + 0.3 * math.sin(x / 270) * math.cos(y / 300)

    points = [
        FocusPoint(x, y, truth(x, y))
        for x in (-750, -250, 250, 750)
        for y in (-750, -250, 250, 750)
    ]
    places = [(x, y) for x in (-200, 0, 200) for y in (-200, 0, 200)]

    def worst_um(points: list[FocusPoint]) -> float:
        local = fit_local(points, 500.0)
        assert local is not None
        return max(abs(local(x, y) - truth(x, y)) for x, y in places)

    assert worst_um(points) <= 0.1
    points[5] = FocusPoint(-250, -250, truth(-250, -250) + 3.0)
    assert worst_um(points) <= 0.2
    assert fit_local(points[:2], 500.0) is None


def test_few_points_make_a_plane_or_a_level() -> None:
    corners = [
        FocusPoint(0, 0, 1.0),
        FocusPoint(1000, 0, 2.0),
        FocusPoint(0, 1000, 3.0),
        FocusPoint(1000, 1000, None),
    ]
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
            found = search_focus(
                take, near_um, POLICY.range_um, POLICY.coarse_step_um, step_um, LIMITS_UM
            )
        else:
            found = hill_climb(take, near_um, step_um, LIMITS_UM)
        return None if found is None else round(found.z_um + POLICY.offset_um, 3)

    return find


def test_the_surface_lies_within_the_depth_of_the_specimens_focus(tmp_path: Path) -> None:
    specimen = Specimen(SpecimenPlan(11))
    plan = AcquisitionPlan.from_scope(load_scope("demo"), "A")
    places = [(field.x_um, field.y_um) for field in plan.fields()[:12]]
    surface = FocusSurface(plan, POLICY)
    surface.measure(places, _finder(specimen))
    assert surface.points > 0
    errors_um = [surface.z_um(x, y) - specimen.focus_um(x, y) for x, y in places]
    assert np.abs(errors_um).max() <= 0.3
    surface.save(tmp_path / "focus.json")
    again = load_surface(tmp_path / "focus.json", plan, POLICY)
    assert [again.z_um(x, y) for x, y in places] == [surface.z_um(x, y) for x, y in places]
    measured = again.points
    again.measure(places, _finder(specimen))
    assert again.points == measured


def test_what_was_wanted_first_does_not_matter() -> None:
    plan = AcquisitionPlan(
        slot="A",
        field_width_um=200,
        field_height_um=200,
        x_um=(-1000.0, 1000.0),
        y_um=(-1000.0, 1000.0),
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
    with pytest.raises(SampleStateError, match=r"focus\.json: key 'policy' is missing"):
        load_surface(path, plan, POLICY)


class Drifting:
    """A finder over a plane that rises and leans with time.

    At ``blind`` it sees nothing, at ``dirty`` a particle 6 um up; ``bent_um`` is what no plane
    describes.
    """

    def __init__(self) -> None:
        self.drift_um = 0.0
        self.lean_um_mm = (0.0, 0.0)
        self.bent_um = 0.0
        self.blind: set[tuple[float, float]] = set()
        self.dirty: set[tuple[float, float]] = set()
        self.calls = 0

    def __call__(self, x_um: float, y_um: float, near_um: float, *, wide: bool) -> float | None:
        self.calls += 1
        if (x_um, y_um) in self.blind:
            return None
        if (x_um, y_um) in self.dirty:
            return round(1e-3 * x_um + 6.0, 3)
        z_um = self.true_um(x_um, y_um)
        return round(z_um, 3) if wide or abs(z_um - near_um) < 10 else None

    def true_um(self, x_um: float, y_um: float) -> float:
        lean_um = (self.lean_um_mm[0] * x_um + self.lean_um_mm[1] * y_um) / 1000
        return 1e-3 * x_um + self.drift_um + lean_um + self.bent_um * (x_um / 700) ** 2


@pytest.fixture
def mapped() -> tuple[FocusSurface, Drifting, list[tuple[float, float]]]:
    area_um = (-1000.0, 1000.0)
    plan = AcquisitionPlan(
        slot="A", field_width_um=200, field_height_um=200, x_um=area_um, y_um=area_um
    )
    policy = POLICY.model_copy(update={"drift_check_fields": 5, "drift_limit_um": 1.0})
    surface, find = FocusSurface(plan, policy), Drifting()
    places = [(field.x_um, field.y_um) for field in plan.fields()]
    surface.measure(places[:33], find)
    return surface, find, places


def test_a_drift_shifts_the_surface_from_its_field_on(
    mapped: tuple[FocusSurface, Drifting, list[tuple[float, float]]], tmp_path: Path
) -> None:
    surface, find, places = mapped
    assert [index for index in range(12) if surface.check_is_due(index)] == [5, 6, 7, 8, 9, 10, 11]
    find.drift_um = 0.4
    calls = find.calls
    assert surface.check_drift(6, *places[6], find).shift_um == 0.0
    assert find.calls == calls + 1
    assert [index for index in range(12) if surface.check_is_due(index)] == [10, 11]
    find.drift_um = 3.0
    assert surface.check_drift(10, *places[10], find).shift_um == pytest.approx(3.0, abs=0.02)
    find.drift_um = 15.0  # too far for a climb: the whole range is searched
    assert surface.check_drift(15, *places[15], find).shift_um == pytest.approx(15.0, abs=0.02)
    assert [check.shift_um for check in surface.checks] == pytest.approx([0, 3, 15], abs=0.02)
    # What is measured from now on joins the surface as it would have been before the drift.
    surface.measure(places, find)
    assert [surface.z_um(x, y) for x, y in places] == pytest.approx(
        [1e-3 * x + 15 for x, _ in places], abs=0.05
    )
    # A field that was missing before the drift is taken where the focus is now.
    assert surface.z_um(*places[2]) == pytest.approx(1e-3 * places[2][0] + 15, abs=0.05)
    surface.save(tmp_path / "focus.json")
    again = load_surface(tmp_path / "focus.json", surface.plan, surface.policy)
    assert again.resumed
    assert [again.z_um(*place) for place in places] == [surface.z_um(*place) for place in places]


def test_a_slide_that_leans_is_followed_all_over(
    mapped: tuple[FocusSurface, Drifting, list[tuple[float, float]]],
) -> None:
    surface, find, places = mapped
    find.drift_um, find.lean_um_mm = 1.5, (3.0, -2.0)
    calls = find.calls
    check = surface.check_drift(5, *places[5], find)
    assert not surface.outdated
    assert find.calls - calls <= 12, "it takes some places, not all of them"
    assert (check.shift_um, check.tilt_x_um_mm, check.tilt_y_um_mm) == pytest.approx(
        (1.5, 3.0, -2.0), abs=0.01
    )
    surface.measure(places, find)
    assert [surface.z_um(*place) for place in places] == pytest.approx(
        [find.true_um(*at) for at in places], abs=0.05
    )


def test_a_reference_point_that_stands_out_has_no_say_in_a_drift(
    mapped: tuple[FocusSurface, Drifting, list[tuple[float, float]]],
) -> None:
    surface, find, places = mapped
    find.drift_um = 2.0
    first, second, *_ = ((point.x_um, point.y_um) for point in surface.reference_points())
    find.dirty.add(first)
    find.blind.add(second)
    assert surface.check_drift(5, *places[5], find).shift_um == pytest.approx(2.0, abs=0.01)


def test_a_drift_that_no_plane_describes_outdates_the_surface(
    mapped: tuple[FocusSurface, Drifting, list[tuple[float, float]]],
) -> None:
    surface, find, places = mapped
    find.drift_um, find.bent_um = 2.0, 1.0
    check = surface.check_drift(5, *places[5], find)
    assert surface.outdated
    assert surface.z_um(*places[5]) == pytest.approx(find.true_um(*places[5]), abs=0.1)
    assert check.shift_um == pytest.approx(check.measured_um, abs=0.01)


def test_dirt_and_bare_places_shift_nothing(
    mapped: tuple[FocusSurface, Drifting, list[tuple[float, float]]],
) -> None:
    surface, find, places = mapped
    find.dirty.add(places[5])
    assert surface.check_drift(5, *places[5], find).shift_um == 0.0
    # Two of them beside each other pass for a drift, until places elsewhere are looked at.
    x_um, y_um = places[5]
    find.dirty.add((x_um + 50.0, y_um))
    check = surface.check_drift(6, x_um, y_um, find)
    assert (check.shift_um, check.tilt_x_um_mm, surface.outdated) == (0.0, 0.0, False)
    assert check.measured_um == pytest.approx(6.0, abs=0.05)
    assert surface.check_drift(7, x_um, y_um, find, keep=False).shift_um == 0.0
    assert len(surface.checks) == 2
    x_um, y_um = places[10]
    find.blind |= {(x_um + dx_um, y_um) for dx_um in (-50.0, 0.0, 50.0)}
    check = surface.check_drift(10, x_um, y_um, find)
    assert (check.measured_um, check.shift_um) == (None, 0.0)
    assert not surface.check_is_due(10), "a bare place is not looked at again by a resumed run"


def test_a_check_that_need_not_be_kept_leaves_no_trace(
    mapped: tuple[FocusSurface, Drifting, list[tuple[float, float]]],
) -> None:
    surface, find, places = mapped
    find.drift_um = 0.5
    surface.check_drift(7, *places[3], find, keep=False)
    assert surface.checks == []
    find.drift_um = 2.0
    surface.check_drift(7, *places[3], find, keep=False)
    assert [check.field for check in surface.checks] == [7]


def test_a_makeshift_surface_is_not_asked_about_drift(
    mapped: tuple[FocusSurface, Drifting, list[tuple[float, float]]],
) -> None:
    surface, find, places = mapped
    makeshift = FocusSurface(surface.plan, surface.policy)
    calls: list[tuple[float, float]] = []

    def fails_at_the_third(x_um: float, y_um: float, near_um: float, *, wide: bool) -> float | None:
        calls.append((x_um, y_um))
        if len(calls) == 3:
            raise HardwareError("the camera is gone")
        return find(x_um, y_um, near_um, wide=wide)

    with pytest.raises(HardwareError):
        makeshift.measure(places, fails_at_the_third)
    assert makeshift.pending == calls[-1]
    assert makeshift.fall_back()
    assert makeshift.z_um(*calls[0]) == pytest.approx(1e-3 * calls[0][0], abs=2.0)
    assert not makeshift.check_is_due(5)
    makeshift.measure(places, find)
    assert makeshift.check_is_due(5)
    assert makeshift.z_um(*places[7]) == pytest.approx(1e-3 * places[7][0], abs=0.05)
