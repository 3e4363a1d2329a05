"""The command ``batch report``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from wbcpipe.batch.commands.options import batch_option, find_batch
from wbcpipe.cli.options import data_option, json_option

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["report"]


@click.command("report")
@batch_option
@click.option("--open", "open_page", is_flag=True, help="Open the page in the browser.")
@data_option
@json_option
def report(batch_name: str | None, open_page: bool, data: Path | None, as_json: bool) -> None:
    """Write the morning page of a batch again, and print it as text.

    It says what became of every sample, what went wrong and what to do about it. `batch run` writes
    it after each sample, so this command is needed only after a report was made again by hand. It
    reads files alone, and works while the batch runs and afterwards.

    \b
    Examples:
      wbcpipe batch report
      wbcpipe batch report --batch 2026-11-27 --open
      wbcpipe batch report --json
    """
    from wbcpipe.batch.morning.page import TEXT_NAME, write_morning_page
    from wbcpipe.batch.morning.summary import summarise

    folder = find_batch(data, batch_name)
    page = write_morning_page(folder)
    if as_json:
        click.echo(json.dumps({**summarise(folder).model_dump(mode="json"), "page": str(page)}))
    else:
        click.echo((folder.path / TEXT_NAME).read_text(encoding="utf-8"))
        click.echo(str(page))
    if open_page:
        click.launch(str(page))
