"""Folders for staged samples, each of one process; what a killed process left is removed."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import uuid
from typing import TYPE_CHECKING, Final

from wbcpipe.errors import DiskFullError
from wbcpipe.system.files import make_folder, remove_tree
from wbcpipe.system.locks import try_lock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["check_space", "remove_leftovers", "scratch_folder"]

_log: Final = logging.getLogger(__name__)
_NAME: Final = re.compile(r"wbcpipe-stage-[0-9a-f]{32}")
#: Beside the folder, not in it: Windows removes no folder with an open file.
_LOCK_SUFFIX: Final = ".lock"
#: Bytes that a sample needs while it is processed, of its raw files, and for its documents.
_FACTOR: Final = 1.5
_EXTRA_BYTES: Final = 100 * 2**20


@contextlib.contextmanager
def scratch_folder(root: Path) -> Iterator[Path]:
    """Make a folder for one task, and remove it afterwards; leftovers are removed first.

    A process that is killed leaves its folder. Its lock is released by the operating system, by
    which the next one knows that nobody uses the folder.

    Args:
        root: folder of local scratch; it is created.
    """
    make_folder(root)
    remove_leftovers(root)
    folder = root / f"wbcpipe-stage-{uuid.uuid4().hex}"
    with try_lock(_lock_path(folder)) as held:
        assert held, "the name is new"
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            remove_tree(folder)
    with contextlib.suppress(OSError):
        _lock_path(folder).unlink(missing_ok=True)


def remove_leftovers(root: Path) -> int:
    """Remove the folders that killed processes left; return their number.

    Only folders with a name of `scratch_folder` whose lock is free; links are not followed.
    """
    removed = 0
    for lock in sorted(root.glob(f"wbcpipe-stage-*{_LOCK_SUFFIX}")):
        folder = lock.with_name(lock.name.removesuffix(_LOCK_SUFFIX))
        if not _NAME.fullmatch(folder.name) or lock.is_symlink():
            continue
        with try_lock(lock) as free:
            if not free:
                continue
            if folder.is_dir() and not folder.is_symlink():
                remove_tree(folder)
                removed += 1
            left = folder.exists() or folder.is_symlink()
        if not left:
            with contextlib.suppress(OSError):  # Windows, while another process looks at it
                lock.unlink(missing_ok=True)
    if removed:
        _log.info("removed %d folders of processes that were killed from %s", removed, root)
    return removed


def check_space(folder: Path, size: int) -> None:
    """Check that a sample can be staged and processed in a folder.

    Args:
        folder: of the scratch.
        size: bytes of the sample's raw files.

    Raises:
        DiskFullError: it cannot; nothing was written.
    """
    needed, free = int(size * _FACTOR) + _EXTRA_BYTES, shutil.disk_usage(folder).free
    if free < needed:
        raise DiskFullError(
            f"{folder}: {free / 1e9:.1f} GB are free, and the sample needs {needed / 1e9:.1f} GB "
            f"while it is processed; free space, or give a scratch folder on another disk."
        )


def _lock_path(folder: Path) -> Path:
    return folder.with_name(folder.name + _LOCK_SUFFIX)
