"""Priority, memory and end of a process and its children.

A process is known by its id and its creation time.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "TreeMemory",
    "end_tree",
    "is_alive",
    "process_created",
    "return_free_memory",
    "set_background_priority",
    "tree_memory",
]

#: Linux computes a creation time from the wall clock, which time servers correct by parts of a
#: second.
_CREATED_TOLERANCE_S: Final = 2.0
#: Niceness of background work, above what hardly gets a turn (19). Of a core that a capture needs
#: too (0) it takes 3 %; at 10 it would take 10 % (the weights of the Linux scheduler).
_NICENESS: Final = 15
#: A child that was being started while its parent was killed is found in the next round.
_ROUNDS: Final = 5
_KILLED_S: Final = 5.0
#: psutil's own wait takes a zombie, which its parent has yet to collect, for alive.
_POLL_S: Final = 0.02


@dataclass(frozen=True)
class TreeMemory:
    """Memory of a process and its children.

    Attributes:
        resident_bytes: sum of the resident memory; pages that processes share count for each of
            them.
        peak_bytes: sum of the highest resident memory that each living process had: not less than
            the tree's peak since the youngest of them began.
        processes: how many were measured; 0 if the process is gone.
    """

    resident_bytes: int = 0
    peak_bytes: int = 0
    processes: int = 0


def return_free_memory() -> None:
    """Return memory that nothing uses to the operating system, where the C library is glibc.

    Between arrays that come and go it keeps pieces: a process that does the same again and again
    grows by them.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def process_created(pid: int) -> float | None:
    """Return the creation time of a process, in seconds since the epoch; ``None`` if there is no
    such process.
    """
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def is_alive(pid: int, created: float) -> bool:
    """Return whether the process lives.

    Another process that was given the same id does not count, nor a zombie.
    """
    return _find(pid, created) is not None


def set_background_priority() -> None:
    """Let this process and the children it starts compute and read the disk after those of normal
    priority.

    A system that refuses it leaves the priority as it was.
    """
    process = psutil.Process()
    # Only for Windows are the constants defined; there a child inherits a class below normal, as it
    # does niceness.
    with contextlib.suppress(psutil.Error, OSError):
        if sys.platform == "win32":
            process.nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
        else:
            process.nice(max(_NICENESS, os.nice(0)))
    with contextlib.suppress(psutil.Error, OSError, AttributeError):
        if sys.platform == "win32":
            process.ionice(psutil.IOPRIO_LOW)
        elif sys.platform == "linux":
            # The lowest of the ordinary class: the idle class may starve, and the scan waits for
            # these results.
            process.ionice(psutil.IOPRIO_CLASS_BE, 7)


def tree_memory(pid: int) -> TreeMemory:
    """Measure the memory of a process and its children.

    Processes that end meanwhile are left out.
    """
    resident = peak = count = 0
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.Error, OSError):
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                used, highest = _resident_and_peak(process)
                resident, peak, count = resident + used, peak + highest, count + 1
    return TreeMemory(resident, peak, count)


def end_tree(pid: int, created: float, grace_s: float) -> bool:
    """End a process and all its children.

    The process itself is asked first; what still lives after ``grace_s`` is killed, with everything
    it started.

    Args:
        pid: of the process.
        created: its creation time; a younger process with the same id is left alone.
        grace_s: time to end by itself. On Windows a process cannot be asked by another one
            (`terminate` kills at once): there the caller closes its pipe first, and this waits.

    Returns:
        Whether all of them are gone.
    """
    root = _find(pid, created)
    if root is None:
        return True
    # Found before the root ends: afterwards nothing says that its children were its own.
    tree = {root, *_children(root)}
    if grace_s > 0:
        if sys.platform != "win32":
            with contextlib.suppress(psutil.Error):
                root.terminate()
        until_s = time.monotonic() + grace_s
        while time.monotonic() < until_s and _living(tree):
            tree.update(*(_children(process) for process in _living(tree)))
            time.sleep(_POLL_S)
    for _ in range(_ROUNDS):
        living = _living(tree)
        if not living:
            return True
        for process in living:
            tree.update(_children(process))
        for process in _living(tree):
            with contextlib.suppress(psutil.Error):
                process.kill()
        until_s = time.monotonic() + _KILLED_S
        while time.monotonic() < until_s and _living(tree):
            time.sleep(_POLL_S)
    return not _living(tree)


def _find(pid: int, created: float) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        if (
            abs(process.create_time() - created) > _CREATED_TOLERANCE_S
            or process.status() == psutil.STATUS_ZOMBIE
        ):
            return None
    except psutil.Error:
        return None
    return process


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _living(processes: set[psutil.Process]) -> list[psutil.Process]:
    return list(_iterate_living(processes))


def _iterate_living(processes: set[psutil.Process]) -> Iterator[psutil.Process]:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def _resident_and_peak(process: psutil.Process) -> tuple[int, int]:
    memory = process.memory_info()
    if sys.platform == "win32":
        return memory.rss, memory.peak_wset
    if sys.platform == "linux":
        with open(f"/proc/{process.pid}/status", encoding="ascii", errors="replace") as handle:  # noqa: PTH123 - no file
            for line in handle:
                if line.startswith("VmHWM:"):
                    return memory.rss, max(memory.rss, int(line.split()[1]) * 1024)
    return memory.rss, memory.rss
