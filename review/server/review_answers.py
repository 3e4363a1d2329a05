"""What the page gets of a sample: its cells as they are now, the journal, and the differential before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from wbcpipe.report.differential import Differential, Tally, count_cells
from wbcpipe.review.images.strips import TILE_PX
from wbcpipe.review.server.cell_table import machine_columns, measured_columns
from wbcpipe.samples.cell_columns import UNIDENTIFIED
from wbcpipe.samples.review.entries import ARTEFACT, NOT_CLASSED, Call, Reading, cells_of
from wbcpipe.samples.review.journal import JournalConflictError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wbcpipe.review.server.open_samples import OpenSample
    from wbcpipe.samples.review.entries import Action, Entry
    from wbcpipe.samples.review.replay import ReadingState, ReviewState

__all__ = ["answer_after", "append_actions", "sample_answer", "unknown_cell"]

#: Of the edits that can be undone, an answer names the last ones.
_MAX_UNDO: Final = 100
_KEYS: Final = {"NEU": "n", "LYM": "l", "EOS": "e", "MO": "m", "BAS": "b"}


def sample_answer(sample: OpenSample, reader: str) -> dict[str, Any]:
    """Return everything that a reader's page shows of a sample.

    In a blind reading, a reader gets neither what the model says nor what others did.
    """
    with sample.journal.held():
        state = sample.journal.state()
        blind = open_reading(state, reader)
        names = list(sample.store.modalities)
        answer = {
            "sample": sample.sample.name,
            "reader": reader,
            "classes": list(sample.rows.classes),
            "extra_classes": [],
            "keys": {key: name for name, key in _KEYS.items()} | {"u": UNIDENTIFIED, "x": NOT_CLASSED, "a": ARTEFACT},
            "heads": list(sample.rows.heads),
            "modalities": names,
            "strip": {"tile_px": TILE_PX, "modalities": names, "composite": sample.images.contrast.composite},
            "fields": len(set(sample.rows.columns["field_index"].tolist())),
            "cells": {"key": sample.keys, **measured_columns(sample.rows)},
            **_summary(sample, state, reader),
        }
        if blind is None:
            answer["cells"] |= machine_columns(sample.rows) | _reviewed_columns(sample, state)
            answer["comments"] = _comments(state)
        return answer


def open_reading(state: ReviewState, reader: str) -> ReadingState | None:
    """Return the blind reading that a reader has not finished; ``None`` without one."""
    found = [one for one in state.readings.values() if one.reader == reader and not one.finished]
    return found[-1] if found else None


def answer_after(sample: OpenSample, reader: str, base: str) -> dict[str, Any]:
    """Return the entries after one, and what follows from all of them.

    Raises:
        JournalConflictError: there is no such entry.
    """
    with sample.journal.held():
        state = sample.journal.state()
        return _with_newer(sample, state, reader, _entries_after(sample.journal.entries(), base))


def _entries_after(entries: Sequence[Entry], base: str) -> Sequence[Entry]:
    if not base:
        return entries
    for position in range(len(entries) - 1, -1, -1):
        if entries[position].id == base:
            return entries[position + 1 :]
    raise JournalConflictError("the journal is another one now; load the page again", [])


def append_actions(sample: OpenSample, reader: str, base: str, actions: Sequence[Action]) -> dict[str, Any]:
    """Append a reader's edits; return as `answer_after`.

    Raises:
        JournalConflictError: a newer entry concerns the same; nothing was written.
    """
    with sample.journal.held():
        newer = sample.journal.append(actions, reader=reader, base=base)
        return _with_newer(sample, sample.journal.state(), reader, newer)


def unknown_cell(sample: OpenSample, actions: Sequence[Action]) -> str:
    """Return a cell of the edits that the sample does not have; empty without one."""
    return next((key for key in cells_of(actions) if key not in sample.row_of), "")


def _with_newer(sample: OpenSample, state: ReviewState, reader: str, newer: Sequence[Entry]) -> dict[str, Any]:
    return {**_summary(sample, state, reader), "newer": visible_entries(state, reader, newer)}


def visible_entries(state: ReviewState, reader: str, entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Return entries as a reader may see them: in a blind reading, the own ones of the reading alone."""
    if open_reading(state, reader) is not None:
        entries = [entry for entry in entries if entry.reader == reader and isinstance(entry.action, (Reading, Call))]
    return [entry.content() for entry in entries]


def _summary(sample: OpenSample, state: ReviewState, reader: str) -> dict[str, Any]:
    """Return what every answer has: the journal's end, what can be undone, and the differential."""
    blind = open_reading(state, reader)
    found: dict[str, Any] = {
        "head": state.head,
        "state": state.state,
        "digest": sample.images.digest,
        "undo": state.undoable(reader)[-_MAX_UNDO:],
        "redo": state.redoable(reader)[-_MAX_UNDO:],
        "checks": [],
        "reading": None if blind is None else _reading(sample, blind),
    }
    return found if blind is not None else {**found, "differential": _differential(sample, state)}


def _reading(sample: OpenSample, blind: ReadingState) -> dict[str, Any]:
    rows = [sample.row_of[key] for key in blind.cells if key in sample.row_of]
    return {"reading": blind.reading, "rows": rows, "calls": dict(blind.calls)}


def _now(sample: OpenSample, state: ReviewState) -> list[str]:
    assigned = state.assigned()
    return [
        assigned[key].to if key in assigned else machine
        for key, machine in zip(sample.keys, sample.rows.predicted_class, strict=True)
    ]


def _reviewed_columns(sample: OpenSample, state: ReviewState) -> dict[str, list[Any]]:
    now = _now(sample, state)
    machine = sample.rows.predicted_class
    doubt = 1 - sample.rows.confidence + sample.rows.disagreement
    return {
        "now": now,
        "looked": [int(key in state.looked) for key in sample.keys],
        "changed": [int(a != b) for a, b in zip(now, machine, strict=True)],
        "doubt": [round(float(value), 5) for value in doubt],
    }


def _comments(state: ReviewState) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for comment in state.comments():
        shown = {"reader": comment.reader, "time": comment.time, "text": comment.text, "id": comment.entry}
        found.setdefault(comment.cell or "", []).append(shown)
    return found


def _differential(sample: OpenSample, state: ReviewState) -> dict[str, Any]:
    rows = sample.rows
    now = [name for name, reason in zip(_now(sample, state), rows.exclusion_reason, strict=True) if not reason]
    before = Differential.from_tally(count_cells(rows.predicted_class, rows.qc_flags, rows.classes))
    tally = Tally({name: now.count(name) for name in rows.classes}, now.count(UNIDENTIFIED), {}, {})
    after = Differential.from_tally(tally)
    return {
        "before": _lines(before),
        "after": _lines(after),
        "counted": tally.identified,
        "unidentified": tally.unidentified,
        "not_classed": now.count(NOT_CLASSED),
        "artefact": now.count(ARTEFACT),
        "extra": [],
        "stop": {"unreviewed": len(sample) - len(state.looked), "decisive": 0, "next": [], "sentence": ""},
    }


def _lines(differential: Differential) -> list[dict[str, Any]]:
    return [
        {
            "name": line.name,
            "count": line.count,
            "percent": line.percent,
            "interval_percent": line.interval_percent,
            "flag": line.flag,
            "reference_percent": line.reference_percent,
        }
        for line in differential.classes
    ]


def conflict_answer(sample: OpenSample, reader: str, error: JournalConflictError) -> dict[str, Any]:
    """Return what a page gets whose edit was not written: the reason, and the newer entries."""
    with sample.journal.held():
        state = sample.journal.state()
        newer = visible_entries(state, reader, error.newer)
        return {"error": f"{error.reason}.", "reason": error.reason, "head": state.head, "newer": newer}
