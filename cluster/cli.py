"""The command ``process``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wbcpipe.cli.options import OutputFile, OutputFolder, json_option, options_into
from wbcpipe.cli.progress import Reporter
from wbcpipe.cluster.options import ProcessOptions
from wbcpipe.errors import (
    ConfigError,
    ProcessFailedError,
    ProcessIncompleteError,
    WbcpipeError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wbcpipe.cluster.changes import ChangeTable
    from wbcpipe.cluster.plan import Plan
    from wbcpipe.cluster.records import SampleOutcome

__all__ = ["process"]


@click.command()
@click.argument("names", nargs=-1, metavar="[SAMPLE]...")
@click.option("--all", "everything", is_flag=True, help="Process every sample that has images.")
@click.option(
    "--where",
    metavar="CONDITIONS",
    help='Process the samples that meet conditions, as "state=acquired and fields>=100".',
)
@click.option(
    "--data",
    metavar="PATH|URL",
    help="Folder of the samples, or s3://BUCKET/PREFIX, gs://BUCKET/PREFIX; default $WBCPIPE_DATA, "
    "else ./wbc-data.",
)
@click.option(
    "--bundle",
    default="auto",
    show_default=True,
    help="Name or folder of a bundle; auto fits each sample. Another one than that of a sample's "
    "result makes a further result.",
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Address of a dask scheduler, as tcp://host:8786 [workers on this machine].",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Workers on this machine [one per core, as far as the memory goes].",
)
@click.option("--tls", is_flag=True, help="Encrypt, and admit only those who hold a certificate.")
@click.option(
    "--scratch",
    type=OutputFolder(),
    help="Folder on each worker for staged samples [that of the worker].",
)
@click.option(
    "--lab",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The laboratory's file for samples in a bucket. Of samples in a folder it is lab.toml "
    "there.",
)
@click.option(
    "--changes",
    type=OutputFile(),
    metavar="FILE",
    help="Write how counts changed to this file, .csv or .json.",
)
@json_option
@options_into(ProcessOptions)
def process(options: ProcessOptions) -> None:
    """Segment, classify and report many samples, on the cores of this machine or on a cluster.

    Needs the extra `cluster` (dask). A finished stage is not done again: the same command goes on
    where it stopped, also after a worker or the scheduler was lost. A sample that fails is reported
    with its reason, and the others go on.

    The first result of a sample is written to its folder, as `wbcpipe run` does. With another
    bundle, another version or more fields a further result is written to results/<id>/ beside it,
    and a table shows how the counts changed. `status`, `report` and `review` show the first one
    until `wbcpipe results promote` exchanges them. Samples in a bucket are staged to scratch, and
    results are uploaded; their completion marker comes last.

    \b
    Conditions of --where are joined by `and`; = and != compare text, * stands for any characters:
      state (created, acquiring, acquired, segmented, classified, reported, damaged), name, kind,
      scope, protocol, pass, bundle, verification, quality (passed, failed), error; and with
      < <= > >= too: fields, missing, cells, counted

    \b
    Examples:
      wbcpipe process S001 S002
      wbcpipe process --where "state=acquired" --workers 4
      wbcpipe process --all --bundle models/new --changes changes.csv
      wbcpipe process --all --data s3://archive/lab1 --scheduler tcp://head:8786

    Exit codes: 78, some samples have no result; 79, none has; if all failed for one reason, that of
    the reason. Not for diagnostic use.
    """
    from wbcpipe.cluster.changes import changes_csv
    from wbcpipe.cluster.run import process_and_compare

    if options.changes is not None and options.changes.suffix.lower() not in (".csv", ".json"):
        raise ConfigError(f"--changes {options.changes}: the file must end in .csv or .json.")
    chosen_by = sum((bool(options.names), options.everything, options.where is not None))
    if chosen_by != 1:
        raise click.UsageError("name samples, or give --all, or --where: one of the three.")
    if options.scheduler and options.workers:
        raise click.UsageError("--workers is for this machine; a scheduler brings its own.")
    with Reporter(quiet=options.as_json) as reporter:
        done = process_and_compare(options, reporter)
    if options.changes is not None and done.changes is not None:
        from wbcpipe.system.files import write_atomic

        as_csv = options.changes.suffix.lower() == ".csv"
        content = changes_csv(done.changes) if as_csv else done.changes.model_dump_json(indent=2)
        with write_atomic(options.changes) as handle:
            handle.write(content.encode() if isinstance(content, str) else content)
    if options.as_json:
        click.echo(json.dumps(done.content(), allow_nan=False))
    else:
        print_outcomes(done.outcomes, done.plan)
        if done.changes is not None:
            print_changes(done.changes)
    raise_for_failures(done.outcomes, done.plan)


def print_outcomes(outcomes: Sequence[SampleOutcome], plan: Plan) -> None:
    """Print one line for each sample."""
    for outcome in outcomes:
        last = outcome.last
        if last.state == "failed":
            continue  # shown when it happened
        counts = ", ".join(f"{name} {count}" for name, count in last.counts.items())
        state = "complete before" if last.state == "already" else "done"
        result = "" if last.result == "current" else f", result {last.result}"
        click.echo(f"{outcome.sample}: {state}{result}: {last.cells or 0} cells: {counts}")
    failed = len(plan.refused) + sum(outcome.state == "failed" for outcome in outcomes)
    total = len(plan.refused) + len(outcomes)
    click.echo(f"{total - failed} of {total} samples have a result")
    traffic = [outcome.traffic for outcome in outcomes]
    if any(one.requests for one in traffic):
        click.echo(
            f"object store: {sum(one.requests for one in traffic)} requests, "
            f"{sum(one.bytes_down for one in traffic) / 1e6:.1f} MB read, "
            f"{sum(one.bytes_up for one in traffic) / 1e6:.1f} MB written"
        )


def print_changes(table: ChangeTable) -> None:
    """Print how counts changed, over all samples and, of a few, per sample."""
    from rich.console import Console

    from wbcpipe.report.tables import plain_table

    console = Console(highlight=False)
    console.print(
        f"\n{', '.join(table.earlier)} -> {', '.join(table.later)}: {table.samples} samples; of "
        f"{table.cells} cells that both results hold, {table.cells_changed} have another class"
    )
    summary = plain_table(
        "class", "samples", "mean change", "95 % interval", "largest", "p (Wilcoxon)", left=1
    )
    for one in table.summary:
        known = one.low_points is not None and one.high_points is not None
        interval = f"{one.low_points:+.2f} to {one.high_points:+.2f}" if known else ""
        summary.add_row(
            one.name,
            str(one.samples),
            f"{one.mean_points:+.2f} points",
            interval,
            f"{one.largest_points:+.2f}",
            "" if one.p_value is None else f"{one.p_value:.3f}",
        )
    console.print(summary)
    rows = plain_table(
        "sample", "class", "earlier", "later", "lost", "gained", "p (McNemar)", left=2
    )
    for row in table.rows:
        if row.earlier or row.later:
            rows.add_row(
                row.sample,
                row.name,
                str(row.earlier),
                str(row.later),
                "" if row.only_earlier is None else str(row.only_earlier),
                "" if row.only_later is None else str(row.only_later),
                "" if row.p_value is None else f"{row.p_value:.3f}",
            )
    console.print(rows)


def raise_for_failures(outcomes: Sequence[SampleOutcome], plan: Plan) -> None:
    """End the command with the exit code that its failures ask for.

    Raises:
        WbcpipeError: of the reason, if all samples failed for the same one.
        ProcessFailedError: all failed, for several reasons.
        ProcessIncompleteError: some failed.
    """
    failed = {
        outcome.sample: (outcome.last.exit_code, outcome.last.reason)
        for outcome in outcomes
        if outcome.state == "failed"
    }
    failed |= {name: (error.exit_code, str(error)) for name, error in plan.refused.items()}
    total = len(outcomes) + len(plan.refused)
    if not failed:
        return
    first = next(iter(failed.values()))
    if len(failed) < total:
        raise ProcessIncompleteError(
            f"{len(failed)} of {total} samples have no result: {', '.join(list(failed)[:5])}"
            f"{', ...' if len(failed) > 5 else ''}; the same command tries them again."
        )
    if len({code for code, _ in failed.values()}) > 1:
        raise ProcessFailedError(f"none of the {total} samples has a result; see the reasons.")
    raise _SameReasonError(first[1] if total == 1 else f"all {total} samples: {first[1]}", first[0])


class _SameReasonError(WbcpipeError):
    """The one reason for which all samples failed, with its exit code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.exit_code = code  # type: ignore[misc]  # of this reason, not of the class
