"""Hold a file for one process alone; a process that dies releases it."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import IO, TYPE_CHECKING

from wbcpipe.system.files import disk_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["exclusive_lock", "try_lock"]


@contextlib.contextmanager
def exclusive_lock(
    path: Path, holder: Path, purpose: str, busy: Callable[[str], Exception], *, wait_s: float = 0.0
) -> Iterator[None]:
    """Hold a file for this process alone while the block runs; a process that dies lets go.

    Args:
        path: of the file, which is made and left behind.
        holder: file that says who holds it.
        purpose: what for, shown to whoever is refused.
        busy: makes the error of that, from who holds it.
        wait_s: how long to wait for another holder to end.
    """
    with path.open("a+b") as handle:
        deadline = time.monotonic() + wait_s
        while not _try_lock(handle):
            if time.monotonic() >= deadline:
                raise busy(_read_holder(holder))
            time.sleep(0.05)
        try:
            holder.write_text(f"process {os.getpid()}, {purpose}\n", encoding="utf-8")
            yield
        finally:
            _unlock(handle)


@contextlib.contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Hold a file for this process while the block runs; false where another holds it. A process that dies lets go.

    Args:
        path: of the file, which is made and left behind; also on a disk that several machines share.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as handle:
        held = _try_lock(handle)
        try:
            yield held
        finally:
            if held:
                _unlock(handle)


def _read_holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return "just started"


if sys.platform == "win32":
    import msvcrt

    def _try_lock(handle: IO[bytes]) -> bool:
        handle.seek(0)
        try:
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(handle: IO[bytes]) -> None:
        handle.seek(0)
        msvcrt.locking(handle.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(handle: IO[bytes]) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(handle: IO[bytes]) -> None:
        fcntl.flock(handle, fcntl.LOCK_UN)
