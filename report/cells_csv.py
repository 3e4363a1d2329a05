"""Write ``cells.csv``: one line a cell."""

from __future__ import annotations

import csv
import io
import math
from typing import TYPE_CHECKING, Any

from wbcpipe.samples.cell_columns import flag_names

if TYPE_CHECKING:
    from wbcpipe.report.reviewed_cells import ReviewedCells
    from wbcpipe.report.rows import CellRows

__all__ = ["cells_csv"]


def cells_csv(rows: CellRows, reviewed: ReviewedCells) -> bytes:
    """Return one line per cell, UTF-8, with a header line.

    ``exclusion_reason`` says why a cell is not counted; ``reviewed_class`` is the class of a cell
    that a reader looked at, ``reviewed_by`` who gave it.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    per_head = [
        column
        for head in rows.heads
        for column in (f"{head}_predicted_class", f"{head}_probability")
    ]
    names = [name for name in rows.columns if name != "qc_flags"]
    of_cell = (
        "qc_flags",
        "counted",
        "exclusion_reason",
        "label",
        "predicted_class",
        "confidence",
        "disagreement",
    )
    writer.writerow(
        ["index", *names, *of_cell, "reviewed_class", "reviewed_by", *map(_safe, per_head)]
    )
    best = rows.head_predictions()
    for index in range(len(rows)):
        heads: list[str] = []
        for head, choice in enumerate(best[index]):
            heads += [_safe(rows.classes[choice]), _number(rows.probability[index, head, choice])]
        writer.writerow(
            [
                index,
                *(_number(rows.columns[name][index]) for name in names),
                "|".join(flag_names(int(rows.qc_flags[index]))),
                "false" if reviewed.exclusion_reason[index] else "true",
                _safe(reviewed.exclusion_reason[index]),
                _safe(rows.label[index]),
                _safe(rows.predicted_class[index]),
                _number(rows.confidence[index]),
                _number(rows.disagreement[index]),
                _safe(reviewed.now[index]) if reviewed.looked[index] else "",
                _safe(reviewed.reader[index]),
                *heads,
            ]
        )
    return text.getvalue().encode()


def _number(value: Any) -> str:
    return f"{float(value):.7g}" if math.isfinite(value) else ""


def _safe(text: str) -> str:
    # A spreadsheet runs a cell that begins like this as a formula; labels come from files made
    # elsewhere.
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
