"""Write files so that a crash or a full disk loses nothing: write aside, flush, rename."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import sys
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any, Final

from wbcpipe.errors import DiskFullError, SampleStateError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "append_event",
    "append_line",
    "begin_flush",
    "disk_errors",
    "read_json",
    "sync_directory",
    "sync_tree",
    "write_atomic",
    "write_json",
]

_EVENT: Final = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a used-up quota into one clear error that names ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)) and not isinstance(
            error, DiskFullError
        ):
            raise DiskFullError(
                f"{path}: no space left on the disk. Earlier files are complete; free space and run the same "
                "command again."
            ) from error
        raise


def sync_directory(path: Path) -> None:
    """Make a rename inside ``path`` durable; a no-op on Windows, where directories cannot be flushed."""
    if sys.platform == "win32":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def begin_flush(handle: IO[bytes], start: int) -> int:
    """Start to flush a file from byte ``start`` on, without waiting; return the file's end. Linux only.

    `os.fsync` must still be called, but has less to wait for.
    """
    handle.flush()
    end = handle.tell()
    if sys.platform == "linux":
        # Linux starts to write dirty pages and drops clean ones: of bytes just written, almost none are clean.
        os.posix_fadvise(handle.fileno(), start, end - start, os.POSIX_FADV_DONTNEED)
    return end


def sync_tree(path: Path) -> None:
    """Flush every file below ``path`` to the disk."""
    for child in path.iterdir():
        if child.is_dir():
            sync_tree(child)
        else:
            with child.open("rb+") as handle:
                os.fsync(handle.fileno())
    sync_directory(path)


@contextlib.contextmanager
def write_atomic(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path`` for writing; rename it to ``path`` when it is complete and flushed.

    Raises:
        DiskFullError: no space left; nothing of the new file remains.
    """
    aside = path.with_name(f".{path.name}.partial")
    try:
        with disk_errors(path):
            with aside.open("wb") as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            aside.replace(path)
            sync_directory(path.parent)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically."""
    with write_atomic(path) as handle:
        handle.write((json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file of the sample.

    Raises:
        SampleStateError: the file is absent or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SampleStateError(f"{path}: not there; the stage that writes it has not run.") from error
    except ValueError as error:
        raise SampleStateError(f"{path}: not readable as JSON ({error}); move it away and run again.") from error


def append_event(path: Path, event: str, **details: Any) -> None:
    """Append an event with its UTC time as one line; on a full disk, append nothing.

    Args:
        path: of ``log.jsonl``.
        event: name in snake_case.
        details: figures of the event.

    Raises:
        ValueError: the name is not in snake_case.
        DiskFullError: no space left.
    """
    if not _EVENT.fullmatch(event):
        raise ValueError(f"event {event!r}; names of events are in snake_case, as 'field_missing'.")
    content = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **details}
    line = f"{json.dumps(content)}\n".encode()
    with disk_errors(path), path.open("ab", buffering=0) as handle:
        before, written = handle.seek(0, os.SEEK_END), 0
        try:
            while written < len(line):
                written += handle.write(line[written:])
        except OSError:
            # Unless another process has added a line behind it meanwhile.
            if written and handle.seek(0, os.SEEK_END) == before + written:
                handle.truncate(before)
            raise


def append_line(path: Path, line: str) -> None:
    """Append a line to a file and flush it to the disk; a last line that a crash cut short is ended first.

    Raises:
        DiskFullError: no space left; nothing was appended.
    """
    content = f"{line}\n".encode()
    new = not path.exists()
    with disk_errors(path), path.open("w+b" if new else "r+b", buffering=0) as handle:
        end = handle.seek(0, os.SEEK_END)
        if end:
            handle.seek(end - 1)
            if handle.read(1) != b"\n":
                content = b"\n" + content
        handle.seek(end)
        try:
            written = 0
            while written < len(content):
                written += handle.write(content[written:])
            os.fsync(handle.fileno())
        except OSError:
            handle.truncate(end)
            raise
    if new:
        sync_directory(path.parent)
