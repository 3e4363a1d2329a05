"""Each fault of an unattended run, on the real core: what is recorded, and that the run goes on."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from wbcpipe.acquire.capture.field_accounting import check_all_fields_accounted
from wbcpipe.acquire.capture.session import AcquisitionSession
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.acquire.request import AcquisitionRequest
from wbcpipe.acquire.simulation.faults import Fault, FaultyOpener, FaultyScope, read_strikes
from wbcpipe.acquire.simulation.virtual_scope import VirtualScope
from wbcpipe.acquire.supervise.messages import FieldMissing, FieldTaken, Progress
from wbcpipe.acquire.supervise.worker import AcquisitionWorker
from wbcpipe.errors import AcquisitionError, CoreLostError, DiskFullError
from wbcpipe.samples.field_status import read_missing, write_missing
from wbcpipe.samples.fields import field_path, fields_on_disk, read_field
from wbcpipe.samples.records import FocusRecord
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan

_FAST = (
    ("camera_timeout_s = 10.0", "camera_timeout_s = 0.2"),
    ("move_timeout_s = 30.0", "move_timeout_s = 0.4"),
    ("switch_timeout_s = 5.0", "switch_timeout_s = 1.0"),
)


def pixels_of(sample: Sample) -> dict[int, NDArray[np.uint16]]:
    return {index: read_field(path)[0] for index, path in fields_on_disk(sample.raw_path()).items()}


def events_of(sample: Sample) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in (sample.path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def counts_of(sample: Sample) -> Counter[str]:
    return Counter(event["event"] for event in events_of(sample))


@pytest.fixture
def fast_scope(make_scope: Callable[..., Scope]) -> Scope:
    return make_scope(*_FAST)


@pytest.fixture
def expected(
    fast_scope: Scope, specimen: SpecimenPlan, tmp_path: Path
) -> dict[int, NDArray[np.uint16]]:
    """Four fields of a run without faults, of a dye that does not bleach."""
    sample = Sample.open(tmp_path, "sound")
    plan = AcquisitionPlan.from_scope(fast_scope, "A")
    opener = FaultyOpener(plan, (), tmp_path / "none", bleaching=False)
    with AcquisitionSession(
        AcquisitionRequest(sample, fast_scope, plan, specimen, microscope=opener)
    ) as session:
        session.take(range(4))
    return pixels_of(sample)


@pytest.mark.parametrize(
    "case",
    [
        ("camera time-out", "the camera's exposure did not end within 0.2"),
        ("dropped frame", "Camera image buffer read failed"),
        ("stage stays busy", "moving the stage: 'XY' is still busy after 0.4 s"),
        ("lamp dark", "color2: the frame is dark: its level is"),
        ("lamp saturates", "color2: 100% of the pixels are saturated, at most 10% are allowed"),
        ("camera frozen", "color2: the frame is identical to that of the field before"),
    ],
)
def test_a_fault_is_retried_then_the_devices_are_loaded_anew_then_the_field_is_missing(
    sample: Sample,
    fast_scope: Scope,
    specimen: SpecimenPlan,
    expected: dict[int, NDArray[np.uint16]],
    case: tuple[Any, str],
    recorder: Any,
) -> None:
    kind, words = case
    plan = AcquisitionPlan.from_scope(fast_scope, "A")
    journal = sample.path.parent / "strikes.jsonl"
    sample.path.mkdir(parents=True)
    faults = (Fault(kind, 1), Fault(kind, 2, attempts=2), Fault(kind, 3, attempts=3))
    opener = FaultyOpener(plan, faults, journal, bleaching=False)
    request = AcquisitionRequest(sample, fast_scope, plan, specimen, microscope=opener)
    with AcquisitionSession(request, recorder) as session:
        session.take(range(4))
        assert isinstance(session.microscope, FaultyScope)
        assert not session.microscope.link.shutter.is_open()
    assert Counter(fault.field for fault in read_strikes(journal)) == {1: 1, 2: 2, 3: 3}
    missing = recorder.missing_fields
    assert list(missing) == [3]
    assert words in missing[3]
    assert read_missing(sample.raw_path()) == missing
    # Field 1 failed once, fields 2 and 3 twice before the last attempt: five retries, two of them
    # on fresh devices.
    assert counts_of(sample) == {
        "sample_started": 1,
        "retry": 5,
        "reinitialised": 2,
        "field_missing": 1,
    }
    assert all(words in event["reason"] for event in events_of(sample) if event["event"] == "retry")
    check_all_fields_accounted(sample.raw_path(), range(4))
    assert list(fields_on_disk(sample.raw_path())) == [0, 1, 2]
    with AcquisitionSession(
        AcquisitionRequest(sample, fast_scope, plan, specimen, microscope=opener)
    ) as session:
        session.take(range(4))
    taken = pixels_of(sample)
    assert list(taken) == [0, 1, 2, 3]
    for index, images in taken.items():
        np.testing.assert_array_equal(images, expected[index])


def test_a_lamp_that_loses_its_power_is_seen_against_the_fields_before(
    sample: Sample, fast_scope: Scope, specimen: SpecimenPlan
) -> None:
    plan = AcquisitionPlan.from_scope(fast_scope, "A")
    faults = (
        Fault("lamp fails", 3, attempts=3, modality="color1"),
        Fault("lamp dark", 4, attempts=3, modality="fluorescence"),
        Fault("lamp fails", 6, attempts=3, modality="color3"),
    )
    sample.path.mkdir(parents=True)
    opener = FaultyOpener(plan, faults, sample.path / "strikes.jsonl")
    for n_fields in (5, 7):  # what the second process expects it learns from the fields on disk
        with AcquisitionSession(
            AcquisitionRequest(sample, fast_scope, plan, specimen, microscope=opener)
        ) as session:
            session.take(range(n_fields))
    missing = read_missing(sample.raw_path())
    assert list(missing) == [6]
    assert "color3: the level fell to" in missing[6]
    reasons = [event["reason"] for event in events_of(sample) if event["event"] == "field_missing"]
    assert [reason.split(" ", 4)[:4] for reason in reasons] == [
        ["color1:", "the", "level", "fell"],
        ["fluorescence:", "the", "level", "fell"],
        ["color3:", "the", "level", "fell"],
    ]


def test_a_fluorescence_lamp_that_is_dark_from_the_start_gives_no_fields(
    sample: Sample, fast_scope: Scope, specimen: SpecimenPlan, tmp_path: Path
) -> None:
    plan = AcquisitionPlan.from_scope(fast_scope, "A")
    faults = tuple(
        Fault("lamp dark", index, attempts=3, modality="fluorescence") for index in range(9)
    )
    opener = FaultyOpener(plan, faults, tmp_path / "strikes")
    for n_fields in (2, 3):
        with AcquisitionSession(
            AcquisitionRequest(sample, fast_scope, plan, specimen, microscope=opener)
        ) as session:
            session.take(range(n_fields))
    missing = read_missing(sample.raw_path())
    shown = [index for index in range(3) if index in missing]
    assert shown, "the fields show no cells at all"
    assert all(
        "nothing but the camera's noise where bright field shows cells" in missing[index]
        for index in shown
    )


def test_an_autofocus_that_hangs_is_tried_again_on_fresh_devices(
    sample: Sample, make_scope: Callable[..., Scope], specimen: SpecimenPlan, tmp_path: Path
) -> None:
    changes = (("range_um = 30.0", "range_um = 12.0"), ("window_px = 384", "window_px = 256"))
    scope = make_scope(*_FAST, *changes, focus="surface")
    plan = AcquisitionPlan.from_scope(scope, "A")
    opener = FaultyOpener(plan, (Fault("autofocus hangs", 0, attempts=2),), tmp_path / "strikes")
    with AcquisitionSession(
        AcquisitionRequest(sample, scope, plan, specimen, microscope=opener)
    ) as session:
        session.take(range(2))
    with AcquisitionSession(
        AcquisitionRequest(Sample.open(tmp_path, "sound"), scope, plan, specimen)
    ) as session:
        session.take(range(2))
    retries = [event for event in events_of(sample) if event["event"] == "retry"]
    assert [event["doing"] for event in retries] == ["focus", "focus"]
    assert all("did not end within" in event["reason"] for event in retries)
    both = (sample, Sample.open(tmp_path, "sound"))
    surfaces = [FocusRecord.read(which.raw_path() / "focus.json") for which in both]
    assert surfaces[0] == surfaces[1]


def test_devices_that_do_not_come_back_are_a_lost_core(
    sample: Sample, fast_scope: Scope, specimen: SpecimenPlan
) -> None:
    plan = AcquisitionPlan.from_scope(fast_scope, "A")
    sample.path.mkdir(parents=True)
    opener = FaultyOpener(plan, (Fault("core lost", 1),), sample.path / "strikes.jsonl")
    with (
        AcquisitionSession(
            AcquisitionRequest(sample, fast_scope, plan, specimen, microscope=opener)
        ) as session,
        pytest.raises(
            CoreLostError, match=r"the devices do not come back: .*in use by another process"
        ),
    ):
        session.take(range(3))
    assert list(fields_on_disk(sample.raw_path())) == [0]
    assert CoreLostError.exit_code == 28


def test_crashes_hangs_and_a_lost_core_cost_a_restart_and_a_field_that_kills_is_missing(
    sample: Sample,
    fast_scope: Scope,
    specimen: SpecimenPlan,
    expected: dict[int, NDArray[np.uint16]],
    tmp_path: Path,
) -> None:
    plan = AcquisitionPlan.from_scope(fast_scope, "A")
    faults = (
        Fault("driver crash", 1, attempts=2),
        Fault("core lost", 2),
        Fault("driver hangs", 3),
    )
    opener = FaultyOpener(plan, faults, tmp_path / "strikes", bleaching=False)
    request = AcquisitionRequest(sample, fast_scope, plan, specimen, microscope=opener)
    with AcquisitionWorker(request) as worker:
        worker.request_fields(4)
        events = list(worker.events())
        worker.request_fields(5)
        events += list(worker.events())
    reason = "a device driver crashed (SIGSEGV) while it was taken, 2 times."
    fields = [event for event in events if isinstance(event, FieldTaken | FieldMissing)]
    assert fields == [
        FieldTaken(0),
        FieldMissing(1, reason),
        FieldTaken(2),
        FieldTaken(3),
        FieldTaken(4),
    ]
    assert read_missing(sample.raw_path()) == {1: reason}
    words = " ".join(event.text for event in events if isinstance(event, Progress))
    assert (
        "a device driver crashed (SIGSEGV) at field 1: started again; it is recorded missing"
        in words
    )
    restarts = [
        (event["field"], event["reason"])
        for event in events_of(sample)
        if event["event"] == "restarted"
    ]
    assert [field for field, _ in restarts] == [1, 1, 2, 3]
    assert "the core was lost: the devices do not come back" in restarts[2][1]
    assert "a call hangs in a driver" in restarts[3][1]
    assert counts_of(sample)["field_missing"] == 1
    for index, images in pixels_of(sample).items():
        if index < 4:
            np.testing.assert_array_equal(images, expected[index])


@pytest.mark.skipif(sys.platform == "win32", reason="SIGSTOP is POSIX")
def test_a_child_that_falls_silent_is_ended_and_started_again(
    sample: Sample, fast_scope: Scope, specimen: SpecimenPlan
) -> None:
    plan = AcquisitionPlan.from_scope(fast_scope, "A")
    with AcquisitionWorker(AcquisitionRequest(sample, fast_scope, plan, specimen)) as worker:
        worker.request_fields(1)
        list(worker.events())
        worker.stall_s = 1.0
        stopped = worker.pid
        os.kill(stopped, signal.SIGSTOP)
        worker.request_fields(2)
        events = worker.events()
        told = [next(events)]
        worker.stall_s = 60.0
        told += [event for event in events if isinstance(event, FieldTaken)]
        assert worker.pid != stopped
    assert told == [Progress("no sign of life for 1 s: started again"), FieldTaken(1)]
    (restart,) = [event for event in events_of(sample) if event["event"] == "restarted"]
    assert restart["reason"] == "no sign of life for 1 s"
    assert restart["field"] is None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 80 MiB of its own: 64 are the room that a run keeps free."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=80m", "none", str(folder)]
    if (
        shutil.which("mount") is None
        or subprocess.run(words, capture_output=True, check=False).returncode
    ):
        pytest.skip(
            "no small file system can be mounted here; a full disk is then only shown by an "
            "injected ENOSPC"
        )
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_ends_the_run_and_the_same_command_goes_on(
    small_disk: Path,
    small_scope: Scope,
    small_plan: AcquisitionPlan,
    specimen: SpecimenPlan,
    tmp_path: Path,
    recorder: Any,
) -> None:
    ballast = small_disk / "ballast"

    def fill(index: int) -> None:
        if index == 1:
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as handle:
                while True:
                    handle.write(bytes(2**16))

    recorder.on_taken = fill
    sample, sound = Sample.open(small_disk, "S1"), Sample.open(tmp_path, "sound")
    with (
        AcquisitionSession(
            AcquisitionRequest(sample, small_scope, small_plan, specimen), recorder
        ) as session,
        pytest.raises(DiskFullError, match=r"no space left on the disk|GB are free") as caught,
    ):
        session.take(range(6))
    assert caught.value.exit_code == 13
    whole = list(fields_on_disk(sample.raw_path()))
    assert whole == list(range(len(whole)))
    assert 2 <= len(whole) < 6
    assert not [path.name for path in sample.raw_path().iterdir() if path.name.startswith(".")]
    ballast.unlink()
    for which in (sample, sound):
        with AcquisitionSession(
            AcquisitionRequest(which, small_scope, small_plan, specimen)
        ) as session:
            session.take(range(6))
    first, second = pixels_of(sample), pixels_of(sound)
    assert list(first) == list(second) == list(range(6))
    for index, images in first.items():
        np.testing.assert_array_equal(images, second[index])


def test_a_shutter_found_open_is_closed_told_and_noted(
    sample: Sample, make_scope: Callable[..., Scope], specimen: SpecimenPlan, recorder: Any
) -> None:
    scope = make_scope(
        ("LED Shutter,Utilities,State Device Shutter", "LED Shutter,DemoCamera,DShutter"),
        ("Property,LED Shutter,State Device,LED", "Property,LED Shutter,State,1"),
    )
    plan = AcquisitionPlan.from_scope(scope, "A")
    with AcquisitionSession(AcquisitionRequest(sample, scope, plan, specimen), recorder) as session:
        assert isinstance(session.microscope, VirtualScope)
        assert not session.microscope.link.shutter.is_open()
    (event,) = [event for event in events_of(sample) if event["event"] == "shutter_found_open"]
    assert any(
        f"the slide may have been lit since {event['last_field']}" in text
        for text in recorder.messages
    )


def test_planned_is_taken_plus_missing_or_the_fields_are_named(tmp_path: Path) -> None:
    for index in (0, 1, 3):
        field_path(tmp_path, index).touch()
    write_missing(tmp_path, {2: "dark", 9: "of a larger run"})
    check_all_fields_accounted(tmp_path, range(4))
    with pytest.raises(
        AcquisitionError, match=r"fields 4, 5 have neither a file nor an entry in missing\.json"
    ):
        check_all_fields_accounted(tmp_path, range(6))
    field_path(tmp_path, 2).touch()
    with pytest.raises(AcquisitionError, match=r"fields 2 have a file and an entry"):
        check_all_fields_accounted(tmp_path, range(4))


def test_a_field_that_was_written_just_before_a_kill_is_missing_no_more(
    sample: Sample, small_scope: Scope, small_plan: AcquisitionPlan, specimen: SpecimenPlan
) -> None:
    with AcquisitionSession(
        AcquisitionRequest(sample, small_scope, small_plan, specimen)
    ) as session:
        session.take(range(2))
    write_missing(sample.raw_path(), {1: "its file came, the kill came before this was put right"})
    with AcquisitionSession(
        AcquisitionRequest(sample, small_scope, small_plan, specimen)
    ) as session:
        session.take(range(3))
    assert read_missing(sample.raw_path()) == {}
    check_all_fields_accounted(sample.raw_path(), range(3))
    assert list(fields_on_disk(sample.raw_path())) == [0, 1, 2]
