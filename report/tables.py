"""``cells.csv``, one line a cell, and the differential as a table in the terminal."""

from __future__ import annotations

import csv
import io
import math
from typing import TYPE_CHECKING, Any, Final

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from wbcpipe.samples.cell_columns import flag_names

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from wbcpipe.report.rows import CellRows
    from wbcpipe.samples.differential_record import ClassEntry, DifferentialRecord

__all__ = ["cells_csv", "flag_words", "format_number", "print_differential"]

_STYLE: Final = {"high": "bold red", "low": "bold red", "borderline": "yellow", "normal": "green"}
#: Width of the other columns, in characters.
_BESIDE_BAR: Final = 67


def cells_csv(rows: CellRows) -> bytes:
    """Return one line per cell, UTF-8, with a header line; ``exclusion_reason`` says why a cell is not counted."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    per_head = [column for head in rows.heads for column in (f"{head}_predicted_class", f"{head}_probability")]
    names = [name for name in rows.columns if name != "qc_flags"]
    of_cell = ("qc_flags", "counted", "exclusion_reason", "label", "predicted_class", "confidence", "disagreement")
    writer.writerow(["index", *names, *of_cell, *map(_safe, per_head)])
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
                "false" if rows.exclusion_reason[index] else "true",
                rows.exclusion_reason[index],
                _safe(rows.label[index]),
                _safe(rows.predicted_class[index]),
                _number(rows.confidence[index]),
                _number(rows.disagreement[index]),
                *heads,
            ]
        )
    return text.getvalue().encode()


def _number(value: Any) -> str:
    return f"{float(value):.7g}" if math.isfinite(value) else ""


def _safe(text: str) -> str:
    # A spreadsheet runs a cell that begins like this as a formula; labels come from files made elsewhere.
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def flag_words(entry: ClassEntry) -> str:
    """Return the flag of a class in words: ``borderline high`` instead of ``borderline``."""
    if entry.flag is None:
        return ""
    if entry.flag == "borderline" and entry.percent is not None and entry.reference_percent is not None:
        return "borderline low" if entry.percent < entry.reference_percent[0] else "borderline high"
    return entry.flag


def print_differential(document: DifferentialRecord, paths: Sequence[Path], console: Console) -> None:
    """Print the differential, the failed gates and the paths of the documents."""
    cells = document.cells
    console.print(Text.assemble((document.sample, "bold"), f": {cells.counted} white cells counted"))
    console.print(_class_table(document, console))
    rejected = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in cells.rejected if count)
    share = "" if cells.unidentified.percent is None else f" ({cells.unidentified.percent:.1f} %)"
    console.print(Text(f"Unidentified: {cells.unidentified.count}{share}. Rejected: {rejected or 'none'}."))
    if document.scan is not None:
        console.print(Text(f"Scan: {document.scan.text}.", style="" if document.scan.met else "bold red"))
    _print_warnings(document, console)
    for path in paths:
        console.print(Text(str(path)), soft_wrap=True)
    console.print(Text("Not for diagnostic use.", style="bold"))


def _print_warnings(document: DifferentialRecord, console: Console) -> None:
    checks, quality = document.model_checks, document.quality
    for check in checks.head_disagreement:
        if check.exceeded:
            text = (
                f"Warning: head {check.head} disagrees with the others in {check.beyond_percent:.1f} % of the cells "
                "(expected: 5 %); check the registration and the lamp of this modality."
            )
            console.print(Text(text, style="bold red"))
    if checks.excluded_modalities:
        console.print(Text(f"Classified without {', '.join(checks.excluded_modalities)}.", style="bold red"))
    failed = [gate for gate in quality.gates if gate.passed is False]
    for gate in failed:
        limit = f"limit {gate.comparison} {gate.limit:g} {gate.unit}".rstrip()
        console.print(Text(f"Quality: {gate.title.lower()}: {gate.figure:.4g} ({limit})", style="bold red"))
    if quality.failed_fields:
        some = "; ".join(f"{field.index}: {', '.join(field.reasons)}" for field in quality.failed_fields[:3])
        more = f"; and {len(quality.failed_fields) - 3} more" if len(quality.failed_fields) > 3 else ""
        console.print(Text(f"Fields beyond a limit: {some}{more}.", style="yellow"))
    if not failed:
        console.print(Text("Quality: all gates passed.", style="green"))


def _class_table(document: DifferentialRecord, console: Console) -> Table:
    block = "#" if console.options.ascii_only else "█"
    absolute = document.wbc_1e9_per_l is not None
    corrected = any(entry.corrected_percent is not None for entry in document.classes)
    bar_cells = min(max(console.width - _BESIDE_BAR - (20 if corrected else 0), 8), 40)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    optional = (["10^9/L"] if absolute else []) + (["corrected"] if corrected else [])
    for heading in ("class", "count", "%", "", "95 %", "normal", *optional, "flag"):
        table.add_column(heading, justify="left" if heading in ("class", "", "flag") else "right", no_wrap=True)
    for entry in document.classes:
        row = [
            Text(entry.name, style="bold"),
            Text(str(entry.count)),
            Text(format_number(entry.percent)),
            Text(block * round(bar_cells * (entry.percent or 0) / 100), style="cyan"),
            Text("{:.1f} - {:.1f}".format(*entry.interval_percent)),
            Text("{:g} - {:g}".format(*entry.reference_percent) if entry.reference_percent else ""),
        ]
        if absolute:
            row.append(Text(format_number(entry.concentration_1e9_per_l, 2)))
        if corrected:
            interval = entry.corrected_interval_percent
            bounds = "" if interval is None else " ({:.1f} - {:.1f})".format(*interval)
            row.append(Text(format_number(entry.corrected_percent) + bounds))
        table.add_row(*row, Text(flag_words(entry), style=_STYLE.get(entry.flag or "", "")))
    return table


def format_number(value: float | None, decimals: int = 1, none: str = "") -> str:
    """Return a number as text; ``none`` for none."""
    return none if value is None else f"{value:.{decimals}f}"
