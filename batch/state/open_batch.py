"""Open the batch of a worklist: create its folder, or merge an edited worklist into it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from wbcpipe.batch.records import BatchRecord, JournalEntry
from wbcpipe.batch.state.batch_folder import BatchFolder
from wbcpipe.batch.worklist import read_worklist
from wbcpipe.batch.worklist.decode import read_bytes
from wbcpipe.errors import WorklistError
from wbcpipe.system.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from wbcpipe.batch.records import WorklistRow
    from wbcpipe.batch.row_status import RowStatus
    from wbcpipe.batch.worklist import Worklist

__all__ = ["Merge", "merge_rows", "open_batch", "started_rows"]


@dataclass(frozen=True)
class Merge:
    """An edited worklist, merged into the rows of a batch.

    Attributes:
        rows: of the batch from now on: the edited worklist's, then the others, which were added or
            removed.
        added, changed, removed: samples.
        refused: what must not change, with line numbers.
    """

    rows: tuple[WorklistRow, ...]
    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    refused: tuple[str, ...]


def merge_rows(status: Mapping[str, RowStatus], edited: Sequence[WorklistRow]) -> Merge:
    """Merge an edited worklist: new rows are added, rows that were not started are changed, others
    stay.

    Args:
        status: of the rows of the batch.
        edited: rows of the worklist as it is now.
    """
    rows, added, changed, refused = [], [], [], []
    for row in edited:
        before = status.get(row.sample)
        if before is None:
            added.append(row.sample)
        elif _settings(row) != _settings(before.row):
            if before.started is not None:
                keys = [
                    key
                    for key, value in _settings(row).items()
                    if value != _settings(before.row)[key]
                ]
                refused.append(
                    f"line {row.line}: sample {row.sample!r} was started and is {before.state}; "
                    f"its {', '.join(keys)} can no longer change"
                )
                row = before.row
            else:
                changed.append(row.sample)
        rows.append(row)
    names = {row.sample for row in edited}
    kept = [one.row for one in status.values() if one.row.sample not in names]
    removed = tuple(row.sample for row in kept if row.line)
    return Merge((*rows, *kept), tuple(added), tuple(changed), removed, tuple(refused))


def _settings(row: WorklistRow) -> dict[str, object]:
    """Return what of a row decides about its result; the rest may change at any time.

    A deadline too: a time of day in the worklist is that of the day on which the file is read.
    """
    return row.model_dump(exclude={"line", "notes", "priority", "deadline"})


def started_rows(folder: BatchFolder) -> dict[str, WorklistRow]:
    """Return the rows of a batch that were started or are done, by sample.

    None if there is no such batch.
    """
    status = folder.status() if folder.exists() else {}
    return {
        sample: one.row for sample, one in status.items() if one.started is not None or one.done
    }


def open_batch(
    path: Path, name: str | None, root: Path, scope: str, say: Callable[[str], None]
) -> BatchFolder:
    """Return the batch of a worklist, with its ``batch.json``.

    Args:
        path: of the worklist.
        name: of the batch; the file's name by default.
        root: data root.
        scope: of rows that name none.
        say: called with what changed in the worklist since the batch was started.

    Raises:
        WorklistError: the worklist has mistakes, or changes a row that was started.
        SampleNameError: the name is refused.
        BatchBusyError: the batch is running.
    """
    folder = BatchFolder.open(root, name or path.stem)
    if (
        folder.exists()
        and hashlib.sha256(read_bytes(path)).hexdigest() == folder.record().worklist_sha256
    ):
        return folder
    worklist = read_worklist(path, data=root, scope=scope, started=started_rows(folder))
    if not worklist.rows:
        raise WorklistError(f"{path}: the worklist has no row.")
    with folder.lock():
        if folder.exists():
            _merge(folder, worklist, say)
        else:
            _write(folder, worklist, worklist.rows, datetime.now(UTC))
    return folder


def _merge(folder: BatchFolder, worklist: Worklist, say: Callable[[str], None]) -> None:
    merge = merge_rows(folder.status(), worklist.rows)
    if merge.refused:
        raise WorklistError(
            f"{worklist.path} differs from the worklist with which batch {folder.name!r} was "
            f"started:\n  "
            + "\n  ".join(merge.refused)
            + "\nRestore these lines, or give another --name to run the file as a new batch."
        )
    if merge.removed:
        say(
            f"no longer in {worklist.path.name}, but still in the batch: "
            f"{', '.join(merge.removed)}; `wbcpipe batch skip` takes a sample out"
        )
    _write(folder, worklist, merge.rows, folder.record().created)
    now = datetime.now(UTC)
    for sample in merge.added:
        folder.append(
            JournalEntry(time=now, event="row_added", sample=sample, reason="new in the worklist")
        )
    for sample in merge.changed:
        folder.append(
            JournalEntry(
                time=now, event="row_changed", sample=sample, reason="changed in the worklist"
            )
        )


def _write(
    folder: BatchFolder, worklist: Worklist, rows: Sequence[WorklistRow], created: datetime
) -> None:
    folder.create()
    with write_atomic(folder.path / "worklist.csv") as handle:
        handle.write(worklist.content)
    folder.write(
        BatchRecord(
            name=folder.name, created=created, worklist_sha256=worklist.sha256, rows=tuple(rows)
        )
    )
