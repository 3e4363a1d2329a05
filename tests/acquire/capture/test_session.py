"""Runs on the real core: files as promised, resumed to the same pixels, failures survived."""

from __future__ import annotations

import csv
import errno
import json
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from wbcpipe.acquire.capture.sample_record import create_sample_record
from wbcpipe.acquire.capture.session import AcquisitionSession
from wbcpipe.acquire.config.policies import QualityLimits
from wbcpipe.acquire.hardware.camera import CoreCamera
from wbcpipe.acquire.hardware.microscope import CoreMicroscope
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.acquire.request import AcquisitionRequest
from wbcpipe.acquire.simulation.virtual_scope import VirtualScope
from wbcpipe.errors import (
    ConfigError,
    DeviceTimeoutError,
    DiskFullError,
    HardwareError,
    InterruptedRunError,
    SampleStateError,
)
from wbcpipe.samples.field_status import read_missing
from wbcpipe.samples.fields import (
    MODALITIES,
    field_path,
    fields_on_disk,
    read_field,
    read_info,
    write_planes,
)
from wbcpipe.samples.records import FocusRecord, SampleRecord
from wbcpipe.samples.sample import Sample
from wbcpipe.samples.segment_settings.settings import SegmentSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.protocols import Exposure
    from wbcpipe.acquire.plan import PlannedPass
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan


def pixels_of(sample: Sample) -> dict[int, NDArray[np.uint16]]:
    return {index: read_field(path)[0] for index, path in fields_on_disk(sample.raw_path()).items()}


def descriptions_of(sample: Sample) -> list[Any]:
    """All that is written with the fields, save the time."""
    infos = [read_info(path) for path in fields_on_disk(sample.raw_path()).values()]
    return [
        replace(
            info, acquired="", frames=tuple(replace(frame, time_s=0.0) for frame in info.frames)
        )
        for info in infos
    ]


def events_of(sample: Sample) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in (sample.path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def test_fields_are_what_the_plan_and_the_scope_say(
    sample: Sample,
    small_scope: Scope,
    small_plan: AcquisitionPlan,
    specimen: SpecimenPlan,
    recorder: Any,
) -> None:
    with AcquisitionSession(
        AcquisitionRequest(sample, small_scope, small_plan, specimen), recorder
    ) as session:
        session.take([1, 0])
    assert recorder.taken_fields == [0, 1]
    for planned in small_plan.fields()[:2]:
        images, info = read_field(field_path(sample.raw_path(), planned.index))
        assert images.shape == (4, 256, 256)
        assert (info.x_um, info.y_um) == pytest.approx((planned.x_um, planned.y_um), abs=0.02)
        assert info.modalities == MODALITIES
        assert [frame.exposure_ms for frame in info.frames] == [5, 5, 5, 20]
        assert [frame.wavelength_nm for frame in info.frames] == [415, 550, 635, 525]
        assert {frame.z_um for frame in info.frames} == {small_scope.focus.fixed_um}
        assert [frame.time_s for frame in info.frames] == sorted(
            frame.time_s for frame in info.frames
        )
        assert (info.pixel_um, info.saturation, info.kind) == (0.1, 65535, "scope")
        # Bright field is bright, fluorescence dark with bright nuclei: the light was on, and the
        # right one.
        assert images[:3].mean() > 5 * images[3].mean()
    record = sample.record()
    assert record.kind == "scope"
    assert record.scope is not None
    assert record.scope.name == small_scope.name
    assert record.specimen is not None
    assert record.specimen.model_dump() == {"seed": 7, "preparation": "blood-film"}
    assert record.modalities == MODALITIES
    with sample.truth_path.open(encoding="utf-8") as handle:
        truth = list(csv.DictReader(handle))
    assert truth
    assert set(truth[0]) == {"x_um", "y_um", "field", "class", "kind", "crc32c"}
    assert {int(row["field"]) for row in truth} <= {-1, 0, 1}


def test_a_real_scope_writes_the_cameras_own_pixels(
    sample: Sample, make_scope: Callable[..., Scope]
) -> None:
    scope = make_scope(
        ("virtual = true", "virtual = false"), ("Camera,FastImage,1", "Camera,FastImage,0")
    )
    plan = AcquisitionPlan.from_scope(scope, "A")
    with AcquisitionSession(AcquisitionRequest(sample, scope, plan)) as session:
        assert type(session.microscope) is CoreMicroscope
        session.take(range(2))
    for images in pixels_of(sample).values():
        assert all(np.ptp(image) > 0 for image in images), "the demo camera draws waves"
    assert sample.record().specimen is None
    assert not sample.truth_path.exists()


def test_a_resumed_run_equals_an_unbroken_one(
    tmp_path: Path, make_scope: Callable[..., Scope], specimen: SpecimenPlan
) -> None:
    scope = make_scope(
        ("range_um = 30.0", "range_um = 12.0"),
        ("window_px = 384", "window_px = 256"),
        ("drift_check_fields = 25", "drift_check_fields = 2"),
        focus="surface",
    )
    plan = AcquisitionPlan.from_scope(scope, "A")
    whole, broken = Sample.open(tmp_path, "whole"), Sample.open(tmp_path, "broken")
    with AcquisitionSession(AcquisitionRequest(whole, scope, plan, specimen)) as session:
        session.take(range(4))
    for wanted in (1, 2, 4):
        with AcquisitionSession(AcquisitionRequest(broken, scope, plan, specimen)) as session:
            session.take(range(wanted))
            session.take(range(wanted))
    first, second = pixels_of(whole), pixels_of(broken)
    assert list(first) == list(second) == [0, 1, 2, 3]
    for index, images in first.items():
        np.testing.assert_array_equal(images, second[index])
    assert descriptions_of(whole) == descriptions_of(broken)
    surfaces = [FocusRecord.read(sample.raw_path() / "focus.json") for sample in (whole, broken)]
    assert surfaces[0] == surfaces[1]
    assert [check.field for check in surfaces[0].drift] == [2]
    assert whole.truth_path.read_bytes() == broken.truth_path.read_bytes()


def test_a_truncated_file_is_set_aside_and_taken_again(
    sample: Sample,
    small_scope: Scope,
    small_plan: AcquisitionPlan,
    specimen: SpecimenPlan,
    recorder: Any,
) -> None:
    with AcquisitionSession(
        AcquisitionRequest(sample, small_scope, small_plan, specimen)
    ) as session:
        session.take(range(2))
    before = pixels_of(sample)
    path = field_path(sample.raw_path(), 1)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with AcquisitionSession(
        AcquisitionRequest(sample, small_scope, small_plan, specimen), recorder
    ) as session:
        session.take(range(2))
    assert recorder.taken_fields == [1]
    np.testing.assert_array_equal(pixels_of(sample)[1], before[1])
    assert (sample.path / "raw" / "quarantine" / path.name).read_bytes() == content[
        : len(content) // 2
    ]
    (event,) = [event for event in events_of(sample) if event["event"] == "quarantined"]
    assert event["field"] == 1
    assert "truncated" in event["reason"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"overlap": 0.2}, r"plan\.overlap = 0\.1, this call says 0\.2; give --overlap 0\.1 \(of"),
        (
            {"x_um": (-60.0, 50.0)},
            r"plan\.x_um = \[-60\.0, 60\.0\], this call says \[-60\.0, 50\.0\]; repeat the first",
        ),
    ],
)
def test_a_contradicting_call_is_refused_with_the_difference(
    sample: Sample,
    small_scope: Scope,
    small_plan: AcquisitionPlan,
    specimen: SpecimenPlan,
    change: dict[str, Any],
    words: str,
) -> None:
    small_scope = small_scope.model_copy(update={"quality": QualityLimits(blur_um=0.5)})
    assert create_sample_record(
        AcquisitionRequest(sample, small_scope, small_plan, specimen)
    ).quality == {"blur_um": 0.5}
    first = sample.info_path.read_bytes()
    create_sample_record(AcquisitionRequest(sample, small_scope, small_plan, specimen))
    with pytest.raises(SampleStateError, match=words):
        create_sample_record(
            AcquisitionRequest(sample, small_scope, small_plan.model_copy(update=change), specimen)
        )
    other = replace(specimen, seed=8, preparation="buffy-coat")
    with pytest.raises(
        SampleStateError,
        match=r"specimen\.seed = 7, this call says 8; give --specimen-seed 7 "
        r"--specimen-preparation blood-film, or choose another sample name\.$",
    ):
        create_sample_record(AcquisitionRequest(sample, small_scope, small_plan, other))
    assert sample.info_path.read_bytes() == first


def test_the_settings_of_the_segmentation_are_recorded_and_follow_the_scope_file(
    sample: Sample, small_scope: Scope, small_plan: AcquisitionPlan, specimen: SpecimenPlan
) -> None:
    def record(**segment: object) -> SampleRecord:
        settings = SegmentSettings.model_validate(segment)
        scope = small_scope.model_copy(update={"segment": settings})
        return create_sample_record(AcquisitionRequest(sample, scope, small_plan, specimen))

    assert record(masks={"core_um": 0.7}).segment == {"masks": {"core_um": 0.7}}
    assert record(quality={"blurred_um": 1.0}).segment == {"quality": {"blurred_um": 1.0}}
    assert sample.record().segment == {"quality": {"blurred_um": 1.0}}


def test_a_real_scope_takes_no_specimen(
    sample: Sample, small_scope: Scope, small_plan: AcquisitionPlan, specimen: SpecimenPlan
) -> None:
    with pytest.raises(ConfigError, match="is a real microscope"):
        create_sample_record(
            AcquisitionRequest(
                sample, small_scope.model_copy(update={"virtual": False}), small_plan, specimen
            )
        )
    with pytest.raises(ConfigError, match="is virtual: it needs a specimen"):
        create_sample_record(AcquisitionRequest(sample, small_scope, small_plan, None))
    assert not sample.path.exists()


class FaultyScope(VirtualScope):
    """The virtual scope with camera time-outs at some exposures, counted from 0."""

    def __init__(
        self,
        scope: Scope,
        plan: SpecimenPlan,
        planned: PlannedPass | None,
        fails: Callable[[int], bool],
    ) -> None:
        super().__init__(scope, plan, planned)
        self.fails, self.exposures = fails, 0

    def expose(
        self,
        exposure_ms: float,
        out: NDArray[np.uint16],
        next_position_um: tuple[float, float] | None = None,
    ) -> Exposure:
        self.exposures += 1
        if self.fails(self.exposures - 1):
            raise DeviceTimeoutError("the camera's exposure did not end within 10 s.")
        return super().expose(exposure_ms, out, next_position_um)


def test_camera_time_outs_leave_a_field_missing_and_the_run_goes_on(
    sample: Sample,
    small_scope: Scope,
    small_plan: AcquisitionPlan,
    specimen: SpecimenPlan,
    recorder: Any,
) -> None:
    def faulty(
        scope: Scope, plan: SpecimenPlan | None = None, planned: PlannedPass | None = None, /
    ) -> FaultyScope:
        assert plan is not None
        # Field 0 has 4 exposures; field 1 fails at its second in each of 3 attempts; field 2 fails
        # once, then works.
        return FaultyScope(scope, plan, planned, lambda number: number in {5, 7, 9, 10})

    with AcquisitionSession(
        AcquisitionRequest(sample, small_scope, small_plan, specimen, microscope=faulty), recorder
    ) as session:
        session.take(range(4))
    assert recorder.taken_fields == [0, 2, 3]
    assert recorder.missing_fields == {1: "the camera's exposure did not end within 10 s."}
    assert list(fields_on_disk(sample.raw_path())) == [0, 2, 3]
    assert read_missing(sample.raw_path()) == {1: "the camera's exposure did not end within 10 s."}
    assert [event["event"] for event in events_of(sample)].count("retry") == 3
    with AcquisitionSession(
        AcquisitionRequest(sample, small_scope, small_plan, specimen)
    ) as session:
        session.take(range(4))
    assert list(fields_on_disk(sample.raw_path())) == [0, 1, 2, 3]
    assert read_missing(sample.raw_path()) == {}


def test_a_dead_camera_ends_the_run(
    sample: Sample, small_scope: Scope, small_plan: AcquisitionPlan, specimen: SpecimenPlan
) -> None:
    def faulty(
        scope: Scope, plan: SpecimenPlan | None = None, planned: PlannedPass | None = None, /
    ) -> FaultyScope:
        assert plan is not None
        return FaultyScope(scope, plan, planned, lambda number: number >= 8)

    with (
        AcquisitionSession(
            AcquisitionRequest(sample, small_scope, small_plan, specimen, microscope=faulty)
        ) as session,
        pytest.raises(
            HardwareError,
            match="5 fields in a row could not be taken, the last because: the camera",
        ),
    ):
        session.take(range(9))
    assert list(fields_on_disk(sample.raw_path())) == [0, 1]
    assert list(read_missing(sample.raw_path())) == [2, 3, 4, 5, 6]


def test_a_full_disk_keeps_a_beginning_of_whole_fields(
    sample: Sample,
    small_scope: Scope,
    small_plan: AcquisitionPlan,
    specimen: SpecimenPlan,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = write_planes

    def filling(path: Path, *arguments: Any) -> None:
        if path == field_path(sample.raw_path(), 2):
            raise DiskFullError(errno.ENOSPC, f"{path}: no space left on the disk.")
        real(path, *arguments)

    monkeypatch.setattr("wbcpipe.acquire.capture.field_writer.write_planes", filling)
    with (
        AcquisitionSession(
            AcquisitionRequest(sample, small_scope, small_plan, specimen)
        ) as session,
        pytest.raises(DiskFullError, match="no space left"),
    ):
        session.take(range(9))
    assert list(fields_on_disk(sample.raw_path())) == [0, 1]


def test_too_small_a_disk_is_refused_before_anything_is_taken(
    sample: Sample,
    small_scope: Scope,
    small_plan: AcquisitionPlan,
    specimen: SpecimenPlan,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr("wbcpipe.acquire.capture.sample_record.shutil.disk_usage", lambda _: usage)
    with (
        AcquisitionSession(
            AcquisitionRequest(sample, small_scope, small_plan, specimen)
        ) as session,
        pytest.raises(DiskFullError, match=r"9 fields need 0\.0719 GB and 0\.001 GB are free"),
    ):
        session.take(range(9))
    assert list(sample.raw_path().iterdir()) == []


def test_stopping_keeps_whole_fields_and_closes_the_shutter(
    sample: Sample,
    small_scope: Scope,
    small_plan: AcquisitionPlan,
    specimen: SpecimenPlan,
    recorder: Any,
) -> None:
    session = AcquisitionSession(
        AcquisitionRequest(sample, small_scope, small_plan, specimen), recorder
    )
    recorder.on_taken = lambda index: session.stop() if index == 1 else None
    threads_before = threading.enumerate()
    with session:
        microscope = session.microscope
        assert isinstance(microscope, VirtualScope)
        with pytest.raises(InterruptedRunError, match="the same command goes on"):
            session.take(range(9))
        assert not microscope.link.shutter.is_open()
    indices = list(fields_on_disk(sample.raw_path()))
    assert indices == list(range(len(indices)))
    assert 2 <= len(indices) < 9
    started = set(threading.enumerate()).difference(threads_before)
    assert not [thread.name for thread in started if thread.name.startswith("wbcpipe")]


def test_an_exposure_that_the_camera_changes_is_told_once(
    sample: Sample,
    small_scope: Scope,
    small_plan: AcquisitionPlan,
    specimen: SpecimenPlan,
    recorder: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = CoreCamera.send_exposure
    monkeypatch.setattr(CoreCamera, "send_exposure", lambda camera, ms: min(real(camera, ms), 12.0))
    with AcquisitionSession(
        AcquisitionRequest(sample, small_scope, small_plan, specimen), recorder
    ) as session:
        session.take([0, 1])
    assert recorder.taken_fields == [0, 1]
    (told,) = [text for text in recorder.messages if "exposes" in text]
    assert "fluorescence for 12 ms, 'modalities.fluorescence.exposure_ms' is 20" in told
    (event,) = [event for event in events_of(sample) if event["event"] == "exposure_changed"]
    assert (event["modality"], event["asked_ms"], event["exposure_ms"]) == (
        "fluorescence",
        20.0,
        12.0,
    )
