"""Faults of devices on the far side of the bridge, told to `bridge_server` by lines on its standard
input.

- ``hang NAME COUNT SECONDS``: the next COUNT calls of the core's NAME come back so much later, or
  after ``heal``
- ``fail NAME COUNT TEXT``: they throw TEXT
- ``busy LABEL``: device LABEL is busy until it is told to stop
- ``short COUNT``: the next COUNT sequences give one frame less
- ``hanging``: answers how many calls hang
- ``heal``: nothing fails from here on; what hung comes back
- ``shutter``: answers whether the shutter is open
- ``auto shutter``: answers whether the core opens it by itself
"""

from __future__ import annotations

import threading
from typing import Any


class Faults:
    """What fails at the core; `order` is called by one thread, `strike` by those that serve the
    clients.
    """

    def __init__(self, core: Any) -> None:
        self._core = core
        self._lock = threading.Lock()
        self._healed = threading.Event()
        self._hang: dict[str, tuple[int, float]] = {}
        self._fail: dict[str, tuple[int, str]] = {}
        self._busy: set[str] = set()
        self._short = 0
        self._hanging = 0

    def order(self, line: str) -> str:
        """Obey a line; gives the answer to it."""
        word, *rest = line.split(" ", 3)
        with self._lock:
            if word == "hang":
                self._hang[rest[0]] = (int(rest[1]), float(rest[2]))
            elif word == "fail":
                self._fail[rest[0]] = (int(rest[1]), rest[2])
            elif word == "busy":
                self._busy.add(rest[0])
            elif word == "short":
                self._short = int(rest[0])
            elif word == "heal":
                self._hang, self._fail, self._busy, self._short = {}, {}, set(), 0
                self._healed.set()
                self._healed = threading.Event()
            elif word == "hanging":
                return str(self._hanging)
            elif word == "auto":
                return "on" if self._core.getAutoShutter() else "off"
            elif word == "shutter":
                return "open" if self._core.getShutterOpen() else "closed"
            else:
                return f"unknown: {line}"
        return "done"

    def strike(self, name: str, arguments: list[Any]) -> tuple[list[Any], bool]:
        """Spoil a call if it is due: gives its arguments, and whether a device is to be busy
        whatever it says.

        Raises:
            RuntimeError: a driver's error that was ordered.
        """
        with self._lock:
            healed = self._healed
            late, seconds = self._hang.get(name, (0, 0.0))
            left, text = self._fail.get(name, (0, ""))
            self._hang[name], self._fail[name] = (
                (max(late - 1, 0), seconds),
                (max(left - 1, 0), text),
            )
            if name == "stop":
                self._busy -= set(arguments)
            if name == "startSequenceAcquisition" and self._short:
                self._short -= 1
                arguments = [arguments[0] - 1, *arguments[1:]]
            busy = name == "deviceBusy" and arguments[0] in self._busy
            self._hanging += bool(late)
        if late:
            healed.wait(seconds)
            with self._lock:
                self._hanging -= 1
        if left:
            raise RuntimeError(text)
        return arguments, busy
