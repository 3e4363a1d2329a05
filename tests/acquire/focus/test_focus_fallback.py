"""A surface of focus whose measurement fails.

Point by point it is tried again, passed over, made do without.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from wbcpipe.acquire.capture.session import AcquisitionSession
from wbcpipe.acquire.focus.focuser import FieldFocuser
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.acquire.request import AcquisitionRequest
from wbcpipe.errors import DeviceTimeoutError, HardwareError
from wbcpipe.samples.fields import fields_on_disk, read_info

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
    from wbcpipe.samples.sample import Sample

COARSE = 9
"""Points of the demo's coarse surface."""


class Tilted:
    """Stands in for the search by images: a tilted plane, and failures at the calls that are
    told.
    """

    def __init__(self, fails: Callable[[int, tuple[float, float]], bool]) -> None:
        self.fails = fails
        self.calls: Counter[tuple[float, float]] = Counter()

    def __call__(
        self, focuser: FieldFocuser, x_um: float, y_um: float, near_um: float, *, wide: bool
    ) -> float:
        del focuser, near_um, wide
        self.calls[x_um, y_um] += 1
        if self.fails(len(self.calls), (x_um, y_um)):
            raise DeviceTimeoutError("moving Z: 'Z' is still busy after 0.4 s.")
        return self.z_um(x_um, y_um)

    @staticmethod
    def z_um(x_um: float, y_um: float) -> float:
        return round(20.0 + 0.01 * x_um - 0.02 * y_um, 3)


@pytest.fixture
def session_with(
    sample: Sample,
    make_scope: Callable[..., Scope],
    specimen: SpecimenPlan,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Tilted], AcquisitionSession]:
    scope = make_scope(("spacing_um = 500.0", "spacing_um = 40.0"), focus="surface")

    def make(finder: Tilted) -> AcquisitionSession:
        monkeypatch.setattr(
            FieldFocuser, "__call__", lambda self, *at, wide: finder(self, *at, wide=wide)
        )
        return AcquisitionSession(
            AcquisitionRequest(sample, scope, AcquisitionPlan.from_scope(scope, "A"), specimen)
        )

    return make


def events(sample: Sample, name: str) -> list[dict[str, Any]]:
    lines = (sample.path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == name]


def off_um(sample: Sample) -> list[float]:
    """How far each field's Z is from the plane."""
    infos = [read_info(path) for path in fields_on_disk(sample.raw_path()).values()]
    return [info.frames[0].z_um - Tilted.z_um(info.x_um, info.y_um) for info in infos]


def test_a_failure_costs_one_point_another_attempt_and_not_the_points_before(
    sample: Sample, session_with: Callable[[Tilted], AcquisitionSession]
) -> None:
    struck: set[tuple[float, float]] = set()

    def once_at_every_second_point(number: int, place: tuple[float, float]) -> bool:
        first_time = place not in struck
        struck.add(place)
        return first_time and number % 2 == 0

    finder = Tilted(once_at_every_second_point)
    with session_with(finder) as session:
        session.take(range(2))
    assert set(finder.calls.values()) == {1, 2}
    assert not events(sample, "focus_point_failed")
    assert off_um(sample) == pytest.approx([0.0, 0.0], abs=0.05)


def test_a_point_that_always_fails_is_passed_over_and_tried_again_by_a_later_run(
    sample: Sample, session_with: Callable[[Tilted], AcquisitionSession]
) -> None:
    bad: list[tuple[float, float]] = []

    def the_first_fine_point(number: int, place: tuple[float, float]) -> bool:
        if number == COARSE + 1 and not bad:
            bad.append(place)
        return place in bad

    finder = Tilted(the_first_fine_point)
    with session_with(finder) as session:
        session.take(range(2))
    (failed,) = events(sample, "focus_point_failed")
    assert (failed["x_um"], failed["y_um"]) == bad[0]
    assert finder.calls[bad[0]] == session.request.scope.reliability.retries + 1
    assert not events(sample, "focus_fallback")
    assert off_um(sample) == pytest.approx([0.0, 0.0], abs=0.05)
    sound = Tilted(lambda *_: False)
    with session_with(sound) as session:
        session.take(range(3))
    assert sound.calls[bad[0]] == 1


@pytest.mark.parametrize(
    "measured", [1, 4, COARSE], ids=["one point", "part of the coarse", "the coarse"]
)
def test_a_measurement_that_fails_for_good_falls_back_to_what_is_known_and_is_made_up_for(
    sample: Sample, session_with: Callable[[Tilted], AcquisitionSession], measured: int
) -> None:
    with session_with(Tilted(lambda number, _: number > measured)) as session:
        session.take(range(2))
    (fallback,) = events(sample, "focus_fallback")
    assert "still busy" in fallback["reason"]
    assert len(events(sample, "focus_point_failed")) == 3
    # A single point says how high, not how the slide leans.
    assert off_um(sample) == pytest.approx([0.0, 0.0], abs=4.0 if measured == 1 else 0.05)
    with session_with(Tilted(lambda *_: False)) as session:
        session.take(range(4))
    assert off_um(sample)[2:] == pytest.approx([0.0, 0.0], abs=0.05)


def test_without_any_focus_yet_the_run_ends_and_says_so(
    sample: Sample, session_with: Callable[[Tilted], AcquisitionSession]
) -> None:
    with (
        session_with(Tilted(lambda *_: True)) as session,
        pytest.raises(HardwareError, match="still busy"),
    ):
        session.take(range(2))
    assert not fields_on_disk(sample.raw_path())
    assert not events(sample, "focus_fallback")
