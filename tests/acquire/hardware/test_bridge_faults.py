"""What breaks on the far side of the bridge.

Devices that fail or hang there, and a Micro-Manager that is gone.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from wbcpipe.acquire.calibration.process import CalibrationRequest, run_calibration
from wbcpipe.acquire.capture.session import AcquisitionSession
from wbcpipe.acquire.hardware import core_link
from wbcpipe.acquire.hardware.core_link import CoreLink
from wbcpipe.acquire.hardware.safe_dark import close_shutter_in_subprocess
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.acquire.request import AcquisitionRequest
from wbcpipe.acquire.simulation.faults import Fault, FaultyOpener
from wbcpipe.acquire.supervise.messages import FieldMissing, FieldTaken, Progress
from wbcpipe.acquire.supervise.worker import AcquisitionWorker
from wbcpipe.errors import CoreLostError, DeviceCrashError, DeviceTimeoutError
from wbcpipe.samples.field_status import read_missing
from wbcpipe.samples.fields import fields_on_disk, read_field
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
    from wbcpipe.tests.acquire.conftest import Bridged, BridgeMaker

# pyjavaz leaves its socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:Unclosed socket:ResourceWarning")

ROOT = Path(__file__).parents[3]
QUICK = (
    ("move_timeout_s = 30.0", "move_timeout_s = 1.0"),
    ("camera_timeout_s = 10.0", "camera_timeout_s = 1.0"),
    ("switch_timeout_s = 5.0", "switch_timeout_s = 1.0"),
)
AUTOFOCUS = (
    ("Device,LED,", "Device,Autofocus,DemoCamera,DAutoFocus\nDevice,LED,"),
    (
        '"fixed"',
        '"hardware"\nhardware_device = "Autofocus"\nhardware_timeout_s = 0.3\nhardware_settle_s = '
        "0.0",
    ),
    ("window_px = 384", "window_px = 256"),
    ("range_um = 30.0", "range_um = 6.0"),
)


def take(
    sample: Sample,
    scope: Scope,
    specimen: SpecimenPlan,
    n_fields: int,
    opener: FaultyOpener | None = None,
) -> None:
    plan = AcquisitionPlan.from_scope(scope, "A")
    with AcquisitionSession(
        AcquisitionRequest(sample, scope, plan, specimen, microscope=opener)
    ) as session:
        session.take(range(n_fields))


def events_of(sample: Sample) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in (sample.path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def counts_of(sample: Sample) -> Counter[str]:
    return Counter(event["event"] for event in events_of(sample))


def assert_same_pixels(one: Sample, other: Sample, n_fields: int) -> None:
    paths, other_paths = (fields_on_disk(sample.raw_path()) for sample in (one, other))
    assert list(paths) == list(other_paths) == list(range(n_fields))
    for index, path in paths.items():
        np.testing.assert_array_equal(read_field(path)[0], read_field(other_paths[index])[0])


@pytest.mark.parametrize(
    ("order", "sequencing", "words"),
    [
        ("hang snapImage 1 1.5", "off", "the camera's exposure did not end within 1.005 s"),
        (
            "fail getImage 1 Camera image buffer read failed.",
            "off",
            "Camera image buffer read failed",
        ),
        ("short 1", "on", "the camera gave 2 of the 3 frames of a sequence"),
        ("busy XY", "off", "'XY' is still busy after 1 s"),
    ],
    ids=["camera time-out", "dropped frame", "dropped in a sequence", "stage busy"],
)
def test_a_fault_in_micro_manager_is_retried_and_leaves_no_trace_in_the_files(
    tmp_path: Path,
    make_bridge: BridgeMaker,
    specimen: SpecimenPlan,
    order: str,
    sequencing: str,
    words: str,
) -> None:
    bridge = make_bridge(*QUICK, ('sequencing = "off"', f'sequencing = "{sequencing}"'))
    faulty, sound = Sample.open(tmp_path, "faulty"), Sample.open(tmp_path, "sound")
    assert bridge.order(order) == "done"
    take(faulty, bridge.scope, specimen, 2)
    reasons = [event["reason"] for event in events_of(faulty) if event["event"] == "retry"]
    # With deadlines of a second a busy machine brings time-outs of its own, but no other fault.
    late = ("did not end within", "did not answer within", "still busy after")
    ordered = [reason for reason in reasons if words in reason]
    assert len(ordered) == 1 or (ordered and any(text in words for text in late)), reasons
    assert all(any(text in reason for text in late) for reason in reasons if words not in reason), (
        reasons
    )
    assert bridge.order("shutter") == "closed"
    take(sound, bridge.headless, specimen, 2)
    assert_same_pixels(faulty, sound, 2)


def test_a_field_that_always_fails_is_missing_and_comes_with_the_next_run(
    tmp_path: Path, make_bridge: BridgeMaker, specimen: SpecimenPlan
) -> None:
    bridge = make_bridge(*QUICK)
    sample = Sample.open(tmp_path, "S1")
    bridge.order("fail getImage 3 Camera image buffer read failed.")
    take(sample, bridge.scope, specimen, 2)
    assert list(fields_on_disk(sample.raw_path())) == [1]
    assert read_missing(sample.raw_path()) == {
        0: "get_image() failed: Camera image buffer read failed."
    }
    take(sample, bridge.scope, specimen, 2)
    assert list(fields_on_disk(sample.raw_path())) == [0, 1]
    assert read_missing(sample.raw_path()) == {}


def test_a_focusing_device_that_hangs_for_ever_leaves_the_camera_to_focus_by_images(
    tmp_path: Path, make_bridge: BridgeMaker, specimen: SpecimenPlan
) -> None:
    bridge = make_bridge(*AUTOFOCUS)
    sample = Sample.open(tmp_path, "S1")
    bridge.order("hang fullFocus 99 600")
    take(sample, bridge.scope, specimen, 1)
    (focused,) = [event for event in events_of(sample) if event["event"] == "focused"]
    assert (focused["by_device"], focused["late"]) == (0, 0)
    assert focused["frames"] > 10
    assert any("did not end within 0.3 s" in str(event) for event in events_of(sample))
    assert list(fields_on_disk(sample.raw_path())) == [0]
    assert bridge.order("shutter") == "closed"


def test_a_stage_that_hangs_does_not_keep_the_shutter_open(make_bridge: BridgeMaker) -> None:
    bridge = make_bridge(*QUICK)
    link = CoreLink(bridge.scope)
    try:
        link.shutter.set_open(is_open=True)
        bridge.order("hang setXYPosition 1 600")
        with pytest.raises(
            DeviceTimeoutError, match=r"set_xy_position: Micro-Manager did not answer within 1 s"
        ):
            link.call("set_xy_position", 1.0, 1.0)
        assert bridge.order("shutter") == "open"
        link.shutter.set_open(is_open=False)
        assert bridge.order("shutter") == "closed"
        with pytest.raises(
            DeviceTimeoutError, match="an earlier call still hangs in Micro-Manager"
        ):
            link.call("get_x_position")
    finally:
        bridge.order("heal")
        link.close()


def test_what_a_dead_process_left_running_is_ended_in_the_dark_and_the_stage_parked(
    bridged: Bridged, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if its process had died: a link that holds no lock.
    monkeypatch.setattr(core_link, "microscope_lock", lambda _scope: contextlib.nullcontext())
    link = CoreLink(bridged.scope)
    try:
        link.shutter.set_open(is_open=True)
        link.call("start_continuous_sequence_acquisition", 0.0)
        stage = bridged.scope.stage.model_copy(update={"park_um": (30.0, -20.0)})
        scope = bridged.scope.model_copy(update={"stage": stage})
        assert close_shutter_in_subprocess(scope, park=True) == ""
        assert bridged.order("shutter") == "closed"
        assert not link.call("is_sequence_running")
        assert (link.call("get_x_position"), link.call("get_y_position")) == pytest.approx(
            (30.0, -20.0), abs=0.1
        )
    finally:
        link.close()


def test_a_call_that_hangs_for_ever_costs_a_restart_and_no_field(
    tmp_path: Path, make_bridge: BridgeMaker, specimen: SpecimenPlan
) -> None:
    bridge = make_bridge(*QUICK)
    sample, sound = Sample.open(tmp_path, "hung"), Sample.open(tmp_path, "sound")
    bridge.order("hang snapImage 1 600")
    plan = AcquisitionPlan.from_scope(bridge.scope, "A")
    with AcquisitionWorker(AcquisitionRequest(sample, bridge.scope, plan, specimen)) as worker:
        worker.request_fields(2)
        events = list(worker.events())
    assert [event for event in events if isinstance(event, FieldTaken | FieldMissing)] == [
        FieldTaken(0),
        FieldTaken(1),
    ]
    (restart,) = [
        event.text
        for event in events
        if isinstance(event, Progress) and "started again" in event.text
    ]
    assert "a call hangs in a driver" in restart
    take(sound, bridge.headless, specimen, 2)
    assert_same_pixels(sample, sound, 2)


def test_a_calibration_that_is_killed_leaves_the_slide_in_the_dark(
    make_bridge: BridgeMaker, specimen: SpecimenPlan
) -> None:
    bridge = make_bridge()

    def kill_while_lit(task: str, done: int, _total: int) -> None:
        if (task, done) == ("known moves, places", 1):
            bridge.order("hang snapImage 1 600")
            deadline = time.monotonic() + 120
            while bridge.order("shutter") == "closed":
                assert time.monotonic() < deadline, "the shutter does not open"
            (child,) = (
                each
                for each in multiprocessing.active_children()
                if each.name == "wbcpipe-calibrate"
            )
            child.kill()

    with pytest.raises(
        DeviceCrashError,
        match=r"process \S+ died \(SIGKILL\): .* The slide is in the dark\. Run `wbcpipe doc",
    ):
        run_calibration(
            CalibrationRequest(bridge.scope, "A", ("geometry",), specimen), kill_while_lit
        )
    assert bridge.order("shutter") == "closed"


def test_a_driver_that_crashes_micro_manager_is_told_and_the_run_goes_on_when_its_user_has_it_back(
    tmp_path: Path, make_bridge: BridgeMaker, specimen: SpecimenPlan
) -> None:
    bridge = make_bridge()
    plan = AcquisitionPlan.from_scope(bridge.scope, "A")
    sample, sound = Sample.open(tmp_path, "crashed"), Sample.open(tmp_path, "sound")
    crash = FaultyOpener(plan, (Fault("driver crash", 1),), tmp_path / "strikes", bleaching=False)
    told, fields = [], []
    with AcquisitionWorker(
        AcquisitionRequest(sample, bridge.scope, plan, specimen, microscope=crash)
    ) as worker:
        worker.request_fields(3)
        for event in worker.events():
            if isinstance(event, FieldTaken | FieldMissing):
                fields.append(event)
            if isinstance(event, Progress):
                told.append(event.text)
                if "start Micro-Manager again" in event.text:
                    assert bridge.process.wait(10) == -signal.SIGSEGV
                    bridge.restart()
    assert fields == [FieldTaken(index) for index in range(3)]
    (request,) = [text for text in told if "start Micro-Manager again" in text]
    assert request == (
        f"Micro-Manager on port {bridge.port} does not answer (nothing listens there). Check that "
        f"the lamp is dark, then start Micro-Manager again with its configuration and its server: "
        "the run goes on by itself when it "
        "answers, and waits 10 min for that. Field 1 was being taken; it is tried again"
    )
    assert told[told.index(request) + 1] == "Micro-Manager answers again: going on"
    counts = counts_of(sample)
    assert (
        counts["restarted"],
        counts["waiting_for_micromanager"],
        counts["micromanager_is_back"],
    ) == (1, 1, 1)
    assert counts["field_missing"] == 0
    assert bridge.order("shutter") == "closed"
    opener = FaultyOpener(plan, (), tmp_path / "none", bleaching=False)
    take(sound, bridge.headless, specimen, 3, opener)
    assert_same_pixels(sample, sound, 3)


def test_a_micro_manager_that_stays_away_ends_the_run_with_what_to_do(
    tmp_path: Path, make_bridge: BridgeMaker, specimen: SpecimenPlan
) -> None:
    bridge = make_bridge(("retry_wait_s = 0.0", "retry_wait_s = 0.0\nreconnect_timeout_s = 0.6"))
    sample = Sample.open(tmp_path, "S1")
    plan = AcquisitionPlan.from_scope(bridge.scope, "A")
    with AcquisitionWorker(AcquisitionRequest(sample, bridge.scope, plan, specimen)) as worker:
        worker.request_fields(1)
        list(worker.events())
        bridge.kill()
        worker.request_fields(3)
        with pytest.raises(CoreLostError) as caught:
            list(worker.events())
    assert str(caught.value) == (
        f"Micro-Manager on port {bridge.port} is gone: it was closed, or a device driver crashed "
        f"it. The fields taken are kept; start it again, make sure the shutter is closed, and run "
        "the same command again. It is not certain "
        f"that the slide is in the dark (no Micro-Manager answers on port {bridge.port}: nothing "
        f"listens there. Start it and tick Tools > Options > 'Run server on port', or use backend "
        "'headless'): check the lamp."
    )
    assert caught.value.exit_code == 28
    assert list(fields_on_disk(sample.raw_path())) == [0]
    bridge.restart()
    take(sample, bridge.scope, specimen, 3)
    sound = Sample.open(tmp_path, "sound")
    take(sound, bridge.headless, specimen, 3)
    assert_same_pixels(sample, sound, 3)


@pytest.fixture
def heard_interrupts() -> Iterator[None]:
    """Let child processes hear SIGINT also where the tests run in the background of a shell, which
    ignores it.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(sys.platform == "win32", reason="groups of processes and SIGINT are POSIX")
@pytest.mark.usefixtures("heard_interrupts")
def test_the_shutter_is_closed_after_ctrl_c_and_found_open_after_a_kill(
    tmp_path: Path, bridged: Bridged
) -> None:
    scope = tmp_path / "over.toml"
    text = (tmp_path / "small.toml").read_text(encoding="utf-8")
    scope.write_text(
        text.replace('backend = "headless"', f'backend = "bridge"\nport = {bridged.port}'),
        encoding="utf-8",
    )
    words = [
        sys.executable,
        "-m",
        "wbcpipe",
        "acquire",
        "--slide",
        "S1",
        "--scope",
        str(scope),
        "--fields",
        "25",
    ]
    words += ["--data", str(tmp_path)]
    raw = Sample.open(tmp_path, "S1").raw_path()

    def run(until: int, number: signal.Signals) -> tuple[int, str]:
        """Send a signal to all processes of a run once so many fields are there.

        Gives its exit code and messages.
        """
        with subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            cwd=ROOT.parent,
        ) as process:
            deadline = time.monotonic() + 180
            while not raw.is_dir() or len(fields_on_disk(raw)) < until:
                assert time.monotonic() < deadline, f"{until} fields are not taken"
                assert process.poll() is None
                time.sleep(0.01)
            if number == signal.SIGKILL:
                bridged.order("hang snapImage 1 600")
                while bridged.order("shutter") == "closed":
                    assert time.monotonic() < deadline, "the shutter does not open"
            os.killpg(process.pid, number)
            said = process.communicate(timeout=60)[0]
            return process.returncode, said

    assert run(1, signal.SIGKILL)[0] == -signal.SIGKILL
    assert bridged.order("shutter") == "open"
    bridged.order("heal")
    code, said = run(len(fields_on_disk(raw)) + 1, signal.SIGINT)
    assert "light was found on, and is off now: the slide may have been lit since" in said
    assert code == 130
    assert bridged.order("shutter") == "closed"
    assert len(fields_on_disk(raw)) < 25
