"""What a batch does now, from its files alone: journal, heartbeat, inbox and lock."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import fmean
from typing import TYPE_CHECKING, Final, Literal

from wbcpipe.batch.records import phase_figure
from wbcpipe.batch.state.posting import pending_commands
from wbcpipe.errors import WbcpipeError
from wbcpipe.report.document import document_paths
from wbcpipe.samples.differential_record import DifferentialRecord
from wbcpipe.samples.sample import Sample
from wbcpipe.system.process_limits import is_alive

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from wbcpipe.batch.records import (
        Command,
        Heartbeat,
        JournalEntry,
        MicroscopeState,
        Phase,
        ProcessStatus,
    )
    from wbcpipe.batch.row_status import RowState, RowStatus
    from wbcpipe.batch.state.batch_folder import BatchFolder

__all__ = ["BatchStatus", "RowProgress", "read_status"]

#: A supervisor that has written no heartbeat for so long does not answer.
_SILENT_S: Final = 30.0
#: Phases of a row that need the microscope.
_MICROSCOPE: Final[tuple[Phase, ...]] = (
    "loading the slide",
    "opening",
    "focusing",
    "scanning",
    "staining",
)
#: Phases whose pace tells the time left.
_PACED: Final[tuple[Phase, ...]] = ("scanning", "segmenting", "classifying")
SupervisorState = Literal[
    "running", "starting", "not answering", "interrupted", "ended", "not started"
]


@dataclass(frozen=True)
class RowProgress:
    """One row, for people and machines.

    Attributes:
        sample, slot, state, attempts: see `RowStatus`.
        phase: of its process; empty without one.
        done, total: of the phase, fields most of the time; 0 where not known.
        cells: counted so far; ``None`` where not known.
        seconds_left: of the phase, by its pace; ``None`` where not known.
        reason: what went wrong, or why it is held or skipped.
        memory_bytes: of its process and that one's children.
    """

    sample: str
    slot: str
    state: RowState
    attempts: int
    phase: str
    done: int
    total: int
    cells: int | None
    seconds_left: float | None
    reason: str
    memory_bytes: int


@dataclass(frozen=True)
class BatchStatus:
    """A batch now.

    Attributes:
        name: of the batch.
        supervisor: ``not answering`` if it lives and is silent; ``interrupted`` if it died before
            the end.
        heartbeat_age_s: time since its last heartbeat; ``None`` without one.
        pid: of the supervisor that wrote it; 0 without one.
        microscope: its state; ``None`` without a heartbeat of a process that lives.
        stopping: when it stops; empty if it does not.
        rows: in the order of the worklist, then those added.
        counts: state to number of rows.
        seconds_left: until the last row is scanned, by the rows so far; ``None`` where not known.
        disk_free_bytes: at the last heartbeat; 0 without one.
        pending: commands in the inbox.
        event: the last event of the batch as such, in words.
    """

    name: str
    supervisor: SupervisorState
    heartbeat_age_s: float | None
    pid: int
    microscope: MicroscopeState | None
    stopping: str
    rows: tuple[RowProgress, ...]
    counts: Mapping[str, int]
    seconds_left: float | None
    disk_free_bytes: int
    pending: tuple[Command, ...]
    event: str

    @property
    def lives(self) -> bool:
        """Return whether a process runs the batch."""
        return self.supervisor in ("running", "starting", "not answering")


def read_status(folder: BatchFolder, now: datetime | None = None) -> BatchStatus:
    """Read the status of a batch; nothing is written, and a run is not disturbed.

    Args:
        folder: of the batch.
        now: the present time by default.

    Raises:
        WorklistError: no such batch.
        SampleStateError: a file of it is damaged.
    """
    now = now or datetime.now(UTC)
    journal, statuses, heartbeat = folder.journal(), folder.status(), folder.heartbeat()
    supervisor = _supervisor(folder, heartbeat, journal, now)
    live = heartbeat if supervisor in ("running", "not answering") else None
    processes = {} if live is None else {process.sample: process for process in live.processes}
    rows = tuple(
        _row(status, processes.get(name), live, _result(folder.root, status))
        for name, status in statuses.items()
    )
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.state] = counts.get(row.state, 0) + 1
    events = [entry for entry in journal if not entry.sample]
    return BatchStatus(
        name=folder.name,
        supervisor=supervisor,
        heartbeat_age_s=None
        if heartbeat is None
        else max(0.0, (now - heartbeat.time).total_seconds()),
        pid=0 if heartbeat is None else heartbeat.pid,
        microscope=None if live is None else live.microscope,
        stopping="" if live is None else live.stopping,
        rows=rows,
        counts=counts,
        seconds_left=_seconds_left(statuses.values(), rows, processes),
        disk_free_bytes=0 if live is None else live.disk_free_bytes,
        pending=tuple(pending_commands(folder)),
        event=_event_text(events[-1]) if events else "",
    )


def _supervisor(
    folder: BatchFolder, heartbeat: Heartbeat | None, journal: Iterable[JournalEntry], now: datetime
) -> SupervisorState:
    marks = [
        entry.event
        for entry in journal
        if entry.event in ("batch_started", "batch_resumed", "batch_ended")
    ]
    of_living = heartbeat is not None and is_alive(heartbeat.pid, heartbeat.created)
    try:
        running = folder.is_running()
    except OSError:  # no right to open the lock: another user's batch
        running = of_living and marks[-1:] != ["batch_ended"]
    if not running:
        return (
            "ended" if marks[-1:] == ["batch_ended"] else "interrupted" if marks else "not started"
        )
    if heartbeat is None or not of_living:
        return "starting"
    return "not answering" if (now - heartbeat.time).total_seconds() > _SILENT_S else "running"


def _result(root: Path, status: RowStatus) -> Mapping[str, float]:
    """Return the figures of a finished row as its differential on disk has them: a review, or a
    command given by hand, may have changed them since the batch finished it.
    """
    if status.state != "finished":
        return {}
    try:
        path = document_paths(Sample.open(root, status.row.sample))[0]
        found = path.stat()
        return _counted(path, found.st_mtime_ns, found.st_size)
    except (WbcpipeError, OSError):  # the row says what the batch knew
        return {}


@functools.lru_cache(maxsize=4096)  # of `--watch`
def _counted(path: Path, _mtime_ns: int, _size: int) -> Mapping[str, float]:
    document = DifferentialRecord.read(path)
    fields = {} if document.fields.wanted is None else {"fields": document.fields.wanted}
    return {"cells": document.cells.counted, **fields}


def _row(
    status: RowStatus,
    process: ProcessStatus | None,
    heartbeat: Heartbeat | None,
    result: Mapping[str, float],
) -> RowProgress:
    figures = {**status.figures, **result}
    cells = int(figures["cells"]) if "cells" in figures else None
    done = int(figures.get("fields", 0))
    if process is not None:
        cells = process.cells if process.cells is not None else cells
    return RowProgress(
        sample=status.row.sample,
        slot=status.row.slot,
        state=status.state,
        attempts=status.attempts,
        phase="" if process is None else process.phase,
        done=done if process is None else process.done,
        total=done if process is None else process.total,
        cells=cells,
        seconds_left=None
        if process is None or heartbeat is None
        else _phase_seconds_left(process, heartbeat.time),
        reason="" if status.state == "finished" else status.reason,
        memory_bytes=0 if process is None else process.memory_bytes,
    )


def _phase_seconds_left(process: ProcessStatus, now: datetime) -> float | None:
    """Return the time left of a phase, by its pace so far."""
    elapsed_s = (now - process.phase_since).total_seconds()
    if process.phase not in _PACED or not 0 < process.done <= process.total or elapsed_s <= 0:
        return None
    return round(elapsed_s / process.done * (process.total - process.done), 1)


def _seconds_left(
    statuses: Iterable[RowStatus],
    rows: Iterable[RowProgress],
    processes: Mapping[str, ProcessStatus],
) -> float | None:
    """Return the time until the last row is scanned: that of the rows scanned so far, or of the one
    being scanned.
    """
    rows = tuple(rows)
    known = [seconds for status in statuses if (seconds := _scan_seconds(status)) > 0]
    scanning = [row for row in rows if row.phase == "scanning" and row.seconds_left is not None]
    left_s = sum(row.seconds_left or 0.0 for row in scanning)
    waiting = sum(row.state == "waiting" and row.sample not in processes for row in rows)
    if not known:
        # At the pace of the slide on the microscope.
        known = [
            row.seconds_left * row.total / (row.total - row.done)
            for row in scanning
            if row.seconds_left
        ]
    if waiting and not known:
        return None
    return (
        round(left_s + waiting * fmean(known), 1)
        if waiting
        else round(left_s, 1)
        if scanning
        else None
    )


def _scan_seconds(status: RowStatus) -> float:
    if status.state not in ("finished", "processing", "scanned"):
        return 0.0
    return sum(status.figures.get(phase_figure(phase), 0.0) for phase in _MICROSCOPE)


def _event_text(entry: JournalEntry) -> str:
    words = entry.event.replace("_", " ")
    return f"{entry.time.astimezone():%Y-%m-%d %H:%M} {words}" + (
        f": {entry.reason}" if entry.reason else ""
    )
