"""The bridge's server itself, spoken to without pycromanager.

Its messages are those of the Java side.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import zmq

if TYPE_CHECKING:
    from wbcpipe.tests.acquire.conftest import Bridged


def socket_is_open(port: int) -> bool:
    with socket.socket() as there:
        return there.connect_ex(("127.0.0.1", port)) == 0


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

    def run(
        self, target: str, name: str, types: list[str], values: list[Any]
    ) -> tuple[dict[str, Any], list[bytes]]:
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
        empty: dict[str, Any] = {
            "argument-types": [],
            "argument-deserialization-types": [],
            "arguments": [],
        }
        return self.ask(**request, **empty)[0]

    def close(self) -> None:
        self._socket.close(linger=0)


#: As a Micro-Manager described its core in the report of pycro-manager's issue 526: what the server
#: must say as well.
_DESCRIBED = [
    ("getLoadedPeripheralDevices", ["java.lang.String"], "mmcorej.StrVector"),
    ("getSerialPortAnswer", ["java.lang.String", "java.lang.String"], "java.lang.String"),
    ("getSLMBytesPerPixel", ["java.lang.String"], "long"),
    ("writeToSerialPort", ["java.lang.String", "mmcorej.CharVector"], "void"),
    ("stopXYStageSequence", ["java.lang.String"], "void"),
    (
        "loadXYStageSequence",
        ["java.lang.String", "mmcorej.DoubleVector", "mmcorej.DoubleVector"],
        "void",
    ),
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
        assert (core["type"], core["class"], core["port"]) == (
            "unserialized-object",
            "mmcorej.CMMCore",
            bridged.port,
        )
        api = [
            (method["name"], method["arguments"], method["return-type"]) for method in core["api"]
        ]
        assert [described for described in _DESCRIBED if described not in api] == []
        code = core["hash-code"]
        # A whole double is written without its point, nothing is "none", an array is its Java name
        # and its bytes.
        raw.run(code, "setExposure", ["double"], [20])
        assert raw.run(code, "getExposure", [], [])[0] == {"type": "primitive", "value": 20}
        assert raw.run(code, "snapImage", [], []) == ({"type": "none"}, [])
        reply, (identity, pixels) = raw.run(code, "getImage", [], [])
        assert reply == {
            "type": "short-array",
            "value": f"[B@{int.from_bytes(identity, sys.byteorder):x}",
        }
        assert len(pixels) == 2 * 256 * 256
        failed = raw.run(code, "setPosition", ["java.lang.String", "double"], ["Nobody", 1])[0]
        assert failed["type"] == "exception"
        first, second = failed["value"].splitlines()[:2]
        assert first == 'java.lang.Exception: No device with label "Nobody"'
        assert second == "mmcorej.MMCoreJJNI.CMMCore_setPosition(Native Method)"
        raw.ask(**{"command": "destructor", "hash-code": code})
        assert "NullPointerException" in raw.run(code, "getExposure", [], [])[0]["value"]


def test_an_object_on_a_port_of_its_own_has_a_thread_of_its_own_until_it_is_let_go(
    bridged: Bridged,
) -> None:
    with zmq.Context() as context, contextlib.closing(Raw(context, bridged.port)) as raw:
        first, second = raw.core(), raw.core(new_port=True)
        assert second["port"] != bridged.port
        with contextlib.closing(Raw(context, second["port"])) as other:
            raw.run(first["hash-code"], "setExposure", ["double"], [800])
            thread = threading.Thread(
                target=other.run, args=(second["hash-code"], "snapImage", [], [])
            )
            thread.start()
            time.sleep(0.1)
            raw.run(first["hash-code"], "getVersionInfo", [], [])
            assert thread.is_alive()
            thread.join()
            other.ask(**{"command": "destructor", "hash-code": second["hash-code"]})
        deadline = time.monotonic() + 60
        while socket_is_open(second["port"]):
            assert time.monotonic() < deadline, "the socket stays open"
            time.sleep(0.02)
        assert socket_is_open(bridged.port)
