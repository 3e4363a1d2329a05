"""The state of each row of a batch: a replay of the journal, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from wbcpipe.batch.records import JournalEntry, WorklistRow

__all__ = ["DONE_STATES", "RowState", "RowStatus", "advance", "replay"]

RowState = Literal[
    "waiting",
    "held",
    "scanning",
    "scanned",
    "staining",
    "stained",
    "processing",
    "finished",
    "skipped",
    "quarantined",
]
#: States that a row leaves only when the operator asks for it.
DONE_STATES: Final = frozenset[RowState]({"finished", "skipped", "quarantined"})

_NEXT: Final[Mapping[str, RowState]] = {
    "scan_started": "scanning",
    "scan_finished": "scanned",
    "stain_started": "staining",
    "stain_finished": "stained",
    "processing_started": "processing",
    "finished": "finished",
    "quarantined": "quarantined",
    "skipped": "skipped",
    "held": "held",
}


@dataclass(frozen=True)
class RowStatus:
    """One row and what has become of it.

    Attributes:
        row: of the worklist.
        state: see `RowState`; ``waiting`` and ``scanned`` wait for the microscope, for a stain or
            for a free process.
        attempts: that failed since the row was added or retried.
        error, reason: of the last failure, or why the row is held, skipped or quarantined.
        started, ended: of the first attempt and of the last transition to a state of `DONE_STATES`.
        figures: of the row's entries; a later entry replaces the figure of an earlier one.
    """

    row: WorklistRow
    state: RowState = "waiting"
    attempts: int = 0
    error: str = ""
    reason: str = ""
    started: datetime | None = None
    ended: datetime | None = None
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Return whether nothing is left to do."""
        return self.state in DONE_STATES


def replay(rows: Iterable[WorklistRow], journal: Iterable[JournalEntry]) -> dict[str, RowStatus]:
    """Return the status of each row, by sample, in the order of ``rows``.

    Entries of unknown rows are ignored.
    """
    status = {row.sample: RowStatus(row) for row in rows}
    for entry in journal:
        if entry.event == "scanning_stopped":
            status = {sample: _forgive(one, entry) for sample, one in status.items()}
        if entry.sample in status:
            status[entry.sample] = advance(status[entry.sample], entry)
    return status


def advance(status: RowStatus, entry: JournalEntry) -> RowStatus:
    """Return the status of a row after an entry of its sample."""
    status = replace(status, figures={**status.figures, **entry.figures})
    match entry.event:
        case "attempt_failed":
            before: RowState = (
                "waiting"
                if status.state in ("scanning", "staining")
                else _before_processing(status)
            )
            return replace(
                status,
                state=before,
                attempts=status.attempts + 1,
                error=entry.error,
                reason=entry.reason,
            )
        case "interrupted":
            if status.state in ("scanning", "staining"):
                return replace(status, state="waiting")
            return replace(status, state=_before_processing(status))
        case "released":
            return replace(status, state="waiting", reason="") if status.state == "held" else status
        case "retried":
            return replace(status, state="waiting", attempts=0, error="", reason="", ended=None)
    if entry.event not in _NEXT:
        return status
    state = _NEXT[entry.event]
    status = replace(status, state=state)
    if state in DONE_STATES or state == "held":
        reason = entry.reason or ("" if state == "finished" else status.reason)
        error = entry.error or ("" if state == "finished" else status.error)
        return replace(
            status, reason=reason, error=error, ended=entry.time if state in DONE_STATES else None
        )
    return replace(status, started=status.started or entry.time)


def _forgive(status: RowStatus, entry: JournalEntry) -> RowStatus:
    """Do not count the attempts that a fault of the microscope cost a row that still waits."""
    same = bool(entry.error) and status.error == entry.error and not status.done
    return replace(status, attempts=0) if same else status


def _before_processing(status: RowStatus) -> RowState:
    return "scanned" if status.state == "processing" else status.state
