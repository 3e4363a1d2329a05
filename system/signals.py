"""Ctrl-C: heard once by the command that was typed, and never by the processes that it started."""

from __future__ import annotations

import contextlib
import multiprocessing.resource_tracker
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ignore_sigint", "ignore_sigint_in_children", "install_sigint_handler"]

#: So long after the first Ctrl-C another is not heard: every way of ending has a deadline, and should not be cut short.
_ENDING_S: Final = 120.0


def install_sigint_handler() -> None:
    """Have the first Ctrl-C raise `KeyboardInterrupt`, and those that follow while it is obeyed do nothing.

    A second one would otherwise leave the closing of a shutter, or the writing of a field, in the middle. Where Ctrl-C
    is ignored, or handled by somebody else, all is left as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    heard_s = -_ENDING_S
    told = False

    def hear(_number: int, _frame: object) -> None:
        nonlocal heard_s, told
        now_s = time.monotonic()
        if now_s - heard_s >= _ENDING_S:
            heard_s, told = now_s, False
            raise KeyboardInterrupt
        if not told:
            told = True
            with contextlib.suppress(OSError):
                os.write(2, b"wbcpipe: stopping; what is being done is brought to its end first.\n")

    signal.signal(signal.SIGINT, hear)


def ignore_sigint() -> None:
    """Ignore Ctrl-C for good, in a process that ends: Python takes its own handler away before it is gone."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def ignore_sigint_in_children() -> Iterator[None]:
    """A process started here never hears Ctrl-C, not even while Python begins in it; the parent hears it afterwards."""
    with _heard_afterwards():
        if sys.platform == "win32":
            yield
            return
        multiprocessing.resource_tracker.ensure_running()  # it would lift the mask
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _heard_afterwards() -> Iterator[None]:
    """Put off a Ctrl-C until the end: a mask alone is of one thread, and others hear it for the process."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    heard: list[object] = []
    signal.signal(signal.SIGINT, lambda _number, frame: heard.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if heard:
            handler(signal.SIGINT, None)
