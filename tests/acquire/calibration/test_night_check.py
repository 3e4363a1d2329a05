"""The check before a night measures what was planted into the virtual scope, with few frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from wbcpipe.acquire.calibration.microscope_probe import MicroscopeProbe
from wbcpipe.acquire.calibration.night_check import NightMeasurement, coarse_grid, measure_night
from wbcpipe.acquire.config.scope import load_scope
from wbcpipe.acquire.config.virtual_condition import VirtualCondition
from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
from wbcpipe.acquire.simulation.virtual_scope import VirtualScope

if TYPE_CHECKING:
    from wbcpipe.acquire.calibration.night_check import NightFigures
    from wbcpipe.acquire.config.scope import Scope

PLAN = SpecimenPlan(7)


@pytest.fixture(scope="module")
def scope(tmp_path_factory: pytest.TempPathFactory) -> Scope:
    """A scope with a field of 38 um."""
    demo = load_scope("demo")
    folder = tmp_path_factory.mktemp("scope")
    toml, cfg = demo.path.read_text(encoding="utf-8"), demo.config_path.read_text(encoding="utf-8")
    (folder / "demo.cfg").write_text(cfg.replace("Size,2048", "Size,384"), encoding="utf-8")
    toml = toml.replace("[2048, 2048]", "[384, 384]").replace(
        "[-2500.0, 2500.0]", "[-300.0, 300.0]"
    )
    (folder / "small.toml").write_text(toml, encoding="utf-8")
    return load_scope(folder / "small.toml")


def measured(
    scope: Scope, *, opened: type[VirtualScope] = VirtualScope, **condition: object
) -> NightFigures:
    planted = scope.model_copy(
        update={"virtual_condition": VirtualCondition.model_validate(condition)}
    )
    microscope = opened(planted, PLAN)
    try:
        return measure_night(
            MicroscopeProbe(microscope, planted, "A"), NightMeasurement(planted, "A")
        )
    finally:
        microscope.close()


@pytest.fixture(scope="module")
def healthy(scope: Scope) -> NightFigures:
    return measured(scope)


def test_a_healthy_scope_costs_few_frames_and_one_of_fluorescence(healthy: NightFigures) -> None:
    assert healthy.frames < 90
    assert healthy.fluorescence_frames == 1
    assert healthy.notes == ()
    assert healthy.figures["dark_level.5ms"] == pytest.approx(100, abs=0.2)
    assert healthy.figures["read_noise.5ms"] == pytest.approx(3.5, rel=0.03)
    assert healthy.figures["focus_repeat_um"] < 0.3
    assert healthy.figures["stage_return_um"] < 0.2
    assert healthy.figures["lamp_sd.color1"] < 0.05


@pytest.fixture(scope="module")
def drifted(scope: Scope) -> NightFigures:
    """Measured with weak lamps, dirt, a warm camera, and a slide that lies higher."""
    lamps = {"color2": 0.8, "fluorescence": 0.5}
    return measured(scope, lamp_power=lamps, dirt=0.1, dark_electrons=20.0, focus_shift_um=4.0)


def test_a_weak_lamp_is_seen_in_its_own_light_alone(
    healthy: NightFigures, drifted: NightFigures
) -> None:
    ratio = {
        name: drifted.figures[name] / healthy.figures[name]
        for name in healthy.figures
        if "light." in name
    }
    # The dirt takes a little of the light in the middle too.
    assert ratio["light.color2"] / ratio["light.color1"] == pytest.approx(0.8, abs=0.005)
    assert ratio["light.fluorescence"] / ratio["light.color1"] == pytest.approx(0.5, abs=0.02)
    assert ratio["light.color3"] / ratio["light.color1"] == pytest.approx(1.0, abs=0.005)
    assert 0.96 < ratio["light.color1"] <= 1.0


def test_dirt_changes_the_shape_where_it_lies(healthy: NightFigures, drifted: NightFigures) -> None:
    for light in ("color1", "color2", "color3"):
        ratio = np.array(drifted.shading[light]) / np.array(healthy.shading[light])
        ratio /= np.median(ratio)
        assert 0.90 < ratio.min() < 0.95
        row, column = np.unravel_index(ratio.argmin(), ratio.shape)
        assert (row, column) == (pytest.approx(5.5, abs=1), pytest.approx(5.5, abs=1))


def test_a_warm_camera_and_a_higher_slide_are_measured(
    healthy: NightFigures, drifted: NightFigures
) -> None:
    # A full well of 30,000 electrons fills 16 bits.
    assert drifted.figures["dark_level.5ms"] - healthy.figures["dark_level.5ms"] == pytest.approx(
        43.6, abs=0.5
    )
    assert drifted.figures["focus_um"] - healthy.figures["focus_um"] == pytest.approx(4.0, abs=0.5)


class LooseStage(VirtualScope):
    """A stage that ends 0.4 um farther right after each long move."""

    lost_um = 0.0

    def move_xy(self, x_um: float, y_um: float) -> tuple[float, float]:
        if abs(x_um - self.stage.xy_um()[0]) > 60:
            self.lost_um += 0.4
        super().move_xy(x_um + self.lost_um, y_um)
        return x_um, y_um


def test_flicker_haze_and_a_loose_stage_show_in_their_figures(
    scope: Scope, healthy: NightFigures
) -> None:
    worn = measured(scope, opened=LooseStage, flicker=0.03, haze_um=0.6)
    assert 1.0 < worn.figures["lamp_sd.color1"] < 6.0
    assert worn.figures["sharpness"] < 0.5 * healthy.figures["sharpness"]
    assert worn.figures["stage_return_um"] > 1.0


@pytest.mark.parametrize(
    ("slots", "side"),
    [
        ({"A": (0.0, 0.0)}, "left"),
        ({"A": (0.0, 0.0), "B": (-700.0, 0.0)}, "right"),
        ({"A": (0.0, 0.0), "B": (-620.0, 0.0), "C": (620.0, 0.0)}, "below"),
        ({"A": (-59_690.0, 0.0)}, "right"),
    ],
)
def test_fluorescence_is_taken_beside_every_scan_area(
    scope: Scope, slots: dict[str, tuple[float, float]], side: str
) -> None:
    areas = {
        name: scope.slots["A"].model_copy(
            update={"x_um": (x_um - 300, x_um + 300), "y_um": (y_um - 300, y_um + 300)}
        )
        for name, (x_um, y_um) in slots.items()
    }
    probe = MicroscopeProbe(None, scope.model_copy(update={"slots": areas}), "A")  # type: ignore[arg-type]
    place_um = probe.place_beside(2.0)
    assert place_um is not None
    away = 300 + 2.0 * 38.4
    expected = {"left": (-away, 0), "right": (away, 0), "below": (0, -away)}[side]
    assert np.subtract(place_um, slots["A"]) == pytest.approx(expected)


def test_a_block_of_tiles_shows_its_empty_part() -> None:
    grid = np.ones((32, 32))
    grid[::2] = 0.5  # a red cell in every second tile
    assert coarse_grid(grid).tolist() == np.ones((8, 8)).tolist()
    assert coarse_grid(np.ones((3, 5, 6))).shape == (3, 5, 6)
