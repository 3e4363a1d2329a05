"""``batch status``: the state of every sample, from the files of the batch alone."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Final

import click

from wbcpipe.batch.commands.options import batch_option, find_batch
from wbcpipe.batch.commands.status_view import read_status
from wbcpipe.batch.durations import format_bytes, format_seconds
from wbcpipe.cli.options import data_option, json_option

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rich.console import Console, Group
    from rich.table import Table

    from wbcpipe.batch.commands.status_view import BatchStatus, RowProgress
    from wbcpipe.batch.state.batch_folder import BatchFolder

__all__ = ["status"]

EVERY_S: Final = 2.0
#: A batch that was started in another terminal just now needs so long to load.
START_S: Final = 10.0
_STYLES: Final = {
    "finished": "green",
    "quarantined": "bold red",
    "skipped": "dim",
    "held": "yellow",
    "scanning": "bold cyan",
    "staining": "bold cyan",
    "processing": "cyan",
}


@click.command()
@click.option(
    "--watch",
    is_flag=True,
    help="Show it again until the batch ends; Ctrl-C leaves the batch alone.",
)
@batch_option
@data_option
@json_option
def status(watch: bool, batch_name: str | None, data: Path | None, as_json: bool) -> None:
    """Show the state of every sample of a batch: field, cells, time left, attempts, and what went
    wrong.

    Also shown: what the microscope does, whether a process runs the batch and when it last gave a
    sign of life, and commands that it has not taken yet. Only the files of the batch are read, so a
    run is never disturbed, and it works over SSH. Without a terminal --watch prints plain text each
    time a state changes; with --json one object a line.

    \b
    Examples:
      wbcpipe batch status
      wbcpipe batch status --watch
      wbcpipe batch status --batch NIGHT --json
    """
    from wbcpipe.batch.commands.console import plan_console

    folder = find_batch(data, batch_name)
    console = plan_console()
    if not watch:
        view = read_status(folder)
        if as_json:
            click.echo(json.dumps(_content(view), indent=2, ensure_ascii=False))
        else:
            console.print(_render(view))
        return
    try:
        if console.is_terminal and not as_json:
            _watch_terminal(folder, console)
        else:
            _watch_plainly(folder, console, as_json=as_json)
    except KeyboardInterrupt:
        return


def _watch_terminal(folder: BatchFolder, console: Console) -> None:
    from rich.live import Live

    with Live(console=console, auto_refresh=False) as live:
        for view in _views(folder):
            live.update(_render(view), refresh=True)


def _views(folder: BatchFolder) -> Iterator[BatchStatus]:
    """Yield the status again and again, until the batch has ended, or is not started in a while."""
    give_up_s = time.monotonic() + START_S
    lived = False
    while True:
        view = read_status(folder)
        yield view
        lived = lived or view.lives
        if not view.lives and (lived or time.monotonic() > give_up_s):
            return
        time.sleep(EVERY_S)


def _watch_plainly(folder: BatchFolder, console: Console, *, as_json: bool) -> None:
    shown: object = None
    for view in _views(folder):
        states = [
            replace(row, done=0, total=0, cells=None, seconds_left=None, memory_bytes=0)
            for row in view.rows
        ]
        if as_json or (view.supervisor, states) != shown:
            shown = (view.supervisor, states)
            if as_json:
                click.echo(json.dumps(_content(view), ensure_ascii=False))
            else:
                console.print(_render(view))


def _content(view: BatchStatus) -> dict[str, object]:
    return {
        "batch": view.name,
        "supervisor": view.supervisor,
        "running": view.lives,
        "pid": view.pid,
        "heartbeat_age_s": None if view.heartbeat_age_s is None else round(view.heartbeat_age_s, 1),
        "microscope": None if view.microscope is None else view.microscope.model_dump(mode="json"),
        "stopping": view.stopping,
        "counts": dict(view.counts),
        "seconds_left": view.seconds_left,
        "disk_free_bytes": view.disk_free_bytes,
        "pending": [command.content() for command in view.pending],
        "last_event": view.event,
        "rows": [asdict(row) for row in view.rows],
    }


def _render(view: BatchStatus) -> Group:
    from rich.console import Group
    from rich.text import Text

    lines = [*_header(view), *_footer(view)]
    texts = [Text(line, style) for line, style in lines]
    head = len(_header(view))
    return Group(*texts[:head], _table(view.rows), *texts[head:])


def _header(view: BatchStatus) -> list[tuple[str, str]]:
    style = {"running": "green", "ended": "green", "starting": "yellow"}.get(
        view.supervisor, "bold red"
    )
    age = (
        ""
        if view.heartbeat_age_s is None
        else f", last sign of life {format_seconds(view.heartbeat_age_s)} ago"
    )
    what = {
        "running": f"running, process {view.pid}{age}",
        "starting": "starting",
        "not answering": f"NOT ANSWERING, process {view.pid}{age}; it may hang, or the computer "
        f"slept",
        "interrupted": f"not running: it was interrupted{age}; run `wbcpipe batch run` again to "
        f"go on",
        "ended": "ended",
        "not started": "not started",
    }[view.supervisor]
    lines = [(f"batch {view.name}: {what}", style)]
    if view.microscope is not None:
        microscope = view.microscope
        text = " ".join(filter(None, ["microscope:", microscope.state, microscope.sample]))
        text += f" since {microscope.since.astimezone():%H:%M}" + (
            f": {microscope.reason}" if microscope.reason else ""
        )
        if microscope.state == "waiting":
            text += "  (when it is done: `wbcpipe batch confirm`)"
        lines.append(
            (text, {"waiting": "bold yellow", "stopped": "bold red"}.get(microscope.state, ""))
        )
    if view.stopping:
        lines.append((f"stopping {view.stopping}", "yellow"))
    return lines


def _footer(view: BatchStatus) -> list[tuple[str, str]]:
    counts = ", ".join(f"{number} {state}" for state, number in view.counts.items())
    left = (
        ""
        if view.seconds_left is None
        else f"; about {format_seconds(view.seconds_left)} of scanning left"
    )
    lines = [(f"{len(view.rows)} samples: {counts}{left}", "")]
    if view.disk_free_bytes:
        lines.append((f"disk: {format_bytes(view.disk_free_bytes)} free", ""))
    if view.pending:
        commands = ", ".join(f"{command.kind} {command.sample}".strip() for command in view.pending)
        lines.append((f"not taken yet: {commands}", "yellow"))
    if view.event:
        lines.append((f"last event: {view.event}", "dim"))
    return lines


def _table(rows: tuple[RowProgress, ...]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in ("sample", "slot", "state", "field", "cells", "left", "tries", "what went wrong"):
        table.add_column(column, overflow="fold")
    for row in rows:
        state = row.phase if row.phase and row.phase != row.state else row.state
        field = (
            f"{row.done} of {row.total}"
            if row.total and row.phase
            else f"{row.done}"
            if row.done
            else ""
        )
        cells = "" if row.cells is None else f"{row.cells}"
        left = "" if row.seconds_left is None else format_seconds(row.seconds_left)
        attempts = f"{row.attempts} failed" if row.attempts else ""
        table.add_row(
            Text(row.sample),
            Text(row.slot),
            Text(state, _STYLES.get(row.state, "")),
            Text(field),
            Text(cells),
            Text(left),
            Text(attempts),
            Text(row.reason),
        )
    return table
