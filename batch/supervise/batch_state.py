"""The state of a running batch: its rows, what the journal says of them, and what is on disk."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Unpack

from wbcpipe.acquire.config.scope import load_scope
from wbcpipe.batch.records import JournalEntry
from wbcpipe.batch.row_status import RowStatus, replay
from wbcpipe.batch.state.completion import RowContent, row_content
from wbcpipe.batch.supervise.schedule import RowView
from wbcpipe.errors import DiskFullError, WbcpipeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.batch.records import (
        BatchEvent,
        BatchRecord,
        EntryDetails,
        RowEvent,
        WorklistRow,
    )
    from wbcpipe.batch.state.batch_folder import BatchFolder

__all__ = ["BatchState"]


class BatchState:
    """Rows, journal and content of a batch; each change is in the journal before it counts.

    Args:
        folder: of the batch; its lock is held.
        told: called with each entry that was written to the journal.
        wait_for_disk: called when the journal's disk is full; returns when it is worth another try.

    Attributes:
        folder: of the batch.
        record: ``batch.json``.
        status: by sample, in the order of the batch.
        content: by sample.
    """

    def __init__(
        self,
        folder: BatchFolder,
        told: Callable[[JournalEntry], None],
        wait_for_disk: Callable[[], None],
    ) -> None:
        self.folder = folder
        self._told, self._wait_for_disk = told, wait_for_disk
        self.record: BatchRecord = folder.record()
        self._entries = folder.journal()
        self.status: dict[str, RowStatus] = replay(self.record.rows, self._entries)
        self.content = {
            sample: row_content(one.row, folder.root) for sample, one in self.status.items()
        }
        self._scopes: dict[str, Scope] = {}
        self._not_before_s: dict[str, float] = {}

    @property
    def was_started(self) -> bool:
        """Return whether the journal has an entry."""
        return bool(self._entries)

    def journal(
        self,
        event: RowEvent | BatchEvent,
        sample: str = "",
        **details: Unpack[EntryDetails],
    ) -> None:
        """Write an entry to the journal; if the disk is full, wait for space."""
        entry = JournalEntry(
            time=datetime.now(UTC),
            event=event,
            sample=sample,
            **details,
        )
        while True:
            try:
                self.folder.append(entry)
                break
            except DiskFullError:
                self._wait_for_disk()
        self._entries.append(entry)
        self.status = replay(self.record.rows, self._entries)
        self._told(entry)

    def refresh(self, sample: str) -> None:
        """Look again at what of a row is on disk."""
        self.content[sample] = row_content(self.status[sample].row, self.folder.root)

    def write_rows(self, rows: tuple[WorklistRow, ...]) -> None:
        """Write other rows to ``batch.json``."""
        self.record = self.record.model_copy(update={"rows": rows})
        self.folder.write(self.record)
        self.status = replay(rows, self._entries)
        for sample in self.status:
            self.refresh(sample)

    def scope(self, sample: str) -> Scope | None:
        """Return the scope of a row; ``None`` if its file is not valid, which the row's process
        will say.
        """
        name = self.status[sample].row.scope
        if name not in self._scopes:
            try:
                self._scopes[name] = load_scope(name)
            except WbcpipeError:
                return None
        return self._scopes[name]

    def delay(self, sample: str, seconds: float) -> None:
        """Start no process for a row before this time has passed."""
        self._not_before_s[sample] = time.monotonic() + seconds

    def views(self) -> list[RowView]:
        """Return what the schedule sees of the rows that are not done."""
        return [
            self._view(one, order) for order, one in enumerate(self.status.values()) if not one.done
        ]

    def _view(self, status: RowStatus, order: int) -> RowView:
        row, scope = status.row, self.scope(status.row.sample)
        content: RowContent = self.content[row.sample]
        incubates_s = (
            max(content.incubated_at_s - time.time(), 0.0) if content.incubated_at_s else 0.0
        )
        earliest_s = time.monotonic() + incubates_s if incubates_s else 0.0
        return RowView(
            row,
            status.state,
            content.stage,
            attempts=status.attempts,
            order=order,
            prompts=scope is not None and scope.staining.method == "prompt",
            not_before_s=max(earliest_s, self._not_before_s.get(row.sample, 0.0)),
            late=row.deadline is not None and time.time() >= row.deadline.timestamp(),
        )
