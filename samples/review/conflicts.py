"""Edits of two tabs or two readers at once: which of them can be merged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wbcpipe.samples.review.entries import (
    Adjudicate,
    Amend,
    Assign,
    Call,
    CellsReplaced,
    Comment,
    LocationMark,
    Look,
    Reading,
    Redo,
    Sign,
    Undo,
    Unsign,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from wbcpipe.samples.review.entries import Action, Entry

__all__ = ["find_conflict"]

#: Concern all cells of the sample.
_OF_ALL = (Sign, Unsign, Amend, CellsReplaced)
#: Concern nothing that another entry could change.
_ADDED = (Look, Comment, LocationMark, Reading)


def find_conflict(
    actions: Sequence[Action], entries: Sequence[Entry], newer: Sequence[Entry], reader: str
) -> str:
    """Return why edits cannot be appended behind newer entries; empty if they can.

    Entries that concern other cells are merged: a look, a comment, a mark and another reader's
    blind reading concern no cell. Two edits concern the same where one of their cells is the same;
    a signature, its withdrawal, an amendment and a new segmentation concern all cells.

    Args:
        actions: to append, by ``reader``.
        entries: all of the journal.
        newer: those of them that the reader had not seen.
        reader: who.
    """
    if not newer:
        return ""
    by_id = {entry.id: entry.action for entry in entries}
    wide = next((entry for entry in newer if isinstance(entry.action, _OF_ALL)), None)
    changing = [action for action in actions if not isinstance(action, (Look, LocationMark))]
    if wide is not None and changing:
        return f"{wide.reader} wrote meanwhile: {wide.action.action.replace('_', ' ')}"
    for entry in newer:
        if any(isinstance(action, _OF_ALL) for action in actions) and not isinstance(
            entry.action, _ADDED
        ):
            return f"{entry.reader} changed the sample meanwhile"
        theirs = _concerns([entry.action], by_id, entry.reader)
        if shared := theirs & _concerns(actions, by_id, reader):
            return (
                f"{entry.reader} changed the same "
                f"{'cell' if len(shared) == 1 else f'{len(shared)} cells'} meanwhile"
            )
    return ""


def _concerns(
    actions: Iterable[Action], by_id: dict[str, Action], reader: str
) -> set[tuple[str, ...]]:
    """Return what edits concern: cells, and calls of a reading."""
    found: set[tuple[str, ...]] = set()
    for action in actions:
        match action:
            case Assign():
                found |= {("cell", change.cell) for change in action.cells}
            case Adjudicate():
                found.add(("cell", action.cell))
            case Call():
                found.add(("call", action.reading, action.cell, reader))
            case Undo() | Redo():
                found.add(("entry", action.target))
                target = by_id.get(action.target)
                if target is not None and not isinstance(target, (Undo, Redo)):
                    found |= _concerns([target], by_id, reader)
            case _:
                pass
    return found
