"""The cells of a sample after what readers did to them; reads no files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wbcpipe.errors import SampleStateError
from wbcpipe.report.differential import tally_cells
from wbcpipe.samples.cell_columns import UNIDENTIFIED
from wbcpipe.samples.review.cell_identity import cell_keys
from wbcpipe.samples.review.entries import ARTEFACT, NOT_CLASSED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from wbcpipe.report.differential import Tally
    from wbcpipe.report.rows import CellRows
    from wbcpipe.samples.review.replay import ReviewState

__all__ = ["ReviewedCells", "review_cells", "row_keys"]


@dataclass(frozen=True)
class ReviewedCells:
    """The cells as they count now.

    Attributes:
        classes: of the differential: those of the model, then the laboratory's extra white cells.
        now: N class names, ``unidentified``, ``not_classed``, ``artefact``, or a class that is no
            white cell.
        exclusion_reason: N reasons why a cell is not counted: a quality flag, or what a reader
            said; else empty.
        reader: N names of who gave the class; empty for the model's.
        looked: (N,) a reader looked at the cell with this class, or gave it.
        changed: (N,) the class is not the model's, or the cell counts because a reader gave it a
            class.
    """

    classes: tuple[str, ...]
    now: list[str]
    exclusion_reason: list[str]
    reader: list[str]
    looked: NDArray[np.bool_]
    changed: NDArray[np.bool_]

    def tally(self, qc_flags: NDArray[np.uint16]) -> Tally:
        """Count every cell once; ``qc_flags`` (N,) are those of the cells."""
        return tally_cells(self.now, self.exclusion_reason, qc_flags, self.classes)


def row_keys(rows: CellRows) -> list[str]:
    """Return the name of each cell in a journal."""
    return cell_keys(rows.columns["field_index"], rows.columns["y_um"], rows.columns["x_um"])


def review_cells(
    rows: CellRows,
    state: ReviewState,
    per_100_white_cells: Mapping[str, bool],
    keys: Sequence[str] | None = None,
) -> ReviewedCells:
    """Apply a review to the cells: the class that a person gave replaces the model's, and lifts its
    exclusion.

    Args:
        rows: the cells as the model classified them.
        state: of the review.
        per_100_white_cells: name of each extra class to whether it is no white cell.
        keys: of `row_keys`, if they are known.

    Raises:
        SampleStateError: a reader gave a class that is neither the model's nor an extra one.
    """
    row_of = {key: row for row, key in enumerate(row_keys(rows) if keys is None else keys)}
    extra_white = tuple(
        name
        for name, apart in per_100_white_cells.items()
        if not apart and name not in rows.classes
    )
    counted = {*rows.classes, *extra_white, UNIDENTIFIED}
    now, reasons = list(rows.predicted_class), list(rows.exclusion_reason)
    readers = [""] * len(rows)
    looked, changed = np.zeros(len(rows), np.bool_), np.zeros(len(rows), np.bool_)
    for cell, given in state.assigned().items():
        row = row_of.get(cell)
        if row is None:
            continue  # told as lost
        if given.to in counted:
            reason = ""
        elif given.to in (NOT_CLASSED, ARTEFACT) or given.to in per_100_white_cells:
            reason = given.to
        else:
            raise SampleStateError(
                f"cell {cell}: {given.reader} gave it the class {given.to!r}, which is neither "
                f"the model's nor one of the laboratory's file; add it there as [[extra_class]]."
            )
        changed[row] = (given.to, reason) != (now[row], reasons[row])
        now[row], reasons[row], readers[row] = given.to, reason, given.reader
        looked[row] = True
    for cell, seen in state.looked.items():
        row = row_of.get(cell)
        if row is not None and (now[row] in seen.values() or "" in seen.values()):
            looked[row] = True
    return ReviewedCells(tuple(rows.classes) + extra_white, now, reasons, readers, looked, changed)
