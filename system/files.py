"""Write files so that a crash or a full disk loses nothing.

Write aside, flush, rename, and try again if refused.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import math
import os
import re
import shutil
import sys
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any, Final, NoReturn

import google_crc32c

from wbcpipe.errors import DiskFullError, SampleStateError, StorageError
from wbcpipe.system.file_kinds import check_target, folder_needed, kind_of_special, why_no_folder
from wbcpipe.system.storage import patiently, storage_error

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = [
    "append_event",
    "append_line",
    "begin_flush",
    "disk_errors",
    "file_errors",
    "json_bytes",
    "json_line",
    "make_folder",
    "parse_json",
    "parse_json_line",
    "read_json",
    "read_text",
    "remove_tree",
    "rename",
    "stream_atomic",
    "sync_directory",
    "sync_file",
    "sync_tree",
    "write_atomic",
    "write_json",
]

#: Levels of lists and tables in a JSON file; pydantic refuses more than 255.
_MAX_DEPTH: Final = 64
_LINE_CHECKSUM: Final = "crc32c"
_EVENT: Final = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, and storage that refuses or does not answer, into one clear error that
    names ``path``.
    """
    try:
        yield
    except OSError as error:
        clear = storage_error(error, path)
        if clear is error:
            raise
        raise clear from error


def make_folder(path: Path) -> None:
    """Create a folder and those above it, unless it is there; make their names durable.

    Raises:
        DiskFullError: no space left.
        StorageError: the storage refuses it, or something else than a folder lies there.
    """

    def action() -> list[Path]:
        folders = (path, *path.parents)
        new = list(itertools.takewhile(lambda folder: not folder.exists(), folders))
        path.mkdir(parents=True, exist_ok=True)
        return new

    try:
        new = patiently(path, action)
    except (FileExistsError, NotADirectoryError) as error:
        raise StorageError(
            f"{path}: the folder {why_no_folder(path)}; move that away, or give another path."
        ) from error
    for folder in new:
        patiently(folder.parent, functools.partial(sync_directory, folder.parent))


def rename(source: Path, target: Path) -> None:
    """Rename a file, or a folder to a name that is free; make it durable.

    Windows refuses to rename what another program has open: tried again until that program has
    closed it.

    Raises:
        StorageError: the storage refuses it.
    """

    def action() -> None:
        if source.is_dir():
            source.rename(target)
        else:
            source.replace(target)

    patiently(source, action)
    patiently(target.parent, lambda: sync_directory(target.parent))


def remove_tree(path: Path) -> None:
    """Remove a folder of this program's own and all that is in it, if it is there.

    Raises:
        StorageError: the storage refuses it.
    """

    def action() -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)

    patiently(path, action)


def sync_directory(path: Path) -> None:
    """Make a rename inside ``path`` durable.

    A no-op on Windows, where directories cannot be flushed.
    """
    if sys.platform == "win32":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def begin_flush(handle: IO[bytes], start: int) -> int:
    """Start to flush a file from byte ``start`` on, without waiting; return the file's end.

    Linux only.

    `os.fsync` must still be called, but has less to wait for.
    """
    handle.flush()
    end = handle.tell()
    if sys.platform == "linux":
        # Linux starts to write dirty pages and drops clean ones: of bytes just written, almost none
        # are clean.
        os.posix_fadvise(handle.fileno(), start, end - start, os.POSIX_FADV_DONTNEED)
    return end


def sync_tree(path: Path) -> None:
    """Flush every file below ``path`` to the disk."""
    for child in path.iterdir():
        if child.is_dir():
            sync_tree(child)
        else:
            sync_file(child)
    sync_directory(path)


def sync_file(path: Path) -> None:
    """Flush a file to the disk.

    For writing, since Windows flushes no file that is open for reading alone.
    """

    def action() -> None:
        with path.open("rb+") as handle:
            os.fsync(handle.fileno())

    patiently(path, action)


@contextlib.contextmanager
def write_atomic(path: Path) -> Iterator[IO[bytes]]:
    """Open a buffer for the content of ``path``.

    At the block's end it is written aside, flushed and renamed.

    Raises:
        DiskFullError: no space left; nothing of the new file remains.
        StorageError: the storage refuses the file, or `check_target` does; an earlier file stays.
    """
    check_target(path)
    buffer = io.BytesIO()
    with disk_errors(path):
        yield buffer

    def action() -> None:
        with stream_atomic(path) as handle:
            handle.write(buffer.getbuffer())

    with folder_needed(path):
        patiently(path, action)


@contextlib.contextmanager
def stream_atomic(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path`` for writing.

    Rename it to ``path`` when it is complete and flushed.

    For content that is written while it arrives. It is tried once: the caller has what is needed
    for another try.

    Raises:
        DiskFullError: no space left; nothing of the new file remains.
        StorageError: the storage refuses the file, or `check_target` does.
    """
    check_target(path)
    aside = path.with_name(f".{path.name}.partial")
    try:
        with disk_errors(path):
            with aside.open("w+b") as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            # Of a file that is closed: Windows renames no open one, and replaces none that another
            # program has open.
            aside.replace(path)
            sync_directory(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically."""
    with write_atomic(path) as handle:
        handle.write(json_bytes(content))


def json_bytes(content: Any) -> bytes:
    """Return ``content`` as indented JSON in UTF-8."""
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


@contextlib.contextmanager
def file_errors(path: Path, remedy: str) -> Iterator[None]:
    """Turn whatever keeps ``path`` from being read or appended to into one clear error.

    Args:
        path: of the file.
        remedy: what the user can do, as the end of a sentence.

    Raises:
        SampleStateError: it is missing, no regular file, without permission, or on a disk that
            fails.
        DiskFullError: no space left.
        StorageError: the storage refuses the file.
    """
    if (kind := kind_of_special(path)) and kind != "a folder":  # a pipe would wait for ever
        raise SampleStateError(f"{path}: this is {kind}, no regular file; {remedy}.")
    try:
        with disk_errors(path):
            yield
    except (DiskFullError, StorageError):
        raise
    except FileNotFoundError as error:
        raise SampleStateError(f"{path}: the file is missing; {remedy}.") from error
    except OSError as error:
        # Windows refuses to open a folder as a file with "permission denied".
        reason = "a folder has this name" if path.is_dir() else error.strerror or str(error)
        raise SampleStateError(f"{path}: cannot be used ({reason}); {remedy}.") from error


def read_text(path: Path, remedy: str, *, newline: str | None = None) -> str:
    """Read a file of UTF-8 text; ``newline`` as for `open`.

    Raises:
        SampleStateError: it cannot be read, or is not UTF-8.
    """
    try:
        with file_errors(path, remedy):
            return patiently(path, functools.partial(_read_text, path, newline))
    except UnicodeDecodeError as error:
        raise SampleStateError(
            f"{path}: damaged (byte {error.start} is not UTF-8); {remedy}."
        ) from error


def _read_text(path: Path, newline: str | None) -> str:
    with path.open(encoding="utf-8", newline=newline) as handle:
        return handle.read()


def parse_json(text: str) -> Any:
    """Parse JSON strictly: finite numbers, text that can be written again, at most `_MAX_DEPTH`
    levels.

    Raises:
        ValueError: it is not that.
    """
    try:
        content = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError as error:
        raise ValueError(f"nested more than {_MAX_DEPTH} levels deep") from error
    level, depth = [content], 0
    while level:
        if depth > _MAX_DEPTH:
            raise ValueError(f"nested more than {_MAX_DEPTH} levels deep")
        tables = [value for value in level if isinstance(value, (dict, list))]
        level = [
            inner
            for value in tables
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        depth += 1
    if "\\u" in text:
        json.dumps(content, ensure_ascii=False).encode()  # half of a surrogate pair
    return content


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def read_json(path: Path, *, remedy: str = "move it away and run again") -> Any:
    """Read a JSON file of the sample.

    Args:
        path: of the file.
        remedy: what the user can do about a file that cannot be read, as the end of a sentence.

    Raises:
        SampleStateError: the file is absent, cannot be read, or is not JSON.
    """
    if not path.exists():
        raise SampleStateError(f"{path}: not there; the stage that writes it has not run.")
    try:
        return parse_json(read_text(path, remedy))
    except ValueError as error:
        raise SampleStateError(f"{path}: not readable as JSON ({error}); {remedy}.") from error


def json_line(content: Mapping[str, Any]) -> bytes:
    """Return a line of a file of JSON objects, ending in its own checksum."""
    text = json.dumps(content, allow_nan=False)
    return (
        f'{text[:-1]}, "{_LINE_CHECKSUM}": "{google_crc32c.value(text.encode()):08x}"}}\n'.encode()
    )


def parse_json_line(line: bytes) -> dict[str, Any]:
    """Parse a line of `json_line`.

    Raises:
        ValueError: it is no JSON object, was cut short, has no checksum, or was changed.
    """
    content = parse_json(line.decode())
    if not isinstance(content, dict):
        raise ValueError("not an object")
    if content.pop(_LINE_CHECKSUM, None) is None:
        raise ValueError(f"without its checksum {_LINE_CHECKSUM!r}")
    if line.strip() != json_line(content).strip():
        raise ValueError("changed since it was written")
    return content


def append_event(path: Path, event: str, **details: Any) -> None:
    """Append an event with its UTC time as one line; on a full disk, append nothing.

    Args:
        path: of ``log.jsonl``.
        event: name in snake_case.
        details: figures of the event.

    Raises:
        ValueError: the name is not in snake_case.
        DiskFullError: no space left.
        StorageError: the storage refuses the file.
    """
    if not _EVENT.fullmatch(event):
        raise ValueError(f"event {event!r}; names of events are in snake_case, as 'field_missing'.")
    content = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "event": event,
        **details,
    }
    line = json_line(content)
    with file_errors(path, "move it away; a new one is begun"):
        patiently(path, functools.partial(_append, path, line))


def _append(path: Path, line: bytes) -> None:
    with path.open("ab", buffering=0) as handle:
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
    """Append a line to a file and flush it to the disk.

    A last line that a crash cut short is ended first.

    Raises:
        DiskFullError: no space left; nothing was appended.
        StorageError: the storage refuses the file, or `check_target` does.
    """
    check_target(path)
    with folder_needed(path):
        patiently(path, functools.partial(_append_flushed, path, f"{line}\n".encode()))


def _append_flushed(path: Path, content: bytes) -> None:
    new = not path.exists()
    with path.open("w+b" if new else "r+b", buffering=0) as handle:
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
