"""The commands ``results list``, ``compare``, ``fetch`` and ``promote``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from wbcpipe.cli.options import data_option, json_option, sample_option
from wbcpipe.errors import SampleStateError
from wbcpipe.samples.sample import Sample, data_root

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["results"]

_result_option = click.option(
    "--result", "result_id", required=True, metavar="ID", help="The further result."
)


@click.group()
def results() -> None:
    """List, compare, fetch and promote further results of a sample.

    `wbcpipe process` with another bundle keeps the earlier result of a sample and writes a further
    one to results/<id>/. `status`, `report` and `review` show the current one, in the sample's
    folder.
    """


@results.command("list")
@sample_option
@data_option
@json_option
def list_(name: str, data: Path | None, *, as_json: bool) -> None:
    """List the current result of a sample and its further ones.

    \b
    Example:
      wbcpipe results list --sample S001
    """
    from rich.console import Console

    from wbcpipe.cluster.promote import basis_of_current
    from wbcpipe.report.tables import plain_table
    from wbcpipe.samples.results import completed_results

    sample = Sample.open(data_root(data), name)
    sample.record()
    current = basis_of_current(sample)
    further = completed_results(sample)
    if as_json:
        content = {
            "sample": name,
            "current": current.model_dump(mode="json") if current else None,
            "results": [record.model_dump(mode="json", exclude={"files"}) for record in further],
        }
        click.echo(json.dumps(content))
        return
    table = plain_table("result", "bundle", "weights", "software", "written", left=5)
    if current is not None:
        table.add_row("current", current.bundle, current.bundle_sha256[:12], current.software, "")
    for record in further:
        basis = record.basis
        table.add_row(
            record.result_id,
            basis.bundle,
            basis.bundle_sha256[:12],
            basis.software,
            record.created[:19],
        )
    Console(highlight=False).print(table)


@results.command()
@sample_option
@_result_option
@data_option
@json_option
def compare(name: str, result_id: str, data: Path | None, *, as_json: bool) -> None:
    """Show how the counts of a further result differ from those of the current one.

    \b
    Example:
      wbcpipe results compare --sample S001 --result 3f2a9c0d11e4b7a8
    """
    from wbcpipe.cluster.changes import make_table
    from wbcpipe.cluster.cli import print_changes
    from wbcpipe.cluster.read_results import read_local_result
    from wbcpipe.cluster.workspace import CURRENT
    from wbcpipe.samples.results import find_result

    sample = Sample.open(data_root(data), name)
    sample.record()
    if find_result(sample, result_id) is None:
        raise SampleStateError(
            f"sample {name!r} has no result {result_id}; `wbcpipe results list --sample {name}` "
            f"lists them."
        )
    pair = read_local_result(sample, CURRENT), read_local_result(sample, result_id)
    table = make_table([(name, *pair)])
    if as_json:
        click.echo(table.model_dump_json())
    else:
        print_changes(table)


@results.command()
@sample_option
@click.option(
    "--from", "url", required=True, metavar="URL", help="The bucket, as s3://BUCKET/PREFIX."
)
@data_option
@json_option
def fetch(name: str, url: str, data: Path | None, *, as_json: bool) -> None:
    """Copy the results of a sample from a bucket to its folder, each file verified.

    They become further results of the sample; `results promote` makes one the current result, which
    `review` shows.

    \b
    Example:
      wbcpipe results fetch --sample S001 --from s3://archive/lab1
    """
    from wbcpipe.cluster.fetch import fetch_results

    sample = Sample.open(data_root(data), name)
    sample.record()
    with sample.lock("results fetch"):
        fetched = [record.result_id for record in fetch_results(sample, url)]
    if as_json:
        click.echo(json.dumps({"sample": name, "fetched": fetched}))
    else:
        click.echo(f"{name}: {len(fetched)} results fetched: {', '.join(fetched) or 'none is new'}")


@results.command()
@sample_option
@_result_option
@data_option
@json_option
def promote(name: str, result_id: str, data: Path | None, *, as_json: bool) -> None:
    """Make a further result the current one; the one before stays as a further result.

    Its cells and classes come to the sample's folder, and the report is written again. What readers
    did to the cells is kept: edits are carried over to the same cells. A signed sample is refused:
    withdraw the signature first (`wbcpipe review`).

    \b
    Example:
      wbcpipe results promote --sample S001 --result 3f2a9c0d11e4b7a8
    """
    from wbcpipe.cluster.promote import promote_result

    sample = Sample.open(data_root(data), name)
    sample.record()
    with sample.lock("results promote"), sample.log_failure("results promote"):
        kept = promote_result(sample, result_id)
    if as_json:
        content = {"sample": name, "current": result_id, "kept": kept.result_id if kept else None}
        click.echo(json.dumps(content))
        return
    before = f"; the one before is result {kept.result_id}" if kept else ""
    click.echo(f"{name}: result {result_id} is the current one now{before}")
