"""Signals that stop a command: the first one stops it gracefully, a second one ends it at once."""

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
    from collections.abc import Callable, Iterator
    from types import FrameType

__all__ = [
    "STOP_SIGNALS",
    "StopRequested",
    "defer_stop_signals",
    "end_at_next_signal",
    "ignore_stop_signals",
    "ignore_stop_signals_in_children",
    "install_stop_handlers",
    "stop_exit_code",
    "stop_reason",
    "stop_signal",
]

#: Ctrl-C, the operating system's request to end, and the loss of the terminal. On Windows a closed
#: console window, a log-off and Ctrl-Break arrive as SIGBREAK.
STOP_SIGNALS: Final[tuple[signal.Signals, ...]] = tuple(
    signal.Signals[name]
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
    if hasattr(signal, name)
)
#: Signals this close together are one request: a program such as `timeout` or `uv run` forwards the
#: Ctrl-C that the terminal has sent to both processes, and a key held down repeats.
_ONE_REQUEST_S: Final = 0.25
_SHOW_CURSOR: Final = b"\x1b[?25h"


class StopRequested(KeyboardInterrupt):
    """A stop signal arrived; raised in the main thread."""


class _StopHandler:
    """Handles the stop signals of a command.

    The main thread raises `StopRequested` for the first signal, as soon as it executes Python
    again. A thread sees each signal arrive, also while the main thread is inside a library, and
    ends the process at the second one.

    Attributes:
        first: the signal that stopped the command; ``None`` while none has arrived.
        exit_code: with which the next signal ends the process; ``None`` while the command runs.
    """

    def __init__(self) -> None:
        reading, self._writing = os.pipe()
        if sys.platform != "win32":
            os.set_blocking(self._writing, False)
        self.reset()
        threading.Thread(
            target=self._watch, args=(reading,), name="wbcpipe-signals", daemon=True
        ).start()

    def reset(self) -> None:
        """Forget the signals that have arrived; called when a command starts."""
        self.first: signal.Signals | None = None
        self.exit_code: int | None = None
        self._first_s: float | None = None
        self._announcement = [b"wbcpipe: stopping; a second Ctrl-C ends it at once.\n"]
        self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]
        signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if self.first is None and self.exit_code is None:
            self.first = signal.Signals(number)
            self._leave_lost_terminal()
            self._announce()
            raise StopRequested

    def _watch(self, reading: int) -> None:
        while received := os.read(reading, 1):
            if received[0] not in STOP_SIGNALS:
                continue
            self._leave_lost_terminal()
            if self.exit_code is not None:
                self._end(self.exit_code)
            elif self._first_s is None:
                self._first_s = time.monotonic()
                self._announce()
            elif time.monotonic() - self._first_s >= _ONE_REQUEST_S:
                _write(b"wbcpipe: ended at once; run the same command again to resume.\n")
                self._end(128 + received[0])

    def _announce(self) -> None:
        """Write the announcement, from whichever thread comes first."""
        with contextlib.suppress(IndexError):
            _write(self._announcement.pop())

    def _leave_lost_terminal(self) -> None:
        """Write into nothing once the terminal is gone: a message would raise OSError on the way
        out.
        """
        lost = [descriptor for descriptor in self._terminals if not os.isatty(descriptor)]
        if lost:
            self._terminals = []
            nothing = os.open(os.devnull, os.O_WRONLY)
            for descriptor in lost:
                os.dup2(nothing, descriptor)

    def _end(self, code: int) -> None:
        if 2 in self._terminals:
            _write(_SHOW_CURSOR)  # a progress bar hides it
        os._exit(code)


_handler: _StopHandler | None = None


def install_stop_handlers() -> None:
    """Have the first stop signal raise `StopRequested` in the main thread, and a second one end the
    process.

    Child processes that drive devices ignore these signals and end with their parent: see
    `child_process`. A signal that is ignored (`nohup`) or has a handler of its own is left as it
    is. Does nothing outside the main thread.
    """
    global _handler
    if threading.current_thread() is not threading.main_thread():
        return
    if _handler is None:
        _handler = _StopHandler()
    else:
        _handler.reset()
    for number in STOP_SIGNALS:
        if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
            signal.signal(number, _handler)


def stop_signal() -> signal.Signals | None:
    """Return the signal that stopped this command; ``None`` if none has arrived."""
    return None if _handler is None else _handler.first


def stop_reason() -> str:
    """Return what stopped this command, for messages and logs."""
    first = stop_signal() or signal.SIGINT
    return "stopped by the operator" if first == signal.SIGINT else f"stopped by {first.name}"


def stop_exit_code() -> int:
    """Return the exit code of a command that was stopped: 128 plus the signal's number."""
    return 128 + (stop_signal() or signal.SIGINT)


def end_at_next_signal(exit_code: int) -> None:
    """Have the next stop signal end this process with ``exit_code``, without a message: only its
    exit is left.

    Towards its end Python removes the handlers; from then on the signal itself ends the process.
    """
    if _handler is not None:
        _handler.exit_code = exit_code


def ignore_stop_signals(*, but_sigterm: bool = False) -> None:
    """Ignore the stop signals in this process for good. Does nothing outside the main thread.

    Args:
        but_sigterm: let SIGTERM end the process, for the workers of a `ProcessPoolExecutor`, which
            ends them with it.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in STOP_SIGNALS:
        signal.signal(
            number, signal.SIG_DFL if but_sigterm and number == signal.SIGTERM else signal.SIG_IGN
        )
    if but_sigterm and sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


@contextlib.contextmanager
def ignore_stop_signals_in_children() -> Iterator[None]:
    """Start processes in this block that receive no stop signal, not even while Python starts in
    them.

    This process handles a signal that arrives in the block at the block's end.
    """
    with defer_stop_signals():
        if sys.platform == "win32":
            yield
            return
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        try:
            _start_resource_tracker()  # it unblocks SIGINT and SIGTERM
            signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_resource_tracker() -> None:
    """Start Python's process that removes semaphores, without its warning where this process ends
    at once.
    """
    quiet = "ignore:resource_tracker:UserWarning"
    sys.warnoptions.append(quiet)
    try:
        multiprocessing.resource_tracker.ensure_running()
    finally:
        sys.warnoptions.remove(quiet)


@contextlib.contextmanager
def defer_stop_signals() -> Iterator[None]:
    """Handle a stop signal that arrives in this block at its end.

    The handlers are deferred, since a mask covers one thread only, and another may receive the
    signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: dict[signal.Signals, Callable[[int, FrameType | None], object]] = {
        number: handler for number in STOP_SIGNALS if callable(handler := signal.getsignal(number))
    }
    received: list[int] = []
    for deferred in handlers:
        signal.signal(deferred, lambda number, _frame: received.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if received:
            handlers[signal.Signals(received[0])](received[0], None)


def _write(text: bytes) -> None:
    with contextlib.suppress(OSError):
        os.write(2, text)
