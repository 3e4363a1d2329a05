"""Tables of an evaluation and of the samples' status for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from wbcpipe.report.tables import format_number

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from wbcpipe.report.evaluate import Evaluation, PredictionComparison, Share
    from wbcpipe.report.status import SampleStatus

__all__ = ["print_evaluation", "print_status"]


def _table(*headings: str, left: int = 1) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for position, heading in enumerate(headings):
        table.add_column(Text(heading), justify="left" if position < left else "right", overflow="fold")
    return table


def print_evaluation(result: Evaluation, console: Console) -> None:
    """Print an evaluation."""
    console.print(Text(f"{result.sample} compared with {result.truth_source}", style="bold"))
    if found := result.detection:
        away = "" if found.position_rms_um is None else f", centres {found.position_rms_um:.2f} um off (RMS)"
        console.print(
            Text(
                f"Detection: recall {found.recall:.4f}, precision {found.precision:.4f}, F1 {found.f1:.4f} "
                f"({found.matched} matched of {found.truth} true and {found.found} found, {found.ignored} cut by the "
                f"edge ignored{away})"
            )
        )
    if result.predictions:
        _print_predictions(result.predictions, result.classes, console)
    else:
        console.print("Classes: none; run `wbcpipe classify` first.")
    if result.differential:
        _print_shares(result.differential, console)


def _print_predictions(found: PredictionComparison, classes: Sequence[str], console: Console) -> None:
    unidentified = found.scores.cells - found.identified.cells
    console.print(
        Text(
            f"Classes: weighted F1 {found.scores.weighted_f1:.4f} on {found.scores.cells} cells, {unidentified} "
            f"unidentified ones count as misses; {found.identified.weighted_f1:.4f} without them"
        )
    )
    table = _table("true", *classes, "unidentified", "precision", "recall", "F1", "cells")
    for score, row in zip(found.scores.classes, found.scores.confusion, strict=True):
        figures = [f"{value:.3f}" for value in (score.precision, score.recall, score.f1)]
        table.add_row(Text(score.name), *map(str, row), *figures, str(score.support))
    console.print(table)
    alone = ", ".join(f"{head} {value:.4f}" for head, value in found.heads.items())
    console.print(Text(f"Weighted F1 of each head alone: {alone}; of all heads: {found.all_heads:.4f}"))
    if found.other_labels:
        console.print(Text(f"{found.other_labels} cells are ignored: their label is not a class of the bundle."))


def _print_shares(shares: Sequence[Share], console: Console) -> None:
    table = _table("class", "true %", "predicted %", "95 % interval", "inside")
    for share in shares:
        table.add_row(
            Text(share.name),
            format_number(share.true_percent),
            format_number(share.predicted_percent),
            "{:.1f} - {:.1f}".format(*share.interval_percent),
            _verdict(share.inside, "yes", "no"),
        )
    console.print(table)


def _verdict(good: bool | None, yes: str, no: str) -> Text:
    if good is None:
        return Text("")
    return Text(yes) if good else Text(no, style="bold red")


def _fields(sample: SampleStatus) -> str:
    """Return the fields taken and planned; of two passes separately until they are equal."""
    planned = "" if sample.fields_planned is None else f" of {sample.fields_planned}"
    numbers = set(sample.passes.values())
    if len(numbers) > 1:
        short = {"brightfield": "bright", "fluorescence": "fluor."}
        return "\n".join(f"{number}{planned} {short[name]}" for name, number in sample.passes.items())
    return f"{sample.fields_taken}{planned}" if sample.fields_taken or planned else ""


def print_status(root: Path, samples: Sequence[SampleStatus], console: Console) -> None:
    """Print the progress of the samples below ``root``."""
    if not samples:
        console.print(Text(f"no samples in {root}; `wbcpipe run --sample demo` makes one without a microscope."))
        return
    table = _table("sample", "state", "fields", "missing", "cells", "model", "counted", "quality", left=2)
    table.columns[2].no_wrap = True
    for sample in samples:
        table.add_row(
            Text(sample.name, style="bold"),
            Text(sample.state, style={"damaged": "bold red", "reported": "green"}.get(sample.state, "")),
            _fields(sample),
            str(sample.fields_missing or ""),
            "" if sample.cells is None else str(sample.cells),
            Text(sample.bundle or ""),
            "" if sample.counted is None else str(sample.counted),
            _verdict(sample.passed, "passed", "failed"),
        )
    console.print(table)
    for sample in samples:
        if sample.problem:
            console.print(Text(f"{sample.name}: {sample.problem}", style="yellow"))
    console.print(Text(str(root)), soft_wrap=True)
