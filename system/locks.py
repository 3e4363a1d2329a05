"""Locks on files that one process at a time can hold.

The operating system releases them when the process dies.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from filelock import FileLock, Timeout

from wbcpipe.system.files import make_folder
from wbcpipe.system.storage import patiently

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["exclusive_lock", "try_lock"]

_POLL_S: Final = 0.05


@contextlib.contextmanager
def exclusive_lock(
    path: Path, holder: Path, purpose: str, busy: Callable[[str], Exception], *, wait_s: float = 0.0
) -> Iterator[None]:
    """Hold a lock while the block runs.

    Args:
        path: of the lock file; it is created, and its permissions are kept.
        holder: file that names the process that holds the lock; empty when it was released.
        purpose: of this process, shown to a process that is refused.
        busy: returns the error to raise, given the content of ``holder``.
        wait_s: time to wait for another process to release the lock.
    """
    with _lock(path, wait_s) as held:
        if not held:
            raise busy(_read_holder(holder))
        note = f"process {os.getpid()}, {purpose}\n"
        patiently(holder, lambda: holder.write_text(note, encoding="utf-8"))
        try:
            yield
        finally:
            # Whoever does not take the lock can tell by the note that it is free. Its time stays
            # that of the taking: the batch that was started last is the one with the latest.
            with contextlib.suppress(OSError):
                times = holder.stat()
                holder.write_text("", encoding="utf-8")
                os.utime(holder, ns=(times.st_atime_ns, times.st_mtime_ns))


@contextlib.contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Hold a lock while the block runs; yield whether it is held, or another process holds it.

    Args:
        path: of the lock file; it is created with its folder, also on a disk that several machines
            share.
    """
    make_folder(path.parent)
    with _lock(path, 0.0) as held:
        yield held


@contextlib.contextmanager
def _lock(path: Path, wait_s: float) -> Iterator[bool]:
    # Without a lock of the operating system an error is right: a marker file would outlive a crash.
    lock = FileLock(
        path, timeout=wait_s, poll_interval=_POLL_S, thread_local=False, fallback_to_soft=False
    )
    try:
        # A lock that another process holds is a Timeout, without a number: it is not waited for
        # here.
        patiently(path, lock.acquire)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _read_holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or "just started"
    except FileNotFoundError:
        return "just started"
