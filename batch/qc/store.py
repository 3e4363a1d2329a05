"""``<data>/qc/<scope>.jsonl``: the figures of a scope over the weeks; append-only."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from wbcpipe.acquire.config.calibration_file import calibration_reference, setup_sha256
from wbcpipe.batch.qc.records import QcEntry
from wbcpipe.errors import ConfigError, SampleBusyError
from wbcpipe.samples.records import read_json_lines
from wbcpipe.system.files import append_line, make_folder
from wbcpipe.system.locks import exclusive_lock
from wbcpipe.system.version import VERSION

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope

__all__ = ["FOLDER", "QcStore", "list_stores", "now", "versions_of"]

#: Below the data root.
FOLDER: Final = "qc"
#: An append takes milliseconds; a disk that several machines share, longer.
_WAIT_S: Final = 10.0


@dataclass(frozen=True)
class QcStore:
    """The figures of one scope.

    Attributes:
        path: of the file; it need not exist.
    """

    path: Path

    @classmethod
    def of_scope(cls, data: Path, scope_name: str) -> QcStore:
        """Return the store of a scope below the data root.

        Raises:
            ConfigError: the name is not that of a scope file.
        """
        if (
            not scope_name
            or scope_name.startswith(".")
            or any(sign in scope_name for sign in '/\\:*?"<>|\0')
        ):
            raise ConfigError(
                f"{scope_name!r} is not the name of a scope: give the name of its .toml file, "
                f"without .toml."
            )
        return cls(data / FOLDER / f"{scope_name}.jsonl")

    @property
    def scope_name(self) -> str:
        """Name of the scope."""
        return self.path.stem

    def entries(self) -> list[QcEntry]:
        """Read the entries in the order in which they were appended.

        Raises:
            SampleStateError: a line is damaged; one that a crash cut short is ignored.
        """
        return read_json_lines(self.path, QcEntry)

    def append(self, entry: QcEntry) -> None:
        """Append an entry and flush it to the disk; one process at a time.

        Raises:
            DiskFullError: no space left; nothing was appended.
            SampleBusyError: another process has held the file for 10 s.
        """

        def busy(holder: str) -> SampleBusyError:
            return SampleBusyError(
                f"{self.path} is in use by another process ({holder}); run the command again."
            )

        make_folder(self.path.parent)
        lock = self.path.with_name(f".{self.path.stem}.lock")
        with exclusive_lock(
            lock, lock.with_suffix(".holder"), "quality control", busy, wait_s=_WAIT_S
        ):
            append_line(self.path, entry.model_dump_json(exclude_defaults=True))


def list_stores(data: Path) -> list[QcStore]:
    """Return the stores below the data root, by name."""
    return [QcStore(path) for path in sorted((data / FOLDER).glob("*.jsonl"))]


def versions_of(scope: Scope, data: Path) -> dict[str, str]:
    """Return what the figures of a scope depend on, as `QcEntry.versions` holds it."""
    versions = {"wbcpipe": VERSION}
    if (calibration := calibration_reference(scope, data)) is not None:
        versions["calibration"] = calibration.sha256
    with contextlib.suppress(ConfigError):  # the check of the .cfg reports it
        versions["setup"] = setup_sha256(scope)
    return versions


def now() -> datetime:
    """Return the time for an entry: UTC, to the millisecond."""
    time = datetime.now(UTC)
    return time.replace(microsecond=time.microsecond // 1000 * 1000)
