"""Open the batch of a worklist: create its folder, or merge an edited worklist into it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from wbcpipe.batch.records import BatchRecord, JournalEntry
from wbcpipe.batch.state.batch_folder import BatchFolder
from wbcpipe.batch.state.command_rules import command_problem
from wbcpipe.batch.state.posting import pending_commands
from wbcpipe.batch.worklist import read_worklist
from wbcpipe.batch.worklist.decode import read_bytes
from wbcpipe.batch.worklist.mistakes import Mistake
from wbcpipe.errors import WorklistError
from wbcpipe.system.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from wbcpipe.batch.records import CommandKind, WorklistRow
    from wbcpipe.batch.row_status import RowStatus
    from wbcpipe.batch.worklist import Worklist

__all__ = ["Merge", "compare_with_batch", "merge_rows", "open_batch", "started_rows"]

#: What only says how much to scan: fields that are on disk stay as they are.
_TARGETS: Final = frozenset({"cells", "precision", "fields"})
#: State in which a row is not started to the command that lets it start.
_FREES: Final = {"quarantined": "retry", "skipped": "retry", "held": "release"}
#: What else can be done where a change is refused.
_REMEDY: Final = (
    "Restore these lines, or add the slide under another sample name; fields, cells and precision "
    "of a sample that is not finished may change. To run the file as a new batch, give another "
    "--name."
)


@dataclass(frozen=True)
class Merge:
    """An edited worklist, merged into the rows of a batch.

    Attributes:
        rows: of the batch from now on: the edited worklist's, then the others, which were added or
            removed.
        added: samples.
        changed: sample to what changed, for example ``fields 2 to 6``.
        removed: samples that are gone from the worklist, and that `batch skip` can take out.
        refused: what must not change, with line numbers.
    """

    rows: tuple[WorklistRow, ...]
    added: tuple[str, ...]
    changed: dict[str, str]
    removed: tuple[str, ...]
    refused: tuple[Mistake, ...]


def merge_rows(status: Mapping[str, RowStatus], edited: Sequence[WorklistRow]) -> Merge:
    """Merge an edited worklist: new rows are added, rows that were not started are changed, others
    stay.

    A row that was started and is not finished may change in its targets: it is scanned further.

    Args:
        status: of the rows of the batch.
        edited: rows of the worklist as it is now.
    """
    rows, added, changed, refused = [], [], {}, []
    for row in edited:
        before = status.get(row.sample)
        if before is None:
            added.append(row.sample)
        elif differences := _differences(before.row, row):
            if fixed := [key for key in differences if not _may_change(before, key)]:
                text = (
                    f"sample {row.sample!r} was started and is {before.state}; its "
                    f"{', '.join(fixed)} can no longer change"
                )
                refused.append(Mistake((row.line,), text))
                row = before.row
            else:
                changed[row.sample] = ", ".join(differences.values())
        rows.append(row)
    names = {row.sample for row in edited}
    gone = [one for one in status.values() if one.row.sample not in names]
    removed = [one.row.sample for one in gone if one.row.line and not command_problem("skip", one)]
    return Merge(
        (*rows, *(one.row for one in gone)),
        tuple(added),
        changed,
        tuple(removed),
        tuple(refused),
    )


def _may_change(before: RowStatus, key: str) -> bool:
    return before.started is None or (key in _TARGETS and before.state != "finished")


def _differences(before: WorklistRow, row: WorklistRow) -> dict[str, str]:
    """Return the settings that differ, each with its values in words."""
    old, new = _settings(before), _settings(row)
    return {
        key: f"{key} {_words(old[key])} to {_words(value)}"
        for key, value in new.items()
        if value != old[key]
    }


def _words(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return "none" if value in (None, "") else str(value)


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


def compare_with_batch(
    folder: BatchFolder, worklist: Worklist
) -> tuple[tuple[Mistake, ...], tuple[Mistake, ...]]:
    """Return what `open_batch` refuses of a worklist, and what works and may not be meant.

    Args:
        folder: of the batch; it need not exist.
        worklist: lines that have a mistake are not compared.
    """
    if not folder.exists():
        return (), ()
    status, batch = folder.status(), f"batch {folder.name!r}"
    same = folder.record().worklist_sha256 == worklist.sha256
    merge = None if same else merge_rows(status, worklist.rows)
    wrong = {line for mistake in worklist.mistakes for line in mistake.lines}
    refused = [] if merge is None else [r for r in merge.refused if wrong.isdisjoint(r.lines)]
    refused = [Mistake(one.lines, f"{one.text}.") for one in refused]
    if refused:  # once is enough
        refused[-1] = Mistake(refused[-1].lines, f"{refused[-1].text} {_REMEDY}")
    warnings = []
    freed = _pending(folder, "retry", "release")
    for row in worklist.rows:
        state = status[row.sample].state if row.sample in status else "waiting"
        if (command := _FREES.get(state)) is not None and row.sample not in freed:
            text = (
                f"{row.sample} is {state} in {batch} and is not scanned; `wbcpipe batch {command} "
                f"{row.sample}` lets it start."
            )
            warnings.append(Mistake((row.line,), text))
    if merge is not None and (text := _removed(folder, worklist, merge)):
        warnings.append(Mistake((), f"{text}."))
    return tuple(refused), tuple(warnings)


def _pending(folder: BatchFolder, *kinds: CommandKind) -> set[str]:
    """Return the samples for which a command of these kinds waits in the inbox."""
    return {one.sample for one in pending_commands(folder) if one.kind in kinds}


def _removed(folder: BatchFolder, worklist: Worklist, merge: Merge) -> str:
    """Return what to do about rows that are gone from the worklist; empty if there is nothing."""
    skipped = _pending(folder, "skip")
    names = ", ".join(sample for sample in merge.removed if sample not in skipped)
    return names and (
        f"no longer in {worklist.path.name}, but still in the batch: {names}; `wbcpipe batch skip` "
        f"takes a sample out"
    )


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
    status = folder.status()
    merge = merge_rows(status, worklist.rows)
    if merge.refused:
        raise WorklistError(
            f"{worklist.path} differs from the worklist with which batch {folder.name!r} was "
            f"started:\n  " + "\n  ".join(map(str, merge.refused)) + f"\n{_REMEDY}"
        )
    if text := _removed(folder, worklist, merge):
        say(text)
    retried = _pending(folder, "retry")
    for sample, what in merge.changed.items():
        if status[sample].state in ("quarantined", "skipped") and sample not in retried:
            say(
                f"{sample}, which is {status[sample].state}, has changed: {what}; `wbcpipe batch "
                f"retry {sample}` tries it again"
            )
    _write(folder, worklist, merge.rows, folder.record().created)
    now = datetime.now(UTC)
    for sample in merge.added:
        folder.append(
            JournalEntry(time=now, event="row_added", sample=sample, reason="new in the worklist")
        )
    for sample, what in merge.changed.items():
        reason = f"changed in the worklist: {what}"
        folder.append(JournalEntry(time=now, event="row_changed", sample=sample, reason=reason))


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
