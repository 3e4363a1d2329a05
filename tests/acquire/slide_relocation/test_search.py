"""A slide that was taken off is found again: planted placements, another slide, hardly anything to see."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from wbcpipe.acquire.simulation.optics.light_path import UNMOVED, OpticalState, Seating
from wbcpipe.acquire.simulation.optics.microscope import VirtualMicroscope
from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
from wbcpipe.acquire.simulation.specimen.slide import Specimen
from wbcpipe.acquire.slide_relocation.search import Place, Reseating, displacement_um, find_reseating, fit_reseating
from wbcpipe.errors import AcquisitionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

PIXEL_UM = 0.8
SIDE_PX = 256
#: A pixel of 0.8 um catches 64 times the light of the usual one of 0.1 um.
EXPOSURE_MS = 5.0 / 64
PLACES = [Place(6 * row + column, -560.0 + 185 * column, -560.0 + 185 * row) for row in range(6) for column in range(6)]


@dataclass
class Slide:
    """A slide in focus, lying as ``seating`` says."""

    seed: int
    seating: Seating = UNMOVED

    def __post_init__(self) -> None:
        self.specimen = Specimen(SpecimenPlan(self.seed))
        self.microscope = VirtualMicroscope(
            self.specimen, sensor_px=(SIDE_PX, SIDE_PX), pixel_um=PIXEL_UM, seating=self.seating
        )

    def look(self, x_um: float, y_um: float) -> NDArray[np.uint16]:
        z_um = self.specimen.focus_um(*self.seating.to_slide_um(x_um, y_um))
        return self.microscope.expose(OpticalState(x_um, y_um, z_um, "color1", EXPOSURE_MS))


@pytest.mark.parametrize(
    ("dx_um", "dy_um", "rotation_deg"),
    [(0.0, 0.0, 0.0), (-300.0, 300.0, 2.0), (180.0, 120.0, -2.0)],
)
def test_a_planted_placement_is_found_again(dx_um: float, dy_um: float, rotation_deg: float) -> None:
    seating = Seating(dx_um, dy_um, rotation_deg, pivot_x_um=100.0, pivot_y_um=-50.0)
    first, now = Slide(11), Slide(11, seating)
    found = find_reseating(PLACES, lambda index: first.look(PLACES[index].x_um, PLACES[index].y_um), now.look, PIXEL_UM)
    assert len(found.matches) == 6
    assert found.rms_um < 1.0
    away_um = [
        math.dist(found.reseating.to_stage_um(place.x_um, place.y_um), seating.to_stage_um(place.x_um, place.y_um))
        for place in PLACES
    ]
    assert max(away_um) <= 1.0
    assert found.reseating.rotation_deg == pytest.approx(rotation_deg, abs=0.05)


def test_another_slide_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wbcpipe.acquire.slide_relocation.search._REACH_UM", 200.0)
    first, other = Slide(11), Slide(12)
    with pytest.raises(AcquisitionError, match="was not found again within 200 um and 3 degrees: is it the same slide"):
        find_reseating(
            PLACES[:1], lambda index: first.look(PLACES[index].x_um, PLACES[index].y_um), other.look, PIXEL_UM
        )


def test_bare_glass_is_refused() -> None:
    first = Slide(11)
    bare = np.full((SIDE_PX, SIDE_PX), 20_000, np.uint16)
    with pytest.raises(AcquisitionError, match="was not found again"):
        find_reseating(
            PLACES[:1], lambda index: first.look(PLACES[index].x_um, PLACES[index].y_um), lambda _x, _y: bare, PIXEL_UM
        )


@pytest.mark.parametrize("rotation_deg", [-1.5, 0.0, 1.5])
def test_the_displacement_of_a_field_is_measured(rotation_deg: float) -> None:
    first, now = Slide(11), Slide(11, Seating(0.0, 0.0, rotation_deg))
    dx_um, dy_um, agreement = displacement_um(first.look(0.0, 0.0), now.look(-3.2, 1.6), PIXEL_UM, rotation_deg)
    # The stage went 3.2 um to the left, so what was in the middle lies 3.2 um to the right of it.
    assert (dx_um, dy_um) == pytest.approx((3.2, -1.6), abs=0.3)
    assert agreement > 0.9


def test_points_recover_the_rigid_map() -> None:
    planted = Reseating(1.3, 120.0, -40.0)
    points = np.random.default_rng(1).uniform(-3000, 3000, (5, 2))
    moved = np.array([planted.to_stage_um(x, y) for x, y in points.tolist()])
    found = fit_reseating(points, moved)
    assert (found.rotation_deg, found.dx_um, found.dy_um) == pytest.approx((1.3, 120.0, -40.0), abs=1e-6)
    back = [found.to_slide_um(x, y) for x, y in moved.tolist()]
    np.testing.assert_allclose(back, points, atol=1e-6)
