"""Collect what the morning page says, from the files of a batch and of its samples."""

from __future__ import annotations

import os
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from wbcpipe.batch.morning.advice import EVENT_ADVICE, GATE_ADVICE, advice_for
from wbcpipe.batch.morning.quality import scope_quality
from wbcpipe.batch.morning.records import (
    ClassShare,
    FailedGate,
    LightUsed,
    NightEvent,
    NightSummary,
    SampleSummary,
)
from wbcpipe.batch.qc.night_checks import CHECK_FILE
from wbcpipe.batch.qc.records import CheckResult
from wbcpipe.batch.records import Phase, phase_figure
from wbcpipe.batch.row_status import DONE_STATES, replay
from wbcpipe.batch.state.microscopes import virtual_scopes
from wbcpipe.batch.state.night_times import idle_seconds, microscope_use, used_seconds
from wbcpipe.errors import WbcpipeError
from wbcpipe.report.document import count_fields, document_paths
from wbcpipe.report.words import flag_words, gate_figure, training_warning
from wbcpipe.samples.differential_record import DifferentialRecord
from wbcpipe.samples.fields import PASSES
from wbcpipe.samples.light_record import read_exposures
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wbcpipe.batch.morning.records import ScopeQuality
    from wbcpipe.batch.records import JournalEntry
    from wbcpipe.batch.row_status import RowState, RowStatus
    from wbcpipe.batch.state.batch_folder import BatchFolder
    from wbcpipe.batch.state.night_times import MicroscopeUse
    from wbcpipe.samples.differential_record import QualityGate

__all__ = ["PHASES", "summarise"]

#: Phases in the order in which a sample goes through them.
PHASES: Final[tuple[Phase, ...]] = Phase.__args__  # type: ignore[attr-defined]
#: What a damaged or foreign file of a sample may raise; such a row says so, and the page is
#: written.
_DAMAGED: Final = (WbcpipeError, OSError, ValueError, KeyError, TypeError)
#: Events of the batch that its reader should know, and what happened where the entry gives no
#: reason.
_EVENTS: Final[Mapping[str, str]] = {
    "batch_resumed": "the batch was started again after an interruption",
    "check_failed": "the check of the microscope failed",
    "scanning_stopped": "the scanning was stopped",
    "scanning_resumed": "the scanning went on",
    "computer_slept": "the computer slept",
    "clock_changed": "the computer's clock was changed",
    "disk_low": "the disk was nearly full",
    "incubation_exceeded": "a stain incubated for too long",
    "disk_freed": "space was freed on the disk",
    "may_sleep": "the computer was not kept awake",
    "unload_failed": "the last slide could not be taken away",
    "command_refused": "a command was refused",
    "alert_failed": "an alert could not be sent",
}
_OPERATOR_EVENTS: Final[Mapping[str, str]] = {
    "row_added": "added",
    "row_changed": "changed",
    "skipped": "skipped",
    "held": "held",
    "released": "released",
    "retried": "tried again",
    "stop_requested": "asked to stop",
    "operator_confirmed": "confirmed",
}
_UNITS: Final = {"cells": "", "": "", "um": " µm"}


def summarise(
    folder: BatchFolder, *, now: datetime | None = None, charts: bool = True, ended: bool = False
) -> NightSummary:
    """Read a batch and its samples; a sample that cannot be read says so in its row.

    Args:
        folder: of the batch.
        now: time of the summary.
        charts: draw the control charts, which takes a second.
        ended: the batch has ended, though the process that ran it still holds its lock.

    Raises:
        WorklistError: no such batch.
        SampleStateError: ``batch.json`` or the journal is damaged.
    """
    record, journal = folder.record(), folder.journal()
    statuses = replay(record.rows, journal)
    running = not ended and folder.is_running()
    as_of = now or datetime.now(UTC)
    uses = microscope_use(journal, as_of if running else None)
    samples = tuple(_sample(folder, status, uses) for status in statuses.values())
    states = Counter(sample.state for sample in samples)
    check, check_problem = _check(folder)
    quality = (
        tuple(scope_quality(folder.root, (row.scope for row in record.rows), folder.name))
        if charts
        else ()
    )
    return NightSummary(
        name=folder.name,
        headline=_headline(states, samples, quality),
        running=running,
        as_of=as_of,
        started=journal[0].time if journal else None,
        ended=None if running or not journal else journal[-1].time,
        states=dict(states),
        microscope_s=round(used_seconds(uses), 1),
        idle_s=max(idle_seconds(journal), default=None),
        light=_total_light(samples),
        samples=samples,
        events=tuple(_event(entry, _EVENTS) for entry in journal if entry.event in _EVENTS),
        operator_events=tuple(
            _event(entry, _OPERATOR_EVENTS) for entry in journal if _by_operator(entry)
        ),
        check=check,
        check_problem=check_problem,
        quality=quality,
        virtual_scopes=virtual_scopes(record.rows),
    )


def _headline(
    states: Mapping[RowState, int],
    samples: Sequence[SampleSummary],
    quality: Sequence[ScopeQuality],
) -> str:
    total = sum(states.values())
    if not total:
        return "no samples"
    left = sum(number for state, number in states.items() if state not in DONE_STATES)
    doubtful = sum(sample.doubtful for sample in samples if sample.state == "finished")
    parts = [
        f"{states.get('finished', 0)} of {total} finished",
        f"{doubtful} of them to be checked" if doubtful else "",
        *(
            f"{number} {state}"
            for state in ("quarantined", "skipped")
            if (number := states.get(state, 0))
        ),
        f"{left} left" if left else "",
        *(
            f"control rules broken on {scope.scope}"
            for scope in quality
            if scope.broken and not scope.passed
        ),
    ]
    return ", ".join(part for part in parts if part)


def _event(entry: JournalEntry, words: Mapping[str, str]) -> NightEvent:
    return NightEvent(
        time=_aware(entry.time),
        event=entry.event,
        text=entry.reason.removesuffix(" by the operator") or words[entry.event],
        sample=entry.sample,
        by=entry.by,
        advice=EVENT_ADVICE.get(entry.event, ""),
    )


def _by_operator(entry: JournalEntry) -> bool:
    return entry.event in _OPERATOR_EVENTS


def _aware(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _check(folder: BatchFolder) -> tuple[CheckResult | None, str]:
    try:
        return CheckResult.read_if_present(folder.path / CHECK_FILE), ""
    except _DAMAGED as error:
        return None, str(error)


def _total_light(samples: Sequence[SampleSummary]) -> LightUsed:
    lights = [sample.light for sample in samples if sample.light]
    return LightUsed(
        exposures=sum(light.exposures for light in lights),
        total_ms=sum(light.total_ms for light in lights),
        max_field_ms=max((light.max_field_ms for light in lights), default=0.0),
    )


def _sample(folder: BatchFolder, status: RowStatus, uses: Sequence[MicroscopeUse]) -> SampleSummary:
    row, figures = status.row, status.figures
    summary = SampleSummary(
        **row.model_dump(include={"sample", "slide", "slot", "scope", "notes", "control"}),
        state=status.state,
        attempts=status.attempts,
        error=status.error,
        reason=status.reason,
        advice=_advice(status),
        phases_s={
            phase: figures[name] for phase in PHASES if (name := phase_figure(phase)) in figures
        },
        scan_s=used_seconds([use for use in uses if use.sample == row.sample]),
        memory_bytes=int(figures["memory_bytes"]) if figures.get("memory_bytes", -1) >= 0 else None,
        started=status.started and _aware(status.started),
        ended=status.ended and _aware(status.ended),
    )
    found: dict[str, object] = {}
    try:
        sample = Sample.open(folder.root, row.sample)
        if sample.exists():
            # One after the other: what is read before a damaged file is shown.
            found |= {"light": _light(sample)}
            found |= _fields(sample)
            found |= {"report": _report_link(folder, sample)}
            found |= _differential(sample)
            if status.state == "finished" and "counted" not in found:
                found["problem"] = (
                    f"{document_paths(sample)[0]} is not there, although the sample was finished"
                )
        elif status.state == "finished":
            found["problem"] = f"{sample.path} is not there, although the sample was finished"
    except _DAMAGED as error:
        found["problem"] = str(error) or type(error).__name__
    return summary.model_copy(update=found)


def _advice(status: RowStatus) -> tuple[str, ...]:
    name = status.row.sample
    if status.state == "quarantined":
        return (advice_for(status.error, name),)
    if status.state == "held":
        return (f"It is held: `wbcpipe batch release {name}` lets it go on.",)
    return ()


def _light(sample: Sample) -> LightUsed | None:
    by_field: Counter[int] = Counter()
    exposures = [exposure for name in PASSES for exposure in read_exposures(sample.raw_path(name))]
    for exposure in exposures:
        by_field[exposure.field] += exposure.exposure_ms  # type: ignore[assignment]
    if not exposures:
        return None
    return LightUsed(
        exposures=len(exposures),
        total_ms=round(sum(by_field.values()), 3),
        max_field_ms=round(max(by_field.values()), 3),
    )


def _fields(sample: Sample) -> dict[str, object]:
    fields = count_fields(sample, sample.record())
    if fields.wanted is None:
        return {}
    return {
        "fields_taken": fields.taken,
        "fields_missing": len(fields.missing),
        "fields_empty": len(fields.empty),
    }


def _report_link(folder: BatchFolder, sample: Sample) -> str | None:
    path = document_paths(sample)[2]
    return os.path.relpath(path, folder.path).replace(os.sep, "/") if path.is_file() else None


def _differential(sample: Sample) -> dict[str, object]:
    document = DifferentialRecord.read_if_present(document_paths(sample)[0])
    if document is None:
        return {}
    gates, found = document.quality.gates, document.verification
    return {
        "counted": document.cells.counted,
        "unidentified_percent": document.cells.unidentified.percent,
        "classes": tuple(
            ClassShare(
                name=entry.name,
                count=entry.count,
                percent=entry.percent,
                interval_percent=entry.interval_percent,
                flag=flag_words(entry),
            )
            for entry in document.classes
        ),
        "gates_passed": sum(gate.passed is True for gate in gates),
        "gates_failed": tuple(_gate(gate) for gate in gates if gate.passed is False),
        "warnings": tuple(_warnings(document)),
        "verification": f"{found.state} by {found.signed_by}" if found.signed_by else found.state,
    }


def _gate(gate: QualityGate) -> FailedGate:
    unit = _UNITS.get(gate.unit, f" {gate.unit}")
    comparison = "at least" if gate.comparison == ">=" else "at most"
    figure = gate_figure(gate) if gate.figure is None else f"{gate_figure(gate)}{unit}"
    limit = f"{comparison} {gate.limit:g}{unit}"
    return FailedGate(
        name=gate.name, title=gate.title, figure=figure, limit=limit, advice=GATE_ADVICE[gate.name]
    )


def _warnings(document: DifferentialRecord) -> list[str]:
    checks = document.model_checks
    found = [doubt.text.rstrip(".") for doubt in checks.doubts]
    if warning := training_warning(document.sample, checks):
        found.append(warning.rstrip("."))
    if checks.excluded_modalities:
        found.append(f"classified without {', '.join(checks.excluded_modalities)}")
    if document.scan and not document.scan.met:
        found.append(f"the scan stopped before its target: {document.scan.text}")
    return found
