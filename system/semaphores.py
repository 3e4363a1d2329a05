"""Named semaphores of Python's `multiprocessing`, and those that a killed process has left."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

__all__ = ["remove_abandoned_semaphores"]

#: Where Linux keeps them. On Windows a semaphore goes with the last process that has it open, and
#: macOS does not list them.
_FOLDER: Final = Path("/dev/shm")
#: glibc's prefix, and that of `multiprocessing`.
_PATTERN: Final = "sem.mp-*"


def remove_abandoned_semaphores(folder: Path = _FOLDER) -> list[str]:
    """Remove the semaphores of this user that no process has open; return their file names.

    Python's resource tracker unlinks them when their process dies, but is itself killed where an
    operator, the out-of-memory killer or a scheduler kills everything at once. A semaphore is
    mapped by the process that makes it before its name is visible, and stays mapped as long as
    another process may open it by that name: one that no process maps is of no use to any. The
    processes of this user let it read their mappings, those aside that ask the kernel to hide
    them, as a program that holds keys does and Python does not.

    Args:
        folder: of the semaphores.
    """
    if sys.platform != "linux":
        return []
    user = os.getuid()
    found = {path: status for path in folder.glob(_PATTERN) if (status := _status(path))}
    if not found:
        return []
    mapped = _mapped_files()
    abandoned = [
        path
        for path, status in found.items()
        if status.st_uid == user and (status.st_dev, status.st_ino) not in mapped
    ]
    for path in abandoned:
        path.unlink(missing_ok=True)
    return [path.name for path in abandoned]


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except OSError:
        return None


def _mapped_files() -> set[tuple[int, int]]:
    """Return device and inode of the files that a process has mapped.

    Not their names: glibc makes a semaphore under a temporary name, and maps it under that.
    """
    mapped: set[tuple[int, int]] = set()
    if sys.platform == "win32":  # which has neither
        return mapped
    for process in Path("/proc").glob("[0-9]*"):
        try:
            lines = (process / "maps").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:  # it has ended, or hides them
            continue
        for _, _, _, device, inode, *_ in (line.split(maxsplit=5) for line in lines):
            major, minor = (int(part, 16) for part in device.split(":"))
            mapped.add((os.makedev(major, minor), int(inode)))
    return mapped
