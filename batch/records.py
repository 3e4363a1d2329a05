"""Typed models of the files of a batch.

The worklist as read, the journal, the commands and the heartbeat.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Literal, TypedDict

from pydantic import AwareDatetime, Field

from wbcpipe.samples.records import Count, Part, Record

__all__ = [
    "BatchProtocol",
    "BatchRecord",
    "Command",
    "CommandKind",
    "EntryDetails",
    "Heartbeat",
    "JournalEntry",
    "MicroscopeState",
    "MicroscopeWord",
    "Phase",
    "ProcessStatus",
    "RowEvent",
    "WorklistRow",
    "phase_figure",
]

#: ``two-pass`` stains each slide after its bright field; ``two-pass-list`` takes the bright field
#: of all such slides, then stains them, then takes the fluorescence of all.
BatchProtocol = Literal["one-pass", "two-pass", "two-pass-list"]
#: What the process of a sample does; each phase has its own time limit.
Phase = Literal[
    "starting",
    "waiting for the microscope",
    "loading the slide",
    "opening",
    "focusing",
    "scanning",
    "staining",
    "segmenting",
    "classifying",
    "reporting",
]
RowEvent = Literal[
    "scan_started",
    "scan_finished",
    "stain_started",
    "stain_finished",
    "processing_started",
    "finished",
    "attempt_failed",
    "interrupted",
    "quarantined",
    "skipped",
    "held",
    "released",
    "retried",
]
BatchEvent = Literal[
    "batch_started",
    "batch_resumed",
    "batch_ended",
    "row_added",
    "row_changed",
    "check_passed",
    "check_failed",
    "scanning_stopped",
    "scanning_resumed",
    "stop_requested",
    "operator_confirmed",
    "command_refused",
    "clock_changed",
    "computer_slept",
    "disk_low",
    "disk_freed",
    "may_sleep",
    "slide_unloaded",
    "unload_failed",
    "incubation_exceeded",
    "alert_sent",
    "alert_cleared",
    "alert_failed",
]
CommandKind = Literal["add", "hold", "release", "skip", "retry", "stop", "confirm"]


class WorklistRow(Part):
    """One slide of a worklist.

    Attributes:
        line: of the worklist file; 0 for a row that `batch add` gave.
        sample: name of the sample; a batch has one row for each.
        slide: id on the slide's label, as its barcode has it; the sample's name by default.
        slot: of the stage insert; empty where a loader brings the slide to its own slot.
        scope: name or path of the scope file.
        protocol: see `BatchProtocol`.
        cells: number of cells to count; ``None`` for the default, or where ``precision`` or
            ``fields`` is given.
        precision: targets as `run --precision` takes them, for example ``NEU:5%``.
        fields: take exactly this many fields.
        bundle: name or path of the model, or ``auto``.
        priority: the highest first; equal ones in the order of the worklist.
        deadline: no field of this slide is started after it.
        control: a control slide: its figures go to the control charts.
        notes: free text, shown on the morning page.
        specimen_seed, specimen_preparation: of a virtual scope.
    """

    line: Count = 0
    sample: str
    slide: str
    slot: str
    scope: str
    protocol: BatchProtocol = "one-pass"
    cells: Annotated[int, Field(ge=1)] | None = None
    precision: tuple[str, ...] = ()
    fields: Annotated[int, Field(ge=1)] | None = None
    bundle: str = "auto"
    priority: int = 0
    deadline: AwareDatetime | None = None
    control: bool = False
    notes: str = ""
    specimen_seed: int | None = None
    specimen_preparation: str | None = None


class BatchRecord(Record):
    """``batch.json``: the worklist as read.

    Written first, and again when rows are added or changed.

    Attributes:
        name: of the batch and its folder.
        created: when `batch run` was first started.
        worklist_sha256: of the file's bytes; a copy of them is ``worklist.csv``.
        rows: in the order of the worklist, then those added.
    """

    remedy: ClassVar[str] = (
        "restore the file from a backup, or move the batch's folder away and run the worklist again"
    )

    name: str
    created: AwareDatetime
    worklist_sha256: str
    rows: tuple[WorklistRow, ...]


class JournalEntry(Part):
    """One line of ``journal.jsonl``: one transition of a row, or one event of the batch.

    Attributes:
        time: in UTC.
        event: what happened.
        sample: of the row; empty for an event of the batch.
        attempt: number of the row's attempt, from 1; 0 where none is meant.
        error: class of the error, for example ``DeviceTimeoutError``; empty without one.
        reason: in words, for people.
        by: user and computer, of an event that an operator asked for.
        figures: of the event, by name: ``<phase>_s`` for the seconds spent in each phase
            (``scanning_s``, ``loading_the_slide_s``; see `phase_figure`), ``fields``, ``cells``,
            ``memory_bytes`` (peak).
    """

    time: datetime
    event: RowEvent | BatchEvent
    sample: str = ""
    attempt: Count = 0
    error: str = ""
    reason: str = ""
    by: str = ""
    figures: dict[str, float] = Field(default_factory=dict)


class EntryDetails(TypedDict, total=False):
    """The optional parts of a `JournalEntry`."""

    attempt: int
    error: str
    reason: str
    by: str
    figures: dict[str, float]


def phase_figure(phase: Phase) -> str:
    """Return the name of the figure that holds the seconds of a phase.

    >>> phase_figure("loading the slide")
    'loading_the_slide_s'
    """
    return f"{phase.replace(' ', '_')}_s"


class Command(Record):
    """A file of ``inbox/``: what an operator asks of a running batch.

    Attributes:
        kind: ``confirm`` says that the operator has done what the batch waits for (slides stained
            or loaded).
        sample: of the row; empty for `stop`, `confirm` and for all rows.
        row: for ``add``.
        at_once: for ``stop``: do not finish the sample that is being scanned.
        by: user and computer.
        time: in UTC.
    """

    kind: CommandKind
    sample: str = ""
    row: WorklistRow | None = None
    at_once: bool = False
    by: str = ""
    time: AwareDatetime


class ProcessStatus(Part):
    """The process of one sample, in the heartbeat.

    Attributes:
        sample, attempt: of the row. pid, created: of the process; both together identify it, since
        the system uses a process id again. ``created``
            is the time since the epoch in seconds, as psutil gives it.
        phase: see `Phase`.
        phase_since: when the phase began.
        done, total: fields (or cells, or steps) of the phase; 0 where not known.
        cells: counted so far.
        text: the last line that the process reported.
        memory_bytes: resident memory of the process and its children.
    """

    sample: str
    attempt: Count
    pid: int
    created: float
    phase: Phase
    phase_since: AwareDatetime
    done: Count = 0
    total: Count = 0
    cells: Count | None = None
    text: str = ""
    memory_bytes: Count = 0


MicroscopeWord = Literal["idle", "checking", "scanning", "staining", "waiting", "stopped"]


class MicroscopeState(Part):
    """What the microscope does.

    Attributes:
        state: ``waiting`` for the operator (see ``reason``), or ``stopped`` by a fault.
        sample: which it scans.
        since: of the state.
        reason: in words.
    """

    state: MicroscopeWord
    sample: str = ""
    since: AwareDatetime
    reason: str = ""


class Heartbeat(Record):
    """``heartbeat.json``: what the supervisor does; replaced every few seconds while it lives.

    Attributes:
        time: of this heartbeat.
        pid, created: of the supervisor; see `ProcessStatus`.
        host: name of the computer.
        microscope: its state.
        processes: of the samples that are being scanned or processed.
        stopping: ``""``, or ``after this sample``, or ``at once``.
        disk_free_bytes: at the data root.
    """

    time: AwareDatetime
    pid: int
    created: float
    host: str
    microscope: MicroscopeState
    processes: tuple[ProcessStatus, ...] = ()
    stopping: str = ""
    disk_free_bytes: Count = 0
