"""A surface of focus that no longer holds.

The slide was put back, leans, or Z is another, between runs or in one.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from wbcpipe.acquire.capture.session import AcquisitionSession
from wbcpipe.acquire.capture.session_observer import SessionObserver
from wbcpipe.acquire.focus.focuser import FieldFocuser
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.acquire.request import AcquisitionRequest
from wbcpipe.acquire.simulation.specimen.slide import Specimen
from wbcpipe.acquire.simulation.virtual_scope import VirtualScope
from wbcpipe.acquire.slide_relocation.transform import SlideTransform
from wbcpipe.errors import DeviceTimeoutError, HardwareError
from wbcpipe.samples.fields import fields_on_disk, read_info

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
    from wbcpipe.samples.sample import Sample

ALLOWED_UM = 0.3
SHARE = 0.95
EVERY = 6
"""Of the fields, which are small here, one in so many is taken."""


class Bench:
    """A virtual slide of 0.8 mm whose focus, and whose place, change when they are told to."""

    def __init__(
        self,
        sample: Sample,
        scope: Scope,
        specimen: SpecimenPlan,
        patch: pytest.MonkeyPatch,
        begun: Path,
    ) -> None:
        self.sample, self.scope, self.specimen, self.begun = sample, scope, specimen, begun
        self.plan = AcquisitionPlan.from_scope(scope, "A")
        self.indices = range(0, len(self.plan.fields()), EVERY)
        self.drift_um: Callable[[float, float], float] = lambda _x_um, _y_um: 0.0
        self.placement = SlideTransform()
        still = Specimen.focus_um
        patch.setattr(
            Specimen, "focus_um", lambda slide, *at_um: still(slide, *at_um) + self.drift_um(*at_um)
        )

    def take(
        self,
        *,
        first: int = 0,
        last: int | None = None,
        begin: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Take some of the fields in a session of its own."""
        opened = lambda *args: VirtualScope(*args, placement=self.placement)  # noqa: E731
        request = AcquisitionRequest(
            self.sample, self.scope, self.plan, self.specimen, microscope=opened
        )
        observer = SessionObserver()
        observer.started = begin  # type: ignore[method-assign, assignment]
        with AcquisitionSession(request, observer) as session:
            session.take(self.indices[first:last])

    def begin(self, taken: int) -> None:
        """Go on from a surface measured before, with its first 0, 2 or 5 fields."""
        if not any(self.begun.iterdir()):
            fields = self.plan.fields()
            request = AcquisitionRequest(self.sample, self.scope, self.plan, self.specimen)
            with AcquisitionSession(request) as session:
                session.focus.measure([fields[index] for index in self.indices])
            shutil.copytree(self.sample.path, self.begun / "0")
            for last in (2, 5):
                self.take(last=last)
                shutil.copytree(self.sample.path, self.begun / str(last))
        shutil.rmtree(self.sample.path, ignore_errors=True)
        shutil.copytree(self.begun / str(taken), self.sample.path)

    def off_um(self, first: int, last: int | None = None) -> np.ndarray[Any, np.dtype[np.float64]]:
        """How far the fields were from the focus as it is now."""
        slide, off = Specimen(self.specimen), []
        paths = fields_on_disk(self.sample.raw_path())
        for index in self.indices[first:last]:
            info = read_info(paths[index])
            off.append(
                info.frames[0].z_um
                - slide.focus_um(*self.placement.to_slide_um(info.x_um, info.y_um))
            )
        return np.abs(off)

    def events(self) -> list[dict[str, Any]]:
        lines = (self.sample.path / "log.jsonl").read_text(encoding="utf-8").splitlines()
        return [event for event in map(json.loads, lines) if event["event"].startswith("focus")]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for samples whose focus was measured, by the number of their fields."""
    return tmp_path_factory.mktemp("begun")


@pytest.fixture
def bench(
    sample: Sample,
    make_scope: Callable[..., Scope],
    specimen: SpecimenPlan,
    monkeypatch: pytest.MonkeyPatch,
    begun: Path,
) -> Bench:
    scope = make_scope(
        ("[-60.0, 60.0]", "[-400.0, 400.0]"),
        ("spacing_um = 500.0", "spacing_um = 300.0"),
        # Fields wide enough to show some cells each.
        ("[256, 256]", "[512, 512]"),
        ("Size,256", "Size,512"),
        ("drift_check_fields = 25", "drift_check_fields = 60"),
        focus="surface",
    )
    return Bench(sample, scope, specimen, monkeypatch, begun)


def leaning(x_um: float, y_um: float) -> float:
    """Up to 6 um over the area; beyond the limit from the first field on."""
    return 0.5 + 4e-3 * x_um + 3.5e-3 * y_um


def bowed(x_um: float, y_um: float) -> float:
    return 2.0 + 1.5 * (x_um / 400) ** 2 + 1e-3 * y_um


@pytest.mark.parametrize(
    ("drift_um", "placement", "taken"),
    [
        pytest.param(lambda _x, _y: 3.0, SlideTransform(), 0, id="another Z, nothing taken yet"),
        pytest.param(lambda _x, _y: -22.0, SlideTransform(), 5, id="a stage homed anew"),
        pytest.param(leaning, SlideTransform(), 5, id="tilted"),
        pytest.param(bowed, SlideTransform(), 0, id="bowed, nothing taken yet"),
        pytest.param(
            lambda x, _y: 2.0 + 2e-3 * x, SlideTransform(1.5, 120.0, -90.0), 5, id="slide moved"
        ),
    ],
)
def test_a_stored_surface_is_looked_at_before_the_first_field(
    bench: Bench, drift_um: Callable[[float, float], float], placement: SlideTransform, taken: int
) -> None:
    bench.begin(taken)
    before = len(bench.events())
    bench.drift_um, bench.placement = drift_um, placement
    bench.take(last=25)
    assert bench.events()[before]["event"] == "focus_checked"
    off_um = bench.off_um(taken, 25)
    assert off_um[0] <= ALLOWED_UM
    assert np.mean(off_um <= ALLOWED_UM) >= SHARE


def test_a_slide_that_leans_in_the_middle_of_a_run_is_in_focus_from_the_next_check_on(
    bench: Bench,
) -> None:
    at = bench.indices[12]

    def leans(index: int) -> None:
        if index == at:
            bench.drift_um = leaning

    bench.take(begin=leans)
    (told, *_) = [
        event
        for event in bench.events()
        if event["event"] == "focus_checked" and event["field"] > at
    ]
    off_um = bench.off_um(bench.indices.index(told["field"]))
    assert len(off_um) >= 20
    assert np.mean(off_um <= ALLOWED_UM) >= SHARE


def test_nothing_in_sight_where_the_focus_was_ends_the_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.begin(2)
    with monkeypatch.context() as blind:
        blind.setattr(FieldFocuser, "__call__", lambda *_, **__: None)
        with pytest.raises(HardwareError, match="no focus at any point of the slot"):
            bench.take(last=4)
    assert len(fields_on_disk(bench.sample.raw_path())) == 2
    # The old surface is kept aside, and the next run, with the slide as it was, begins anew.
    assert (bench.sample.raw_path() / "focus_1.json").is_file()
    bench.take(last=4)
    assert bench.off_um(0, 4).max() <= ALLOWED_UM


def test_the_focus_is_looked_at_again_once_the_devices_were_loaded_anew(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AcquisitionSession(
        AcquisitionRequest(bench.sample, bench.scope, bench.plan, bench.specimen)
    ) as session:
        session.take(bench.indices[:3])
        move_xy, failures = session.microscope.move_xy, iter(range(2))

        def fails_twice(*target_um: float) -> tuple[float, float]:
            if next(failures, None) is not None:
                raise HardwareError("the stage lost its reference.")
            return move_xy(*target_um)

        monkeypatch.setattr(session.microscope, "move_xy", fails_twice)
        bench.drift_um = lambda _x_um, _y_um: 4.0
        session.take(bench.indices[:6])
    assert bench.off_um(3, 6).max() <= ALLOWED_UM
    assert [event["field"] for event in bench.events() if event["event"] == "focus_checked"] == [
        bench.indices[3]
    ]


@pytest.mark.parametrize(
    "attempts", [1, 2, 99], ids=["once", "until the devices are loaded anew", "at each attempt"]
)
def test_devices_that_fail_while_a_stored_surface_is_checked_do_not_cost_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, attempts: int
) -> None:
    bench.begin(2)
    stored = (bench.sample.raw_path() / "focus.json").read_bytes()
    places: Counter[tuple[float, float]] = Counter()
    sound = FieldFocuser.__call__

    def fails(
        focuser: FieldFocuser, x_um: float, y_um: float, near_um: float, *, wide: bool
    ) -> float | None:
        places[x_um, y_um] += 1
        if places[x_um, y_um] <= attempts and len(places) <= 5:
            raise DeviceTimeoutError("moving Z: 'Z' is still busy after 0.4 s.")
        return sound(focuser, x_um, y_um, near_um, wide=wide)

    monkeypatch.setattr(FieldFocuser, "__call__", fails)
    bench.take(last=4)
    assert (bench.sample.raw_path() / "focus.json").read_bytes() == stored
    assert not (bench.sample.raw_path() / "focus_1.json").exists()
    assert bench.off_um(0, 4).max() <= ALLOWED_UM
    # A field whose place takes the devices down is given up when it is taken; no check goes there
    # before.
    assert not {(field.x_um, field.y_um) for field in bench.plan.fields()}.intersection(places)
    assert ("focus_check_failed" in {event["event"] for event in bench.events()}) == (attempts > 2)
