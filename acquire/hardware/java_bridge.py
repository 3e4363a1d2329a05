"""A core in a running Micro-Manager, reached over pycromanager's bridge, that answers like a core
in this process.

The bridge waits for ever on a call that hangs and on a Micro-Manager that has died, lets one call
wait for another, and returns Java objects. Here every call has a deadline, calls that block have a
socket of their own, and lists and errors are plain Python. `core_link` passes in the objects of
pycromanager; this module does not import it.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import json
import re
import socket
import time
from functools import partial
from importlib.metadata import version
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from wbcpipe.acquire.hardware.call_timeout import DaemonExecutor
from wbcpipe.errors import CoreLostError, DeviceTimeoutError, HardwareError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BridgedCore", "failure_reason", "java_message"]

#: Calls that last as long as the camera does; the caller sets the deadline. They have a socket of
#: their own.
_EXPOSING: Final = frozenset(
    {"snap_image", "start_sequence_acquisition", "stop_sequence_acquisition"}
)
#: Calls to the focusing device: while one of these hangs, the camera must still answer, to focus by
#: images instead.
_FOCUSING: Final = frozenset(
    {
        "full_focus",
        "incremental_focus",
        "enable_continuous_focus",
        "is_continuous_focus_locked",
        "set_auto_focus_offset",
    }
)
_HOST: Final = "127.0.0.1"
#: How often a call that has not returned checks that Micro-Manager still runs.
_PROBE_S: Final = 0.5
_GRACE_S: Final = 0.5
_CLOSE_S: Final = 2.0
_FRAME: Final = re.compile(
    r"^(at )?[\w.$/<>]+\([^()]*(\.java(:\d+)?|Native Method|Unknown Source)\)$"
)
#: Private attributes of pyjavaz's bridge that `_Socket.abandon` writes to: it has no public call
#: that leaves a socket whose Micro-Manager hangs.
_PRIVATE: Final = (
    "_cached_bridges_by_port",
    "_closed",
    "_java_objects",
    "_ports_with_terminated_servers",
    "_shutdown_event",
)
_PLAIN_CLASS: Final = re.compile(r"^java\.lang\.(Runtime)?Exception: ")


class Client(Protocol):
    """The objects that pycromanager provides."""

    def core(self, *, new_socket: bool) -> Any:
        """Return Micro-Manager's core, on the main socket or on a new one."""
        ...

    def vector(self, name: str) -> Any:
        """Return a new, empty ``mmcorej.<name>``."""
        ...


class BridgedCore:
    """The core's methods by their snake_case names.

    A Python list of texts or numbers is passed as a Java vector. The result is plain Python, or a
    flat array of a camera's pixels, (Y * X,) uint8 or uint16.

    Args:
        port: of Micro-Manager's server.
        client: pycromanager.
        connect_timeout_s: for the first answer.
        call_timeout_s: for each call, except those that block as long as a device does.

    Raises:
        HardwareError: nothing listens on that port, or it does not answer as Micro-Manager does.
    """

    def __init__(
        self, port: int, client: Client, *, connect_timeout_s: float, call_timeout_s: float
    ) -> None:
        if reason := failure_reason(port, connect_timeout_s):
            raise HardwareError(reason)
        self.port = port
        self._client = client
        self._timeout_s = call_timeout_s
        self._lost = False
        self._main = _Socket(lambda: client.core(new_socket=False), f"wbcpipe-bridge-{port}")
        self._exposing = self._main
        self._focusing: _Socket | None = None
        self._connect_timeout_s = connect_timeout_s
        try:
            self._ask(
                self._main,
                lambda core: core.get_version_info(),
                connect_timeout_s,
                "the first call",
            )
            self._exposing = self._open_socket("exposing") or self._main
        except BaseException:
            self.close()
            raise
        # Before pyjavaz's own handlers, which were registered first and would wait for ever for one
        # that hangs.
        atexit.register(self.close)

    def _open_socket(self, purpose: str) -> _Socket | None:
        """Open a socket for calls that block, so that the shutter can be closed meanwhile.

        Without it, ``None``, they block all others.
        """
        connection = _Socket(
            lambda: self._client.core(new_socket=True), f"wbcpipe-bridge-{self.port}-{purpose}"
        )
        try:
            self._ask(
                connection,
                lambda core: core.get_version_info(),
                self._connect_timeout_s,
                f"a socket for {purpose}",
            )
        except CoreLostError:
            raise
        except Exception:  # noqa: BLE001 - pyjavaz raises nothing narrower; the port may belong to another program
            connection.abandon()
            return None
        return connection

    def _socket_for(self, name: str) -> _Socket:
        """Return the socket for a call."""
        if name in _FOCUSING:
            if self._focusing is None:
                self._focusing = self._open_socket("focusing") or self._exposing
            return self._focusing
        if name in _EXPOSING:
            return self._exposing
        if name == "set_shutter_open" and self._exposing is not self._main and self._main.hangs():
            return self._exposing  # a device that hangs must not keep the light on
        return self._main

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*arguments: Any) -> Any:
            def run(core: Any) -> Any:
                sent = [self._java(argument) for argument in arguments]
                try:
                    return _plain(getattr(core, name)(*sent))
                finally:
                    for argument in sent:
                        _release(argument)

            timeout_s = None if name in _EXPOSING | _FOCUSING else self._timeout_s
            return self._ask(self._socket_for(name), run, timeout_s, name)

        return call

    def _java(self, argument: Any) -> Any:
        """Return an argument as the bridge takes it: a vector for a list, a Python number for one
        of NumPy's.
        """
        if isinstance(argument, np.generic):
            return argument.item()
        if not isinstance(argument, list | tuple):
            return argument
        texts = all(isinstance(item, str) for item in argument)
        vector = self._client.vector("StrVector" if texts else "DoubleVector")
        for item in argument:
            vector.add(item if texts else float(item))
        return vector

    def _ask(
        self, connection: _Socket, call: Callable[[Any], Any], timeout_s: float | None, doing: str
    ) -> Any:
        if self._lost:
            raise self._lost_error()
        answer = connection.start(call, doing)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not answer.done():
            left_s = _PROBE_S if deadline is None else min(_PROBE_S, deadline - time.monotonic())
            concurrent.futures.wait([answer], timeout=max(left_s, 0.0))
            if answer.done():
                break
            if left_s == _PROBE_S and not _listens(self.port):
                self._lost = True
                for open_socket in self._sockets():
                    open_socket.abandon()
                raise self._lost_error()
            if deadline is not None and time.monotonic() >= deadline:
                answer.cancel()
                raise DeviceTimeoutError(
                    f"{doing}: Micro-Manager did not answer within {timeout_s:g} s."
                )
        try:
            return answer.result()
        except Exception as error:
            if self._lost:
                raise self._lost_error() from error
            raise RuntimeError(java_message(str(error))) from error

    def _lost_error(self) -> CoreLostError:
        return CoreLostError(
            f"Micro-Manager on port {self.port} is gone: it was closed, or a device driver "
            f"crashed it. The fields taken are kept; start it again, make sure the shutter is "
            "closed, and run the same command again."
        )

    def close(self) -> None:
        """Disconnect from Micro-Manager, whose devices stay as they are; may be called twice."""
        atexit.unregister(self.close)
        answers = True
        for connection in self._sockets():
            if answers:
                answers = connection.close() or connection is not self._main
            else:
                connection.abandon()
        self._lost = True

    def _sockets(self) -> list[_Socket]:
        """Return each open socket once, the main one first."""
        return list(
            dict.fromkeys(
                item for item in (self._main, self._exposing, self._focusing) if item is not None
            )
        )


class _Socket:
    """One socket to Micro-Manager and its thread.

    A request on it waits for the reply to the one before.
    """

    def __init__(self, open_core: Callable[[], Any], name: str) -> None:
        self._last: concurrent.futures.Future[Any] | None = None
        self._open = open_core
        self._core: Any = None
        self._ended = False
        self._executor = DaemonExecutor(name)

    def hangs(self) -> bool:
        """Return whether a call has not returned, after a short wait for it."""
        if self._last is None or self._last.done():
            return False
        concurrent.futures.wait([self._last], timeout=_GRACE_S)
        return not self._last.done()

    def start(self, call: Callable[[Any], Any], doing: str) -> concurrent.futures.Future[Any]:
        """Start a call.

        Raises:
            DeviceTimeoutError: the call before it hangs.
        """
        if self.hangs():
            raise DeviceTimeoutError(
                f"{doing}: an earlier call still hangs in Micro-Manager; restart the device."
            )
        self._last = self._executor.submit(partial(self._run, call))
        return self._last

    def _run(self, call: Callable[[Any], Any]) -> Any:
        if self._core is None:
            self._core = _checked(self._open())
        return call(self._core)

    def close(self) -> bool:
        """Release the core on Java's side, or abandon it if Micro-Manager does not answer.

        Return whether it did.
        """
        if self._ended:
            return False
        with contextlib.suppress(DeviceTimeoutError):
            concurrent.futures.wait([self.start(_release, "closing")], timeout=_CLOSE_S)
        if self._last is None or not self._last.done():
            self.abandon()
            return False
        self._ended = True
        self._executor.shutdown(wait=False)
        return True

    def abandon(self) -> None:
        """Leave the socket behind: pycromanager's own close would wait for ever for Micro-Manager's
        answer.
        """
        if self._ended:
            return
        self._ended = True
        self._executor.shutdown(wait=False)
        bridge = getattr(self._core, "_bridge", None)
        if bridge is None:
            return
        for held in list(bridge._java_objects):
            held._closed = True
        bridge._shutdown_event.set()
        type(bridge)._cached_bridges_by_port.pop(bridge.port, None)
        # A call that waits for a reply ends on the first, pycromanager's own close on the second.
        bridge._closed = True
        given_up = type(bridge)._ports_with_terminated_servers
        given_up.add(bridge.port)
        if self._last is not None:
            concurrent.futures.wait([self._last], timeout=_CLOSE_S)
        given_up.discard(bridge.port)  # another Micro-Manager may come to listen there


def failure_reason(port: int, timeout_s: float) -> str:
    """Return why no Micro-Manager answers on a port, in a few words; empty if one does."""
    if not _listens(port):
        return "nothing listens there"
    import zmq

    # Without a greeting pyjavaz spins on another program, and then fails in a thread.
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        link = stack.enter_context(context.socket(zmq.REQ))
        link.setsockopt(zmq.LINGER, 0)
        link.connect(f"tcp://{_HOST}:{port}")
        link.send(json.dumps({"command": "connect", "debug": False}).encode("iso-8859-1"))
        if not link.poll(int(1000 * timeout_s)):
            return (
                f"what listens there does not answer within {timeout_s:g} s: it hangs, or is "
                f"another program"
            )
        with contextlib.suppress(ValueError):
            reply = json.loads(link.recv().decode("iso-8859-1"))
            if isinstance(reply, dict) and "type" in reply:
                return ""
        return "what listens there is not Micro-Manager"


def java_message(text: str) -> str:
    """Return the message of a Java exception, without its stack and without a class name that says
    nothing.
    """
    lines = []
    for line in text.strip().splitlines():
        if _FRAME.match(line.strip()):
            break
        lines.append(line.strip())
    return _PLAIN_CLASS.sub("", "\n".join(lines))


def _plain(value: Any) -> Any:
    """Convert a Java object to plain Python, and release it in Java."""
    name = getattr(value, "_java_class", None)
    if name is None:
        return value
    try:
        if name.endswith("Vector"):
            return [value.get(index) for index in range(value.size())]
        if name.endswith("TaggedImage"):
            return SimpleNamespace(pix=value.pix, tags=value.tags)
        if hasattr(value, "swig_value"):
            return int(value.swig_value())
        if hasattr(value, "width"):
            return [int(number) for number in (value.x, value.y, value.width, value.height)]
        raise TypeError(f"Micro-Manager gave a {name}, which cannot be converted to Python")
    finally:
        _release(value)


def _checked(core: Any) -> Any:
    """Return the core, if a hanging Micro-Manager could be left with this version of pyjavaz.

    Raises:
        HardwareError: its bridge lacks a private attribute that `_Socket.abandon` needs.
    """
    bridge = getattr(core, "_bridge", None)
    missing = [] if bridge is None else [name for name in _PRIVATE if not hasattr(bridge, name)]
    if missing:
        raise HardwareError(
            f"pyjavaz {version('pyjavaz')} has no {', '.join(missing)}, without which a hanging "
            f"Micro-Manager cannot be left; install another version: pip install 'pyjavaz<1.3'."
        )
    return core


def _release(value: Any) -> None:
    """Release an object in Java now, and not from a destructor in some other thread."""
    if hasattr(value, "_java_class"):
        value._close()


def _listens(port: int) -> bool:
    """Return whether some program listens on a port; a stopped or busy one does."""
    try:
        with socket.create_connection((_HOST, port), timeout=3.0):
            return True
    except ConnectionError:
        return False
    except OSError:
        return True
