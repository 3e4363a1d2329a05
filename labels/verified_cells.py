"""Which cells of a sample have a class that a person gave, and which one; reads no files."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from wbcpipe.samples.cell_columns import UNIDENTIFIED, QcFlag
from wbcpipe.samples.review.blind_calls import blind_calls, decide
from wbcpipe.samples.review.entries import ARTEFACT, NOT_CLASSED, Adjudicate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wbcpipe.report.rows import CellRows
    from wbcpipe.samples.review.replay import ReviewState

__all__ = ["Source", "VerifiedCell", "VerifiedCells", "verified_cells"]

Source: TypeAlias = Literal["assigned", "adjudicated", "agreed", "majority", "confirmed"]


@dataclass(frozen=True)
class VerifiedCell:
    """A cell whose class a person gave.

    Attributes:
        row: in the cell table.
        key: its name in the journal.
        label: the class.
        source: how it was given; see `verified_cells`.
        readers: who gave it.
        time: UTC; empty where several entries gave it.
    """

    row: int
    key: str
    label: str
    source: Source
    readers: tuple[str, ...]
    time: str = ""


@dataclass
class VerifiedCells:
    """The verified cells of a sample, by row, and how many a reader's word leaves out, by
    reason.
    """

    cells: list[VerifiedCell] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def verified_cells(
    rows: CellRows, keys: Sequence[str], state: ReviewState, per_100_white_cells: Mapping[str, bool]
) -> VerifiedCells:
    """Return the cells to learn from, with the class that a person gave each.

    A cell's class is, in this order, the one that a reader adjudicated or assigned; that of two or
    more blind readers who call it alike, or of most of three or more; and, in a signed sample, the
    machine's class with which a reader looked at it. Cells on which blind readers differ, that a
    reader left unidentified, or that are no white cells, are left out; so are those that training
    does not use: debris and cells cut by the border.

    Args:
        rows: the classified cells.
        keys: their names in the journal.
        state: of the review.
        per_100_white_cells: name of each class of the laboratory to whether it is no white cell.
    """
    found = VerifiedCells()
    calls = blind_calls(state)
    adjudicated = {
        edit.entry.id for edit in state.edits.values() if isinstance(edit.entry.action, Adjudicate)
    }
    assigned = state.assigned()
    for row, key in enumerate(keys):
        cell: VerifiedCell | None = None
        if given := assigned.get(key):
            source: Source = "adjudicated" if given.entry in adjudicated else "assigned"
            cell = VerifiedCell(row, key, given.to, source, (given.reader,), given.time)
        elif decision := decide(calls.get(key, {})):
            if decision.how == "open":
                found.left_out["blind readers differ"] += 1
                continue
            cell = VerifiedCell(row, key, decision.to, decision.how, tuple(calls[key]))
        elif state.signed and not rows.exclusion_reason[row]:
            now = rows.predicted_class[row]
            if readers := state.looked_by(key, now):
                cell = VerifiedCell(row, key, now, "confirmed", readers)
        if cell is None:
            continue
        if reason := _no_training_cell(cell, int(rows.qc_flags[row]), per_100_white_cells):
            found.left_out[reason] += 1
        else:
            found.cells.append(cell)
    return found


def _no_training_cell(
    cell: VerifiedCell, qc_flags: int, per_100_white_cells: Mapping[str, bool]
) -> str:
    if cell.label in (UNIDENTIFIED, NOT_CLASSED, ARTEFACT):
        return cell.label
    if per_100_white_cells.get(cell.label):
        return f"no white cell ({cell.label})"
    return "debris or cut by the border" if qc_flags & int(QcFlag.BORDER | QcFlag.DEBRIS) else ""
