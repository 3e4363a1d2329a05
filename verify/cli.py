"""The command ``verify``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from wbcpipe.cli.options import data_option, json_option
from wbcpipe.errors import ConfigError, DamagedDataError
from wbcpipe.samples.sample import Sample, data_root

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.verify.records import SampleCheck

__all__ = ["verify"]


@click.command()
@click.option("--sample", "name", metavar="NAME", help="The sample.")
@click.option("--all", "every", is_flag=True, help="Every sample of the data folder.")
@click.option(
    "--quick",
    is_flag=True,
    help="Do not read the pixels of fields and cells: seconds instead of minutes.",
)
@data_option
@json_option
def verify(name: str | None, every: bool, quick: bool, data: Path | None, as_json: bool) -> None:
    """Check every file of a sample for damage.

    Reads raw fields, intermediate results, cells, records, journals and documents, and compares
    them with the checksums that were written with them. For each damaged or missing file it prints
    the command that makes the file anew, or what is lost. Nothing is changed. The exit code is 14
    if anything is damaged. Fields that `wbcpipe sync --free-local` has freed are counted, not
    checked.

    --quick checks everything but the pixels of fields, cells and masks.

    \b
    Examples:
      wbcpipe verify --sample S001
      wbcpipe verify --all --quick
      wbcpipe verify --all --data D:\\slides --json
    """
    from wbcpipe.cli.progress import Reporter
    from wbcpipe.verify.check_sample import verify_sample

    if (name is None) == (not every):
        raise click.UsageError("give either --sample NAME or --all.")
    samples = _samples(data_root(data), name)
    with Reporter(quiet=as_json) as reporter:
        checks = [
            verify_sample(sample, quick=quick, progress=reporter.update) for sample in samples
        ]
    damaged = [check for check in checks if check.damages]
    if as_json:
        click.echo(
            json.dumps(
                {"samples": [check.model_dump(mode="json") for check in checks]}, ensure_ascii=False
            )
        )
    else:
        for check in checks:
            _print(check)
    if damaged:
        count = sum(len(check.damages) for check in damaged)
        raise DamagedDataError(
            f"{count} damaged file{'s' * (count != 1)} in {len(damaged)} of {len(checks)} samples: "
            f"{', '.join(check.sample for check in damaged)}."
        )


def _samples(root: Path, name: str | None) -> list[Sample]:
    from wbcpipe.report.status import sample_names, stray_entries

    if name is None:
        for entry in stray_entries(root):
            click.echo(f"{entry.name}: no sample, not checked: it {entry.reason}", err=True)
        return [Sample.open(root, name) for name in sample_names(root)]
    sample = Sample.open(root, name)
    if not sample.path.is_dir():
        raise ConfigError(f"no sample {name!r} in {root}; `wbcpipe status` lists those there.")
    return [sample]


def _print(check: SampleCheck) -> None:
    what = f"{check.files} files, {check.bytes / 1e6:.0f} MB"
    depth = ", pixels not read" if check.quick else ""
    if check.freed:
        depth += f"; {check.freed} freed fields are in {check.freed_to} and were not checked"
    if not check.damages:
        click.echo(f"{check.sample}: sound ({what}{depth})")
        return
    click.echo(f"{check.sample}: {len(check.damages)} damaged ({what}{depth})")
    for damage in check.damages:
        click.echo(f"  {damage.file}: {damage.problem}")
        click.echo(f"    {damage.remedy}")
