"""What to do when the process that drives the devices dies: try again, give up, or end in the dark."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wbcpipe.errors import WbcpipeError
from wbcpipe.system.signals import ignore_sigint_in_children

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from wbcpipe.acquire.config.scope import Reliability, Scope

__all__ = ["RestartPolicy", "Verdict", "close_shutter_in_subprocess", "death_of", "shutter_message"]

#: How long a process may take to load the core and close the shutter.
_DARK_S: Final = 60.0


def death_of(exit_code: int | None) -> str:
    """The name of the signal that ended a process, else its exit code."""
    if exit_code is not None and exit_code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-exit_code).name
    return f"exit code {exit_code}"


@dataclass(frozen=True)
class Verdict:
    """What follows a death.

    Attributes:
        restart: start the process again; if not, the run ends.
        field: that was being taken; ``None`` while focusing, opening or waiting.
        give_up: ``field`` is not tried again.
        deaths: so far at ``field``.
    """

    restart: bool
    field: int | None
    give_up: bool
    deaths: int


class RestartPolicy:
    """Counts deaths, by field and in a row, against the limits of a scope."""

    def __init__(self, limits: Reliability) -> None:
        self._limits = limits
        self._deaths: Counter[int] = Counter()
        self._in_a_row = 0
        self._at: int | None = None

    def begin(self, index: int) -> None:
        """The process says that it begins a field."""
        self._at = index

    def settled(self, index: int, *, taken: bool) -> None:
        """A field is on disk or missing; ``taken`` if the process lived to take it."""
        if self._at == index:
            self._at = None
        if taken:
            self._in_a_row = 0

    def idle(self) -> None:
        """The process has nothing to do."""
        self._at = None

    def died(self) -> Verdict:
        """The process died, hung or lost the core."""
        field, self._at = self._at, None
        self._in_a_row += 1
        restart = self._in_a_row <= self._limits.max_consecutive_restarts
        if field is None:
            return Verdict(restart, None, False, 0)
        self._deaths[field] += 1
        deaths = self._deaths[field]
        return Verdict(restart, field, deaths >= self._limits.max_crashes_per_field, deaths)


def close_shutter_in_subprocess(scope: Scope) -> str:
    """Make the slide dark from a process that lives for this alone; an empty text once it is, else what hindered.

    The driver that just took a process down may do it again; it must not take this one.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_dark_main, args=(scope, there), name="wbcpipe-dark", daemon=True)
    with ignore_sigint_in_children():
        process.start()
    there.close()
    process.join(_DARK_S)
    if process.is_alive():
        process.kill()
        process.join()
        return f"no answer within {_DARK_S:g} s"
    told = ""
    with contextlib.suppress(EOFError, OSError):
        told = str(here.recv()) if here.poll(0) else ""
    here.close()
    return told if process.exitcode == 0 else told or f"the process died ({death_of(process.exitcode)})"


def shutter_message(hindrance: str) -> str:
    """What came of `close_shutter_in_subprocess`, as a sentence for people."""
    if not hindrance:
        return "The slide is in the dark."
    return f"It is not sure that the slide is in the dark ({hindrance.rstrip('.')}): look at it."


def _dark_main(scope: Scope, pipe: Connection) -> None:
    from wbcpipe.acquire.hardware.core_link import CoreLink

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        CoreLink(scope, take_over=True).close()  # opening closes the shutter, and so does closing
    except WbcpipeError as error:
        pipe.send(str(error))
