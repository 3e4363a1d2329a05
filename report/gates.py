"""Quality gates: figures of a sample against limits, so that a count nobody should trust says so itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from wbcpipe.segment.cells import Quality

if TYPE_CHECKING:
    from wbcpipe.report.differential import Tally
    from wbcpipe.report.rows import CellRows

__all__ = ["LIMITS", "Gate", "quality_gates"]

#: Gate name to (what it says, comparison, limit, unit). 100 cells are the least a manual differential counts
#: (CLSI H20-A2 counts 200 by each of two examiners for a reference); the fractions are wbcpipe's own.
LIMITS: Final[dict[str, tuple[str, Literal[">=", "<="], float, str]]] = {
    "cells_counted": ("Cells counted", ">=", 100, "cells"),
    "unidentified": ("Unidentified cells", "<=", 10, "%"),
    "blurred": ("Blurred cells", "<=", 10, "%"),
    "unregistered": ("Cells whose channels could not be aligned", "<=", 10, "%"),
    "saturated": ("Overexposed cells", "<=", 10, "%"),
    "doublets": ("Cells touching another white cell", "<=", 20, "%"),
    "missing_fields": ("Fields that could not be taken", "<=", 5, "%"),
    "head_disagreement": ("Median disagreement of the heads (0 to 1)", "<=", 0.25, ""),
}


@dataclass(frozen=True)
class Gate:
    """One figure and its limit.

    Attributes:
        name: key in ``LIMITS``.
        title: for people.
        figure: ``None`` when there is nothing to measure (no fields, no cells, one head).
        comparison: ``>=`` or ``<=``: how the figure must lie to the limit.
        limit: the limit.
        unit: ``cells``, ``%`` or empty.
    """

    name: str
    title: str
    figure: float | None
    comparison: Literal[">=", "<="]
    limit: float
    unit: str

    @property
    def passed(self) -> bool | None:
        """``None`` when there is no figure."""
        if self.figure is None:
            return None
        return self.figure >= self.limit if self.comparison == ">=" else self.figure <= self.limit


def quality_gates(rows: CellRows, tally: Tally, *, fields_taken: int, fields_missing: int) -> list[Gate]:
    """Measure a sample against every limit.

    Blurred, unaligned, overexposed and touching cells are percentages of all cells that are not debris.
    """
    white = (rows.quality & Quality.DEBRIS.value) == 0

    def flagged(flag: Quality) -> float | None:
        return _percent(int(np.count_nonzero(rows.quality[white] & flag.value)), int(np.count_nonzero(white)))

    apart = rows.disagreement[rows.used] if len(rows.heads) > 1 else rows.disagreement[:0]
    figures = {
        "cells_counted": float(tally.identified),
        "unidentified": _percent(tally.unidentified, tally.identified + tally.unidentified),
        "blurred": flagged(Quality.BLURRED),
        "unregistered": flagged(Quality.UNREGISTERED),
        "saturated": flagged(Quality.SATURATED),
        "doublets": flagged(Quality.DOUBLET),
        "missing_fields": _percent(fields_missing, fields_taken + fields_missing),
        "head_disagreement": float(np.median(apart.astype(np.float64))) if len(apart) else None,
    }
    return [
        Gate(name, title, figures[name], comparison, limit, unit)
        for name, (title, comparison, limit, unit) in LIMITS.items()
    ]


def _percent(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None
