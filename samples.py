"""The sample directory: identity, atomic files, the lock, and what is done.

State is what is on disk. A file that is there is whole: it was written aside, flushed and renamed. A lock is held by
the operating system for as long as its process lives, so a crash leaves none behind.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from wbcpipe.errors import DiskFullError, SampleBusyError, SampleNameError, SampleStateError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "Sample",
    "append_event",
    "begin_flush",
    "check_sample_name",
    "claim",
    "data_root",
    "disk_errors",
    "held_alone",
    "read_json",
    "sync_directory",
    "sync_tree",
    "write_atomic",
    "write_json",
]

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RESERVED: Final = {"con", "prn", "aux", "nul"} | {f"{port}{digit}" for port in ("com", "lpt") for digit in range(10)}


def check_sample_name(name: str) -> str:
    """Give back ``name`` if it can safely name a directory on every system.

    Raises:
        SampleNameError: characters other than letters, digits and ``-_.``; a leading dot or dash, a trailing dot;
            more than 64 characters; or a device name that Windows reserves.
    """
    if not _NAME.fullmatch(name) or name.endswith(".") or ".." in name:
        raise SampleNameError(
            f"sample name {name!r} is refused: use 1 to 64 letters, digits, '-', '_' or '.', beginning with a letter "
            "or digit, without '..' and not ending in '.'."
        )
    if name.split(".")[0].lower() in _RESERVED:
        raise SampleNameError(f"sample name {name!r} is refused: Windows reserves it for a device; add a prefix.")
    return name


def data_root(option: Path | None = None) -> Path:
    """The folder that holds the samples: ``option``, else ``WBCPIPE_DATA``, else ``./wbc-data``."""
    return Path(option or os.environ.get("WBCPIPE_DATA") or "wbc-data").absolute()


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
                f"{path}: no space left on the disk. What was written before is whole; free space and run the same "
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
    """Have the disk take what was written from byte ``start`` on, without waiting for it; gives where that ends.

    It promises nothing: `os.fsync` stays to be called, and finds less to wait for. Does nothing but on Linux.
    """
    handle.flush()
    end = handle.tell()
    if sys.platform == "linux":
        # Linux begins to write what is dirty and drops what is not: of bytes that were just written, hardly any.
        os.posix_fadvise(handle.fileno(), start, end - start, os.POSIX_FADV_DONTNEED)
    return end


def sync_tree(path: Path, *, skip: tuple[str, ...] = ()) -> None:
    """Flush every file below ``path`` to the disk, leaving out its direct children named in ``skip``."""
    for child in path.iterdir():
        if child.name in skip:
            continue
        if child.is_dir():
            sync_tree(child)
        else:
            with child.open("rb+") as handle:
                os.fsync(handle.fileno())
    sync_directory(path)


@contextlib.contextmanager
def write_atomic(path: Path, *, tag: str = "partial") -> Iterator[IO[bytes]]:
    """Open a file aside of ``path`` for writing; it takes the name ``path`` only when whole and on the disk.

    Raises:
        DiskFullError: no space left; nothing of the new file stays.
    """
    aside = path.with_name(f".{path.name}.{tag}")
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
    """Append one structured event, with its UTC time, as a line of ``log.jsonl``; on a full disk nothing of it."""
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


@dataclass(frozen=True)
class Sample:
    """One sample's directory.

    Attributes:
        name: the checked sample name.
        path: ``<data root>/<name>``.
    """

    name: str
    path: Path

    @classmethod
    def at(cls, root: Path, name: str) -> Sample:
        """The sample ``name`` below ``root``; nothing is created.

        Raises:
            SampleNameError: the name is refused.
        """
        return cls(check_sample_name(name), root / check_sample_name(name))

    @property
    def info_path(self) -> Path:
        """``sample.json``: who, scope, plan, software and model versions."""
        return self.path / "sample.json"

    @property
    def cells_path(self) -> Path:
        """``cells.zarr``."""
        return self.path / "cells.zarr"

    @property
    def truth_path(self) -> Path:
        """``truth.csv``, on the virtual scope only."""
        return self.path / "truth.csv"

    @property
    def work_path(self) -> Path:
        """``work/``: per-field results that let a broken stage go on; safe to delete once a report stands."""
        return self.path / "work"

    def raw_path(self, pass_name: str = "single") -> Path:
        """``raw/<pass>``: one OME-TIFF a field."""
        return self.path / "raw" / pass_name

    def exists(self) -> bool:
        """True when the sample was begun."""
        return self.info_path.is_file()

    def info(self) -> dict[str, Any]:
        """The content of ``sample.json``.

        Raises:
            SampleStateError: no such sample, or its file is damaged.
        """
        if not self.exists():
            raise SampleStateError(
                f"no sample {self.name!r} in {self.path.parent}; `wbcpipe status` lists those there."
            )
        content = read_json(self.info_path)
        if not isinstance(content, dict):
            raise SampleStateError(f"{self.info_path}: an object was expected; move the file away and run again.")
        return content

    def begin(self, info: dict[str, Any]) -> None:
        """Create the directory and write ``sample.json`` first of all."""
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.info_path, info)

    def log(self, event: str, **details: Any) -> None:
        """Append an event to ``log.jsonl``."""
        append_event(self.path / "log.jsonl", event, **details)

    @contextlib.contextmanager
    def tell_end(self, purpose: str) -> Iterator[None]:
        """Note in ``log.jsonl`` what ended the block before its time, as far as the disk takes it.

        Args:
            purpose: what was being done.
        """
        try:
            yield
        except BaseException as error:
            kind = type(error).__name__
            # click's own Abort is what a question at the terminal makes of Ctrl-C.
            reason = "stopped by the operator" if kind in ("KeyboardInterrupt", "Abort") else str(error) or kind
            with contextlib.suppress(OSError):
                self.log("run_ended", command=purpose, error=kind, reason=reason)
            raise

    @contextlib.contextmanager
    def lock(self, purpose: str, *, name: str = "sample", wait_s: float = 0.0) -> Iterator[None]:
        """Hold the sample for this process alone.

        Args:
            purpose: what is being done, shown to whoever is refused.
            name: which lock; a stage in a child process holds its own.
            wait_s: how long to wait for another holder to end.

        Raises:
            SampleBusyError: another process holds it; the text names its process id and purpose.
        """
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)

        def busy(holder: str) -> SampleBusyError:
            return SampleBusyError(f"sample {self.name!r} is in use by another process ({holder}); wait for it to end.")

        path = self.path / f".{name}.lock"
        with held_alone(path, path.with_suffix(".holder"), purpose, busy, wait_s=wait_s):
            yield


@contextlib.contextmanager
def held_alone(
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
def claim(path: Path) -> Iterator[bool]:
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
