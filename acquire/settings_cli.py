"""The command ``wbcpipe settings``: the numbers of the segmentation, and what gives each."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wbcpipe.cli.options import data_option, json_option, options_into
from wbcpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wbcpipe.samples.segment_settings.table import SettingRow

__all__ = ["settings"]


@dataclass(frozen=True)
class SettingsOptions:
    """Options of ``wbcpipe settings``; see its help."""

    tables: tuple[str, ...]
    scope: str | None
    file: Path | None
    sample: str | None
    changed: bool
    as_toml: bool
    data: Path | None
    as_json: bool


@click.command()
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@click.option("--scope", metavar="NAME|FILE", help="Show the settings of this scope file.")
@click.option(
    "--settings",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Show the settings of this file; they go before the scope's.",
)
@click.option(
    "--sample", metavar="NAME", help="Show the settings that this sample is segmented with."
)
@click.option("--changed", is_flag=True, help="Show only what a file gives.")
@click.option(
    "--toml", "as_toml", is_flag=True, help="Print a file of settings to edit, with comments."
)
@data_option
@json_option
@options_into(SettingsOptions)
def settings(options: SettingsOptions) -> None:
    """Show the settings of the segmentation: value, unit, source and what each decides.

    Another camera, magnification or stain may need other sizes, contrasts and limits for
    detection, masks, registration and quality flags. Write those that differ into the scope file,
    as tables such as [segment.detection.fluorescence], or into a file of the same tables for
    `wbcpipe segment --settings FILE` and `wbcpipe import ... --settings FILE`.

    TABLE limits the output to tables whose names contain it, such as `masks`. Settings in force
    are recorded in the attribute `provenance` of cells.zarr.

    \b
    Examples:
      wbcpipe settings
      wbcpipe settings quality --scope ./my-scope.toml
      wbcpipe settings detection --toml > tuned.toml
      wbcpipe settings --sample S001 --changed
    """
    from wbcpipe.samples.segment_settings.of_sample import merge_settings
    from wbcpipe.samples.segment_settings.table import DEFAULT, setting_rows, settings_toml

    sources = _sources(options)
    rows = setting_rows(merge_settings(*sources.values()), sources)
    _check_tables(options.tables, rows)
    rows = [
        row
        for row in rows
        if (not options.tables or any(name in row.table for name in options.tables))
        and not (options.changed and row.source == DEFAULT)
    ]
    if options.as_json:
        click.echo(json.dumps({"settings": [asdict(row) for row in rows]}))
    elif options.as_toml:
        click.echo(settings_toml(rows))
    elif rows:
        _print_rows(rows)
    else:
        click.echo("all settings are default")


def _sources(options: SettingsOptions) -> Mapping[str, Mapping[str, Any]]:
    """Return what each file gives, the one that goes before the others last.

    Raises:
        ConfigError: a file cannot be used, or the options exclude each other.
    """
    from wbcpipe.acquire.config.scope import load_scope
    from wbcpipe.samples.sample import Sample, data_root
    from wbcpipe.samples.segment_settings.of_sample import read_settings_file

    if options.sample and (options.scope or options.file):
        raise ConfigError("give --sample, or --scope and --settings, not both.")
    sources: dict[str, Mapping[str, Any]] = {}
    if options.sample:
        record = Sample.open(data_root(options.data), options.sample).record()
        sources["scope" if record.scope is None else record.scope.name] = record.segment
        if record.segment_file is not None:
            sources[record.segment_file.name] = record.segment_file.segment
    if options.scope:
        scope = load_scope(options.scope)
        sources[scope.path.name] = scope.segment.overrides()
    if options.file:
        given = read_settings_file(options.file)
        sources[given.name] = given.segment
    return sources


def _check_tables(names: Sequence[str], rows: Sequence[SettingRow]) -> None:
    tables = sorted({row.table for row in rows})
    for name in names:
        if not any(name in table for table in tables):
            raise ConfigError(f"no table {name!r}; the tables: {', '.join(tables)}.")


def _print_rows(rows: Sequence[SettingRow]) -> None:
    """Print a table of the settings; values that a file gives are bold."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from wbcpipe.samples.segment_settings.table import DEFAULT

    console = Console(highlight=False)
    shown = ""
    table = Table(box=None, pad_edge=False, show_header=False)
    for row in rows:
        if row.table != shown:
            if shown:
                console.print(table)
                console.print()
            shown = row.table
            console.print(Text(f"[{row.table}]", "bold") + Text(f"  {row.purpose}"))
            table = Table(box=None, pad_edge=False, show_header=False)
            table.add_column(no_wrap=True)
            table.add_column(no_wrap=True)
            for _ in range(3):
                table.add_column(overflow="fold")
        style = "" if row.source == DEFAULT else "bold"
        source = row.source
        if row.source != DEFAULT:
            source = f"{row.source} (default {row.default_text})"
        cells = (row.name, row.value_text, row.unit, source, row.description)
        table.add_row(*(Text(cell, style) for cell in cells))
    console.print(table)
