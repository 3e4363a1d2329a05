"""The command ``batch metrics``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from wbcpipe.batch.commands.options import batch_option, find_batch
from wbcpipe.cli.options import OutputFile, data_option

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["metrics", "metrics_port_option", "metrics_textfile_option"]

metrics_port_option = click.option(
    "--metrics-port",
    type=click.IntRange(min=0, max=65535),
    help="Serve figures to Prometheus on this port of 127.0.0.1; 0 takes a free one.",
)
metrics_textfile_option = click.option(
    "--metrics-textfile",
    type=OutputFile(),
    metavar="FILE.prom",
    help="Write figures to this file for node_exporter's textfile collector.",
)


@click.command("metrics")
@batch_option
@data_option
def metrics(batch_name: str | None, data: Path | None) -> None:
    """Print the figures of a batch as Prometheus text: fields, cells, faults, states, time by
    phase, memory, disk.

    It reads files alone, so a finished batch has figures too. While a batch runs, `batch run
    --metrics-port` serves them, and `batch run --metrics-textfile` writes them.

    \b
    Examples:
      wbcpipe batch metrics
      wbcpipe batch metrics --batch 2026-11-27 | grep faults
    """
    from wbcpipe.batch.night.metrics import metrics_text

    click.echo(metrics_text(find_batch(data, batch_name)).decode(), nl=False)
