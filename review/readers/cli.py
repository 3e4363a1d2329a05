"""The commands ``wbcpipe review agreement`` and ``wbcpipe review reference``."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click

from wbcpipe.cli.options import OutputFile, data_option, json_option, sample_option
from wbcpipe.samples.sample import Sample, data_root

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from wbcpipe.review.readers.compare import ReaderComparison
    from wbcpipe.review.readers.reference import ReadersReference
    from wbcpipe.review.statistics.agreement import Kappa

__all__ = ["agreement", "reference"]

_SHOWN: Final = 12


@click.command()
@sample_option
@click.option(
    "--between",
    nargs=2,
    required=True,
    metavar="READER READER",
    help="Two readers, or a reader and `machine`.",
)
@data_option
@json_option
def agreement(name: str, between: tuple[str, str], data: Path | None, as_json: bool) -> None:
    """Compare two readers of a sample, or a reader and the machine.

    Compares the cells that both called in blind readings: the confusion table, Cohen's kappa over
    all classes and of each class with its 95 % interval, the counts with Rümke's limits, and the
    cells that differ. Of a reader without a blind reading, the classes given in view of the
    machine's are taken, and the result says so.

    \b
    Examples:
      wbcpipe review agreement --sample S001 --between anna ben
      wbcpipe review agreement --sample S001 --between anna machine --json
    """
    from rich.console import Console

    from wbcpipe.review.readers.calls import open_read_sample
    from wbcpipe.review.readers.compare import compare_two

    found = compare_two(open_read_sample(Sample.open(data_root(data), name)), *between)
    if as_json:
        click.echo(json.dumps(asdict(found), ensure_ascii=False))
    else:
        _print_comparison(found, Console(highlight=False))


@click.command()
@sample_option
@click.option(
    "--readers", metavar="A,B[,C]", help="Readers, separated by commas [all who read blind]."
)
@click.option(
    "--out",
    type=OutputFile(),
    metavar="FILE.json",
    help="Also write the percentages for `wbcpipe evaluate --reference-differential`.",
)
@data_option
@json_option
def reference(
    name: str, readers: str | None, out: Path | None, data: Path | None, as_json: bool
) -> None:
    """Make the reference differential of two readers, in the manner of CLSI H20-A2.

    The reference is the mean of the readers' percentages; each counts 200 cells in a blind reading.
    Cells that both read and call differently are adjudicated on the page, or decided by most of
    three readers. The result names what is less than the standard asks for.

    \b
    Examples:
      wbcpipe review reference --sample S001 --readers anna,ben --out S001-reference.json
      wbcpipe evaluate --sample S001 --reference-differential S001-reference.json
    """
    from rich.console import Console

    from wbcpipe.review.readers.calls import open_read_sample
    from wbcpipe.review.readers.consensus import blind_readers
    from wbcpipe.review.readers.reference import build_reference
    from wbcpipe.system.files import make_folder, write_json

    sample = open_read_sample(Sample.open(data_root(data), name))
    chosen = (
        [reader.strip() for reader in readers.split(",")]
        if readers is not None
        else blind_readers(sample)
    )
    found = build_reference(sample, chosen)
    if out is not None:
        make_folder(out.absolute().parent)
        write_json(out, found.file_content(datetime.now(UTC).date().isoformat()))
    if as_json:
        click.echo(json.dumps(asdict(found), ensure_ascii=False))
        return
    _print_reference(found, Console(highlight=False))
    if out is not None:
        click.echo(str(out))


def _figures(kappa: Kappa | None) -> str:
    return "" if kappa is None else f"{kappa.value:.2f} ({kappa.low:.2f} - {kappa.high:.2f})"


def _limits(limits: tuple[int, int]) -> str:
    return "{} - {}".format(*limits)


def _print_comparison(found: ReaderComparison, console: Console) -> None:
    from rich.text import Text

    from wbcpipe.report.tables import plain_table
    from wbcpipe.report.words import format_number

    agreed = found.agreement
    console.print(Text(f"{found.sample}: {found.first} and {found.second}", style="bold"))
    if not found.blind:
        console.print(
            Text("Not blind: classes were given in view of the machine's.", style="bold red")
        )
    if not found.finished:
        console.print(Text("A blind reading is not finished.", style="yellow"))
    if agreed.observed is None:
        console.print(
            Text(f"No cell was called by both ({found.cells[0]} and {found.cells[1]} cells).")
        )
    else:
        low, high = agreed.observed_interval
        kappa = "not defined" if agreed.kappa is None else _figures(agreed.kappa)
        console.print(
            Text(
                f"{agreed.agreed} of {agreed.cells} cells alike: {100 * agreed.observed:.1f} % "
                f"({100 * low:.1f} - {100 * high:.1f}); Cohen's kappa {kappa}"
            )
        )
        table = plain_table(
            f"{found.first} \\ {found.second}", *agreed.classes, "kappa (95 %)", "specific"
        )
        for entry, row in zip(agreed.by_class, agreed.confusion, strict=True):
            table.add_row(
                Text(entry.name),
                *map(str, row),
                _figures(entry.kappa),
                format_number(entry.specific, 3),
            )
        console.print(table)
    table = plain_table("class", found.first, "%", "limits", found.second, "%", "limits", "p")
    for count in found.counts:
        first = (str(count.first), format_number(count.first_percent), _limits(count.first_limits))
        second = (
            str(count.second),
            format_number(count.second_percent),
            _limits(count.second_limits),
        )
        table.add_row(Text(count.name), *first, *second, f"{count.p_value:.3f}")
    console.print(table)
    cells = [f"{cell.cell} {cell.first}/{cell.second}" for cell in found.differ]
    more = f"; and {len(cells) - _SHOWN} more" if len(cells) > _SHOWN else ""
    console.print(Text(f"Cells that differ: {'; '.join(cells[:_SHOWN]) or 'none'}{more}"))


def _print_reference(found: ReadersReference, console: Console) -> None:
    from rich.text import Text

    from wbcpipe.report.tables import plain_table

    names = [count.reader for count in found.readers]
    counted = ", ".join(f"{count.reader} {count.white}" for count in found.readers)
    console.print(
        Text(
            f"{found.sample}: {found.white_cells} white cells by {len(names)} readers ({counted})",
            "bold",
        )
    )
    table = plain_table(
        "class", "reference %", "95 % interval", "limits", *(f"{name} %" for name in names), "p"
    )
    for entry in found.classes:
        interval = "{:.1f} - {:.1f}".format(*entry.interval_percent)
        shares = [f"{percent:.1f}" for percent in entry.by_reader]
        row = (
            f"{entry.percent:.1f}",
            interval,
            _limits(entry.limits_percent),
            *shares,
            f"{entry.p_value:.3f}",
        )
        table.add_row(Text(entry.name), *row)
    console.print(table)
    for note in found.notes:
        console.print(Text(note, style="yellow"))
