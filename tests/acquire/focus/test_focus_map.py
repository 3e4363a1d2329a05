"""The surface follows from the area and the images alone, however often its measurement stops."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wbcpipe.acquire.config.scope import load_scope
from wbcpipe.acquire.focus.focus_map import FocusSurface, load_surface
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.errors import HardwareError

if TYPE_CHECKING:
    from pathlib import Path

PLAN = AcquisitionPlan(
    slot="A",
    field_width_um=100,
    field_height_um=100,
    overlap=0.1,
    x_um=(-1500, 1500),
    y_um=(-1000, 1000),
)
POLICY = load_scope("demo").focus
POSITIONS = [(field.x_um, field.y_um) for field in PLAN.fields()][::7]


class Glass:
    """A slide that bows and leans, with holes where nothing is visible.

    Args:
        stops: numbers of the calls, from 0, at which the devices fail.
    """

    def __init__(self, bow: float, lean: float, hole_um: float, stops: set[int]) -> None:
        self.bow, self.lean, self.hole_um, self.stops = bow, lean, hole_um, stops
        self.calls = -1

    def __call__(self, x_um: float, y_um: float, near_um: float, *, wide: bool) -> float | None:
        self.calls += 1
        if self.calls in self.stops:
            raise HardwareError("the stage does not answer.")
        if math.hypot(x_um - 300, y_um + 200) < self.hole_um:
            return None
        z_um = self.bow * (x_um / 1500) ** 2 + self.lean * y_um / 1000
        return round(z_um, 3) if wide or abs(z_um - near_um) < 25 else None


slides = {
    "bow": st.floats(-5, 5),
    "lean": st.floats(-5, 5),
    "hole_um": st.sampled_from([0.0, 160.0, 400.0]),
}


def measured(glass: Glass, surface: FocusSurface, count: int = len(POSITIONS)) -> FocusSurface:
    while True:
        try:
            surface.measure(POSITIONS[:count], glass)
        except HardwareError:
            continue
        return surface


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    **slides,
    stops=st.sets(st.integers(0, 40), max_size=4),
    taken=st.integers(1, len(POSITIONS)),
)
def test_a_surface_that_was_interrupted_and_resumed_is_the_one_that_was_not(
    tmp_path: Path, bow: float, lean: float, hole_um: float, stops: set[int], taken: int
) -> None:
    unbroken = measured(Glass(bow, lean, hole_um, set()), FocusSurface(PLAN, POLICY))
    path = tmp_path / "focus.json"
    # The devices fail in between, and the process ends after some of the fields.
    measured(Glass(bow, lean, hole_um, stops), FocusSurface(PLAN, POLICY), taken).save(path)
    resumed = measured(Glass(bow, lean, hole_um, set()), load_surface(path, PLAN, POLICY))
    assert resumed.coarse == unbroken.coarse
    assert resumed.fine == unbroken.fine
    assert [resumed.z_um(*at) for at in POSITIONS] == [unbroken.z_um(*at) for at in POSITIONS]


def test_a_slide_that_shows_nothing_is_an_error() -> None:
    with pytest.raises(HardwareError, match="no focus at any point"):
        FocusSurface(PLAN, POLICY).measure(POSITIONS, lambda *_, **__: None)
