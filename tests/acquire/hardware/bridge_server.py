"""The Java side of pycromanager's bridge, on the real compiled core.

Stands for a running Micro-Manager.

Run as ``python bridge_server.py CFG [--port P]``; the port is printed when the devices are loaded,
and the process ends when its standard input is closed, so with its parent. Lines on it order
faults: see `bridge_faults`. Micro-Manager itself is a Java program with a window; here the same
MMCore is loaded through pymmcore. No client code is imported: what a client sees is only what comes
over the socket.

The protocol is that of Micro-Manager's ZMQ server 5.1.0: a request and its reply are one JSON text
each, followed by pairs of (4-byte id, bytes) for the arrays in it. A server answers one request at
a time; an object asked for with ``new-port`` gets a server and a thread of its own, which ends with
its last object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import struct
import sys
import threading
import uuid
from typing import Any, ClassVar

import mm_test_adapters
import pymmcore
import zmq
from bridge_faults import Faults  # type: ignore[import-not-found]  # beside this script
from bridge_java import (  # type: ignore[import-not-found]  # beside this script
    CONSTRUCTIBLE,
    CORE,
    SWIG_CLASSES,
    VECTORS,
    JavaClass,
    JavaError,
    JavaObject,
    Pixels,
    TagsJson,
    call_core,
    call_vector,
    from_client,
    plain_number,
    stack_of,
)

VERSION = "5.1.0"
DEFAULT_PORT = 4827


class Server:
    """One REP socket and its thread, with the objects its clients hold."""

    ports: ClassVar[dict[int, Server]] = {}
    lock = threading.Lock()
    base = DEFAULT_PORT
    ids = itertools.count(0x1A2B3C01)

    def __init__(self, core: Any, faults: Faults, *, main: bool = False) -> None:
        self.core, self.faults, self.main = core, faults, main
        self.objects: dict[str, JavaObject] = {}
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.REP)
        self.port = self._bind()
        self.thread = threading.Thread(
            target=self._serve, name=f"ZMQ Server {self.port}", daemon=True
        )

    def _bind(self) -> int:
        """The next free port from the main server's on; Java too counts upwards from there."""
        with Server.lock:
            for port in itertools.count(Server.base):
                if port in Server.ports:
                    continue
                try:
                    self._socket.bind(f"tcp://127.0.0.1:{port or '*'}")
                except zmq.ZMQError:
                    if self.main:
                        raise
                    continue  # another program's
                if not port:
                    port = int(self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
                    Server.base = port
                Server.ports[port] = self
                return port
        raise AssertionError

    def _serve(self) -> None:
        while True:
            request = self._receive()
            try:
                reply = self._execute(request)
            except JavaError as error:
                reply = {
                    "type": "exception",
                    "value": f"{error}\n\tat java.lang.Thread.run(Thread.java:748)\n",
                }
            except Exception as error:  # noqa: BLE001 - Java's loop answers every exception and goes on
                text = (
                    f"java.lang.RuntimeException: {error!r}\n\tat "
                    f"java.lang.Thread.run(Thread.java:748)\n"
                )
                reply = {"type": "exception", "value": text}
            self._send(reply)
            if not self.main and not self.objects:
                self._socket.close(linger=1000)
                with Server.lock:
                    del Server.ports[self.port]
                return

    def _receive(self) -> dict[str, Any]:
        parts = self._socket.recv_multipart()
        arrays = {
            struct.unpack("=i", parts[at])[0]: parts[at + 1] for at in range(1, len(parts), 2)
        }

        def restored(node: Any) -> Any:
            if isinstance(node, dict):
                return {key: restored(value) for key, value in node.items()}
            if isinstance(node, list):
                return [restored(value) for value in node]
            if arrays and isinstance(node, str) and (match := re.fullmatch(r"@(-?\d+)_\d+", node)):
                return arrays.get(int(match[1]), node)
            return node

        request = restored(json.loads(parts[0].decode("iso-8859-1")))
        assert isinstance(request, dict)
        return request

    def _send(self, reply: dict[str, Any]) -> None:
        parts: list[bytes] = []
        value = reply.get("value")
        if isinstance(value, Pixels):
            identity = next(Server.ids) & 0x7FFFFFFF
            # In the text stands what Java's toString makes of a byte[]; the client looks the bytes
            # up by its number.
            reply = {**reply, "value": f"[B@{identity:x}"}
            parts = [struct.pack("=i", identity), value.content]
        text = json.dumps(reply, ensure_ascii=False).encode("iso-8859-1", "replace")
        self._socket.send_multipart([text, *parts])

    def _execute(self, request: dict[str, Any]) -> dict[str, Any]:
        command = request["command"]
        if command == "connect":
            bool(request["debug"])
            return {"type": "none", "version": VERSION}
        if command == "get-constructors":
            wanted = self._class(request["classpath"])
            return {
                "type": "none",
                "api": [
                    {"name": wanted.name, "arguments": arguments}
                    for arguments in wanted.constructors
                ],
            }
        if command == "constructor":
            return self._construct(request)
        if command == "destructor":
            self.objects.pop(request["hash-code"], None)
            return {"type": "none"}
        if command in ("run-method", "get-field"):
            target = self.objects.get(request["hash-code"])
            if target is None:
                raise JavaError("java.lang.NullPointerException")
            if command == "run-method":
                return self._run(target, request)
            return self._serialized(target.value[request["name"]])
        raise JavaError("java.lang.RuntimeException: Unknown Command")

    @staticmethod
    def _class(path: str) -> JavaClass:
        if path not in CONSTRUCTIBLE:
            raise JavaError("java.lang.RuntimeException: Class not found on any classloaders")
        return CONSTRUCTIBLE[path]

    def _construct(self, request: dict[str, Any]) -> dict[str, Any]:
        wanted = self._class(request["classpath"])
        if request["argument-types"] not in wanted.constructors:
            raise JavaError(
                "java.lang.RuntimeException: No Matching method found with argumetn types"
            )
        if wanted is CORE:
            value = self.core  # Micro-Manager hands out the core it has
        elif wanted.name in SWIG_CLASSES:
            value = getattr(pymmcore, wanted.name.removeprefix("mmcorej."))()
        else:
            value = []
        home = self
        if request.get("new-port"):
            home = Server(self.core, self.faults)
        reply = home._registered(JavaObject(wanted, value))
        if home is not self:
            home.thread.start()
        return reply

    def _registered(self, item: JavaObject) -> dict[str, Any]:
        """Keep an object for its client under a name of its own.

        One object may be held more than once.
        """
        code = f"{id(item.value) & 0x7FFFFFFF:x}{uuid.uuid4()}"
        self.objects[code] = item
        return {
            "type": "unserialized-object",
            "hash-code": code,
            "port": self.port,
            **item.java_class.described(),
        }

    def _arguments(self, request: dict[str, Any]) -> list[Any]:
        values = []
        for value, java in zip(
            request["arguments"], request["argument-deserialization-types"], strict=True
        ):
            if isinstance(value, dict) and "hash-code" in value:
                holders = [
                    server
                    for server in Server.ports.values()
                    if value["hash-code"] in server.objects
                ]
                if not holders:
                    code = value["hash-code"]
                    raise JavaError(
                        f"java.lang.RuntimeException: Object with Hash code {code} unknown to all "
                        f"ZMQ servers"
                    )
                values.append(holders[0].objects[value["hash-code"]].value)
            else:
                values.append(from_client(value, java))
        return values

    def _run(self, target: JavaObject, request: dict[str, Any]) -> dict[str, Any]:
        name, types = request["name"], request["argument-types"]
        spec = next(
            (item for item in target.java_class.methods if item[0] == name and item[2] == types),
            None,
        )
        if spec is None:
            raise JavaError(
                "java.lang.RuntimeException: No Matching method found with argument types"
            )
        arguments = self._arguments(request)
        try:
            if target.java_class is CORE:
                arguments, busy = self.faults.strike(name, arguments)
                result = busy or call_core(target.value, name, arguments)
            elif isinstance(target.value, list):
                result = call_vector(target.value, name, arguments)
            else:
                result = getattr(target.value, name)(*arguments)
        except JavaError as error:
            return {
                "type": "exception",
                "value": f"{error}\n{stack_of(target.java_class.name, name)}",
            }
        except Exception as error:  # noqa: BLE001 - the driver's error goes to the client
            text = f"java.lang.Exception: {error}\n{stack_of(target.java_class.name, name)}"
            return {"type": "exception", "value": text}
        return self._serialized(result, spec[1])

    def _serialized(self, value: Any, declared: str = "") -> dict[str, Any]:
        if isinstance(value, JavaObject):
            return self._registered(value)
        if isinstance(value, Pixels):
            return {"type": value.kind, "value": value}
        if isinstance(value, TagsJson):
            return {"type": "object", "class": "JSONObject", "value": json.dumps(value)}
        if value is None:
            return {"type": "none"}
        if isinstance(value, str):
            return {"type": "string", "value": value}
        if isinstance(value, bool):
            return {"type": "primitive", "value": value}
        if declared in SWIG_CLASSES:
            return self._registered(JavaObject(SWIG_CLASSES[declared], value))
        if declared.removeprefix("mmcorej.") in VECTORS:
            return self._registered(
                JavaObject(VECTORS[declared.removeprefix("mmcorej.")], list(value))
            )
        if declared.startswith("mmcorej."):  # an enumeration is an object in Java
            enumeration = JavaClass(declared, [("swigValue", "int", [])])
            return self._registered(JavaObject(enumeration, _Enumerated(int(value))))
        return {"type": "primitive", "value": plain_number(value)}


class _Enumerated:
    def __init__(self, number: int) -> None:
        self.number = number

    def swigValue(self) -> int:  # noqa: N802 - Java's name
        return self.number


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Serve a Micro-Manager core over the bridge's wire protocol."
    )
    parser.add_argument("config", help="the .cfg file to load")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 takes a free one")
    options = parser.parse_args()
    core = pymmcore.CMMCore()
    core.setDeviceAdapterSearchPaths([str(mm_test_adapters.device_adapter_path())])
    core.loadSystemConfiguration(options.config)
    Server.base = options.port
    faults = Faults(core)
    server = Server(core, faults, main=True)
    server.thread.start()
    print(server.port, flush=True)
    # Whoever started this holds the other end: it is closed when that process ends, however it
    # does.
    for line in sys.stdin:
        print(faults.order(line.strip()), flush=True)
    os._exit(0)  # threads wait for ever in a socket or a driver


if __name__ == "__main__":
    main()
