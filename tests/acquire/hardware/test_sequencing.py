"""Hardware sequences: the same files as by command, values uploaded once, failures survived."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from wbcpipe.acquire.capture.field_writer import FieldWriter, PendingField, field_buffers
from wbcpipe.acquire.capture.session import AcquisitionSession
from wbcpipe.acquire.events import field_events
from wbcpipe.acquire.hardware.microscope import CoreMicroscope
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.acquire.request import AcquisitionRequest
from wbcpipe.acquire.simulation.virtual_scope import VirtualScope
from wbcpipe.errors import DeviceTimeoutError, DroppedFrameError, HardwareError
from wbcpipe.samples.fields import MODALITIES, fields_on_disk, read_field, write_planes
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.events import CaptureEvent
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
    from wbcpipe.samples.fields import FieldInfo
    from wbcpipe.tests.acquire.conftest import Intercept


def events_at(
    scope: Scope, index: int = 0, lights: tuple[str, ...] = MODALITIES
) -> tuple[CaptureEvent, ...]:
    field = AcquisitionPlan.from_scope(scope, "A").fields()[index]
    return tuple(
        event
        for event in field_events(scope, field, scope.focus.fixed_um)
        if event.modality in lights
    )


def untimed(info: FieldInfo) -> FieldInfo:
    return replace(
        info, acquired="", frames=tuple(replace(frame, time_s=0.0) for frame in info.frames)
    )


def in_sequence(microscope: CoreMicroscope, events: tuple[CaptureEvent, ...]) -> NDArray[np.uint16]:
    out = np.zeros((len(events), 256, 256), np.uint16)
    microscope.move_xy(events[0].x_um, events[0].y_um)
    microscope.move_z(events[0].z_um)
    microscope.sequencing.expose_sequence(events, out)
    microscope.wait_for_frames()
    return out


def by_command(microscope: CoreMicroscope, events: tuple[CaptureEvent, ...]) -> NDArray[np.uint16]:
    out = np.zeros((len(events), 256, 256), np.uint16)
    microscope.move_xy(events[0].x_um, events[0].y_um)
    microscope.move_z(events[0].z_um)
    for event, frame in zip(events, out, strict=True):
        microscope.switch_light(event.modality)
        microscope.expose(event.exposure_ms, frame)
    microscope.wait_for_frames()
    return out


def test_files_are_those_of_switching_by_command(
    tmp_path: Path,
    make_scope: Callable[..., Scope],
    specimen: SpecimenPlan,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fields: dict[str, list[tuple[NDArray[np.uint16], FieldInfo]]] = {}
    for sequencing in ("auto", "off"):
        scope = make_scope(
            ("range_um = 30.0", "range_um = 6.0"),
            ("window_px = 384", "window_px = 256"),
            focus="surface",
            sequencing=sequencing,
        )
        sample = Sample.open(tmp_path, sequencing)
        with AcquisitionSession(
            AcquisitionRequest(sample, scope, AcquisitionPlan.from_scope(scope, "A"), specimen)
        ) as session:
            assert isinstance(session.microscope, VirtualScope)
            sequences: list[int] = []
            start_sequence = session.microscope.camera.start_sequence

            def spied(
                n_frames: int,
                timeout_s: float,
                sequences: list[int] = sequences,
                start: Callable[[int, float], None] = start_sequence,
            ) -> None:
                sequences.append(n_frames)
                start(n_frames, timeout_s)

            monkeypatch.setattr(session.microscope.camera, "start_sequence", spied)
            session.take(range(3))
            assert sequences == (
                [3, 4, 4, 4] if sequencing == "auto" else []
            )  # the first proves that light follows
        fields[sequencing] = [
            read_field(path) for path in fields_on_disk(sample.raw_path()).values()
        ]
    for (images, info), (expected, expected_info) in zip(
        fields["auto"], fields["off"], strict=True
    ):
        np.testing.assert_array_equal(images, expected)
        assert untimed(info) == untimed(expected_info)
        times_s = [frame.time_s for frame in info.frames]
        gaps_s = np.diff(times_s)
        assert (gaps_s >= 0.0049).all(), times_s
    assert fields["auto"][0][0][:3].mean() > 5 * fields["auto"][0][0][3].mean()


def test_any_modalities_in_a_sequence_and_commands_in_between(
    make_scope: Callable[..., Scope], specimen: SpecimenPlan
) -> None:
    scope = make_scope(sequencing="on")
    bright, whole = events_at(scope, 0, MODALITIES[:3]), events_at(scope, 1)
    with VirtualScope(scope, specimen) as microscope:
        expected = by_command(microscope, bright)
        assert microscope.sequencing.can_sequence(bright)
        assert not microscope.sequencing.can_sequence(whole[3:]), "one frame needs no sequence"
        np.testing.assert_array_equal(in_sequence(microscope, bright), expected)
        np.testing.assert_array_equal(by_command(microscope, bright), expected)
        four = in_sequence(microscope, whole)
        np.testing.assert_array_equal(by_command(microscope, whole[:3]), four[:3])
        # Equal exposures after different ones: the camera must not go on playing those.
        np.testing.assert_array_equal(in_sequence(microscope, bright), expected)
        assert not microscope.link.shutter.is_open()
    with VirtualScope(scope, specimen) as microscope:
        np.testing.assert_array_equal(by_command(microscope, whole), four)


def test_sequences_are_uploaded_once(
    make_scope: Callable[..., Scope], specimen: SpecimenPlan
) -> None:
    scope = make_scope(sequencing="auto")
    with VirtualScope(scope, specimen) as microscope:
        loads: list[Any] = []
        real = microscope.link.call

        def spied(name: str, *values: Any) -> Any:
            if name.startswith("load_"):
                loads.append((name, *values))
            return real(name, *values)

        microscope.link.call = spied  # type: ignore[method-assign]
        for index in range(3):
            in_sequence(microscope, events_at(scope, index))
        assert loads == [
            ("load_property_sequence", "LED", "Label", ["385nm", "550nm", "635nm", "470nm"]),
            ("load_exposure_sequence", "Camera", [5.0, 5.0, 5.0, 20.0]),
        ]
        microscope.recover()
        in_sequence(microscope, events_at(scope))
        assert len(loads) == 4, "after a failure a device may have forgotten what it was told"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            ("Property,LED,Sequence,On", "Property,LED,Sequence,Off"),
            "LED-Label cannot be sequenced",
        ),
        (
            ("UseExposureSequences,Yes", "UseExposureSequences,No"),
            "the camera 'Camera' cannot step through different exposures",
        ),
        (
            ("wavelength_nm = 550.0", "wavelength_nm = 550.0\nz_offset_um = 0.5"),
            r"'z_offset_um' differ \(0, 0\.5\)",
        ),
        (
            ("wavelength_nm = 550.0", "wavelength_nm = 550.0\nsettle_ms = 3.0"),
            r"modalities\.color2\.settle_ms' is 3",
        ),
        (
            (
                "ConfigGroup,Illumination,color2,LED,Label,550nm",
                "ConfigGroup,Illumination,color2,Z,Position,0",
            ),
            "LED-Label is not set by color2, so that its value there is open",
        ),
    ],
    ids=["light", "exposures", "focus", "settling", "open"],
)
def test_hardware_that_cannot_is_named(
    make_scope: Callable[..., Scope], specimen: SpecimenPlan, change: tuple[str, str], words: str
) -> None:
    with pytest.raises(HardwareError, match=rf"'light\.sequencing' is \"on\", but .*{words}"):
        VirtualScope(make_scope(change, sequencing="on"), specimen)
    scope = make_scope(change, sequencing="auto")
    with VirtualScope(scope, specimen) as microscope:
        assert not microscope.sequencing.can_sequence(events_at(scope))


def test_equal_exposures_need_no_camera_that_steps(
    make_scope: Callable[..., Scope], specimen: SpecimenPlan
) -> None:
    scope = make_scope(
        ("UseExposureSequences,Yes", "UseExposureSequences,No"),
        ("exposure_ms = 20.0", "exposure_ms = 5.0"),
        sequencing="on",
    )
    events = events_at(scope)
    with VirtualScope(scope, specimen) as microscope:
        taken = in_sequence(microscope, events)
    with VirtualScope(scope, specimen) as microscope:
        np.testing.assert_array_equal(by_command(microscope, events), taken)


def test_the_demo_camera_plays_the_exposures(make_scope: Callable[..., Scope]) -> None:
    scope = make_scope(("virtual = true", "virtual = false"), sequencing="on")
    told_ms = (10.0, 40.0, 20.0, 60.0)
    events = tuple(
        replace(event, exposure_ms=exposure_ms)
        for event, exposure_ms in zip(events_at(scope), told_ms, strict=True)
    )
    with CoreMicroscope(scope) as microscope:
        elapsed_ms = [0.0]
        real = microscope.link.call

        def spied(name: str, *values: Any) -> Any:
            answer = real(name, *values)
            if name == "pop_next_tagged_image":
                elapsed_ms.append(float(answer.tags["ElapsedTime-ms"]))
            return answer

        microscope.link.call = spied  # type: ignore[method-assign]
        # In another order the longest would be too short by 20 ms somewhere; the sum shows that
        # none was too long, in the first sequence that a busy computer does not hold up.
        sums_ms: list[float] = []
        while len(sums_ms) < 2 or min(sums_ms) >= sum(told_ms) + 60:
            assert len(sums_ms) < 50, f"each sequence is longer than {sum(told_ms)} ms: {sums_ms}"
            del elapsed_ms[1:]
            in_sequence(microscope, events)
            assert (np.diff(elapsed_ms) >= np.array(told_ms) - 1).all(), elapsed_ms
            sums_ms.append(elapsed_ms[-1])


@pytest.mark.parametrize("lost", [1, 4])
def test_a_dropped_frame_ends_the_sequence_and_the_next_one_works(
    make_scope: Callable[..., Scope], specimen: SpecimenPlan, intercept: Intercept, lost: int
) -> None:
    scope = make_scope(sequencing="on")
    events = events_at(scope)
    with VirtualScope(scope, specimen) as microscope:
        link, camera = microscope.link, microscope.camera
        start_sequence = camera.start_sequence
        if lost < 4:
            camera.start_sequence = lambda n_frames, timeout_s: start_sequence(  # type: ignore[method-assign]
                n_frames - lost, timeout_s
            )
        else:
            camera.start_sequence = lambda *_, **__: None  # type: ignore[method-assign]
        running: list[bool] = []

        def noted(real: Callable[..., Any]) -> bool:
            running.append(bool(real("is_sequence_running")))
            return running[-1]

        intercept(link, is_sequence_running=noted)
        with pytest.raises(
            DroppedFrameError, match=f"the camera gave {4 - lost} of the 4 frames of a sequence"
        ):
            in_sequence(microscope, events)
        # A wait until the deadline would ask thousands of times.
        assert running.count(False) < 10, "seen as soon as the camera has ended"
        assert not link.shutter.is_open()
        assert not microscope.sequences.running
        camera.start_sequence = start_sequence  # type: ignore[method-assign]
        microscope.recover()
        taken = by_command(microscope, events[:3])
        np.testing.assert_array_equal(in_sequence(microscope, events)[:3], taken)


def test_a_camera_that_goes_on_without_frames_is_stopped(
    make_scope: Callable[..., Scope], specimen: SpecimenPlan, intercept: Intercept
) -> None:
    scope = make_scope(("camera_timeout_s = 10.0", "camera_timeout_s = 0.3"), sequencing="on")
    told_ms = [2000.0]

    def load(real: Callable[..., Any], camera: str, exposures_ms: list[float]) -> None:
        """Tell the camera long exposures; the deadline is worked out from short ones."""
        real("load_exposure_sequence", camera, told_ms * len(exposures_ms) or exposures_ms)

    with VirtualScope(scope, specimen) as microscope:
        link = microscope.link
        intercept(link, load_exposure_sequence=load)
        with pytest.raises((DroppedFrameError, DeviceTimeoutError)):
            in_sequence(microscope, events_at(scope))
        assert not link.shutter.is_open()
        told_ms.clear()
        deadline_s = time.monotonic() + 60
        while link.call("is_sequence_running"):
            assert time.monotonic() < deadline_s, "the camera is not stopped"
            time.sleep(0.01)
        microscope.recover()
        assert in_sequence(microscope, events_at(scope)).any()


def test_a_camera_that_hangs_at_the_start_is_left_behind(
    make_scope: Callable[..., Scope], specimen: SpecimenPlan
) -> None:
    scope = make_scope(
        ("camera_timeout_s = 10.0", "camera_timeout_s = 0.2"),
        ("switch_timeout_s = 5.0", "switch_timeout_s = 0.2"),
        sequencing="on",
    )
    release, gave_up = threading.Event(), threading.Event()
    with VirtualScope(scope, specimen) as microscope:
        link, real = microscope.link, microscope.link.call

        def hanging(name: str, *values: Any) -> Any:
            if name == "start_sequence_acquisition" and not release.is_set():
                release.wait(120)
                gave_up.set()
                raise HardwareError("the camera gave up.")
            # In the core such a call holds the lock of its driver, so that every other one to it
            # would wait.
            assert release.is_set() or name not in {"stop_exposure_sequence", "is_sequence_running"}
            return real(name, *values)

        link.call = hanging  # type: ignore[method-assign]
        with pytest.raises(
            DeviceTimeoutError, match=r"starting the camera did not end within 0\.2 s"
        ):
            in_sequence(microscope, events_at(scope))
        microscope.recover()
        assert not gave_up.is_set(), "it waited for the camera"
        assert not link.shutter.is_open()
        release.set()
        assert in_sequence(microscope, events_at(scope)).any()


def test_the_shutter_closes_whatever_fails_in_a_sequence(
    make_scope: Callable[..., Scope], specimen: SpecimenPlan
) -> None:
    scope = make_scope(sequencing="on")
    with VirtualScope(scope, specimen) as microscope:
        link, seen = microscope.link, []

        def failing() -> float:
            seen.append(link.shutter.is_open())
            if len(seen) > 2:
                raise HardwareError("the focus drive fell silent.")
            return 0.0

        microscope.move_z(events_at(scope)[0].z_um)
        z_um, microscope.focus.z_um = microscope.focus.z_um, failing  # type: ignore[method-assign]
        with pytest.raises(HardwareError, match="fell silent"):
            microscope.sequencing.expose_sequence(
                events_at(scope), np.zeros((4, 256, 256), np.uint16)
            )
        microscope.focus.z_um = z_um  # type: ignore[method-assign]
        assert seen[0], "open while exposing"
        assert not link.shutter.is_open()
        assert not microscope.sequences.running
        assert not link.call("is_sequence_running")
        assert link.call("get_remaining_image_count") == 0


def test_a_slow_disk_holds_up_the_camera_and_loses_nothing(
    sample: Sample,
    make_scope: Callable[..., Scope],
    specimen: SpecimenPlan,
    monkeypatch: pytest.MonkeyPatch,
    recorder: Any,
) -> None:
    import wbcpipe.acquire.capture.field_writer as writer_module

    scope = make_scope(sequencing="auto")
    plan = AcquisitionPlan.from_scope(scope, "A")
    waiting, most, handed = [0], [0], [0]
    real_write, queue = write_planes, FieldWriter.write

    def slow(*arguments: Any) -> None:
        # Until every buffer waits, however slow the machine is, and long enough for one too many to
        # show.
        give_up = time.monotonic() + 20
        while waiting[0] < 3 and handed[0] < 8 and time.monotonic() < give_up:
            time.sleep(0.01)
        time.sleep(0.25)
        real_write(*arguments)
        waiting[0] -= 1

    def counted(self: FieldWriter, pending: PendingField, info: FieldInfo) -> None:
        waiting[0] += 1
        handed[0] += 1
        most[0] = max(most[0], waiting[0])
        queue(self, pending, info)

    monkeypatch.setattr(writer_module, "write_planes", slow)
    monkeypatch.setattr(FieldWriter, "write", counted)
    monkeypatch.setattr(writer_module, "MAX_BUFFERS", 3)
    with AcquisitionSession(AcquisitionRequest(sample, scope, plan, specimen), recorder) as session:
        session.take(range(8))
    assert recorder.taken_fields == list(range(8))
    assert most[0] == 3, "never more fields in memory than buffers"
    monkeypatch.setattr(writer_module, "write_planes", real_write)
    other = Sample.open(sample.path.parent, "fast")
    with AcquisitionSession(AcquisitionRequest(other, scope, plan, specimen)) as session:
        session.take(range(8))
    for slow_path, path in zip(
        fields_on_disk(sample.raw_path()).values(),
        fields_on_disk(other.raw_path()).values(),
        strict=True,
    ):
        np.testing.assert_array_equal(read_field(slow_path)[0], read_field(path)[0])


@pytest.mark.parametrize(("side_px", "n_buffers"), [(256, 8), (2048, 8), (4096, 3)])
def test_buffers_are_bounded_in_bytes(
    side_px: int, n_buffers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[int, ...]] = []
    monkeypatch.setattr(
        "wbcpipe.acquire.capture.field_writer.np.full", lambda shape, *_: made.append(shape)
    )
    field_buffers(4, (side_px, side_px))
    assert made == [(4, side_px, side_px)] * n_buffers


def test_a_field_left_in_the_middle_of_writing_leaves_no_file(
    sample: Sample, make_scope: Callable[..., Scope], specimen: SpecimenPlan, recorder: Any
) -> None:
    """A sequence whose frames are turned away after most of them were written already."""
    scope = make_scope(sequencing="on")
    plan = AcquisitionPlan.from_scope(scope, "A")
    with AcquisitionSession(AcquisitionRequest(sample, scope, plan, specimen), recorder) as session:
        judge, judged = session.acquirer.validator.validate, [0]

        def stern(modalities: tuple[str, ...], images: NDArray[np.uint16], *_: object) -> None:
            judged[0] += 1
            if judged[0] in {2, 4, 5, 6}:  # field 1 once; field 2 at every attempt
                raise HardwareError("color1: the frame is dark.")
            judge(modalities, images)

        session.acquirer.validator.validate = stern  # type: ignore[method-assign, assignment]
        session.take(range(4))
    assert list(fields_on_disk(sample.raw_path())) == [0, 1, 3]
    assert list(recorder.missing_fields) == [2]
    assert not list(sample.raw_path().glob(".*")), "nothing half written stays"
