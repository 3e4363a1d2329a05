"""Java's view of the core that `bridge_server` serves.

What MMCoreJ's classes look like and what they give back.

Classes and methods are told from the declarations that SWIG leaves in pymmcore's docstrings, with
MMCoreJ's mapping of types; what MMCoreJ adds in Java is listed here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pymmcore

if TYPE_CHECKING:
    from collections.abc import Callable

# ---- classes, methods and their types

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
PIXELS = {
    "getImage",
    "getLastImage",
    "getLastImageMD",
    "getNBeforeLastImageMD",
    "popNextImage",
    "popNextImageMD",
}
TAGGED = {
    "getTaggedImage": "getImage",
    "getLastTaggedImage": "getLastImage",
    "popNextTaggedImage": "popNextImage",
}
#: What MMCoreJ adds in Java or declares otherwise than the Python wrapper: output arguments are
#: arrays in Java.
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
    """The methods of a SWIG class from its docstrings: lines like ``name(Class self, type name,
    ...) -> type``.
    """
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
        signatures.append(
            (java_type(match[2]) if match[2] else "void", [java_type(part) for part in texts])
        )
    return signatures


def vector_class(name: str, element: str) -> JavaClass:
    """A std::vector as SWIG 3 wraps it, with the iterator that MMCoreJ adds."""
    boxed = {"java.lang.String": "java.lang.String", "double": "java.lang.Double"}.get(
        element, "java.lang.Integer"
    )
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
    [
        *(method for method in swig_methods(pymmcore.CMMCore) if method[0] not in SHADOWED),
        *JAVA_ONLY,
    ],
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
    kinds = {
        1: "byte",
        2: "short",
        4: "float" if core.getNumberOfComponents() == 1 else "byte",
        8: "short",
    }
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
        return JavaObject(
            RECTANGLE, dict(zip(RECTANGLE.fields, core.getROI(*arguments), strict=True))
        )
    if name == "getXYStagePosition":
        return JavaObject(
            POINT, dict(zip(POINT.fields, core.getXYPosition(*arguments), strict=True))
        )
    if name == "getPixelSizeAffineAsString":
        return ";".join(str(value) for value in core.getPixelSizeAffine(True))
    if name in ("getXYPosition", "getGalvoPosition"):
        return None  # Java fills arrays that stay on its side
    return getattr(core, name)(*arguments)


def tagged_image(core: Any, getter: str) -> JavaObject:
    """Pixels with the tags that MMCoreJ puts together: the frame's own, the cached state, then what
    the core says.
    """
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
    pixel_type = {
        1: "GRAY8",
        2: "GRAY16",
        4: "GRAY32" if core.getNumberOfComponents() == 1 else "RGB32",
        8: "RGB64",
    }
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
