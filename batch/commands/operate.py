"""``batch add``, ``hold``, ``release``, ``skip``, ``retry``, ``stop``, ``confirm``.

They post files into the inbox.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from wbcpipe.batch.commands.options import batch_option, find_batch
from wbcpipe.batch.state.command_rules import addressed_by_all, command_problem
from wbcpipe.cli.options import data_option, json_option, options_into
from wbcpipe.errors import WorklistError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.batch.records import Command, CommandKind, WorklistRow
    from wbcpipe.batch.state.batch_folder import BatchFolder
    from wbcpipe.batch.state.posting import Posted

__all__ = ["add", "confirm", "hold", "release", "retry", "skip", "stop"]

_samples_argument: Final = click.argument("samples", metavar="SAMPLE...", nargs=-1)
_all_option: Final = click.option(
    "--all", "all_samples", is_flag=True, help="All samples that this can apply to."
)


@dataclass(frozen=True)
class _Target:
    """The options that say which samples of which batch."""

    samples: tuple[str, ...]
    batch_name: str | None
    data: Path | None
    as_json: bool
    all_samples: bool = False


def _sample_command(
    *, with_all: bool
) -> Callable[[Callable[[_Target], None]], Callable[..., None]]:
    def decorate(command: Callable[[_Target], None]) -> Callable[..., None]:
        wrapped = json_option(
            data_option(batch_option(_samples_argument(options_into(_Target)(command))))
        )
        return _all_option(wrapped) if with_all else wrapped

    return decorate


@click.command()
@_sample_command(with_all=True)
def hold(options: _Target) -> None:
    """Do not start samples until they are released.

    A sample that is being scanned is not interrupted.

    \b
    Examples:
      wbcpipe batch hold S007
      wbcpipe batch hold --all                 every sample that waits
      wbcpipe batch hold S007 --batch NIGHT
    """
    _post_for_samples("hold", options)


@click.command()
@_sample_command(with_all=True)
def release(options: _Target) -> None:
    """Release samples that are on hold.

    \b
    Examples:
      wbcpipe batch release S007
      wbcpipe batch release --all
    """
    _post_for_samples("release", options)


@click.command()
@_sample_command(with_all=False)
def skip(options: _Target) -> None:
    """Leave samples out of the batch.

    One that is being scanned is stopped, and its fields stay. A quarantined one is taken out,
    so that the batch can end with exit code 0; its data stay.

    `batch retry` brings a skipped sample back.

    \b
    Examples:
      wbcpipe batch skip S007 S008
    """
    _post_for_samples("skip", options)


@click.command()
@_sample_command(with_all=True)
def retry(options: _Target) -> None:
    """Try quarantined or skipped samples again; they go on where they stopped.

    A finished sample is never begun again. --all means every quarantined sample.

    \b
    Examples:
      wbcpipe batch retry S007
      wbcpipe batch retry --all
    """
    _post_for_samples("retry", options)


@click.command()
@click.option(
    "--now", "at_once", is_flag=True, help="Do not finish the sample that is being scanned."
)
@batch_option
@data_option
@json_option
def stop(at_once: bool, batch_name: str | None, data: Path | None, as_json: bool) -> None:
    """Stop a running batch after the sample that is being scanned, or at once.

    Samples that are scanned already are still classified and reported, unless --now is given.
    Nothing is lost: start the same `batch run` again, and it goes on.

    \b
    Examples:
      wbcpipe batch stop
      wbcpipe batch stop --now
    """
    from wbcpipe.batch.state.posting import new_command, post_and_wait

    folder = find_batch(data, batch_name)
    if not folder.is_running():
        raise WorklistError(f"no process runs batch {folder.name!r}: there is nothing to stop.")
    _show(folder, post_and_wait(folder, [new_command("stop", at_once=at_once)]), as_json)


@click.command()
@batch_option
@data_option
@json_option
def confirm(batch_name: str | None, data: Path | None, as_json: bool) -> None:
    """Say that what the batch waits for is done: slides are stained, a slide is loaded, or the
    microscope is mended.

    `batch status` shows what it waits for. Where a slide may be half loaded, put it right by hand
    and say what lies on the stage before: `wbcpipe loader state --scope NAME --slide ID`, or
    `--empty`.

    \b
    Examples:
      wbcpipe batch confirm
    """
    from wbcpipe.batch.state.posting import new_command, post_and_wait

    folder = find_batch(data, batch_name)
    if not folder.is_running():
        raise WorklistError(_nobody_waits(folder))
    heartbeat = folder.heartbeat()
    if heartbeat is not None and heartbeat.microscope.state not in ("waiting", "stopped"):
        raise WorklistError(
            f"batch {folder.name!r} does not wait for an operator; the microscope: "
            f"{heartbeat.microscope.state}."
        )
    _show(folder, post_and_wait(folder, [new_command("confirm")]), as_json)


def _nobody_waits(folder: BatchFolder) -> str:
    """Return why nothing can be confirmed to a batch that no process runs, and what to do."""
    text = f"no process runs batch {folder.name!r}: there is nothing to confirm."
    stops = [
        one for one in folder.journal() if one.event in ("scanning_stopped", "scanning_resumed")
    ]
    if stops and stops[-1].event == "scanning_stopped":
        text += f" Its scanning was stopped: {stops[-1].reason.rstrip('.')}. Mend that."
    return f"{text} To go on, start the same `wbcpipe batch run` again."


@dataclass(frozen=True)
class _AddOptions:
    """The options of `batch add`: the columns of a worklist, as text."""

    sample: str
    slot: str | None
    slide: str | None
    scope: str | None
    protocol: str | None
    cells: str | None
    precision: tuple[str, ...]
    fields: str | None
    bundle: str | None
    priority: str | None
    deadline: str | None
    control: bool
    notes: str | None
    specimen_seed: str | None
    specimen_preparation: str | None
    batch_name: str | None
    data: Path | None
    as_json: bool

    def cells_of_row(self) -> dict[str, str]:
        """Return column to text, as in a worklist."""
        given = {
            "sample": self.sample,
            "slot": self.slot,
            "slide": self.slide,
            "scope": self.scope,
            "protocol": self.protocol,
            "cells": self.cells,
            "precision": " ".join(self.precision),
            "fields": self.fields,
            "bundle": self.bundle,
            "priority": self.priority,
            "deadline": self.deadline,
            "control": "yes" if self.control else "",
            "notes": self.notes,
            "specimen_seed": self.specimen_seed,
            "specimen_preparation": self.specimen_preparation,
        }
        return {column: text.strip() for column, text in given.items() if text and text.strip()}


@click.command()
@click.option(
    "--sample",
    required=True,
    metavar="NAME",
    help="Name of the sample; one that the batch does not have.",
)
@click.option("--slot", metavar="SLOT", help="Slot of the insert, or place in the loader.")
@click.option("--slide", metavar="ID", help="Id on the slide's label [the sample's name].")
@click.option(
    "--scope", metavar="NAME", help="Name of a scope, or path of its .toml file [as in the batch]."
)
@click.option("--protocol", metavar="NAME", help="one-pass, two-pass or two-pass-list [one-pass].")
@click.option("--cells", metavar="N", help="Number of cells to count [200].")
@click.option(
    "--precision", multiple=True, metavar="CLASS:H%", help="As for `wbcpipe run`; may be repeated."
)
@click.option("--fields", metavar="N", help="Take exactly this number of fields instead.")
@click.option("--bundle", metavar="NAME", help="Name or folder of the model [auto].")
@click.option("--priority", metavar="N", help="The highest first [0].")
@click.option("--deadline", metavar="TIME", help="06:30, 8h, or a date such as 2026-11-23 06:30.")
@click.option("--control", is_flag=True, help="A control slide, for the control charts.")
@click.option("--notes", metavar="TEXT", help="Shown on the morning page.")
@click.option("--specimen-seed", metavar="N", help="Virtual scope only: which specimen.")
@click.option(
    "--specimen-preparation", metavar="NAME", help="Virtual scope only: blood-film or buffy-coat."
)
@batch_option
@data_option
@json_option
@options_into(_AddOptions)
def add(options: _AddOptions) -> None:
    """Add a slide to a batch, also while it runs.

    The options are the columns of a worklist, and are checked in the same way: all mistakes are
    listed at once. The worklist file is not changed. A slot can be given again when the sample
    before it is done.

    \b
    Examples:
      wbcpipe batch add --sample S013 --slot C
      wbcpipe batch add --sample S014 --slot D --cells 400 --priority 5 --deadline 06:30
    """
    from wbcpipe.batch.state.posting import new_command, pending_rows, post_and_wait
    from wbcpipe.batch.worklist.read import new_row
    from wbcpipe.samples.sample import data_root

    folder = find_batch(options.data, options.batch_name)
    statuses = folder.status()
    cells = options.cells_of_row()
    scopes = {status.row.scope for status in statuses.values()}
    if "scope" not in cells and len(scopes) != 1:
        raise WorklistError(
            f"batch {folder.name!r} has the scopes {', '.join(sorted(scopes))}; say with --scope "
            f"which one is meant."
        )
    others = [
        _without_place(status.row) if status.done else status.row for status in statuses.values()
    ]
    others += pending_rows(folder)
    row = new_row(cells, data=data_root(options.data), scope=next(iter(scopes), ""), others=others)
    command = new_command("add", row.sample).model_copy(update={"row": row})
    _show(folder, post_and_wait(folder, [command]), options.as_json)


def _without_place(row: WorklistRow) -> WorklistRow:
    """Return the row of a sample that is done: its slot is free again."""
    return row.model_copy(update={"slot": ""})


def _post_for_samples(kind: CommandKind, options: _Target) -> None:
    """Check that the command has an effect on each sample, then post one file for each.

    Raises:
        WorklistError: it has none on one of them, or a sample is not in the batch; nothing was
            posted.
    """
    from wbcpipe.batch.state.posting import new_command, post_and_wait

    folder = find_batch(options.data, options.batch_name)
    statuses = folder.status()
    names = list(dict.fromkeys(options.samples))
    if options.all_samples:
        if names:
            raise click.UsageError("give samples or --all, not both.")
        names = [name for name, status in statuses.items() if addressed_by_all(kind, status)]
        if not names:
            raise WorklistError(f"batch {folder.name!r} has no sample to {kind}.")
    elif not names:
        raise click.UsageError(
            f"give the samples to {kind}" + ("." if kind == "skip" else ", or --all.")
        )
    problems = []
    for name in names:
        if name not in statuses:
            problems.append(
                f"batch {folder.name!r} has no sample {name!r}; it has "
                f"{', '.join(statuses) or 'none'}."
            )
        elif problem := command_problem(kind, statuses[name]):
            problems.append(f"{kind} has no effect on sample {name!r}: {problem}.")
    if problems:
        raise WorklistError("\n  ".join(problems))
    _show(
        folder, post_and_wait(folder, [new_command(kind, name) for name in names]), options.as_json
    )


def _show(folder: BatchFolder, posted: Posted, as_json: bool) -> None:
    """Print what became of the commands.

    Raises:
        WorklistError: the supervisor refused one.
    """
    if as_json:
        click.echo(
            json.dumps({"batch": folder.name, **posted.content()}, indent=2, ensure_ascii=False)
        )
    else:
        for command in posted.commands:
            click.echo(f"batch {folder.name}: {_words(command)}: {posted.state}")
    if posted.refused:
        raise WorklistError("\n  ".join(posted.refused))


def _words(command: Command) -> str:
    if command.kind == "stop":
        return "stop at once" if command.at_once else "stop after this sample"
    return f"{command.kind} {command.sample}".strip()
