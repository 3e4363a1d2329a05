"""``review/journal.jsonl``.

What readers did, one flushed line an entry, each with the hash of the one before.

The file only grows. A writer takes the lock, reads what others appended, checks that the edits rest
on nothing that has changed since, and appends. A last line that a crash cut short was never
acknowledged: it is moved to ``journal.torn``. Any other damage is refused with the number of the
line.
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from wbcpipe.errors import SampleBusyError, SampleStateError
from wbcpipe.samples.review.conflicts import find_conflict
from wbcpipe.samples.review.entries import Entry, parse_entry
from wbcpipe.samples.review.replay import RefusedEntryError, ReviewState, replay
from wbcpipe.system.files import append_line, file_errors, make_folder
from wbcpipe.system.locks import exclusive_lock
from wbcpipe.system.storage import patiently

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from wbcpipe.samples.review.entries import Action
    from wbcpipe.samples.sample import Sample

__all__ = ["Journal", "JournalConflictError", "Transaction", "journal_path", "read_journal"]

_REMEDY: Final = "restore it from a copy, or move it away with what was signed; never edit it"
_WAIT_S: Final = 10.0


def journal_path(sample: Sample) -> Path:
    """Return the path of a sample's journal."""
    return sample.path / "review" / "journal.jsonl"


def read_journal(sample: Sample) -> tuple[Entry, ...]:
    """Read and check a sample's journal; none where there is no file.

    Raises:
        SampleStateError: a line is damaged, was changed, or does not follow the one before.
    """
    return Journal(journal_path(sample)).entries()


class JournalConflictError(Exception):
    """An edit rests on what has changed meanwhile: nothing was written.

    Attributes:
        reason: one sentence.
        newer: the entries after the one that the edit was based on.
    """

    def __init__(self, reason: str, newer: Sequence[Entry]) -> None:
        super().__init__(reason)
        self.reason = reason
        self.newer = tuple(newer)


@dataclass(frozen=True)
class _Known:
    """What was read of the file: its entries, the bytes they take, and the bytes behind them."""

    entries: tuple[Entry, ...] = ()
    end: int = 0
    torn: bytes = b""

    @property
    def head(self) -> str:
        return self.entries[-1].id if self.entries else ""


class Journal:
    """One sample's journal.

    Threads may share it, and other processes may write to the file meanwhile.

    Args:
        path: of the file, which need not exist.
        clock: returns the time of an entry.
    """

    def __init__(
        self, path: Path, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.path = path
        self._clock = clock
        self._known = _Known()
        self._state = ReviewState()
        self._guard = threading.RLock()

    def entries(self) -> tuple[Entry, ...]:
        """Read what was appended since the last call and return all entries.

        Raises:
            SampleStateError: a line is damaged, was changed, or does not follow the one before.
        """
        with self._guard:
            self._read()
            return self._known.entries

    def state(self) -> ReviewState:
        """Return the state after all entries; raises as `entries`.

        The next call changes it: use it under `held`.
        """
        with self._guard:
            self._read()
            return self._state

    def head(self) -> str:
        """Return the ``id`` of the last entry, empty without one; raises as `entries`."""
        with self._guard:
            self._read()
            return self._known.head

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other threads of this process from changing the state while the block reads it."""
        with self._guard:
            yield

    def torn_bytes(self) -> int:
        """Return the length of a last line that a crash cut short, or that is being written at this
        moment.
        """
        with self._guard:
            self._read()
            return len(self._known.torn)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Hold the journal for this thread while the block reads it, decides, and appends.

        Raises:
            SampleBusyError: another process held it for too long.
            SampleStateError: see `entries`.
        """

        def busy(holder: str) -> SampleBusyError:
            return SampleBusyError(f"{self.path}: in use by another process ({holder}); try again.")

        make_folder(self.path.parent)
        lock = self.path.with_suffix(".lock")
        with (
            self._guard,
            exclusive_lock(lock, lock.with_suffix(".holder"), "review", busy, wait_s=_WAIT_S),
        ):
            self._read()
            self._move_torn_aside()
            yield Transaction(self)

    def append(self, actions: Sequence[Action], *, reader: str, base: str) -> tuple[Entry, ...]:
        """Append edits, unless they rest on what has changed.

        Return the entries after ``base``, own ones last.

        Args:
            actions: in their order; a crash may keep the first of them alone.
            reader: name of the person.
            base: ``id`` of the last entry that the person had seen; empty for none.

        Raises:
            JournalConflictError: a newer entry concerns the same, or the sample is in a state that
                does not allow the edit; nothing was written.
            ValueError: the name of the reader is refused.
            SampleBusyError: another process held the journal for too long.
            SampleStateError: see `entries`.
            DiskFullError: no space left; nothing was appended.
        """
        with self.transaction() as transaction:
            newer = transaction.after(base)
            if reason := find_conflict(actions, transaction.entries, newer, reader):
                raise JournalConflictError(reason, newer)
            return (*newer, *transaction.append(actions, reader=reader, newer=newer))

    def _read(self) -> None:
        """Read what the file has beyond what is known."""
        known = self._known
        if not known.end and not self.path.exists():
            return
        with file_errors(self.path, _REMEDY):
            content = patiently(self.path, lambda: _read_from(self.path, known.end))
        if content is None:
            raise SampleStateError(f"{self.path}: shorter than it was; {_REMEDY}.")
        body, newline, torn = content.rpartition(b"\n")
        if not newline:
            self._known = _Known(known.entries, known.end, torn)
            return
        entries = list(known.entries)
        for line in body.split(b"\n"):
            entries.append(self._parse(line, entries[-1] if entries else None))
        for entry in entries[len(known.entries) :]:
            try:
                self._state.apply(entry)
            except ValueError as error:
                self._state = replay(known.entries)
                raise SampleStateError(
                    f"{self.path}, line {entry.n}: {error}; {_REMEDY}."
                ) from error
        self._known = _Known(tuple(entries), known.end + len(body) + 1, torn)

    def _parse(self, line: bytes, before: Entry | None) -> Entry:
        number = before.n + 1 if before else 1
        try:
            entry = parse_entry(line)
        except ValueError as error:
            raise SampleStateError(f"{self.path}, line {number}: {error}; {_REMEDY}.") from error
        if (entry.n, entry.previous) != (number, before.id if before else ""):
            raise SampleStateError(
                f"{self.path}, line {number}: entry {entry.n} does not follow the line before; "
                f"lines are missing, added or exchanged; {_REMEDY}."
            )
        return entry

    def _move_torn_aside(self) -> None:
        if not self._known.torn:
            return
        append_line(
            self.path.with_suffix(".torn"), self._known.torn.decode("ascii", "backslashreplace")
        )
        end = self._known.end

        def truncate() -> None:
            with self.path.open("r+b") as handle:
                handle.truncate(end)
                os.fsync(handle.fileno())

        patiently(self.path, truncate)
        self._known = _Known(self._known.entries, end)

    def _write(
        self, actions: Sequence[Action], reader: str, newer: Sequence[Entry]
    ) -> tuple[Entry, ...]:
        """Append entries with one write and one flush; the lock is held."""
        time = self._clock().astimezone(UTC).isoformat(timespec="milliseconds")
        known, entries = self._known, []
        last = known.entries[-1] if known.entries else None
        for action in actions:
            last = Entry.build(
                last.n + 1 if last else 1, last.id if last else "", time, reader, action
            )
            entries.append(last)
        if not entries:
            return ()
        lines = b"\n".join(entry.line() for entry in entries)
        try:
            for entry in entries:
                self._state.apply(entry)
            append_line(self.path, lines.decode("ascii"))
        except RefusedEntryError as error:
            self._state = replay(known.entries)
            raise JournalConflictError(error.reason, newer) from error
        except BaseException:
            self._state = replay(known.entries)
            raise
        self._known = _Known((*known.entries, *entries), known.end + len(lines) + 1)
        return tuple(entries)


class Transaction:
    """The journal while it is held: see `Journal.transaction`."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All entries, those of this transaction too."""
        return self._journal._known.entries

    @property
    def state(self) -> ReviewState:
        """The state after them."""
        return self._journal._state

    @property
    def head(self) -> str:
        """``id`` of the last entry; empty without one."""
        return self._journal._known.head

    def after(self, base: str) -> tuple[Entry, ...]:
        """Return the entries after ``base``; all of them for an empty one.

        Raises:
            JournalConflictError: there is no such entry.
        """
        if not base:
            return self.entries
        for position in range(len(self.entries) - 1, -1, -1):
            if self.entries[position].id == base:
                return self.entries[position + 1 :]
        raise JournalConflictError(
            "the entry that the edit is based on is not in this journal; load it again", []
        )

    def append(
        self, actions: Sequence[Action], *, reader: str, newer: Sequence[Entry] = ()
    ) -> tuple[Entry, ...]:
        """Append entries without a look for conflicts with ``newer`` ones.

        See `Journal.append` for the errors.
        """
        return self._journal._write(actions, reader, newer)


def _read_from(path: Path, start: int) -> bytes | None:
    """Return the bytes from ``start`` on; ``None`` if the file is shorter."""
    with path.open("rb") as handle:
        if handle.seek(0, os.SEEK_END) < start:
            return None
        handle.seek(start)
        return handle.read()
