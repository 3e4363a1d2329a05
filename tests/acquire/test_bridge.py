"""The bridge back end against a server of its wire protocol on the real core: the same answers, files and errors."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pytest
import zmq

from wbcpipe.acquire.bridge import java_message
from wbcpipe.acquire.doctor import check_live
from wbcpipe.acquire.frames import fields_on_disk, read_field, read_info
from wbcpipe.acquire.mmcore import CoreLink
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.acquire.session import AcquisitionSession
from wbcpipe.acquire.worker import AcquisitionRequest, AcquisitionWorker, FieldTaken
from wbcpipe.errors import DeviceCrashError, DeviceTimeoutError, HardwareError
from wbcpipe.samples import Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from wbcpipe.acquire.config import Scope
    from wbcpipe.acquire.specimen import SpecimenPlan

# pyjavaz leaves its socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:Unclosed socket:ResourceWarning")

SERVER = Path(__file__).parent / "bridge_server.py"
posix = pytest.mark.skipif(sys.platform == "win32", reason="stopping a process is POSIX")
QUICK = tuple(
    (f"{name} = {value}", f"{name} = 0.5")
    for name, value in (("move_timeout_s", "30.0"), ("switch_timeout_s", "5.0"), ("camera_timeout_s", "10.0"))
)
WAVES = ("Camera,FastImage,1", "Camera,FastImage,0")


@dataclass
class Bridged:
    """A scope over the bridge, the same one headless, and the process at the other end."""

    scope: Scope
    headless: Scope
    process: subprocess.Popen[str]
    port: int

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


class BridgeMaker(Protocol):
    """Starts a server on a scope's .cfg and gives the scope with its port."""

    def __call__(self, *replacements: tuple[str, str]) -> Bridged: ...


def start(config: Path, port: int = 0) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen(
        [sys.executable, str(SERVER), str(config), "--port", str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def finish(process: subprocess.Popen[str]) -> int:
    """Close the server's standard input, as the end of this process would."""
    with process:
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        return process.wait(10)


@pytest.fixture
def make_bridge(make_scope: Callable[..., Scope], tmp_path: Path) -> Iterator[BridgeMaker]:
    started: list[subprocess.Popen[str]] = []

    def make(*replacements: tuple[str, str]) -> Bridged:
        headless = make_scope(*replacements)
        process, port = start(headless.config_path)
        started.append(process)
        micromanager = headless.micromanager.model_copy(update={"backend": "bridge", "port": port})
        return Bridged(headless.model_copy(update={"micromanager": micromanager}), headless, process, port)

    yield make
    for process in started:
        killed = process.poll() is not None
        assert finish(process) == 0 or killed, "the server did not end by itself"


@pytest.fixture
def bridged(make_bridge: BridgeMaker) -> Bridged:
    return make_bridge()


@contextlib.contextmanager
def linked(scope: Scope) -> Iterator[CoreLink]:
    link = CoreLink(scope)
    try:
        yield link
    finally:
        link.close()


def facts(link: CoreLink) -> dict[str, Any]:
    link.start_xy(10.5, -20.0)
    link.start_z(3.25)
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
        "xy": link.xy_um(),
        "z": link.z_um(),
        "exposure": [link.set_exposure(value) for value in (5, 5.5, 20.0)],
        "region": [link.set_region(region) for region in ((8, 16, 64, 32), None)],
        "shutter": link.shutter_is_open(),
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
    for device, name, value in (("LED", "Label", "x"), ("Nobody", "Label", "x"), ("Camera", "Gain", "99999")):
        with pytest.raises(HardwareError) as caught:
            link.set_property(device, name, value)
        texts.append(str(caught.value))
    return texts


def test_both_back_ends_answer_alike_and_in_plain_python(bridged: Bridged) -> None:
    with linked(bridged.scope) as link:
        over_bridge, errors = facts(link), errors_of(link)
    with linked(bridged.headless) as link:
        here, here_errors = facts(link), errors_of(link)
    assert over_bridge == here
    assert kinds(over_bridge) == kinds(here)
    assert errors == here_errors
    assert errors[0].startswith(
        "set_property('LED', 'Label', 'x') failed: Cannot set property \"Label\" to \"x\". It t"
    )
    assert all("\n" not in text and ".java" not in text for text in errors)


def test_closing_leaves_the_devices_as_they_are_and_the_link_can_be_made_again(bridged: Bridged) -> None:
    with linked(bridged.scope) as link:
        link.start_xy(123.0, 45.0)
        link.wait_for(("XY",), 5.0, "moving")
        link.set_shutter(is_open=True)
        with pytest.raises(HardwareError, match="this process drives a microscope already"):
            CoreLink(bridged.scope)
    with pytest.raises(HardwareError, match="the microscope is closed"):
        link.devices()
    link.close()
    with linked(bridged.scope) as link:
        assert link.xy_um() == (123.0, 45.0)
        assert not link.shutter_is_open()
        assert "Camera" in link.devices()


@pytest.mark.parametrize(("bits", "dtype"), [(16, np.uint16), (8, np.uint8)])
def test_bright_pixels_come_back_unsigned(make_bridge: BridgeMaker, bits: int, dtype: type) -> None:
    changes = ((f"{key}16{end}", f"{key}{bits}{end}") for key, end in (("PixelType,", "bit"), ("BitDepth,", "\n")))
    bridge = make_bridge(WAVES, *changes)
    with linked(bridge.scope) as link:
        link.set_exposure(100.0)
        link.snap(5.0)
        frame = link.image((256, 256))
    assert frame.dtype == dtype
    # Java's short and byte are signed: half of the waves lies above their highest value.
    highest = np.iinfo(dtype).max
    assert frame.max() > 0.85 * highest
    assert frame.min() < 0.15 * highest
    # A wave has no steps; a value that went over the edge, or bytes in another order, would make them.
    assert np.abs(np.diff(frame.astype(int), axis=1)).max() < 0.05 * highest


def test_lists_become_javas_vectors_for_hardware_sequences(make_bridge: BridgeMaker) -> None:
    devices = "Device,XY,DemoCamera,DXYStage\n"
    bridge = make_bridge(WAVES, (devices, devices + "Device,Autofocus,DemoCamera,DAutoFocus\n"))
    with linked(bridge.scope) as link:
        link.set_property("Camera", "UseExposureSequences", "Yes")
        core = link._core
        assert core.is_property_sequenceable("LED", "State") is True
        core.load_property_sequence("LED", "State", ["1", "3", "4"])
        core.start_property_sequence("LED", "State")
        core.stop_property_sequence("LED", "State")
        assert core.is_exposure_sequenceable("Camera") is True
        core.load_exposure_sequence("Camera", [1.0, 2, np.float64(3.0)])
        core.clear_circular_buffer()
        core.start_sequence_acquisition(3, 0.0, True)
        deadline = time.monotonic() + 5
        while core.is_sequence_running() or core.get_remaining_image_count() < 3:
            assert time.monotonic() < deadline
        assert not core.is_buffer_overflowed()
        first = core.pop_next_image()
        tagged = core.pop_next_tagged_image()
        assert first.shape == tagged.pix.shape == (256 * 256,)
        assert (first.dtype, tagged.pix.dtype) == (np.uint16, np.uint16)
        expected = {"Width": 256, "Height": 256, "PixelType": "GRAY16", "Core-Camera": "Camera"}
        assert expected.items() <= tagged.tags.items()
        assert core.get_remaining_image_count() == 1
        core.stop_sequence_acquisition()
        with pytest.raises(RuntimeError, match=r'^No device with label "Nobody"$'):
            core.load_property_sequence("Nobody", "State", ["1"])
        core.set_auto_focus_device("Autofocus")
        core.full_focus()
        assert isinstance(core.get_last_focus_score(), int | float)
        core.enable_continuous_focus(True)
        assert core.is_continuous_focus_enabled() in (True, False)
        assert core.get_roi() == [0, 0, 256, 256]


def test_live_view_is_refused(bridged: Bridged) -> None:
    with linked(bridged.scope) as link:
        link._call("start_continuous_sequence_acquisition", 0.0)
    with pytest.raises(HardwareError, match=r"is in live view or in an acquisition of its own; stop that first\.$"):
        CoreLink(bridged.scope)
    assert socket_is_open(bridged.port)


def socket_is_open(port: int) -> bool:
    with socket.socket() as there:
        return there.connect_ex(("127.0.0.1", port)) == 0


def test_a_camera_that_hangs_does_not_keep_the_shutter_open(bridged: Bridged) -> None:
    with linked(bridged.scope) as link:
        link.set_shutter(is_open=True)
        link.set_exposure(1500.0)
        with pytest.raises(DeviceTimeoutError, match=r"^the camera's exposure did not end within 0\.2 s\.$"):
            link.snap(0.2)
        began_s = time.monotonic()
        link.set_shutter(is_open=False)
        assert time.monotonic() - began_s < 0.5
        with pytest.raises(DeviceTimeoutError, match="an earlier call still hangs in the driver"):
            link.snap(0.2)
        link.set_exposure(1.0)
        link.snap(3.0)  # the exposure has ended by itself
        assert link.image((256, 256)).dtype == np.uint16


@posix
def test_a_micro_manager_that_hangs_meets_the_deadline_and_is_used_again(
    make_bridge: BridgeMaker,
) -> None:
    bridge = make_bridge(*QUICK)
    with linked(bridge.scope) as link:
        link.start_z(2.0)
        bridge.process.send_signal(signal.SIGSTOP)
        began_s = time.monotonic()
        try:
            with pytest.raises(
                DeviceTimeoutError, match=r"^get_position: Micro-Manager did not answer within 0\.5 s\.$"
            ):
                link.z_um()
            with pytest.raises(DeviceTimeoutError, match=r"^get_position: an earlier call still hangs in Micro"):
                link.z_um()
            assert time.monotonic() - began_s < 4
        finally:
            bridge.process.send_signal(signal.SIGCONT)
        assert link.z_um() == 2.0


@posix
def test_closing_and_opening_do_not_wait_for_a_micro_manager_that_hangs(make_bridge: BridgeMaker) -> None:
    bridge = make_bridge(*QUICK)
    link = CoreLink(bridge.scope)
    bridge.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(DeviceTimeoutError):
            link.z_um()
        began_s = time.monotonic()
        link.close()
        with pytest.raises(HardwareError, match=r"does not answer within 0\.5 s: it hangs, or is another"):
            CoreLink(bridge.scope)
        assert time.monotonic() - began_s < 5
    finally:
        bridge.process.send_signal(signal.SIGCONT)
    with linked(bridge.scope) as link:
        assert link.devices()


def test_a_micro_manager_that_dies_in_a_call_ends_it_with_a_typed_error(bridged: Bridged) -> None:
    link = CoreLink(bridged.scope)
    link.set_exposure(10_000.0)
    threading.Timer(0.3, bridged.kill).start()
    began_s = time.monotonic()
    with pytest.raises(DeviceCrashError, match=rf"^Micro-Manager on port {bridged.port} is gone"):
        link.snap(20.0)
    with pytest.raises(DeviceCrashError):
        link.set_shutter(is_open=False)
    link.close()
    assert time.monotonic() - began_s < 4
    with pytest.raises(HardwareError, match=rf"no Micro-Manager answers on port {bridged.port}: nothing listens there"):
        CoreLink(bridged.scope)
    # Started again on the same port, it is reached again, from the same process.
    process, _ = start(bridged.scope.config_path, bridged.port)
    with linked(bridged.scope) as link:
        assert link.devices()
    assert finish(process) == 0


@pytest.mark.parametrize(("answers", "why"), [(False, "does not answer within 0.5 s"), (True, "is not Micro-Manager")])
def test_another_program_on_the_port_is_told_apart(make_scope: Callable[..., Scope], answers: bool, why: str) -> None:
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
        with pytest.raises(HardwareError, match=rf"no Micro-Manager answers on port {port}: what listens there {why}"):
            CoreLink(scope)
        if answers:
            thread.join()


def test_doctor_looks_through_the_bridge(bridged: Bridged) -> None:
    checks = check_live(bridged.scope)
    assert {check.name for check in checks} >= {"core", "light color1", "camera", "dark exposure", "stage"}
    assert [check.detail for check in checks if check.status == "fail"] == []
    bridged.kill()
    checks = check_live(bridged.scope)
    assert [check.status for check in checks] == ["fail"]
    assert "nothing listens there" in checks[0].detail


def content(sample: Sample) -> tuple[dict[int, NDArray[np.uint16]], list[Any]]:
    """Pixels by index, and the descriptions save the times."""
    paths = fields_on_disk(sample.raw_path())
    infos = [read_info(path) for path in paths.values()]
    timeless = [replace(info, frames=tuple(replace(frame, time_s=0.0) for frame in info.frames)) for info in infos]
    return {index: read_field(path)[0] for index, path in paths.items()}, timeless


def assert_same_files(samples: list[Sample], n_fields: int) -> None:
    one, other = samples
    pixels, infos = content(one)
    other_pixels, other_infos = content(other)
    assert list(pixels) == list(other_pixels) == list(range(n_fields))
    assert infos == other_infos
    for index, images in pixels.items():
        np.testing.assert_array_equal(images, other_pixels[index])


def test_the_virtual_scope_writes_the_same_files_over_the_bridge(
    tmp_path: Path, bridged: Bridged, specimen: SpecimenPlan
) -> None:
    samples = [Sample.at(tmp_path, name) for name in ("bridge", "headless")]
    for sample, scope in zip(samples, (bridged.scope, bridged.headless), strict=True):
        take(sample, scope, 3, specimen)
    assert_same_files(samples, 3)
    assert samples[0].truth_path.read_bytes() == samples[1].truth_path.read_bytes()


def take(sample: Sample, scope: Scope, n_fields: int, specimen: SpecimenPlan | None = None) -> None:
    with AcquisitionSession(sample, scope, AcquisitionPlan.from_scope(scope, "A"), specimen) as session:
        session.take(range(n_fields))


def test_a_real_camera_writes_the_same_files_over_the_bridge(tmp_path: Path, make_bridge: BridgeMaker) -> None:
    bridge = make_bridge(("virtual = true", "virtual = false"), WAVES, ("exposure_ms = 20.0", "exposure_ms = 100.0"))
    samples = [Sample.at(tmp_path, name) for name in ("bridge", "headless")]
    take(samples[0], bridge.scope, 2)
    # The demo camera's waves go on from frame to frame, in the same way in every new process.
    plan = AcquisitionPlan.from_scope(bridge.headless, "A")
    with AcquisitionWorker(AcquisitionRequest(samples[1], bridge.headless, plan)) as worker:
        worker.want(2)
        list(worker.events())
    assert_same_files(samples, 2)
    frames = content(samples[0])[0][0]
    assert all(np.ptp(frame) > 0 for frame in frames)
    assert frames[3].max() > 50_000, "beyond what a Java short holds"


def test_a_micro_manager_that_dies_in_a_run_ends_it_and_the_run_goes_on_with_a_new_one(
    tmp_path: Path, bridged: Bridged, specimen: SpecimenPlan
) -> None:
    sample, unbroken = Sample.at(tmp_path, "S1"), Sample.at(tmp_path, "unbroken")
    plan = AcquisitionPlan.from_scope(bridged.scope, "A")
    taken = []
    with AcquisitionWorker(AcquisitionRequest(sample, bridged.scope, plan, specimen)) as worker:
        worker.want(25)
        began_s = time.monotonic()

        def go_on() -> None:
            for event in worker.events():
                if isinstance(event, FieldTaken):
                    taken.append(event.index)
                    if event.index == 1:
                        bridged.kill()

        with pytest.raises(DeviceCrashError, match=r"is gone: it was closed, or a device driver crashed it") as caught:
            go_on()
    assert time.monotonic() - began_s < 15
    assert caught.value.exit_code == 25
    kept = list(fields_on_disk(sample.raw_path()))
    assert kept == list(range(len(kept)))
    assert set(taken) <= set(kept)
    assert 2 <= len(kept) < 25
    process, _ = start(bridged.scope.config_path, bridged.port)
    take(sample, bridged.scope, len(kept) + 1, specimen)
    assert finish(process) == 0
    take(unbroken, bridged.headless, len(kept) + 1, specimen)
    assert_same_files([sample, unbroken], len(kept) + 1)


def test_a_java_stack_is_cut_off_its_message() -> None:
    text = (
        'java.lang.Exception: Line 3: Device,X\nError in device "X": no power\n\n'
        "mmcorej.MMCoreJJNI.CMMCore_loadSystemConfiguration(Native Method)\n"
        "java.base/java.lang.reflect.Method.invoke(Method.java:498)\n"
    )
    assert java_message(text) == 'Line 3: Device,X\nError in device "X": no power\n'
    thrown = "java.lang.RuntimeException: Unknown Command\n\tat org.micromanager.ZMQServer.run(ZMQServer.java:7)\n"
    assert java_message(thrown) == "Unknown Command"
    assert (
        java_message("java.lang.NullPointerException\n\tat A.b(Unknown Source)\n") == "java.lang.NullPointerException"
    )


# ---- the server itself, spoken to without pycromanager


class Raw:
    """A client that sees the messages themselves."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], port: int) -> None:
        self._socket = context.socket(zmq.REQ)
        self._socket.connect(f"tcp://127.0.0.1:{port}")

    def ask(self, **request: Any) -> tuple[dict[str, Any], list[bytes]]:
        self._socket.send(json.dumps(request).encode("iso-8859-1"))
        assert self._socket.poll(5000), request
        text, *parts = self._socket.recv_multipart()
        return json.loads(text.decode("iso-8859-1")), parts

    def run(self, target: str, name: str, types: list[str], values: list[Any]) -> tuple[dict[str, Any], list[bytes]]:
        return self.ask(
            **{
                "command": "run-method",
                "static": False,
                "hash-code": target,
                "java_class_name": "",
                "name": name,
                "argument-types": types,
                "argument-deserialization-types": types,
                "arguments": values,
            }
        )

    def core(self, *, new_port: bool = False) -> dict[str, Any]:
        request = {"command": "constructor", "classpath": "mmcorej.CMMCore", "new-port": new_port}
        empty: dict[str, Any] = {"argument-types": [], "argument-deserialization-types": [], "arguments": []}
        return self.ask(**request, **empty)[0]

    def close(self) -> None:
        self._socket.close(linger=0)


#: As a Micro-Manager described its core in the report of pycro-manager's issue 526: what the server must say as well.
_DESCRIBED = [
    ("getLoadedPeripheralDevices", ["java.lang.String"], "mmcorej.StrVector"),
    ("getSerialPortAnswer", ["java.lang.String", "java.lang.String"], "java.lang.String"),
    ("getSLMBytesPerPixel", ["java.lang.String"], "long"),
    ("writeToSerialPort", ["java.lang.String", "mmcorej.CharVector"], "void"),
    ("stopXYStageSequence", ["java.lang.String"], "void"),
    ("loadXYStageSequence", ["java.lang.String", "mmcorej.DoubleVector", "mmcorej.DoubleVector"], "void"),
    ("isStageSequenceable", ["java.lang.String"], "boolean"),
    ("setRelativePosition", ["double"], "void"),
    ("setRelativePosition", ["java.lang.String", "double"], "void"),
    ("setFocusDirection", ["java.lang.String", "int"], "void"),
    ("supportsDeviceDetection", ["java.lang.String"], "boolean"),
]


def test_the_server_speaks_as_java_does(bridged: Bridged) -> None:
    with zmq.Context() as context, contextlib.closing(Raw(context, bridged.port)) as raw:
        assert raw.ask(command="connect", debug=False) == ({"type": "none", "version": "5.1.0"}, [])
        core = raw.core()
        assert (core["type"], core["class"], core["port"]) == ("unserialized-object", "mmcorej.CMMCore", bridged.port)
        api = [(method["name"], method["arguments"], method["return-type"]) for method in core["api"]]
        assert [described for described in _DESCRIBED if described not in api] == []
        code = core["hash-code"]
        # A whole double is written without its point, nothing is "none", an array is its Java name and its bytes.
        raw.run(code, "setExposure", ["double"], [20])
        assert raw.run(code, "getExposure", [], [])[0] == {"type": "primitive", "value": 20}
        assert raw.run(code, "snapImage", [], []) == ({"type": "none"}, [])
        reply, (identity, pixels) = raw.run(code, "getImage", [], [])
        assert reply == {"type": "short-array", "value": f"[B@{int.from_bytes(identity, sys.byteorder):x}"}
        assert len(pixels) == 2 * 256 * 256
        failed = raw.run(code, "setPosition", ["java.lang.String", "double"], ["Nobody", 1])[0]
        assert failed["type"] == "exception"
        first, second = failed["value"].splitlines()[:2]
        assert first == 'java.lang.Exception: No device with label "Nobody"'
        assert second == "mmcorej.MMCoreJJNI.CMMCore_setPosition(Native Method)"
        raw.ask(**{"command": "destructor", "hash-code": code})
        assert "NullPointerException" in raw.run(code, "getExposure", [], [])[0]["value"]


def test_an_object_on_a_port_of_its_own_has_a_thread_of_its_own_until_it_is_let_go(bridged: Bridged) -> None:
    with zmq.Context() as context, contextlib.closing(Raw(context, bridged.port)) as raw:
        first, second = raw.core(), raw.core(new_port=True)
        assert second["port"] != bridged.port
        with contextlib.closing(Raw(context, second["port"])) as other:
            raw.run(first["hash-code"], "setExposure", ["double"], [800])
            thread = threading.Thread(target=other.run, args=(second["hash-code"], "snapImage", [], []))
            began_s = time.monotonic()
            thread.start()
            time.sleep(0.1)
            raw.run(first["hash-code"], "getVersionInfo", [], [])
            assert time.monotonic() - began_s < 0.6
            thread.join()
            assert time.monotonic() - began_s > 0.7
            other.ask(**{"command": "destructor", "hash-code": second["hash-code"]})
        deadline = time.monotonic() + 5
        while socket_is_open(second["port"]):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert socket_is_open(bridged.port)
