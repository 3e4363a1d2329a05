"""End a child process with its parent, at any moment.

While it imports, unpickles, computes, or hangs in a driver.

Three mechanisms, because each has a gap that another one fills:

- A thread waits for the parent's end. It gives the child its time to close the shutter, and then
  ends it. It needs the interpreter, and a library that hangs without releasing it (the GIL) stops
  the thread as well.
- Linux sends the child a signal when the parent ends. SIGKILL while the child has opened nothing.
  Once it may have devices open, a signal whose handler is the C library's `alarm` itself: a handler
  is called with the signal's number, so signal 34 has the system end the process 34 s later,
  whatever its threads do, and no Python runs. The thread above, where it can run, cancels that and
  keeps to the exact time.
- Windows ends the members of a Job Object with the last handle to it, which the parent holds. A
  child that may have devices open holds one too, so that it outlives the parent for its time; the
  processes it started end with it.

Where the system offers neither of the last two to a hung child, `faulthandler` ends it: its
watchdog is a C thread, which the thread above winds up again as long as it can run.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wbcpipe.system.job_object import hold_job, join_job

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Creator", "ParentWatch", "end_program_with_parent"]

_POLL_S: Final = 0.5
#: Time for what `if_hung` starts.
_MARGIN_S: Final = 10.0
#: A library may keep the interpreter this long in a child whose parent lives. The waits of Windows
#: do not count the time that the computer sleeps.
_UNRESPONSIVE_S: Final = 120.0
_PR_SET_PDEATHSIG: Final = 1
_F_SETSIG: Final = 10
_STDERR: Final = 2
if sys.platform == "linux":
    # Loaded before any fork: between fork and exec nothing must be loaded.
    _libc: Final = ctypes.CDLL(None)

#: What this process is a member of: the names of Job Objects, the outermost first.
_own_jobs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Creator:
    """The process, and the thread, that starts a child.

    Attributes:
        pid: of the process.
        by_main_thread: Linux ties its parent-death signal to the thread that started the child, and
            sends it also when that thread alone ends. The main thread ends with its process; for
            others the end of a pipe is used.
        jobs: names of the Windows Job Objects that the child becomes a member of, the outermost
            first.
        end_s: how long the child may outlive its parent before it calls `ParentWatch.allow`.
    """

    pid: int
    by_main_thread: bool
    jobs: tuple[str, ...]
    end_s: float = 0.0

    @classmethod
    def here(cls, job: str = "", *, end_s: float = 0.0) -> Creator:
        """Return this process and thread, with the name of the child's own job, and what the child
        is allowed.
        """
        main = threading.current_thread() is threading.main_thread()
        return cls(os.getpid(), main, (*_own_jobs, job) if job else _own_jobs, end_s)


class ParentWatch:
    """Ends this process with its parent. Create it as the first act of a child.

    Until `allow` is called the child is ended at once, or has the time that its creator gave it.

    Args:
        creator: what the parent gave.

    Attributes:
        if_hung: called before a child that has used up its time is ended; it may start another
            process.
    """

    def __init__(self, creator: Creator) -> None:
        global _own_jobs
        self.if_hung: Callable[[], None] | None = None
        self._creator, self._end_s = creator, creator.end_s
        if creator.jobs:
            join_job(creator.jobs[-1])
            _own_jobs = creator.jobs
        self._set_signal()
        threading.Thread(target=self._watch, name="wbcpipe-parent", daemon=True).start()

    def allow(self, end_s: float) -> None:
        """Let this process live on for ``end_s`` after its parent.

        Call it before devices are opened.
        """
        if end_s <= 0:
            return
        for job in _own_jobs:
            hold_job(job)
        self._end_s = end_s
        self._set_signal()

    def _set_signal(self) -> None:
        """Have Linux signal this process when the parent ends, or has ended already."""
        if sys.platform == "linux":
            number = _delay_signal(self._end_s) if self._end_s > 0 else int(signal.SIGKILL)
            if number != signal.SIGKILL:
                # Signals that the parent ignores or blocks stay so in a child.
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {number, signal.SIGALRM})
                set_handler = _libc.signal
                set_handler.restype = ctypes.c_void_p
                set_handler(signal.SIGALRM, ctypes.c_void_p(signal.SIG_DFL))
                set_handler(number, ctypes.cast(_libc.alarm, ctypes.c_void_p))
            if self._creator.by_main_thread:
                _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
            else:
                _signal_at_end_of_pipe(number)
            if self._parent_is_gone(0):  # before the signal was set
                os.kill(os.getpid(), number)

    def _parent_is_gone(self, wait_s: float) -> bool:
        parent = multiprocessing.parent_process()
        if parent is not None and multiprocessing.connection.wait([parent.sentinel], wait_s):
            return True
        # A program that the parent forked may hold the pipe open; Windows keeps the id of a parent
        # that is gone.
        return sys.platform != "win32" and os.getppid() != self._creator.pid

    def _watch(self) -> None:
        while not self._parent_is_gone(_POLL_S):
            if sys.platform != "linux":
                faulthandler.dump_traceback_later(
                    _UNRESPONSIVE_S + self._end_s, exit=True, file=_STDERR
                )
        end_s = self._end_s
        faulthandler.dump_traceback_later(end_s + _MARGIN_S, exit=True, file=_STDERR)
        until_s = time.monotonic() + end_s
        while (left_s := until_s - time.monotonic()) > 0:
            if sys.platform != "win32":
                signal.alarm(0)  # also the one of a signal that arrives after the pipe's end
            time.sleep(min(_POLL_S, left_s))
        try:
            if self.if_hung is not None:
                self.if_hung()
        finally:
            os._exit(1)


def end_program_with_parent() -> None:
    """Have Linux send SIGTERM to a program of the user when this process ends.

    For `subprocess.Popen(preexec_fn=...)`.

    It must be waited for by the thread that starts it. On Windows put the program into a
    `ProcessJob` instead.
    """
    if sys.platform == "linux":
        # A child of this package blocks and ignores it, and a program inherits both.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


if sys.platform == "linux":

    def _delay_signal(end_s: float) -> int:
        """Return the signal with the smallest number not below ``end_s``: 12, or 34 to 64, the
        longest delay in s.
        """
        numbers: list[int] = [
            int(signal.SIGUSR2),
            *range(int(signal.SIGRTMIN), int(signal.SIGRTMAX) + 1),
        ]
        longer = [number for number in numbers if number >= math.ceil(end_s)]
        return longer[0] if longer else numbers[-1]

    def _signal_at_end_of_pipe(number: int) -> None:
        """Have Linux send a signal when the parent's end closes of the pipe by which a child
        notices its end.
        """
        import fcntl

        parent = multiprocessing.parent_process()
        if parent is None:
            return
        with contextlib.suppress(OSError):
            fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(parent.sentinel, _F_SETSIG, number)
            fcntl.fcntl(
                parent.sentinel,
                fcntl.F_SETFL,
                fcntl.fcntl(parent.sentinel, fcntl.F_GETFL) | os.O_ASYNC,
            )
