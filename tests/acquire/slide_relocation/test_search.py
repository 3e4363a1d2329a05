"""A slide that was taken off is found again.

Planted placements, another slide, hardly anything to see.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from wbcpipe.acquire.config.slide_policies import SlideRelocation
from wbcpipe.acquire.plan import PlannedField
from wbcpipe.acquire.simulation.optics.light_path import OpticalState
from wbcpipe.acquire.simulation.optics.microscope import SlideState, VirtualMicroscope
from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
from wbcpipe.acquire.simulation.specimen.slide import Specimen
from wbcpipe.acquire.slide_relocation.search import (
    RelocationResult,
    displacement_um,
    relocate_slide,
)
from wbcpipe.acquire.slide_relocation.transform import (
    IDENTITY_TRANSFORM,
    SlideTransform,
    fit_slide_transform,
)
from wbcpipe.errors import AcquisitionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

PIXEL_UM = 0.8
SIDE_PX = 256
#: A pixel of 0.8 um catches 64 times the light of the usual one of 0.1 um.
EXPOSURE_MS = 5.0 / 64
PLACES = [
    PlannedField(6 * row + column, -560.0 + 185 * column, -560.0 + 185 * row)
    for row in range(6)
    for column in range(6)
]


@functools.cache
def specimen_of(seed: int) -> Specimen:
    return Specimen(SpecimenPlan(seed))


@dataclass
class Slide:
    """A slide in focus, lying as ``placement`` says."""

    seed: int
    placement: SlideTransform = IDENTITY_TRANSFORM

    def __post_init__(self) -> None:
        self.specimen = specimen_of(self.seed)
        self.microscope = VirtualMicroscope(
            self.specimen,
            sensor_px=(SIDE_PX, SIDE_PX),
            pixel_um=PIXEL_UM,
            slide=SlideState(self.placement),
        )

    def look(self, x_um: float, y_um: float) -> NDArray[np.uint16]:
        z_um = self.specimen.focus_um(*self.placement.to_slide_um(x_um, y_um))
        return self.microscope.expose(OpticalState(x_um, y_um, z_um, "color1", EXPOSURE_MS))


@pytest.mark.parametrize(
    ("dx_um", "dy_um", "rotation_deg"),
    [(0.0, 0.0, 0.0), (-300.0, 300.0, 2.0), (180.0, 120.0, -2.0)],
)
def test_a_planted_placement_is_found_again(
    dx_um: float, dy_um: float, rotation_deg: float
) -> None:
    placement = SlideTransform.about((100.0, -50.0), rotation_deg, dx_um, dy_um)
    first, now = Slide(11), Slide(11, placement)
    found = relocate_slide(
        PLACES, lambda index: first.look(PLACES[index].x_um, PLACES[index].y_um), now.look, PIXEL_UM
    )
    assert len(found.matches) == 6
    assert found.rms_um < 1.0
    away_um = [
        math.dist(
            found.transform.to_stage_um(place.x_um, place.y_um),
            placement.to_stage_um(place.x_um, place.y_um),
        )
        for place in PLACES
    ]
    assert max(away_um) <= 1.0
    assert found.transform.rotation_deg == pytest.approx(rotation_deg, abs=0.05)


def test_another_slide_is_refused() -> None:
    first, other = Slide(11), Slide(12)
    with pytest.raises(
        AcquisitionError,
        match="was not found again within 200 um and 3 degrees: is it the same slide",
    ):
        relocate_slide(
            PLACES[:1],
            lambda index: first.look(PLACES[index].x_um, PLACES[index].y_um),
            other.look,
            PIXEL_UM,
            SlideRelocation(reach_um=200.0),
        )


def test_a_slide_beyond_the_reach_of_the_search_is_found_by_a_longer_one() -> None:
    placement = SlideTransform(0.0, 330.0, 0.0)
    first, now = Slide(11), Slide(11, placement)

    def search(reach_um: float) -> RelocationResult:
        return relocate_slide(
            PLACES[:3],
            lambda index: first.look(PLACES[index].x_um, PLACES[index].y_um),
            now.look,
            PIXEL_UM,
            SlideRelocation(reach_um=reach_um),
        )

    with pytest.raises(AcquisitionError, match="not found again within 100 um"):
        search(100.0)
    assert search(400.0).transform.dx_um == pytest.approx(330.0, abs=1.0)


def test_bare_glass_is_refused() -> None:
    first = Slide(11)
    bare = np.full((SIDE_PX, SIDE_PX), 20_000, np.uint16)
    with pytest.raises(AcquisitionError, match="was not found again"):
        relocate_slide(
            PLACES[:1],
            lambda index: first.look(PLACES[index].x_um, PLACES[index].y_um),
            lambda _x, _y: bare,
            PIXEL_UM,
        )


@pytest.mark.parametrize("rotation_deg", [-1.5, 0.0, 1.5])
def test_the_displacement_of_a_field_is_measured(rotation_deg: float) -> None:
    first, now = Slide(11), Slide(11, SlideTransform(rotation_deg))
    dx_um, dy_um, agreement = displacement_um(
        first.look(0.0, 0.0), now.look(-3.2, 1.6), PIXEL_UM, rotation_deg
    )
    # The stage went 3.2 um to the left, so what was in the middle lies 3.2 um to the right of it.
    assert (dx_um, dy_um) == pytest.approx((3.2, -1.6), abs=0.3)
    assert agreement > 0.9


def test_points_recover_the_rigid_map() -> None:
    planted = SlideTransform(1.3, 120.0, -40.0)
    points = np.random.default_rng(1).uniform(-3000, 3000, (5, 2))
    moved = np.array([planted.to_stage_um(x, y) for x, y in points.tolist()])
    found = fit_slide_transform(points, moved)
    assert (found.rotation_deg, found.dx_um, found.dy_um) == pytest.approx(
        (1.3, 120.0, -40.0), abs=1e-6
    )
    back = [found.to_slide_um(x, y) for x, y in moved.tolist()]
    np.testing.assert_allclose(back, points, atol=1e-6)
