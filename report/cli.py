"""The commands ``report``, ``evaluate`` and ``status``: parse, call, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from wbcpipe.cli.options import data_option, json_option, sample_option
from wbcpipe.samples.sample import Sample, data_root

# What reads cells and pictures is imported when a command runs: zarr must not load for `--help`.

__all__ = ["evaluate", "report", "status"]


def _print_json(content: Any) -> None:
    click.echo(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False))


@click.command()
@sample_option
@data_option
@click.option(
    "--reference",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Your laboratory's reference intervals, TOML or JSON; else textbook intervals for adults.",
)
@click.option("--wbc", type=float, metavar="N", help="White cells in 10^9/L, for absolute counts, e.g. 6.2.")
@json_option
def report(name: str, data: Path | None, reference: Path | None, wbc: float | None, as_json: bool) -> None:
    """Stage 4: count the called cells and write the differential.

    Writes report.html (one self-contained page), differential.json (for machines) and cells.csv (one line a cell)
    into the sample's folder. Documents that say the same already are left as they are.

    Percentages are of the identified cells, with exact 95 % (Clopper-Pearson) intervals. "high" and "low" mean that
    the whole interval lies outside the reference; "borderline" that only the percentage does. Cells that are debris,
    cut by the edge, blurred or lack a modality are left out and listed by reason.

    \b
    Examples:
      wbcpipe report --sample S001
      wbcpipe report --sample S001 --wbc 6.2
      wbcpipe report --sample S001 --reference our-lab.toml --json

    \b
    our-lab.toml:
      source = "St Elsewhere, adults, 2026"
      [percent]
      NEU = [40, 75]
      LYM = [20, 45]

    Not for diagnostic use.
    """
    from rich.console import Console

    from wbcpipe.report.stage import document_paths, read_document, write_report
    from wbcpipe.report.tables import print_differential

    sample = Sample.open(data_root(data), name)
    sample.record()  # before the lock, which would create the folder
    with sample.lock("report"):
        write_report(sample, reference=reference, wbc=wbc)
        document = read_document(sample)
    if as_json:
        _print_json(document.content())
    else:
        print_differential(document, document_paths(sample), Console(highlight=False))


@click.command()
@sample_option
@data_option
@json_option
def evaluate(name: str, data: Path | None, as_json: bool) -> None:
    """Compare a sample with its ground truth.

    On the virtual scope the truth is truth.csv: which cells were found, which were called right, and whether the
    differential's intervals hold the true percentages. Cells imported with labels are compared with these.

    \b
    Examples:
      wbcpipe evaluate --sample demo
      wbcpipe evaluate --sample demo --json
    """
    from rich.console import Console

    from wbcpipe.report.evaluate import evaluate_sample
    from wbcpipe.report.overview import print_evaluation

    result = evaluate_sample(Sample.open(data_root(data), name))
    if as_json:
        _print_json(result.to_json())
    else:
        print_evaluation(result, Console(highlight=False))


@click.command()
@data_option
@json_option
def status(data: Path | None, as_json: bool) -> None:
    """List the samples and how far each one is.

    Read off the disk: fields taken of those planned (of two passes each, until they are alike), cells found, the model
    that called them, cells counted. The command that was stopped goes on when it is given again.

    \b
    Examples:
      wbcpipe status
      wbcpipe status --data D:\\slides --json
    """
    from rich.console import Console

    from wbcpipe.report.overview import print_status
    from wbcpipe.report.status import list_samples

    root = data_root(data)
    samples = list_samples(root)
    if as_json:
        _print_json({"data": str(root), "samples": [sample.to_json() for sample in samples]})
    else:
        print_status(root, samples, Console(highlight=False))
