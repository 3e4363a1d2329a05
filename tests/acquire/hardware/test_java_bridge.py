"""The bridge back end against a server of its wire protocol on the real core.

The same answers, typed errors.
"""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pycromanager
import pytest
import zmq

from wbcpipe.acquire.hardware.camera import CoreCamera
from wbcpipe.acquire.hardware.core_link import CoreLink
from wbcpipe.acquire.hardware.java_bridge import java_message
from wbcpipe.acquire.hardware.stages import CoreFocusDrive, CoreXYStage
from wbcpipe.errors import DeviceCrashError, DeviceTimeoutError, HardwareError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.tests.acquire.conftest import Bridged, BridgeMaker

# pyjavaz leaves its socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:Unclosed socket:ResourceWarning")

posix = pytest.mark.skipif(sys.platform == "win32", reason="stopping a process is POSIX")
QUICK = tuple(
    (f"{name} = {value}", f"{name} = 0.8")
    for name, value in (
        ("move_timeout_s", "30.0"),
        ("switch_timeout_s", "5.0"),
        ("camera_timeout_s", "10.0"),
    )
)
WAVES = ("Camera,FastImage,1", "Camera,FastImage,0")


@contextlib.contextmanager
def linked(scope: Scope) -> Iterator[CoreLink]:
    link = CoreLink(scope)
    try:
        yield link
    finally:
        link.close()


def camera_of(link: CoreLink, scope: Scope) -> CoreCamera:
    """The camera alone: it needs light, stage and focus for no test here."""
    camera = CoreCamera(scope, link, *(cast("Any", None),) * 3)
    camera.frame_px = (256, 256)
    return camera


def focus_window(camera: CoreCamera) -> tuple[Any, ...]:
    with camera.focus_region(64) as frame_px:
        return frame_px, camera.region_px


def facts(link: CoreLink, scope: Scope) -> dict[str, Any]:
    camera = camera_of(link, scope)
    link.call("set_xy_position", 10.5, -20.0)
    link.call("set_position", 3.25)
    link.wait_for(("XY", "Z"), 5.0, "moving")
    return {
        "devices": link.devices(),
        "presets": link.presets(),
        "properties": link.properties("Camera"),
        "allowed": link.allowed_values("LED", "Label"),
        "limits": link.limits("Camera", "Gain"),
        "no limits": link.limits("LED", "Label"),
        "has": (link.has_property("LED", "Label"), link.has_property("LED", "Colour")),
        "value": link.get_property("LED", "Label"),
        "xy": CoreXYStage(scope, link).xy_um(),
        "z": CoreFocusDrive(scope, link).z_um(),
        "exposure": [camera.send_exposure(value) for value in (5, 5.5, 20.0)],
        "window": focus_window(camera),
        "region": (camera.region_px, camera.frame_px),
        "shutter": link.shutter.is_open(),
    }


def kinds(value: Any) -> Any:
    """The types of a nested value."""
    if isinstance(value, dict):
        return {key: kinds(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value), [kinds(item) for item in value]
    return type(value)


def errors_of(link: CoreLink) -> list[str]:
    texts = []
    for device, name, value in (
        ("LED", "Label", "x"),
        ("Nobody", "Label", "x"),
        ("Camera", "Gain", "99999"),
    ):
        with pytest.raises(HardwareError) as caught:
            link.set_property(device, name, value)
        texts.append(str(caught.value))
    return texts


def test_both_back_ends_answer_alike_and_in_plain_python(bridged: Bridged) -> None:
    with linked(bridged.scope) as link:
        over_bridge, errors = facts(link, bridged.scope), errors_of(link)
    with linked(bridged.headless) as link:
        here, here_errors = facts(link, bridged.headless), errors_of(link)
    assert over_bridge == here
    assert kinds(over_bridge) == kinds(here)
    assert errors == here_errors
    assert errors[0].startswith(
        "set_property('LED', 'Label', 'x') failed: Cannot set property \"Label\" to \"x\". It t"
    )
    assert all("\n" not in text and ".java" not in text for text in errors)


def test_closing_leaves_the_devices_as_they_are_and_the_link_can_be_made_again(
    bridged: Bridged,
) -> None:
    with linked(bridged.scope) as link:
        link.call("set_xy_position", 123.0, 45.0)
        link.wait_for(("XY",), 5.0, "moving")
        link.shutter.set_open(is_open=True)
        with pytest.raises(HardwareError, match="this process drives a microscope already"):
            CoreLink(bridged.scope)
    with pytest.raises(HardwareError, match="the microscope is closed"):
        link.devices()
    link.close()
    with linked(bridged.scope) as link:
        assert CoreXYStage(bridged.scope, link).xy_um() == (123.0, 45.0)
        assert not link.shutter.is_open()
        assert "Camera" in link.devices()


@pytest.mark.parametrize(("bits", "dtype"), [(16, np.uint16), (8, np.uint8)])
def test_bright_pixels_come_back_unsigned(make_bridge: BridgeMaker, bits: int, dtype: type) -> None:
    changes = (
        (f"{key}16{end}", f"{key}{bits}{end}")
        for key, end in (("PixelType,", "bit"), ("BitDepth,", "\n"))
    )
    bridge = make_bridge(WAVES, *changes)
    with linked(bridge.scope) as link:
        camera = camera_of(link, bridge.scope)
        camera.send_exposure(100.0)
        camera.snap(5.0)
        frame = camera.image()
    assert frame.dtype == dtype
    # Java's short and byte are signed: half of the waves lies above their highest value.
    highest = np.iinfo(dtype).max
    assert frame.max() > 0.85 * highest
    assert frame.min() < 0.15 * highest
    # A wave has no steps; a value that went over the edge, or bytes in another order, would make
    # them.
    assert np.abs(np.diff(frame.astype(int), axis=1)).max() < 0.05 * highest


def test_lists_become_javas_vectors_for_hardware_sequences(make_bridge: BridgeMaker) -> None:
    devices = "Device,XY,DemoCamera,DXYStage\n"
    bridge = make_bridge(WAVES, (devices, devices + "Device,Autofocus,DemoCamera,DAutoFocus\n"))
    with linked(bridge.scope) as link:
        link.set_property("Camera", "UseExposureSequences", "Yes")
        call = link.call
        assert call("is_property_sequenceable", "LED", "State") is True
        call("load_property_sequence", "LED", "State", ["1", "3", "4"])
        call("start_property_sequence", "LED", "State")
        call("stop_property_sequence", "LED", "State")
        assert call("is_exposure_sequenceable", "Camera") is True
        call("load_exposure_sequence", "Camera", [1.0, 2, np.float64(3.0)])
        call("clear_circular_buffer")
        call("start_sequence_acquisition", 3, 0.0, True)
        deadline = time.monotonic() + 60
        while call("is_sequence_running") or call("get_remaining_image_count") < 3:
            assert time.monotonic() < deadline, "the sequence of 3 frames does not end"
        assert not call("is_buffer_overflowed")
        first = call("pop_next_image")
        tagged = call("pop_next_tagged_image")
        assert first.shape == tagged.pix.shape == (256 * 256,)
        assert (first.dtype, tagged.pix.dtype) == (np.uint16, np.uint16)
        expected = {"Width": 256, "Height": 256, "PixelType": "GRAY16", "Core-Camera": "Camera"}
        assert expected.items() <= tagged.tags.items()
        assert call("get_remaining_image_count") == 1
        call("stop_sequence_acquisition")
        with pytest.raises(HardwareError, match=r'failed: No device with label "Nobody"\.$'):
            call("load_property_sequence", "Nobody", "State", ["1"])
        call("set_auto_focus_device", "Autofocus")
        call("full_focus")
        assert isinstance(call("get_last_focus_score"), int | float)
        call("enable_continuous_focus", True)
        assert call("is_continuous_focus_enabled") in (True, False)
        assert call("get_roi") == [0, 0, 256, 256]


def test_closing_restores_the_users_auto_shutter(make_bridge: BridgeMaker) -> None:
    bridge = make_bridge(("Core,AutoShutter,0", "Core,AutoShutter,1"))
    for _ in range(2):  # the second finds what the first left
        with linked(bridge.scope) as link:
            assert bridge.order("auto shutter") == "off"
            assert link.get_property("Core", "AutoShutter") == "0"
        assert bridge.order("auto shutter") == "on"


def test_live_view_is_refused(bridged: Bridged) -> None:
    with linked(bridged.scope) as link:
        link.call("start_continuous_sequence_acquisition", 0.0)
    with pytest.raises(
        HardwareError, match=r"is in live view or in an acquisition of its own; stop that first\.$"
    ):
        CoreLink(bridged.scope)
    socket.create_connection(("127.0.0.1", bridged.port), timeout=1.0).close()


def test_a_camera_that_hangs_does_not_keep_the_shutter_open(bridged: Bridged) -> None:
    with linked(bridged.scope) as link:
        link.shutter.set_open(is_open=True)
        camera = camera_of(link, bridged.scope)
        camera.send_exposure(1500.0)
        with pytest.raises(
            DeviceTimeoutError, match=r"^the camera's exposure did not end within 0\.2 s\.$"
        ):
            camera.snap(0.2)
        link.shutter.set_open(is_open=False)
        with pytest.raises(DeviceTimeoutError, match="an earlier call still hangs in the driver"):
            camera.snap(0.2)
        camera.send_exposure(1.0)
        camera.snap(3.0)  # the exposure has ended by itself
        assert camera.image().dtype == np.uint16


def test_without_a_second_socket_all_goes_over_the_first(
    bridged: Bridged, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Micro-Manager serves the second on the next port, which may be another program's.
    real = pycromanager.Core

    def core(*, new_socket: bool, **options: Any) -> Any:
        if new_socket:
            raise RuntimeError("Couldn't create Core.")
        return real(new_socket=False, **options)

    monkeypatch.setattr(pycromanager, "Core", core)
    with linked(bridged.scope) as link:
        camera = camera_of(link, bridged.scope)
        camera.send_exposure(1200.0)
        with pytest.raises(DeviceTimeoutError, match="exposure did not end"):
            camera.snap(0.05)
        with pytest.raises(
            DeviceTimeoutError,
            match="set_shutter_open: an earlier call still hangs in Micro-Manager",
        ):
            link.shutter.set_open(is_open=False)
        camera.snap(3.0)
        assert camera.image().dtype == np.uint16


def test_a_pyjavaz_that_could_not_be_left_is_refused_by_its_version(
    bridged: Bridged, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = SimpleNamespace(_closed=False, _java_objects=set(), _shutdown_event=None)
    other = SimpleNamespace(_bridge=bridge)
    monkeypatch.setattr(pycromanager, "Core", lambda **_: other)
    words = rf"pyjavaz {re.escape(version('pyjavaz'))} has no _cached.*, _ports.*; install another"
    with pytest.raises(HardwareError, match=words), linked(bridged.scope):
        pass


def freeze(bridge: Bridged) -> None:
    """Stop the server; where many things run, it may answer once more before it stands still."""
    bridge.process.send_signal(signal.SIGSTOP)
    state = Path(f"/proc/{bridge.process.pid}/stat")
    deadline_s = time.monotonic() + 60
    while state.exists() and state.read_text().rsplit(")", 1)[1].split()[0] != "T":
        assert time.monotonic() < deadline_s, "the server does not stop"
        time.sleep(0.01)


@posix
def test_a_micro_manager_that_hangs_meets_the_deadline_and_is_used_again(
    make_bridge: BridgeMaker,
) -> None:
    bridge = make_bridge(*QUICK)
    with linked(bridge.scope) as link:
        link.call("set_position", 2.0)
        freeze(bridge)  # until the end of all calls: none waits for it
        try:
            with pytest.raises(
                DeviceTimeoutError,
                match=r"^get_position: Micro-Manager did not answer within 0\.8 s\.$",
            ):
                link.call("get_position")
            with pytest.raises(
                DeviceTimeoutError, match=r"^get_position: an earlier call still hangs in Micro"
            ):
                link.call("get_position")
        finally:
            bridge.process.send_signal(signal.SIGCONT)
        assert link.call("get_position") == 2.0


@posix
def test_closing_and_opening_do_not_wait_for_a_micro_manager_that_hangs(
    make_bridge: BridgeMaker,
) -> None:
    bridge = make_bridge(*QUICK)
    link = CoreLink(bridge.scope)
    freeze(bridge)
    try:
        with pytest.raises(DeviceTimeoutError):
            link.call("get_position")
        link.close()
        with pytest.raises(
            HardwareError, match=r"does not answer within 5 s: it hangs, or is another"
        ):
            CoreLink(bridge.scope)
    finally:
        bridge.process.send_signal(signal.SIGCONT)
    with linked(bridge.scope) as link:
        assert link.devices()


_CARELESS = """
import os, signal, sys
from wbcpipe.acquire.config.scope import load_scope
from wbcpipe.acquire.hardware.core_link import CoreLink

scope = load_scope(sys.argv[1])
micromanager = scope.micromanager.model_copy(update={"backend": "bridge", "port": int(sys.argv[2])})
link = CoreLink(scope.model_copy(update={"micromanager": micromanager}))
os.kill(int(sys.argv[3]), signal.SIGSTOP)
"""


@posix
def test_a_process_ends_although_micro_manager_hangs(make_bridge: BridgeMaker) -> None:
    bridge = make_bridge(*QUICK)
    arguments = [str(bridge.headless.path), str(bridge.port), str(bridge.process.pid)]
    try:
        subprocess.run([sys.executable, "-c", _CARELESS, *arguments], check=True, timeout=120)
    finally:
        bridge.process.send_signal(signal.SIGCONT)


def test_a_micro_manager_that_dies_in_a_call_ends_it_with_a_typed_error(bridged: Bridged) -> None:
    link = CoreLink(bridged.scope)
    camera = camera_of(link, bridged.scope)
    camera.send_exposure(10_000.0)  # the longest of the demo camera
    threading.Timer(0.3, bridged.kill).start()
    with pytest.raises(DeviceCrashError, match=rf"^Micro-Manager on port {bridged.port} is gone"):
        camera.snap(900.0)
    with pytest.raises(DeviceCrashError):
        link.shutter.set_open(is_open=False)
    link.close()
    with pytest.raises(
        HardwareError,
        match=rf"no Micro-Manager answers on port {bridged.port}: nothing listens there",
    ):
        CoreLink(bridged.scope)
    # Started again on the same port, it is reached again, from the same process.
    bridged.restart()
    with linked(bridged.scope) as link:
        assert link.devices()


@pytest.mark.parametrize(
    ("answers", "why"), [(False, "does not answer within 5 s"), (True, "is not Micro-Manager")]
)
def test_another_program_on_the_port_is_told_apart(
    make_scope: Callable[..., Scope], answers: bool, why: str
) -> None:
    with zmq.Context() as context, context.socket(zmq.REP) as other:
        port = other.bind_to_random_port("tcp://127.0.0.1")
        scope = make_scope(('backend = "headless"', f'backend = "bridge"\nport = {port}'), *QUICK)

        def answer() -> None:
            if other.poll(5000):
                other.recv()
                other.send(b"hello")

        thread = threading.Thread(target=answer)
        if answers:
            thread.start()
        with pytest.raises(
            HardwareError,
            match=rf"no Micro-Manager answers on port {port}: what listens there {why}",
        ):
            CoreLink(scope)
        if answers:
            thread.join()


def test_a_java_stack_is_cut_off_its_message() -> None:
    text = (
        'java.lang.Exception: Line 3: Device,X\nError in device "X": no power\n\n'
        "mmcorej.MMCoreJJNI.CMMCore_loadSystemConfiguration(Native Method)\n"
        "java.base/java.lang.reflect.Method.invoke(Method.java:498)\n"
    )
    assert java_message(text) == 'Line 3: Device,X\nError in device "X": no power\n'
    thrown = (
        "java.lang.RuntimeException: Unknown Command\n\tat "
        "org.micromanager.ZMQServer.run(ZMQServer.java:7)\n"
    )
    assert java_message(thrown) == "Unknown Command"
    assert (
        java_message("java.lang.NullPointerException\n\tat A.b(Unknown Source)\n")
        == "java.lang.NullPointerException"
    )
