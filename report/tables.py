"""``cells.csv``, one line a cell, and the differential as a table in the terminal."""

from __future__ import annotations

import csv
import io
import math
from typing import TYPE_CHECKING, Any, Final

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from wbcpipe.samples.cell_columns import QcFlag

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rich.console import Console

    from wbcpipe.report.rows import CellRows

__all__ = ["cells_csv", "flag_words", "print_differential", "quality_names"]

_STYLE: Final = {"high": "bold red", "low": "bold red", "borderline": "yellow", "normal": "green"}
#: Characters of a line that the other columns take.
_BESIDE_BAR: Final = 67


def quality_names(quality: int) -> list[str]:
    """The names of the flags in one cell's bits, in lower case."""
    return [str(flag.name).lower() for flag in QcFlag if quality & flag.value]


def cells_csv(rows: CellRows) -> bytes:
    """One line a cell, UTF-8, with a header line; ``exclusion_reason`` says why a cell is not counted."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    per_head = [column for head in rows.heads for column in (f"{head}_predicted_class", f"{head}_probability")]
    names = ("field_index", "y_px", "x_px", "y_um", "x_um", "area_um2", "nucleus_area_um2", "sharpness")
    writer.writerow(
        [
            "index",
            *names,
            "qc_flags",
            "counted",
            "exclusion_reason",
            "label",
            "predicted_class",
            "confidence",
            "disagreement",
            *map(_safe, per_head),
        ]
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
                "|".join(quality_names(int(rows.qc_flags[index]))),
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


def flag_words(entry: Mapping[str, Any]) -> str:
    """The flag of one class entry of the document in words: ``borderline high`` instead of ``borderline``."""
    flag, reference = entry["flag"], entry["reference_percent"]
    if flag is None:
        return ""
    if flag == "borderline":
        return "borderline low" if entry["percent"] < reference[0] else "borderline high"
    return str(flag)


def print_differential(document: Mapping[str, Any], paths: Sequence[Path], console: Console) -> None:
    """Show the differential, the gates that failed, and where the documents lie."""
    cells = document["cells"]
    title = Text.assemble((document["sample"], "bold"), f": {cells['counted']} white cells counted")
    console.print(title)
    console.print(_class_table(document, console))
    left_out = [f"{count} {reason.replace('_', ' ')}" for reason, count in cells["rejected"].items() if count]
    unidentified = cells["unidentified"]
    share = "" if unidentified["percent"] is None else f" ({unidentified['percent']:.1f} %)"
    console.print(Text(f"Unidentified: {unidentified['count']}{share}. Left out: {', '.join(left_out) or 'none'}."))
    if (scan := document.get("scan")) is not None:
        console.print(Text(f"Scan: {scan['text']}.", style="" if scan["met"] else "bold red"))
    for check in document["model_checks"]["head_disagreement"]:
        if check["exceeded"]:
            text = (
                f"Warning: {check['head']} contradicts the other heads in {check['beyond_percent']:.1f} % of the cells"
            )
            console.print(Text(f"{text} (usual 5 %): look at registration and lamps.", style="bold red"))
    if document["model_checks"]["excluded_modalities"]:
        console.print(
            Text(f"Called without {', '.join(document['model_checks']['excluded_modalities'])}.", style="bold red")
        )
    failed = [gate for gate in document["quality"]["gates"] if gate["passed"] is False]
    for gate in failed:
        limit = f"limit {gate['comparison']} {gate['limit']:g} {gate['unit']}".rstrip()
        console.print(Text(f"Quality: {gate['title'].lower()}: {gate['figure']:.4g} ({limit})", style="bold red"))
    if beyond := document["quality"]["failed_fields"]:
        some = "; ".join(f"{field['index']}: {', '.join(field['reasons'])}" for field in beyond[:3])
        more = f"; and {len(beyond) - 3} more" if len(beyond) > 3 else ""
        console.print(Text(f"Fields beyond a limit: {some}{more}.", style="yellow"))
    if not failed:
        console.print(Text("Quality: all gates passed.", style="green"))
    for path in paths:
        console.print(Text(str(path)), soft_wrap=True)
    console.print(Text("Not for diagnostic use.", style="bold"))


def _class_table(document: Mapping[str, Any], console: Console) -> Table:
    block = "#" if console.options.ascii_only else "█"
    absolute = document["wbc_1e9_per_l"] is not None
    corrected = any(entry["corrected_percent"] is not None for entry in document["classes"])
    bar_cells = min(max(console.width - _BESIDE_BAR - (20 if corrected else 0), 8), 40)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in (
        "class",
        "count",
        "%",
        "",
        "95 %",
        "normal",
        *(["10^9/L"] if absolute else []),
        *(["corrected"] if corrected else []),
        "flag",
    ):
        table.add_column(heading, justify="left" if heading in ("class", "", "flag") else "right", no_wrap=True)
    for entry in document["classes"]:
        percent = entry["percent"]
        reference = entry["reference_percent"]
        row = [
            Text(entry["name"], style="bold"),
            Text(str(entry["count"])),
            Text("" if percent is None else f"{percent:.1f}"),
            Text(block * round(bar_cells * (percent or 0) / 100), style="cyan"),
            Text("{:.1f} - {:.1f}".format(*entry["interval_percent"])),
            Text("{:g} - {:g}".format(*reference) if reference else ""),
        ]
        if absolute:
            value = entry["concentration_1e9_per_l"]
            row.append(Text("" if value is None else f"{value:.2f}"))
        if corrected:
            row.append(
                Text(
                    "{:.1f} ({:.1f} - {:.1f})".format(entry["corrected_percent"], *entry["corrected_interval_percent"])
                )
            )
        table.add_row(*row, Text(flag_words(entry), style=_STYLE.get(entry["flag"] or "", "")))
    return table
