"""Show the differential, an evaluation and the status of samples on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from wbcpipe.report.words import (
    flag_words,
    format_number,
    gate_figure,
    review_words,
    training_warning,
    virtual_notice,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from wbcpipe.report.evaluate import Evaluation, PredictionComparison, Share
    from wbcpipe.report.reference_differential import ReferenceComparison
    from wbcpipe.report.status import SampleStatus, StrayEntry
    from wbcpipe.samples.differential_record import (
        DifferentialRecord,
        ModelChecks,
    )

__all__ = [
    "plain_table",
    "print_differential",
    "print_doubts",
    "print_evaluation",
    "print_status",
]

_STYLE: Final = {"high": "bold red", "low": "bold red", "borderline": "yellow", "normal": "green"}
_STATE: Final = {"damaged": "bold red", "reported": "green"}
#: Width of the other columns, in characters.
_BESIDE_BAR: Final = 67


def print_differential(
    document: DifferentialRecord, paths: Sequence[Path], console: Console
) -> None:
    """Print the differential, the failed gates and the paths of the documents."""
    cells = document.cells
    console.print(
        Text.assemble((document.sample, "bold"), f": {cells.counted} white cells counted")
    )
    if virtual := virtual_notice(document):
        console.print(Text(virtual, style="bold"))
    console.print(_class_table(document, console))
    rejected = ", ".join(
        f"{count} {reason.replace('_', ' ')}" for reason, count in cells.rejected if count
    )
    share = "" if cells.unidentified.percent is None else f" ({cells.unidentified.percent:.1f} %)"
    console.print(
        Text(f"Unidentified: {cells.unidentified.count}{share}. Rejected: {rejected or 'none'}.")
    )
    if words := review_words(document.verification):
        console.print(Text(words))
    if document.scan is not None:
        console.print(
            Text(f"Scan: {document.scan.text}.", style="" if document.scan.met else "bold red")
        )
    _print_warnings(document, console)
    for path in paths:
        console.print(Text(str(path)), soft_wrap=True)
    console.print(Text("Not for diagnostic use.", style="bold"))


def _print_warnings(document: DifferentialRecord, console: Console) -> None:
    checks, quality = document.model_checks, document.quality
    _print_training_warning(document.sample, checks, console)
    print_doubts(checks, console)
    if checks.excluded_modalities:
        console.print(
            Text(f"Classified without {', '.join(checks.excluded_modalities)}.", style="bold red")
        )
    failed = [gate for gate in quality.gates if gate.passed is False]
    for gate in failed:
        limit = f"limit {gate.comparison} {gate.limit:g} {gate.unit}".rstrip()
        console.print(
            Text(f"Quality: {gate.title.lower()}: {gate_figure(gate)} ({limit})", style="bold red")
        )
    if quality.failed_fields:
        some = "; ".join(
            f"{field.index}: {', '.join(field.reasons)}" for field in quality.failed_fields[:3]
        )
        more = (
            f"; and {len(quality.failed_fields) - 3} more" if len(quality.failed_fields) > 3 else ""
        )
        console.print(Text(f"Fields beyond a limit: {some}{more}.", style="yellow"))
    if not failed:
        console.print(Text("Quality: all gates passed.", style="green"))


def _print_training_warning(sample: str, checks: ModelChecks, console: Console) -> None:
    if warning := training_warning(sample, checks):
        console.print(Text(f"Warning: {warning[0].lower()}{warning[1:]}", style="bold red"))


def print_doubts(checks: ModelChecks, console: Console) -> None:
    """Print why the bundle's figures do not hold for a sample, and what to do."""
    for doubt in checks.doubts:
        console.print(Text(f"Warning: {doubt.text}", style="bold red"))
    if checks.doubts:
        text = f"No error bound and no corrected percentages are given. {checks.remedy}"
        console.print(Text(text, style="red"), soft_wrap=True)


def _class_table(document: DifferentialRecord, console: Console) -> Table:
    block = "#" if console.options.ascii_only else "█"
    absolute = document.wbc_1e9_per_l is not None
    corrected = any(entry.corrected_percent is not None for entry in document.classes)
    bar_cells = min(max(console.width - _BESIDE_BAR - (20 if corrected else 0), 8), 40)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    optional = (["10^9/L"] if absolute else []) + (["corrected"] if corrected else [])
    for heading in ("class", "count", "%", "", "95 %", "normal", *optional, "flag"):
        table.add_column(
            heading, justify="left" if heading in ("class", "", "flag") else "right", no_wrap=True
        )
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


def plain_table(*headings: str, left: int = 1) -> Table:
    """Return a table with these headings.

    The first ``left`` columns are texts, the others numbers.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for position, heading in enumerate(headings):
        table.add_column(
            Text(heading), justify="left" if position < left else "right", overflow="fold"
        )
    return table


def print_evaluation(result: Evaluation, console: Console) -> None:
    """Print an evaluation."""
    compared = [
        name for name in (result.truth_source, result.reference and result.reference.file) if name
    ]
    console.print(Text(f"{result.sample} compared with {' and '.join(compared)}", style="bold"))
    if result.model_checks:
        _print_training_warning(result.sample, result.model_checks, console)
    if found := result.detection:
        away = (
            ""
            if found.position_rms_um is None
            else f", centres {found.position_rms_um:.2f} um off (RMS)"
        )
        console.print(
            Text(
                f"Detection: recall {found.recall:.4f}, precision {found.precision:.4f}, F1 "
                f"{found.f1:.4f} ({found.matched} matched of {found.truth} true and {found.found} "
                f"found, {found.ignored} cut by the "
                f"edge ignored{away})"
            )
        )
    if result.predictions:
        _print_predictions(result.predictions, result.classes, console)
    elif result.model_checks is None:
        console.print("Classes: none; run `wbcpipe classify` first.")
    if result.model_checks:
        print_doubts(result.model_checks, console)
    if result.differential:
        _print_shares(result.differential, console)
    if result.reference:
        _print_reference(result.reference, console)


def _print_predictions(
    found: PredictionComparison, classes: Sequence[str], console: Console
) -> None:
    unidentified = found.scores.cells - found.identified.cells
    console.print(
        Text(
            f"Classes: weighted F1 {found.scores.weighted_f1:.4f} on {found.scores.cells} cells, "
            f"{unidentified} unidentified ones count as misses; {found.identified.weighted_f1:.4f} "
            f"without them"
        )
    )
    table = plain_table("true", *classes, "unidentified", "precision", "recall", "F1", "cells")
    for score, row in zip(found.scores.classes, found.scores.confusion, strict=True):
        figures = [f"{value:.3f}" for value in (score.precision, score.recall, score.f1)]
        table.add_row(Text(score.name), *map(str, row), *figures, str(score.support))
    console.print(table)
    alone = ", ".join(f"{head} {value:.4f}" for head, value in found.heads.items())
    console.print(
        Text(f"Weighted F1 of each head alone: {alone}; of all heads: {found.all_heads:.4f}")
    )
    if found.other_labels:
        console.print(
            Text(
                f"{found.other_labels} cells are ignored: their label is not a class of the bundle."
            )
        )


def _print_shares(shares: Sequence[Share], console: Console) -> None:
    table = plain_table("class", "true %", "predicted %", "95 % interval", "inside")
    for share in shares:
        table.add_row(
            Text(share.name),
            format_number(share.true_percent),
            format_number(share.predicted_percent),
            "{:.1f} - {:.1f}".format(*share.interval_percent),
            _verdict(share.inside, "yes", "no"),
        )
    console.print(table)


def _print_reference(found: ReferenceComparison, console: Console) -> None:
    cells = (
        f"{found.cells} cells"
        if found.cells
        else "its number of cells is not known, and taken as very large"
    )
    method = f" ({found.method})" if found.method else ""
    console.print(Text(f"Reference: {found.source}{method}; {cells}", style="bold"))
    table = plain_table(
        "class", "reference %", "predicted %", "95 % interval", "difference", "p", "by chance"
    )
    for share in found.classes:
        table.add_row(
            Text(share.name),
            format_number(share.reference_percent),
            format_number(share.percent),
            "{:.1f} - {:.1f}".format(*share.interval_percent),
            "" if share.difference is None else f"{share.difference:+.1f}",
            format_number(share.p_value, 3),
            _verdict(share.compatible, "yes", "no"),
        )
    console.print(table)
    if found.other_percent:
        console.print(
            Text(
                f"{found.other_percent:.1f} % of the reference's cells are of other classes: left "
                f"out."
            )
        )


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
        return "\n".join(
            f"{number}{planned} {short[name]}" for name, number in sample.passes.items()
        )
    return f"{sample.fields_taken}{planned}" if sample.fields_taken or planned else ""


def print_status(
    root: Path, samples: Sequence[SampleStatus], console: Console, others: Sequence[StrayEntry] = ()
) -> None:
    """Print the progress of the samples below ``root``, and what else lies there."""
    for name, reason in others:
        console.print(Text(f"{name}: no sample: it {reason}", style="yellow"))
    if not samples:
        console.print(
            Text(
                f"no samples in {root}; `wbcpipe run --sample demo` makes one without a microscope."
            )
        )
        return
    table = plain_table(
        "sample", "state", "fields", "missing", "cells", "model", "counted", "quality", left=2
    )
    table.columns[2].no_wrap = True
    for sample in samples:
        table.add_row(
            Text(sample.name, style="bold"),
            Text(
                sample.verification if sample.verified_by else sample.state,
                style=_STATE.get(sample.state, ""),
            ),
            _fields(sample),
            str(sample.fields_missing or ""),
            "" if sample.cells is None else str(sample.cells),
            Text((sample.bundle or "") + _further(sample.further_results)),
            "" if sample.counted is None else str(sample.counted),
            _verdict(sample.passed, "passed", "failed"),
        )
    console.print(table)
    for sample in samples:
        if sample.problem:
            console.print(Text(f"{sample.name}: {sample.problem}", style="yellow"))
        if sample.fields_freed:
            freed = (
                f"{sample.name}: the files of {sample.fields_freed} fields were freed here and are "
                f"in {sample.freed_to}; `wbcpipe sync {sample.name} --from {sample.freed_to}` "
                f"brings them back"
            )
            console.print(Text(freed))
    console.print(Text(str(root)), soft_wrap=True)


def _further(results: int) -> str:
    return f" (+{results} result{'s' * (results != 1)})" if results else ""
