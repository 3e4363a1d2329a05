"""The sample directory: name, paths, record, log and lock.

The state of a sample is its files. A file that exists is complete: it was written under another
name, flushed and renamed. The operating system releases a lock when its process dies.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from wbcpipe.errors import (
    ConfigError,
    SampleBusyError,
    SampleNameError,
    SampleStateError,
    StorageError,
)
from wbcpipe.samples.belonging import sample_identity
from wbcpipe.samples.records import SampleRecord
from wbcpipe.system.files import append_event, make_folder
from wbcpipe.system.locks import exclusive_lock
from wbcpipe.system.signals import stop_reason, stop_signal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["OTHER_FOLDERS", "Sample", "check_sample_name", "data_root"]

_log = logging.getLogger(__name__)

_DETAILS_WIDTH: Final = 300
#: Details that stay in the file: what a program of the user prints may be long, or private.
_NOT_LOGGED: Final = {"output"}
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: Folders and files in the data root that are no samples.
OTHER_FOLDERS: Final = {
    "batches",
    "calibration",
    "lab.toml",
    "loader",
    "outbox",
    "proficiency",
    "qc",
}
"""Folders below the data root that are no samples."""
_RESERVED: Final = {"con", "prn", "aux", "nul"} | {
    f"{port}{digit}" for port in ("com", "lpt") for digit in range(10)
}


def _details(details: Mapping[str, object]) -> str:
    """Return the details of an event in one short line, for people."""
    words = (
        f"{key}={value}"
        for key, value in details.items()
        if value is not None and key not in _NOT_LOGGED
    )
    return textwrap.shorten(", ".join(words), _DETAILS_WIDTH, placeholder=" ...")


def check_sample_name(name: str) -> str:
    """Return ``name`` if it is a safe directory name on every system.

    Raises:
        SampleNameError: characters other than letters, digits and ``-_.``; a leading dot or dash, a
            trailing dot; more than 64 characters; a device name that Windows reserves; or another
            folder of the data root.
    """
    if not _NAME.fullmatch(name) or name.endswith(".") or ".." in name:
        raise SampleNameError(
            f"sample name {name!r} is refused: use 1 to 64 letters, digits, '-', '_' or '.', "
            f"beginning with a letter or digit, without '..' and not ending in '.'."
        )
    if name.split(".")[0].lower() in _RESERVED:
        raise SampleNameError(
            f"sample name {name!r} is refused: Windows reserves it for a device; add a prefix."
        )
    if name.lower() in OTHER_FOLDERS:
        raise SampleNameError(
            f"sample name {name!r} is refused: the data root keeps other files there; add a prefix."
        )
    return name


def data_root(option: Path | None = None) -> Path:
    """Return the folder of the samples: ``option``, else ``WBCPIPE_DATA``, else ``./wbc-data``.

    Raises:
        ConfigError: it cannot be a folder.
    """
    root = Path(option or os.environ.get("WBCPIPE_DATA") or "wbc-data").absolute()
    try:
        reason = "it is no folder" if root.exists() and not root.is_dir() else ""
    except (OSError, ValueError) as error:  # such as a name that is too long
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    if reason:
        raise ConfigError(
            f"{root}: samples cannot be kept there ({reason}); give another folder with --data."
        )
    return root


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
    def open(cls, root: Path | str, name: str) -> Sample:
        """Return the sample ``name`` below ``root``; nothing is created.

        Args:
            root: the data root, see `data_root`.
            name: 1 to 64 letters, digits, ``-``, ``_`` or ``.``.

        Raises:
            SampleNameError: the name is refused.

        >>> Sample.open("wbc-data", "S001").cells_path.parts
        ('wbc-data', 'S001', 'cells.zarr')
        """
        return cls(check_sample_name(name), Path(root) / check_sample_name(name))

    @property
    def info_path(self) -> Path:
        """``sample.json``; see `SampleRecord`."""
        return self.path / "sample.json"

    @property
    def cells_path(self) -> Path:
        """Path of ``cells.zarr``."""
        return self.path / "cells.zarr"

    @property
    def truth_path(self) -> Path:
        """Path of ``truth.csv``, on the virtual scope only."""
        return self.path / "truth.csv"

    @property
    def work_path(self) -> Path:
        """Folder of intermediate results; you may delete it when the report is written."""
        return self.path / "work"

    def raw_path(self, pass_name: str = "single") -> Path:
        """Return the folder ``raw/<pass>``: one OME-TIFF per field."""
        return self.path / "raw" / pass_name

    def exists(self) -> bool:
        """Return whether ``sample.json`` is there."""
        return self.info_path.exists()

    def record(self) -> SampleRecord:
        """Read ``sample.json``.

        Raises:
            SampleStateError: no such sample, or its file is damaged or of another version.
        """
        if not self.exists():
            raise SampleStateError(
                f"no sample {self.name!r} in {self.path.parent}; `wbcpipe status` lists those "
                f"there."
            )
        return SampleRecord.read(self.info_path)

    def write(self, record: SampleRecord) -> None:
        """Write ``sample.json``, atomically; a new sample's directory is created with it."""
        make_folder(self.path)
        record.write(self.info_path)

    def log(self, event: str, **details: Any) -> None:
        """Append an event, named in snake_case, to ``log.jsonl``, and log it at level INFO.

        The line says to which sample it belongs, see `sample_identity`.
        """
        if _log.isEnabledFor(logging.INFO):
            _log.info("sample %s: %s %s", self.name, event, _details(details))
        path = self.path / "log.jsonl"
        if identity := sample_identity(path):
            details["belongs_to"] = identity
        append_event(path, event, **details)

    @contextlib.contextmanager
    def log_failure(self, purpose: str) -> Iterator[None]:
        """Log the error that ends the block, if the disk has space.

        Args:
            purpose: of the block.
        """
        try:
            yield
        except BaseException as error:
            kind = type(error).__name__
            # click raises Abort when a signal arrives, or the answer is no, while it asks at the
            # terminal.
            stopped = isinstance(error, KeyboardInterrupt) or kind == "Abort"
            reason = stop_reason() if stopped else str(error) or kind
            number = stop_signal()
            details = {} if number is None else {"signal": number.name}
            if not isinstance(
                error, StorageError
            ):  # storage that has been waited for is not waited for again
                with contextlib.suppress(OSError):
                    self.log("run_ended", command=purpose, error=kind, reason=reason, **details)
            raise

    @contextlib.contextmanager
    def lock(self, purpose: str, *, name: str = "sample", wait_s: float = 0.0) -> Iterator[None]:
        """Hold the sample for this process alone.

        Args:
            purpose: of the block, shown to a process that is refused.
            name: of the lock; a stage in a child process holds its own.
            wait_s: time to wait for another process to release it.

        Raises:
            SampleBusyError: another process holds it; the text names its process id and purpose.
        """
        make_folder(self.path)

        def busy(holder: str) -> SampleBusyError:
            return SampleBusyError(
                f"sample {self.name!r} is in use by another process ({holder}); wait for it to end."
            )

        path = self.path / f".{name}.lock"
        with exclusive_lock(path, path.with_suffix(".holder"), purpose, busy, wait_s=wait_s):
            yield
