"""Patience with storage.

A file that a scanner holds for a moment, a share that is gone for minutes.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import psutil

from wbcpipe.errors import DiskFullError, StorageError, WbcpipeError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Patience", "explained", "patiently", "report_waits", "storage_error"]

ResultT = TypeVar("ResultT")

_log = logging.getLogger(__name__)

#: How long a refusal of this computer lasts: a virus scanner has read a file by then.
LOCAL_WAIT_S = 8.0
#: A file server that restarts is back by then; the deadlines of a batch leave room for it.
SHARE_WAIT_S = 300.0
FIRST_DELAY_S: Final = 0.05
_MAX_DELAY_S: Final = 5.0

_FULL: Final = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_SHORT_WRITE: Final = re.compile(r"\d+ requested and \d+ written")
#: Windows reports a file that another program has open as EACCES (access denied, sharing and lock
#: violations).
_REFUSED: Final = {
    errno.EACCES,
    errno.EPERM,
    errno.EBUSY,
    errno.EAGAIN,
    getattr(errno, "ETXTBSY", errno.EBUSY),
}
_SHARE_GONE: Final = {
    getattr(errno, name)
    for name in (
        "ENETDOWN",
        "ENETUNREACH",
        "ENETRESET",
        "EHOSTDOWN",
        "EHOSTUNREACH",
        "ESTALE",
        "ENOTCONN",
        "ECONNABORTED",
        "ECONNREFUSED",
        "ECONNRESET",
        "ETIMEDOUT",
        "EREMOTEIO",
    )
    if hasattr(errno, name)
}
#: The network path was not found, is busy, is no longer available, or gave an unexpected answer:
#: Python gives these the numbers of other errors, such as ENOENT.
_WINDOWS_SHARE_GONE: Final = {51, 53, 54, 55, 59, 64, 67, 121, 1231, 1232, 1236}
_NETWORK_FILE_SYSTEMS: Final = (
    "nfs",
    "cifs",
    "smb",
    "fuse.sshfs",
    "9p",
    "ceph",
    "glusterfs",
    "afs",
)
_FINAL: Final = {errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP}

_report: Callable[[str], None] | None = None


def report_waits(report: Callable[[str], None] | None) -> None:
    """Have each retry reported, as a line for people: a process that waits for a share is not taken
    for a hung one.

    Args:
        report: called from whichever thread waits, at least every few seconds; ``None`` to log it.
    """
    global _report
    _report = report


class Patience:
    """Decides whether a refused operation on a file is tried again, and when.

    Args:
        path: of the file or folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start_s = time.monotonic()
        self._delay_s = FIRST_DELAY_S

    def delay_s(self, error: OSError) -> float:
        """Return the time until the next try.

        Raises:
            DiskFullError: no space left.
            StorageError: the storage has refused for too long.
            OSError: the error itself, if it has nothing to do with the state of the storage.
        """
        wait_s = _wait_s(error, self._path)
        waited_s = time.monotonic() - self._start_s
        if wait_s is None or waited_s >= wait_s:
            raise storage_error(error, self._path, waited_s) from error
        delay_s = min(self._delay_s, wait_s - waited_s + 0.001)
        self._delay_s = min(2 * self._delay_s, _MAX_DELAY_S)
        if waited_s > 1:
            (_report or _log.warning)(
                f"waiting for {self._path} for {waited_s:.0f} s ({_reason(error)}); giving up "
                f"after {wait_s:.0f} s"
            )
        return delay_s


def patiently(path: Path, action: Callable[[], ResultT]) -> ResultT:
    """Carry out an operation on a file; try again while the storage refuses it.

    Args:
        path: of the file or folder, for messages.
        action: the operation; it must leave nothing half done when it fails.

    Raises:
        DiskFullError: no space left.
        StorageError: the storage has refused for too long.
    """
    patience = Patience(path)
    while True:
        try:
            return action()
        except OSError as error:
            delay_s = patience.delay_s(error)
        time.sleep(delay_s)


def storage_error(error: OSError, path: Path, waited_s: float = 0.0) -> OSError:
    """Return the error with a meaning for the user.

    The same one if it has nothing to do with the storage's state.
    """
    if isinstance(error, WbcpipeError):
        return error
    if _is_full(error):
        return DiskFullError(
            f"{path}: no space left on the disk. Earlier files are complete; free space and run "
            f"the same command again."
        )
    waited = f" for {waited_s:.0f} s" if waited_s >= 1 else ""
    if _is_share_error(error) or error.errno == errno.EIO:
        return StorageError(
            f"{path}: the storage does not answer{waited} ({_reason(error)}). Check the disk, the "
            f"network and the share; complete files are kept: run the same command again."
        )
    if error.errno in _REFUSED or error.errno in _FINAL:
        return StorageError(
            f"{path}: the operating system refuses the file{waited} ({_reason(error)}). Close the "
            f"program that has it open, exclude the folder from the virus scanner, or correct its "
            "permissions; then run the same command "
            "again."
        )
    return error


def explained(error: Exception) -> Exception:
    """Return what a full disk or a failing storage raised where no file was named, as
    `storage_error` words it.

    For the boundary of a process: a write that does not go through `files` must not end as a
    defect. Errors that have nothing to do with the storage's state are returned as they are.
    """
    if not isinstance(error, OSError) or not (_is_full(error) or error.errno == errno.EIO):
        return error
    return storage_error(
        error, Path(os.fsdecode(error.filename)) if error.filename else Path("a file")
    )


def _is_full(error: OSError) -> bool:
    """Return whether there was no space left.

    numpy's `tofile` gives no number of an error, only how much of an array it could write.
    """
    return error.errno in _FULL or (
        error.errno is None and _SHORT_WRITE.fullmatch(str(error)) is not None
    )


def _wait_s(error: OSError, path: Path) -> float | None:
    """Return how long to wait for an error to pass; ``None`` if it will not."""
    if isinstance(error, WbcpipeError):
        # One that a single try has already put into words.
        cause = error.__cause__
        return (
            _wait_s(cause, path)
            if isinstance(error, StorageError) and isinstance(cause, OSError)
            else None
        )
    if _is_share_error(error):
        return SHARE_WAIT_S
    if error.errno == errno.EIO:
        return SHARE_WAIT_S if _is_on_network(path) else LOCAL_WAIT_S
    return LOCAL_WAIT_S if error.errno in _REFUSED else None


def _is_share_error(error: OSError) -> bool:
    return error.errno in _SHARE_GONE or getattr(error, "winerror", None) in _WINDOWS_SHARE_GONE


def _is_on_network(path: Path) -> bool:
    """Return whether a path is on a network drive, from the list of mounts: a share that is gone is
    not asked.
    """
    place = os.path.abspath(path)  # noqa: PTH100 - resolve() asks the file system
    if place.startswith("\\\\"):
        return True
    mounts = [
        part for part in psutil.disk_partitions(all=True) if place.startswith(part.mountpoint)
    ]
    kind = max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else ""
    remote = any(
        "remote" in part.opts.split(",") for part in mounts
    )  # so psutil names it on Windows
    return remote or kind.startswith(_NETWORK_FILE_SYSTEMS)


def _reason(error: OSError) -> str:
    cause = error.__cause__ if isinstance(error, WbcpipeError) else error
    return str(getattr(cause, "strerror", None) or cause)
