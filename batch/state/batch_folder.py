"""The folder of a batch, ``<data root>/batches/<name>/``.

Its files, its lock, its journal and its inbox.

The state of a batch is its files. The journal is append-only and flushed; a command is a file that
is renamed into the inbox; a line or file that a crash cut short is ignored.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import socket
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from wbcpipe.batch.records import BatchRecord, Command, Heartbeat, JournalEntry
from wbcpipe.batch.row_status import replay
from wbcpipe.errors import BatchBusyError, SampleStateError, WorklistError
from wbcpipe.samples.records import read_json_lines
from wbcpipe.samples.sample import check_sample_name
from wbcpipe.system.files import append_line, make_folder
from wbcpipe.system.locks import exclusive_lock, try_lock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from wbcpipe.batch.row_status import RowStatus

__all__ = ["BATCHES", "BatchFolder", "list_batches", "operator_name"]

#: Folder of the batches below the data root; no sample may have this name.
BATCHES: Final = "batches"
#: `batch status` holds the lock for an instant, to see whether it is free.
_WAIT_S: Final = 2.0
_HEARTBEAT_TRIES: Final = 5
_HEARTBEAT_WAIT_S: Final = 0.02


def operator_name() -> str:
    """Return ``user@computer``, for the journal."""
    with contextlib.suppress(OSError, KeyError, ImportError):
        return f"{getpass.getuser()}@{socket.gethostname()}"
    return socket.gethostname()


@dataclass(frozen=True)
class BatchFolder:
    """One batch.

    Attributes:
        name: the checked name.
        root: the data root.
    """

    name: str
    root: Path

    @classmethod
    def open(cls, root: Path, name: str) -> BatchFolder:
        """Return the batch ``name`` below the data root; nothing is created.

        Raises:
            SampleNameError: the name is refused; a batch follows the rules of a sample's name.
        """
        return cls(check_sample_name(name), root)

    @property
    def path(self) -> Path:
        """The folder."""
        return self.root / BATCHES / self.name

    @property
    def journal_path(self) -> Path:
        """``journal.jsonl``."""
        return self.path / "journal.jsonl"

    @property
    def inbox_path(self) -> Path:
        """``inbox/``."""
        return self.path / "inbox"

    def exists(self) -> bool:
        """Return whether ``batch.json`` is there."""
        return (self.path / "batch.json").is_file()

    def create(self) -> None:
        """Create the folder and its inbox."""
        make_folder(self.inbox_path)

    def record(self) -> BatchRecord:
        """Read ``batch.json``.

        Raises:
            WorklistError: no such batch.
            SampleStateError: the file is damaged.
        """
        if not self.exists():
            known = ", ".join(batch.name for batch in list_batches(self.root)) or "none"
            raise WorklistError(f"no batch {self.name!r} in {self.root}; known batches: {known}.")
        return BatchRecord.read(self.path / "batch.json")

    def write(self, record: BatchRecord) -> None:
        """Write ``batch.json``, atomically."""
        self.create()
        record.write(self.path / "batch.json")

    def mark_started(self) -> None:
        """Make this the batch that was started last; see `list_batches`."""
        (self.path / "batch.json").touch()

    # The journal.

    def append(self, entry: JournalEntry) -> None:
        """Append a line to the journal and flush it to the disk.

        Raises:
            DiskFullError: no space left; nothing was appended.
        """
        append_line(self.journal_path, entry.model_dump_json(exclude_defaults=True))

    def journal(self) -> list[JournalEntry]:
        """Read the journal; a line that a crash cut short is ignored.

        Raises:
            SampleStateError: a line is damaged otherwise.
        """
        return read_json_lines(self.journal_path, JournalEntry)

    def status(self) -> dict[str, RowStatus]:
        """Return the status of each row, by sample: the replay of the journal."""
        return replay(self.record().rows, self.journal())

    # The inbox.

    def post(self, command: Command) -> Path:
        """Put a command into the inbox: written aside, flushed, renamed."""
        self.create()
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        path = self.inbox_path / f"{stamp}-{os.getpid()}-{secrets.token_hex(4)}.json"
        command.write(path)
        return path

    def commands(self) -> Iterator[tuple[Path, Command | str]]:
        """Yield the files of the inbox in the order of their names, each with its command, or why
        it is refused.
        """
        if not self.inbox_path.is_dir():
            return
        for path in sorted(self.inbox_path.glob("*.json")):
            try:
                yield path, Command.read(path)
            except SampleStateError as error:
                yield path, str(error)

    # The supervisor.

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the batch for this process alone.

        The operating system releases it when the process dies.

        Raises:
            BatchBusyError: another process runs the batch; the text names it.
        """
        self.create()

        def busy(holder: str) -> BatchBusyError:
            return BatchBusyError(
                f"batch {self.name!r} is being run by another process ({holder}). Watch it with "
                f"`wbcpipe batch status --batch {self.name}`; change it with `wbcpipe batch add`, "
                f"`hold`, `skip`, `retry` or `stop`."
            )

        with exclusive_lock(
            self.path / "lock", self.path / "lock.holder", "batch run", busy, wait_s=_WAIT_S
        ):
            yield

    def is_running(self) -> bool:
        """Return whether a process holds the batch's lock."""
        if not (self.path / "lock").exists():
            return False
        with try_lock(self.path / "lock") as held:
            return not held

    @property
    def heartbeat_path(self) -> Path:
        """``heartbeat.json``."""
        return self.path / "heartbeat.json"

    def write_heartbeat(self, heartbeat: Heartbeat) -> None:
        """Write ``heartbeat.json``: renamed, but not flushed, since it is worth nothing after a
        power cut.
        """
        aside = self.heartbeat_path.with_name(".heartbeat.json.partial")
        # Windows refuses to replace a file that is being read, and a share may be gone: the next
        # heartbeat replaces it.
        with contextlib.suppress(OSError):
            aside.write_text(heartbeat.model_dump_json(indent=1), encoding="utf-8")
            aside.replace(self.heartbeat_path)

    def heartbeat(self) -> Heartbeat | None:
        """Read the supervisor's last heartbeat; ``None`` if there was none, or it is damaged."""
        for _ in range(_HEARTBEAT_TRIES):
            try:
                return Heartbeat.read_if_present(self.heartbeat_path)
            except PermissionError:  # Windows: the supervisor replaces the file at this moment
                time.sleep(_HEARTBEAT_WAIT_S)
            except SampleStateError:
                return None
        return None


def list_batches(root: Path) -> list[BatchFolder]:
    """Return the batches below a data root, the one started last first."""
    found = [
        BatchFolder(path.parent.name, root)
        for path in (root / BATCHES).glob("*/batch.json")
        if path.is_file()
    ]
    return sorted(found, key=_started_s, reverse=True)


def _started_s(batch: BatchFolder) -> float:
    """Return when a process last began to run the batch, in the time of `os.stat`.

    Else when it was created.
    """
    with contextlib.suppress(OSError):
        return (batch.path / "lock.holder").stat().st_mtime  # written when the lock is taken
    with contextlib.suppress(OSError):
        return (batch.path / "batch.json").stat().st_mtime
    return 0.0
