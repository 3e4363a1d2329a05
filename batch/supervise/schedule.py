"""Decide what a batch does next. Pure: no clock, no process and no file is touched here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wbcpipe.batch.records import WorklistRow
    from wbcpipe.batch.row_status import RowState
    from wbcpipe.batch.sample_process.process import SamplePart
    from wbcpipe.batch.state.completion import RowStage

__all__ = [
    "AskForStain",
    "BatchView",
    "Decision",
    "End",
    "Finish",
    "Grant",
    "ProcessView",
    "Quarantine",
    "RowView",
    "Start",
    "decide",
    "is_over",
    "scanning_is_over",
]

#: A process takes about this long to load; one whose slide still incubates is started so long
#: before.
_WARM_UP_S: Final = 60.0


@dataclass(frozen=True)
class RowView:
    """A row that is not done.

    Attributes:
        row: of the worklist.
        state: see `RowState`.
        stage: what of it is on disk.
        attempts: that failed.
        order: position in the batch.
        prompts: its slide is stained by the operator (two passes over the whole list).
        not_before_s: no process is started for it before; in the clock of `BatchView.now_s`, 0 for
            at once.
        late: its deadline has passed.
    """

    row: WorklistRow
    state: RowState
    stage: RowStage
    attempts: int = 0
    order: int = 0
    prompts: bool = False
    not_before_s: float = 0.0
    late: bool = False

    @property
    def by_list(self) -> bool:
        """Return whether the two passes go over the whole list."""
        return self.row.protocol == "two-pass-list"


@dataclass(frozen=True)
class ProcessView:
    """The process of a row.

    Attributes:
        sample: of the row.
        microscope: ``loading`` before it wants the microscope, ``waiting`` for it, ``using`` it,
            ``done``: it scans no more, or never has to; or ``ending``: it is being ended, without
            the microscope.
    """

    sample: str
    microscope: Literal["loading", "waiting", "using", "done", "ending"]


@dataclass(frozen=True)
class BatchView:
    """All that decides.

    Attributes:
        rows: not done, in the order of the batch.
        processes: that live.
        now_s: of a clock that only goes forward.
        max_processing: samples that are classified and reported at a time, at most: the bound of
            the memory.
        scanning_stopped: a fault of the microscope stopped the scanning.
        stopping: nothing new is started.
        disk_is_full: nothing is scanned until there is space.
        asked: the operator was asked to stain slides, and has not confirmed yet.
        leaving: the shutter is being closed, or the last slide taken away: the microscope is not
            free.
    """

    rows: Sequence[RowView]
    processes: Sequence[ProcessView] = ()
    now_s: float = 0.0
    max_processing: int = 2
    scanning_stopped: bool = False
    stopping: bool = False
    disk_is_full: bool = False
    asked: bool = False
    leaving: bool = False


@dataclass(frozen=True)
class Start:
    """Start a process for a part of a row; it loads while another one scans."""

    sample: str
    part: SamplePart


@dataclass(frozen=True)
class Grant:
    """Give the microscope to a process that waits for it."""

    sample: str


@dataclass(frozen=True)
class End:
    """End a process that waits for a microscope it will not get."""

    sample: str


@dataclass(frozen=True)
class AskForStain:
    """Ask the operator to stain these slides, all together."""

    samples: tuple[str, ...]


@dataclass(frozen=True)
class Finish:
    """Count a row as finished without an attempt: its scan and its report are complete on disk."""

    sample: str


@dataclass(frozen=True)
class Quarantine:
    """Give a row up without an attempt."""

    sample: str
    reason: str


Decision = Start | Grant | End | AskForStain | Finish | Quarantine


def decide(view: BatchView) -> list[Decision]:
    """Return what to do now; call it again after each change."""
    decisions: list[Decision] = []
    no_scan = view.scanning_stopped or view.stopping
    waiting = [
        process for process in view.processes if process.microscope in ("loading", "waiting")
    ]
    if no_scan:
        decisions += [End(process.sample) for process in waiting]
        waiting = []
    decisions += _grant(view, waiting)
    if view.stopping:
        return decisions
    started = {process.sample for process in view.processes}
    rows = [row for row in view.rows if row.row.sample not in started and row.state != "held"]
    decisions += [Finish(row.row.sample) for row in rows if row.stage == "finished"]
    rows = [row for row in rows if row.stage != "finished"]
    expired = [row for row in rows if row.late and row.stage == "new"]
    reason = "its deadline passed before a field was taken"
    decisions += [Quarantine(row.row.sample, reason) for row in expired]
    rows = [row for row in rows if row not in expired]
    processing = sum(process.microscope == "done" for process in view.processes)
    scanned = [row for row in rows if row.stage == "scanned" and row.not_before_s <= view.now_s]
    decisions += [
        Start(row.row.sample, "slide")
        for row in _in_order(scanned)[: view.max_processing - processing]
    ]
    if no_scan or waiting or view.asked or view.disk_is_full or processing >= view.max_processing:
        return decisions
    return decisions + list(_next_scan(view, [row for row in rows if row.stage != "scanned"]))


def is_over(view: BatchView) -> bool:
    """Return whether nothing is left to do, or nothing that may be started."""
    if view.processes:
        return False
    if view.stopping:
        return True
    rows = [row for row in view.rows if row.state != "held"]
    if view.scanning_stopped:
        return all(row.stage != "scanned" for row in rows)
    return not rows


def scanning_is_over(view: BatchView) -> bool:
    """Return whether no process uses the microscope, and none will."""
    if any(process.microscope in ("loading", "waiting", "using") for process in view.processes):
        return False
    if view.scanning_stopped or view.stopping:
        return True
    reporting = {process.sample for process in view.processes if process.microscope == "done"}
    return all(
        row.state == "held"
        or row.stage == "scanned"
        or (row.row.sample in reporting and not row.by_list)
        for row in view.rows
    )


def _grant(view: BatchView, waiting: Sequence[ProcessView]) -> Iterator[Grant]:
    if any(process.microscope == "using" for process in view.processes):
        return
    if view.asked or view.disk_is_full or view.leaving:
        return
    if sum(process.microscope == "done" for process in view.processes) >= view.max_processing:
        # The samples scanned so far wait for the processor: scanning on would only fill the memory.
        return
    incubating = {row.row.sample for row in view.rows if row.not_before_s > view.now_s}
    ready = [
        process
        for process in waiting
        if process.microscope == "waiting" and process.sample not in incubating
    ]
    if ready:
        yield Grant(ready[0].sample)


def _next_scan(view: BatchView, rows: Sequence[RowView]) -> Iterator[Decision]:
    """Yield the process to start next for the microscope, or the question to the operator."""
    parts = {row.row.sample: _part(row, view) for row in view.rows}
    ready = [
        row
        for row in rows
        if parts[row.row.sample] and row.not_before_s <= view.now_s + _warm_up_s(row)
    ]
    for row in _in_order(ready):
        part = parts[row.row.sample]
        if part is not None:
            yield Start(row.row.sample, part)
            return
    unstained = [row for row in rows if row.by_list and row.stage == "brightfield" and row.prompts]
    busy = any(process.microscope != "done" for process in view.processes)
    if unstained and not busy and not _bright_field_is_missing(view):
        yield AskForStain(tuple(row.row.sample for row in unstained))


def _part(row: RowView, view: BatchView) -> SamplePart | None:
    """Return the next part of a row that needs the microscope; ``None`` where it must wait for the
    list.
    """
    if not row.by_list or row.stage in ("stained", "scanned"):
        return "slide"
    if row.stage in ("new", "started"):
        return "brightfield"
    return None if row.prompts or _bright_field_is_missing(view) else "stain"


def _bright_field_is_missing(view: BatchView) -> bool:
    """Return whether a slide of the list still needs its bright field."""
    return any(
        row.by_list and row.stage in ("new", "started") and row.state != "held" for row in view.rows
    )


def _warm_up_s(row: RowView) -> float:
    """Return how long before its time a process may be started: a retry that waits for something is
    not.
    """
    return _WARM_UP_S if row.stage == "stained" else 0.0


def _in_order(rows: Sequence[RowView]) -> list[RowView]:
    """Sort rows: stained slides, whose incubation is limited, then by priority.

    A failed attempt goes behind others.
    """

    def key(row: RowView) -> tuple[bool, int, int, int]:
        return (
            not (row.by_list and row.stage == "stained"),
            -row.row.priority,
            row.attempts,
            row.order,
        )

    return sorted(rows, key=key)
