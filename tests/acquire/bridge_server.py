"""The Java side of pycromanager's bridge, on the real compiled core: stands for a running Micro-Manager.

Run as ``python bridge_server.py CFG [--port P]``; the port is printed when the devices are loaded, and the process ends
when its standard input is closed, so with its parent. Micro-Manager itself is a Java program with a window; here the
same MMCore is loaded through pymmcore, and what Java's reflection would tell of it is told from the declarations that
SWIG leaves in its docstrings. No client code is imported: what a client sees is only what comes over the socket.

The protocol is that of Micro-Manager's ZMQ server 5.1.0: a request and its reply are one JSON text each, followed by
pairs of (4-byte id, bytes) for the arrays in it. A server answers one request at a time; an object asked for with
``new-port`` gets a server and a thread of its own, which ends with its last object.
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
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import mm_test_adapters
import numpy as np
import pymmcore
import zmq

if TYPE_CHECKING:
    from collections.abc import Callable

VERSION = "5.1.0"
DEFAULT_PORT = 4827

# ---- Java's view of the core: classes, methods and their types

#: C++ types as MMCoreJ's SWIG interface maps them; what is not here is a class of package mmcorej.
JAVA_TYPES = {
    "char const *": "java.lang.String",
    "char *": "java.lang.String",
    "std::string": "java.lang.String",
    "bool": "boolean",
    "double": "double",
    "float": "float",
    "long": "int",
    "int": "int",
    "unsigned int": "long",
    "unsigned long": "long",
    "size_t": "long",
    "long long": "long",
    "unsigned char": "short",
    "void *": "java.lang.Object",
    "PyObject *": "byte[]",
    "std::vector< unsigned char *,std::allocator< unsigned char * > >": "java.util.List",
}
OBJECT_METHODS = [
    ("wait", "void", ["long", "int"]),
    ("wait", "void", ["long"]),
    ("wait", "void", []),
    ("equals", "boolean", ["java.lang.Object"]),
    ("toString", "java.lang.String", []),
    ("hashCode", "int", []),
    ("getClass", "java.lang.Class", []),
    ("notify", "void", []),
    ("notifyAll", "void", []),
]
PIXELS = {"getImage", "getLastImage", "getLastImageMD", "getNBeforeLastImageMD", "popNextImage", "popNextImageMD"}
TAGGED = {"getTaggedImage": "getImage", "getLastTaggedImage": "getLastImage", "popNextTaggedImage": "popNextImage"}
#: What MMCoreJ adds in Java or declares otherwise than the Python wrapper: output arguments are arrays in Java.
JAVA_ONLY = [
    *((name, "mmcorej.TaggedImage", arguments) for name in TAGGED for arguments in ([], ["int"])),
    ("getROI", "java.awt.Rectangle", []),
    ("getROI", "java.awt.Rectangle", ["java.lang.String"]),
    ("getROI", "void", ["int[]"] * 4),
    ("getROI", "void", ["java.lang.String", *["int[]"] * 4]),
    ("getXYStagePosition", "java.awt.geom.Point2D$Double", []),
    ("getXYStagePosition", "java.awt.geom.Point2D$Double", ["java.lang.String"]),
    ("getXYPosition", "void", ["double[]", "double[]"]),
    ("getXYPosition", "void", ["java.lang.String", "double[]", "double[]"]),
    ("getGalvoPosition", "void", ["java.lang.String", "double[]", "double[]"]),
    ("getPixelSizeAffineAsString", "java.lang.String", []),
    ("delete", "void", []),
]


class JavaError(Exception):
    """A Java exception: what its ``toString`` gives."""


@dataclass
class JavaClass:
    """What reflection tells of a class."""

    name: str
    methods: list[tuple[str, str, list[str]]]
    constructors: list[list[str]] = field(default_factory=list)
    interfaces: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()

    def described(self) -> dict[str, Any]:
        return {
            "class": self.name,
            "interfaces": [self.name, *self.interfaces, "java.lang.Object"],
            "fields": list(self.fields),
            "api": [
                {"name": name, "return-type": gives, "arguments": arguments}
                for name, gives, arguments in [*self.methods, *OBJECT_METHODS]
            ],
        }


@dataclass
class JavaObject:
    """An object a client may hold: its class and what stands for it here."""

    java_class: JavaClass
    value: Any


def java_type(text: str) -> str:
    text = text.removesuffix(" const")
    if text.startswith("MM::") or text.startswith("mmcore::"):
        text = text.rpartition(":")[2]
    return JAVA_TYPES.get(text, f"mmcorej.{text}")


def swig_methods(wrapped: type) -> list[tuple[str, str, list[str]]]:
    """The methods of a SWIG class from its docstrings: lines like ``name(Class self, type name, ...) -> type``."""
    found = []
    for name, member in vars(wrapped).items():
        if name.startswith("_") or not callable(member):
            continue
        for gives, texts in swig_signatures(name, member.__doc__ or ""):
            found.append((name, "java.lang.Object" if name in PIXELS else gives, texts))
    return found


def swig_signatures(name: str, text: str) -> list[tuple[str, list[str]]]:
    signatures = []
    for line in text.splitlines():
        match = re.fullmatch(re.escape(name) + r"\((.*?)\)(?: -> (.*))?", line)
        if match is None:
            continue
        texts = [part.rpartition(" ")[0] for part in match[1].split(", ")[1:]]
        signatures.append((java_type(match[2]) if match[2] else "void", [java_type(part) for part in texts]))
    return signatures


def vector_class(name: str, element: str) -> JavaClass:
    """A std::vector as SWIG 3 wraps it, with the iterator that MMCoreJ adds."""
    boxed = {"java.lang.String": "java.lang.String", "double": "java.lang.Double"}.get(element, "java.lang.Integer")
    methods = [
        ("size", "long", []),
        ("capacity", "long", []),
        ("reserve", "void", ["long"]),
        ("isEmpty", "boolean", []),
        ("clear", "void", []),
        ("add", "void", [element]),
        ("get", element, ["int"]),
        ("set", "void", ["int", element]),
        ("toArray", f"{boxed}[]", []),
        ("iterator", "java.util.Iterator", []),
        ("delete", "void", []),
    ]
    return JavaClass(f"mmcorej.{name}", methods, [[], ["long"]], ("java.lang.Iterable",))


SHADOWED = {name for name, _, _ in JAVA_ONLY}
CORE = JavaClass(
    "mmcorej.CMMCore",
    [*(method for method in swig_methods(pymmcore.CMMCore) if method[0] not in SHADOWED), *JAVA_ONLY],
    [[]],
)
VECTORS = {
    name: vector_class(name, element)
    for name, element in (
        ("StrVector", "java.lang.String"),
        ("DoubleVector", "double"),
        ("LongVector", "int"),
        ("UnsignedVector", "long"),
        ("CharVector", "char"),
    )
}
TAGGED_IMAGE = JavaClass("mmcorej.TaggedImage", [], fields=("pix", "tags"))
RECTANGLE = JavaClass("java.awt.Rectangle", [], fields=("x", "y", "width", "height"))
POINT = JavaClass("java.awt.geom.Point2D$Double", [], fields=("x", "y"))
SWIG_CLASSES = {
    f"mmcorej.{name}": JavaClass(f"mmcorej.{name}", swig_methods(getattr(pymmcore, name)), [[]])
    for name in ("Configuration", "Metadata", "PropertySetting")
}
CONSTRUCTIBLE = {item.name: item for item in (CORE, *VECTORS.values(), *SWIG_CLASSES.values())}


# ---- values on their way out and in


class Pixels:
    """A Java array of primitives on its way out: sent as bytes beside the JSON text."""

    def __init__(self, kind: str, content: bytes) -> None:
        self.kind, self.content = kind, content


class TagsJson(dict[str, Any]):
    """A mmcorej.org.json.JSONObject: sent as text inside the text."""


def pixels_of(core: Any, image: np.ndarray[Any, Any]) -> Pixels:
    """A camera's image as MMCoreJ copies it into an array of Java: signed, and flat."""
    width = core.getBytesPerPixel()
    kinds = {1: "byte", 2: "short", 4: "float" if core.getNumberOfComponents() == 1 else "byte", 8: "short"}
    return Pixels(f"{kinds[width]}-array", np.ascontiguousarray(image).tobytes())


def plain_number(value: float) -> float:
    """As org.json writes it: 5.0 is written 5, and what is not finite is refused."""
    if value != value or value in (float("inf"), float("-inf")):
        raise JavaError("mmcorej.org.json.JSONException: JSON does not allow non-finite numbers.")
    return int(value) if value == int(value) and abs(value) < 1e7 else value


def from_client(value: Any, java: str) -> Any:
    """An argument as Java converts it to the type the client chose among the overloads."""
    if value is None or java in ("java.lang.String", "java.lang.Object"):
        return value
    if java in ("int", "long", "short", "byte", "char"):
        return int(value)
    if java in ("double", "float"):
        return float(value)
    return value


# ---- calls


def call_core(core: Any, name: str, arguments: list[Any]) -> Any:
    """A method of CMMCore as MMCoreJ has it."""
    if name in PIXELS:
        return pixels_of(core, getattr(core, name)(*arguments))
    if name in TAGGED:
        return tagged_image(core, TAGGED[name])
    if name == "getROI":
        return JavaObject(RECTANGLE, dict(zip(RECTANGLE.fields, core.getROI(*arguments), strict=True)))
    if name == "getXYStagePosition":
        return JavaObject(POINT, dict(zip(POINT.fields, core.getXYPosition(*arguments), strict=True)))
    if name == "getPixelSizeAffineAsString":
        return ";".join(str(value) for value in core.getPixelSizeAffine(True))
    if name in ("getXYPosition", "getGalvoPosition"):
        return None  # Java fills arrays that stay on its side
    return getattr(core, name)(*arguments)


def tagged_image(core: Any, getter: str) -> JavaObject:
    """Pixels with the tags that MMCoreJ puts together: the frame's own, the cached state, then what the core says."""
    tags = TagsJson()
    if getter == "getImage":
        image = core.getImage()
    else:
        metadata = pymmcore.Metadata()
        image = getattr(core, f"{getter}MD")(0, 0, metadata)
        tags |= {key: metadata.GetSingleTag(key).GetValue() for key in metadata.GetKeys()}
    state = core.getSystemStateCache()
    for setting in (state.getSetting(index) for index in range(state.size())):
        tags[f"{setting.getDeviceLabel()}-{setting.getPropertyName()}"] = setting.getPropertyValue()
    pixel_type = {1: "GRAY8", 2: "GRAY16", 4: "GRAY32" if core.getNumberOfComponents() == 1 else "RGB32", 8: "RGB64"}
    tags |= {
        "BitDepth": core.getImageBitDepth(),
        "PixelSizeUm": plain_number(core.getPixelSizeUm(True)),
        "ROI": "-".join(str(number) for number in core.getROI()),
        "Width": core.getImageWidth(),
        "Height": core.getImageHeight(),
        "PixelType": pixel_type[core.getBytesPerPixel()],
        "Channel": "Default",
        "ChannelIndex": 0,
        "Binning": core.getProperty(core.getCameraDevice(), "Binning"),
    }
    tags.setdefault("CameraChannelIndex", 0)
    return JavaObject(TAGGED_IMAGE, {"pix": pixels_of(core, image), "tags": tags})


def call_vector(items: list[Any], name: str, arguments: list[Any]) -> Any:
    if name in ("get", "set") and not 0 <= arguments[0] < len(items):
        raise JavaError("java.lang.IndexOutOfBoundsException: vector index out of range")
    if name == "set":
        items[arguments[0]] = arguments[1]
        return None
    if name == "reserve":
        return None
    calls: dict[str, Callable[..., Any]] = {
        "size": lambda: len(items),
        "capacity": lambda: len(items),
        "isEmpty": lambda: not items,
        "clear": items.clear,
        "add": items.append,
        "get": items.__getitem__,
    }
    return calls[name](*arguments)


def stack_of(class_name: str, method: str) -> str:
    """The frames below a failed native call, as Java prints them."""
    short = class_name.rpartition(".")[2]
    return "\n".join(
        [
            f"mmcorej.MMCoreJJNI.{short}_{method}(Native Method)",
            f"{class_name}.{method}({short}.java:1042)",
            "sun.reflect.NativeMethodAccessorImpl.invoke0(Native Method)",
            "sun.reflect.NativeMethodAccessorImpl.invoke(NativeMethodAccessorImpl.java:62)",
            "sun.reflect.DelegatingMethodAccessorImpl.invoke(DelegatingMethodAccessorImpl.java:43)",
            "java.lang.reflect.Method.invoke(Method.java:498)",
            "org.micromanager.pyjavaz.ZMQServer.runMethod(ZMQServer.java:390)",
            "org.micromanager.pyjavaz.ZMQServer.parseAndExecuteCommand(ZMQServer.java:474)",
            "org.micromanager.pyjavaz.ZMQServer.lambda$initialize$1(ZMQServer.java:110)",
            "java.util.concurrent.FutureTask.run(FutureTask.java:266)",
            "java.lang.Thread.run(Thread.java:748)",
            "",
        ]
    )


# ---- the server


class Server:
    """One REP socket and its thread, with the objects its clients hold."""

    ports: ClassVar[dict[int, Server]] = {}
    lock = threading.Lock()
    base = DEFAULT_PORT
    ids = itertools.count(0x1A2B3C01)

    def __init__(self, core: Any, *, main: bool = False) -> None:
        self.core, self.main = core, main
        self.objects: dict[str, JavaObject] = {}
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.REP)
        self.port = self._bind()
        self.thread = threading.Thread(target=self._serve, name=f"ZMQ Server {self.port}", daemon=True)

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
                reply = {"type": "exception", "value": f"{error}\n\tat java.lang.Thread.run(Thread.java:748)\n"}
            except Exception as error:  # noqa: BLE001 - Java's loop answers every exception and goes on
                text = f"java.lang.RuntimeException: {error!r}\n\tat java.lang.Thread.run(Thread.java:748)\n"
                reply = {"type": "exception", "value": text}
            self._send(reply)
            if not self.main and not self.objects:
                self._socket.close(linger=1000)
                with Server.lock:
                    del Server.ports[self.port]
                return

    def _receive(self) -> dict[str, Any]:
        parts = self._socket.recv_multipart()
        arrays = {struct.unpack("=i", parts[at])[0]: parts[at + 1] for at in range(1, len(parts), 2)}

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
            # In the text stands what Java's toString makes of a byte[]; the client looks the bytes up by its number.
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
                "api": [{"name": wanted.name, "arguments": arguments} for arguments in wanted.constructors],
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
            raise JavaError("java.lang.RuntimeException: No Matching method found with argumetn types")
        if wanted is CORE:
            value = self.core  # Micro-Manager hands out the core it has
        elif wanted.name in SWIG_CLASSES:
            value = getattr(pymmcore, wanted.name.removeprefix("mmcorej."))()
        else:
            value = []
        home = self
        if request.get("new-port"):
            home = Server(self.core)
        reply = home._registered(JavaObject(wanted, value))
        if home is not self:
            home.thread.start()
        return reply

    def _registered(self, item: JavaObject) -> dict[str, Any]:
        """Keep an object for its client under a name of its own; one object may be held more than once."""
        code = f"{id(item.value) & 0x7FFFFFFF:x}{uuid.uuid4()}"
        self.objects[code] = item
        return {"type": "unserialized-object", "hash-code": code, "port": self.port, **item.java_class.described()}

    def _arguments(self, request: dict[str, Any]) -> list[Any]:
        values = []
        for value, java in zip(request["arguments"], request["argument-deserialization-types"], strict=True):
            if isinstance(value, dict) and "hash-code" in value:
                holders = [server for server in Server.ports.values() if value["hash-code"] in server.objects]
                if not holders:
                    code = value["hash-code"]
                    raise JavaError(
                        f"java.lang.RuntimeException: Object with Hash code {code} unknown to all ZMQ servers"
                    )
                values.append(holders[0].objects[value["hash-code"]].value)
            else:
                values.append(from_client(value, java))
        return values

    def _run(self, target: JavaObject, request: dict[str, Any]) -> dict[str, Any]:
        name, types = request["name"], request["argument-types"]
        spec = next((item for item in target.java_class.methods if item[0] == name and item[2] == types), None)
        if spec is None:
            raise JavaError("java.lang.RuntimeException: No Matching method found with argument types")
        arguments = self._arguments(request)
        try:
            if target.java_class is CORE:
                result = call_core(target.value, name, arguments)
            elif isinstance(target.value, list):
                result = call_vector(target.value, name, arguments)
            else:
                result = getattr(target.value, name)(*arguments)
        except JavaError as error:
            return {"type": "exception", "value": f"{error}\n{stack_of(target.java_class.name, name)}"}
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
            return self._registered(JavaObject(VECTORS[declared.removeprefix("mmcorej.")], list(value)))
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
    parser = argparse.ArgumentParser(description="Serve a Micro-Manager core over the bridge's wire protocol.")
    parser.add_argument("config", help="the .cfg file to load")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 takes a free one")
    options = parser.parse_args()
    core = pymmcore.CMMCore()
    core.setDeviceAdapterSearchPaths([str(mm_test_adapters.device_adapter_path())])
    core.loadSystemConfiguration(options.config)
    Server.base = options.port
    server = Server(core, main=True)
    server.thread.start()
    print(server.port, flush=True)
    # Whoever started this holds the other end: it is closed when that process ends, however it does.
    while sys.stdin.read(1):
        pass
    os._exit(0)  # threads wait for ever in a socket or a driver


if __name__ == "__main__":
    main()
