"""What the morning page says, as data: the page, the mail and ``--json`` are drawn from it."""

from __future__ import annotations

from pydantic import AwareDatetime, Field

from wbcpipe.batch.qc.records import BrokenRule, CheckResult
from wbcpipe.batch.row_status import RowState
from wbcpipe.samples.records import Count, Part

__all__ = [
    "ClassShare",
    "FailedGate",
    "LightUsed",
    "NightEvent",
    "NightSummary",
    "QcChart",
    "SampleSummary",
    "ScopeQuality",
]


class ClassShare(Part):
    """One class of a differential in small; ``flag`` in words, empty without one."""

    name: str
    count: Count
    percent: float | None
    interval_percent: tuple[float, float]
    flag: str


class FailedGate(Part):
    """A quality gate that failed: its figure and limit as text, and what to do."""

    name: str
    title: str
    figure: str
    limit: str
    advice: str


class LightUsed(Part):
    """Fluorescence light on the slide: exposures, their time in all, and the most at one field."""

    exposures: Count
    total_ms: float
    max_field_ms: float


class SampleSummary(Part):
    """One row of the batch.

    Attributes:
        sample, slide, slot, scope, notes, control: of the worklist.
        state, attempts, error, reason: see `RowStatus`.
        advice: what to do; empty if nothing is to be done.
        problem: why its files cannot be read; the figures below are then missing.
        counted, unidentified_percent, classes: of the differential; ``None`` and empty before the
        report. gates_passed, gates_failed: of the differential.
        warnings: of the differential that are no gates.
        verification: ``preliminary``, or ``verified by`` and who signed; empty before the report.
        fields_taken, fields_missing, fields_empty: ``None`` before the first field.
        phases_s: seconds of each phase, by its name.
        scan_s: on the microscope.
        light: ``None`` before the first exposure.
        memory_bytes: peak of its process; ``None`` if not known.
        started, ended: see `RowStatus`.
        report: path of ``report.html``, relative to the page; ``None`` before it is written.
    """

    sample: str
    slide: str
    slot: str
    scope: str
    notes: str
    control: bool
    state: RowState
    attempts: Count
    error: str
    reason: str
    advice: tuple[str, ...] = ()
    problem: str = ""
    counted: Count | None = None
    unidentified_percent: float | None = None
    classes: tuple[ClassShare, ...] = ()
    gates_passed: Count | None = None
    gates_failed: tuple[FailedGate, ...] = ()
    warnings: tuple[str, ...] = ()
    verification: str = ""
    fields_taken: Count | None = None
    fields_missing: Count = 0
    fields_empty: Count = 0
    phases_s: dict[str, float] = Field(default_factory=dict)
    scan_s: float = 0.0
    light: LightUsed | None = None
    memory_bytes: Count | None = None
    started: AwareDatetime | None = None
    ended: AwareDatetime | None = None
    report: str | None = None

    @property
    def doubtful(self) -> bool:
        """Return whether its result must be checked before it is used."""
        return bool(self.gates_failed or self.warnings or self.problem)

    @property
    def needs_attention(self) -> bool:
        """Return whether somebody should look at it."""
        return bool(self.advice or self.doubtful)


class NightEvent(Part):
    """An event of the batch, or of an operator: ``text`` in words, ``advice`` empty if nothing is
    to be done.
    """

    time: AwareDatetime
    event: str
    text: str
    sample: str = ""
    by: str = ""
    advice: str = ""


class QcChart(Part):
    """The control chart of one figure of a scope: in words, and drawn."""

    title: str
    description: str
    svg: str = Field(exclude=True, repr=False)


class ScopeQuality(Part):
    """Quality control of one scope in this batch.

    Attributes:
        scope: its name.
        passed: no rule but the warning is broken.
        broken: rules that the checks and control slides of the batch break.
        charts: worth a look.
        problem: why its figures cannot be read.
    """

    scope: str
    passed: bool
    broken: tuple[BrokenRule, ...] = ()
    charts: tuple[QcChart, ...] = ()
    problem: str = ""


class NightSummary(Part):
    """A batch.

    Attributes:
        name: of the batch.
        headline: the result in one line.
        running: a process runs it.
        as_of: when this summary was made.
        started, ended: of the batch; ``None`` before.
        states: state of a row to the number of rows.
        microscope_s: in which the microscope was in use.
        idle_s: longest pause of the microscope between two samples; ``None`` with fewer than two.
        light: of all samples.
        samples: in the order of the worklist.
        events: what happened to the batch and needs to be known.
        operator_events: what operators did.
        check: the last check of the microscope; ``None`` without one.
        check_problem: why ``check.json`` cannot be read.
        quality: control charts of each scope that has figures.
        virtual_scopes: names of the scopes that draw their images.
    """

    name: str
    headline: str
    running: bool
    as_of: AwareDatetime
    started: AwareDatetime | None
    ended: AwareDatetime | None
    states: dict[RowState, int]
    microscope_s: float
    idle_s: float | None
    light: LightUsed
    samples: tuple[SampleSummary, ...]
    events: tuple[NightEvent, ...]
    operator_events: tuple[NightEvent, ...]
    check: CheckResult | None = None
    check_problem: str = ""
    quality: tuple[ScopeQuality, ...] = ()
    virtual_scopes: tuple[str, ...] = ()
