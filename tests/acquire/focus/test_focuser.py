"""Focusing on the real core.

By images, by the demo's focusing device, and when that device fails or hangs.
"""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from wbcpipe.acquire.capture.session import AcquisitionSession
from wbcpipe.acquire.focus.focuser import DeviceFocuser, FieldFocuser
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.acquire.request import AcquisitionRequest
from wbcpipe.acquire.simulation.specimen.slide import Specimen
from wbcpipe.acquire.simulation.virtual_scope import VirtualScope
from wbcpipe.errors import ConfigError, DeviceTimeoutError, HardwareError
from wbcpipe.samples.fields import fields_on_disk, read_info

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.microscope import CoreMicroscope
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
    from wbcpipe.samples.sample import Sample
    from wbcpipe.tests.acquire.conftest import Intercept

#: DemoCamera's `DAutoFocus`: every call succeeds at once and leaves Z where it is.
BY_DEVICE = (
    'hardware"\nhardware_device = "Autofocus"\nhardware_timeout_s = 0.3\nhardware_settle_s = 0.0#'
)
DEVICE = (
    "Device,LED,DemoCamera,DStateDevice",
    "Device,Autofocus,DemoCamera,DAutoFocus\nDevice,LED,DemoCamera,DStateDevice",
)
ROI = ("window_px = 384", "window_px = 256")


class Journal:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))

    @property
    def names(self) -> list[str]:
        return [event for event, _ in self.events]


@pytest.fixture
def scope(make_scope: Callable[..., Scope]) -> Scope:
    return make_scope(DEVICE, ROI, focus=BY_DEVICE)


@pytest.fixture
def microscope(scope: Scope, specimen: SpecimenPlan) -> Iterator[CoreMicroscope]:
    with VirtualScope(scope, specimen) as microscope:
        microscope.move_xy(0.0, 0.0)
        yield microscope


def focusers(
    microscope: CoreMicroscope, scope: Scope
) -> tuple[DeviceFocuser, FieldFocuser, Journal]:
    journal = Journal()
    by_image = FieldFocuser(microscope, scope, (256, 256), lambda: None, journal, lambda _: None)
    return DeviceFocuser(microscope, scope, by_image, journal), by_image, journal


def true_um(specimen: SpecimenPlan) -> float:
    return Specimen(specimen).focus_um(0.0, 0.0)


def test_hardware_focus_needs_its_device(make_scope: Callable[..., Scope]) -> None:
    with pytest.raises(ConfigError, match=r"'focus'.*needs 'hardware_device'"):
        make_scope(focus="hardware")


@pytest.mark.parametrize("mode", ["full", "incremental", "continuous"])
def test_the_demo_device_answers_in_each_mode(
    mode: str, make_scope: Callable[..., Scope], specimen: SpecimenPlan
) -> None:
    text = BY_DEVICE.replace("#", f'\nhardware_mode = "{mode}"\ndevice_offset = 1.5#')
    scope = make_scope(DEVICE, focus=text)
    with VirtualScope(scope, specimen) as microscope:
        microscope.move_z(4.0)
        assert microscope.focus_by_device() == 4.0
        call = microscope.link.call
        assert call("get_auto_focus_device") == "Autofocus"
        assert call("get_auto_focus_offset") == 1.5
        assert not call("is_continuous_focus_enabled"), (
            "held on, it would fight the offsets of the modalities"
        )


def test_a_device_that_holds_no_lock_is_named(
    make_scope: Callable[..., Scope], specimen: SpecimenPlan, intercept: Intercept
) -> None:
    scope = make_scope(DEVICE, focus=BY_DEVICE.replace("#", '\nhardware_mode = "continuous"#'))
    with VirtualScope(scope, specimen) as microscope:
        intercept(microscope.link, is_continuous_focus_locked=lambda _real: False)
        # Its own waiting or the deadline around it: whichever ends first.
        with pytest.raises(HardwareError, match=r"'Autofocus' did not (lock|end within 0\.3 s)"):
            microscope.focus_by_device()
        time.sleep(0.1)
        assert not microscope.link.call("is_continuous_focus_enabled")


def test_a_device_that_agrees_with_the_images_is_believed(
    microscope: CoreMicroscope, scope: Scope, specimen: SpecimenPlan
) -> None:
    near_um = round(true_um(specimen) + 0.2, 2)
    find, by_image, journal = focusers(microscope, scope)
    with microscope.focus_region(256):
        assert find(0.0, 0.0, near_um, wide=False) == pytest.approx(near_um, abs=0.02)
        frames = by_image.count.frames
        assert 0 < frames <= 12
        assert find(10.0, 0.0, near_um, wide=False) == pytest.approx(near_um, abs=0.02)
    assert by_image.count.frames == frames, (
        "images are looked at only until they have confirmed the device once"
    )
    assert by_image.count.by_device == 2
    assert journal.names == []


def test_a_device_that_the_images_contradict_is_left_alone(
    microscope: CoreMicroscope, scope: Scope, specimen: SpecimenPlan
) -> None:
    find, by_image, journal = focusers(microscope, scope)
    with microscope.focus_region(256):
        found_um = find(0.0, 0.0, true_um(specimen) + 5.0, wide=False)
        assert found_um == pytest.approx(true_um(specimen), abs=0.3)
        find(0.0, 0.0, true_um(specimen), wide=False)
    assert journal.names == ["focus_device_disagrees"]
    assert by_image.count.by_device == 1


def test_a_device_that_hangs_is_left_behind_and_the_images_take_over(
    microscope: CoreMicroscope, scope: Scope, specimen: SpecimenPlan, intercept: Intercept
) -> None:
    release, answered = threading.Event(), threading.Event()

    def hangs(_real: Callable[..., Any]) -> None:
        release.wait(120)
        answered.set()

    intercept(microscope.link, full_focus=hangs)
    find, by_image, journal = focusers(microscope, scope)
    with microscope.focus_region(256):
        found_um = find(0.0, 0.0, true_um(specimen) + 1.0, wide=False)
        assert not answered.is_set(), "the camera answers while the device still hangs"
        assert find(0.0, 0.0, true_um(specimen) + 1.0, wide=False) == found_um
    assert not answered.is_set()
    assert found_um == pytest.approx(true_um(specimen), abs=0.3)
    assert journal.names == ["focus_device_failed", "focus_device_given_up"]
    assert "did not end within 0.3 s" in journal.events[0][1]["reason"]
    assert by_image.count.by_device == 0
    with pytest.raises(DeviceTimeoutError, match="an earlier call still hangs"):
        microscope.focus_by_device()
    release.set()


def test_a_device_that_fails_once_is_asked_again(
    microscope: CoreMicroscope, scope: Scope, specimen: SpecimenPlan, intercept: Intercept
) -> None:
    answers = iter([HardwareError("no film of oil"), None])

    def sometimes(_real: Callable[..., Any]) -> None:
        answer = next(answers)
        if answer is not None:
            raise answer

    intercept(microscope.link, full_focus=sometimes)
    find, by_image, journal = focusers(microscope, scope)
    with microscope.focus_region(256):
        assert find(0.0, 0.0, true_um(specimen), wide=False) is not None
    assert journal.names == ["focus_device_failed"]
    assert "no film of oil" in journal.events[0][1]["reason"]
    assert by_image.count.by_device == 1


def test_a_device_that_leaves_the_soft_limits_is_driven_back(
    microscope: CoreMicroscope, intercept: Intercept
) -> None:
    microscope.move_z(3.0)
    intercept(microscope.link, full_focus=lambda real: real("set_position", 140.0))
    with pytest.raises(
        HardwareError,
        match=r"went to Z = 140 um, beyond the soft limits -100 to 100 um; driven back",
    ):
        microscope.focus_by_device()
    assert microscope.focus.z_um() == 3.0


def test_a_place_that_takes_too_long_is_given_up(
    make_scope: Callable[..., Scope], specimen: SpecimenPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    scope = make_scope(
        ROI,
        ("\ndeadline_s = 30.0", "\ndeadline_s = 0.05\nmapping_deadline_s = 0.5"),
        focus="surface",
    )
    journal, heard = Journal(), list[str]()
    with VirtualScope(scope, specimen) as microscope, microscope.focus_region(256) as frame_px:
        expose = microscope.expose

        def slow(exposure_ms: float, out: Any, next_position_um: Any = None) -> Any:
            time.sleep(0.06)
            return expose(exposure_ms, out, next_position_um)

        monkeypatch.setattr(microscope, "expose", slow)
        monkeypatch.setattr("wbcpipe.acquire.focus.focuser.HEARTBEAT_S", 0.01)
        find = FieldFocuser(microscope, scope, frame_px, lambda: None, journal, heard.append)
        assert find(0.0, 0.0, 2.0, wide=False) is None
        assert microscope.focus.z_um() == pytest.approx(2.0 - scope.focus.offset_um, abs=1e-3)
        time.sleep(0.5)
        frames = find.count.frames
        assert find(0.0, 0.0, 2.0, wide=True) is None
        assert find.count.frames == frames
    assert [fields["which"] for _, fields in journal.events] == ["point", "mapping"]
    assert find.count.late == 2
    assert heard
    assert heard[0].startswith("finding the focus: point 1, frame ")


def test_a_run_follows_a_drift_and_a_resumed_one_too(
    sample: Sample,
    make_scope: Callable[..., Scope],
    specimen: SpecimenPlan,
    monkeypatch: pytest.MonkeyPatch,
    recorder: Any,
) -> None:
    scope = make_scope(ROI, ("drift_check_fields = 25", "drift_check_fields = 3"), focus="surface")
    plan = AcquisitionPlan.from_scope(scope, "A")
    raised_um = {"by": 0.0}
    still = Specimen.focus_um
    monkeypatch.setattr(
        Specimen, "focus_um", lambda self, x_um, y_um: still(self, x_um, y_um) + raised_um["by"]
    )

    def drift_from_field_4_on(index: int) -> None:
        # The checks before fields 3 and 6 lie on both sides of it.
        if index == 4:
            raised_um["by"] = 3.0

    recorder.on_taken = drift_from_field_4_on
    with AcquisitionSession(AcquisitionRequest(sample, scope, plan, specimen), recorder) as session:
        for index in range(8):
            session.take([*range(index + 1)])
    raised_um["by"] = 6.0  # while nobody looked
    with AcquisitionSession(AcquisitionRequest(sample, scope, plan, specimen)) as session:
        session.take(range(9))
    checks = json.loads((sample.raw_path() / "focus.json").read_text(encoding="utf-8"))["drift"]
    assert [check["field"] for check in checks] == [3, 6, 8]
    assert [check["shift_um"] for check in checks] == pytest.approx([0.0, 3.0, 6.0], abs=0.3)
    specimen_there = Specimen(specimen)
    for index, path in fields_on_disk(sample.raw_path()).items():
        info = read_info(path)
        truth_um = still(specimen_there, info.x_um, info.y_um) + (
            0.0 if index < 6 else 3.0 if index < 8 else 6.0
        )
        assert info.frames[0].z_um == pytest.approx(truth_um, abs=0.3)


def test_a_run_with_a_device_that_does_nothing_is_in_focus(
    sample: Sample, make_scope: Callable[..., Scope], specimen: SpecimenPlan
) -> None:
    scope = make_scope(DEVICE, ROI, ("range_um = 30.0", "range_um = 12.0"), focus=BY_DEVICE)
    scope = scope.model_copy(
        update={"focus": scope.focus.model_copy(update={"fixed_um": scope.focus.fixed_um + 6.0})}
    )
    plan = AcquisitionPlan.from_scope(scope, "A")
    with AcquisitionSession(AcquisitionRequest(sample, scope, plan, specimen)) as session:
        session.take([0])
    (path,) = fields_on_disk(sample.raw_path()).values()
    info = read_info(path)
    assert info.frames[0].z_um == pytest.approx(
        Specimen(specimen).focus_um(info.x_um, info.y_um), abs=0.3
    )
    log = [
        json.loads(line)
        for line in (sample.path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert "focus_device_disagrees" in {event["event"] for event in log}
    (focused,) = [event for event in log if event["event"] == "focused"]
    assert focused["by_device"] == 1
    assert focused["frames"] > focused["positions"] > 0
