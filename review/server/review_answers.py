"""What the page gets of a sample.

Its cells as they are now, the journal, and the differential before and after.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from wbcpipe.review.images.strips import TILE_PX
from wbcpipe.review.server.cell_table import machine_columns, measured_columns
from wbcpipe.samples.review.entries import Call, Reading, cells_of
from wbcpipe.samples.review.journal import JournalConflictError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wbcpipe.review.server.open_samples import OpenSample
    from wbcpipe.samples.review.entries import Action, Entry
    from wbcpipe.samples.review.replay import ReadingState, ReviewState

__all__ = [
    "answer_after",
    "answer_with",
    "conflict_answer",
    "open_reading",
    "sample_answer",
    "unknown_cell",
]

#: Of the edits that can be undone, an answer names the last ones.
_MAX_UNDO: Final = 100


def sample_answer(sample: OpenSample, reader: str) -> dict[str, Any]:
    """Return everything that a reader's page shows of a sample.

    In a blind reading, a reader gets neither what the model says nor what others did.
    """
    names = list(sample.store.modalities)
    with sample.journal.held():
        state = sample.journal.state()
        answer = {
            "sample": sample.sample.name,
            "reader": reader,
            **sample.session.describe_classes(),
            "heads": list(sample.rows.heads),
            "modalities": names,
            "strip": {
                "tile_px": TILE_PX,
                "modalities": names,
                "composite": sample.images.contrast.composite is not None,
            },
            "fields": len(set(sample.rows.columns["field_index"].tolist())),
            "cells": {"key": sample.keys, **measured_columns(sample.rows)},
            **_summary(sample, state, reader),
        }
        if open_reading(state, reader) is None:
            answer["cells"] |= machine_columns(sample.rows) | sample.session.columns()
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
        return answer_with(sample, reader, _entries_after(sample.journal.entries(), base))


def answer_with(sample: OpenSample, reader: str, newer: Sequence[Entry]) -> dict[str, Any]:
    """Return what follows from all entries, and those that are new to a page."""
    with sample.journal.held():
        state = sample.journal.state()
        return {**_summary(sample, state, reader), "newer": _visible(state, reader, newer)}


def conflict_answer(sample: OpenSample, reader: str, error: JournalConflictError) -> dict[str, Any]:
    """Return what a page gets whose edit was not written: the reason, and the newer entries."""
    return {
        "error": f"{error.reason}.",
        "reason": error.reason,
        **answer_with(sample, reader, error.newer),
    }


def _entries_after(entries: Sequence[Entry], base: str) -> Sequence[Entry]:
    if not base:
        return entries
    for position in range(len(entries) - 1, -1, -1):
        if entries[position].id == base:
            return entries[position + 1 :]
    raise JournalConflictError("the journal is another one now; load the page again", [])


def unknown_cell(sample: OpenSample, actions: Sequence[Action]) -> str:
    """Return a cell of the edits that the sample does not have; empty without one."""
    return next((key for key in cells_of(actions) if key not in sample.row_of), "")


def _visible(state: ReviewState, reader: str, entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Return entries as a reader may see them: in a blind reading, the own ones of the reading
    alone.
    """
    blind = open_reading(state, reader)
    if blind is not None:
        entries = [
            entry
            for entry in entries
            if isinstance(entry.action, (Reading, Call)) and entry.action.reading == blind.reading
        ]
    return [entry.content() for entry in entries]


def _summary(sample: OpenSample, state: ReviewState, reader: str) -> dict[str, Any]:
    """Return what every answer has: the journal's end, what can be undone, the differential, the
    sign checks.
    """
    blind = open_reading(state, reader)
    found: dict[str, Any] = {
        "head": state.head,
        "state": state.state,
        "digest": sample.images.digest,
        "reading": None if blind is None else _reading(sample, blind),
    }
    if blind is not None:
        return {**found, "undo": [], "redo": []}
    return {
        **found,
        "undo": state.undoable(reader)[-_MAX_UNDO:],
        "redo": state.redoable(reader)[-_MAX_UNDO:],
        "differential": sample.session.differential(),
        "checks": sample.session.checks(),
    }


def _reading(sample: OpenSample, blind: ReadingState) -> dict[str, Any]:
    rows = [sample.row_of[key] for key in blind.cells if key in sample.row_of]
    return {"reading": blind.reading, "rows": rows, "calls": dict(blind.calls)}


def _comments(state: ReviewState) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for comment in state.comments():
        shown = {
            "reader": comment.reader,
            "time": comment.time,
            "text": comment.text,
            "id": comment.entry,
        }
        found.setdefault(comment.cell or "", []).append(shown)
    return found
