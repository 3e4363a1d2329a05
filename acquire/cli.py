"""The commands of stage 1: ``acquire``, ``doctor`` and ``scopes``."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Literal

import click

from wbcpipe.cli.options import (
    data_option,
    deadline_option,
    json_option,
    pass_option,
    scope_option,
    sequencing_option,
    specimen_options,
)
from wbcpipe.errors import AcquisitionError, ConfigError, WbcpipeError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.doctor import Check
    from wbcpipe.acquire.passes import PassOutcome
    from wbcpipe.acquire.plan import AcquisitionPlan
    from wbcpipe.samples.fields import Pass
    from wbcpipe.samples.sample import Sample
    from wbcpipe.samples.scan_outcome import ScanOutcome

__all__ = ["acquire", "doctor", "fields_for", "scopes"]


def fields_for(scope: Scope, plan: AcquisitionPlan, fields: int | None, cells: int | None) -> int:
    """How many of the planned fields to take, from what the user asked for.

    Args:
        scope: for the cells expected in a field.
        plan: for the room there is.
        fields, cells: one of them at most; 200 cells if neither is given.

    Raises:
        ConfigError: both, or more than the slot has room for.
    """
    if fields is not None and cells is not None:
        raise ConfigError("give --fields or --cells, not both.")
    wanted = fields if fields is not None else math.ceil((cells or 200) / scope.expected_cells_per_field)
    room = len(plan.fields())
    if not 1 <= wanted <= room:
        raise ConfigError(
            f"{wanted} fields are asked for; slot {plan.slot!r} of scope {scope.name!r} has room for 1 to {room}. "
            f"Ask for less, or enlarge 'slots.{plan.slot}' in {scope.path}."
        )
    return wanted


@click.command(context_settings={"max_content_width": 100})
@click.option("--slide", required=True, help="Id of the slide; names the sample too unless --sample is given.")
@click.option("--sample", "sample_name", help="Name of the sample. Default: the slide's id.")
@scope_option
@click.option("--slot", default="A", show_default=True, help="Where the slide lies in the stage insert.")
@pass_option
@click.option("--stained", is_flag=True, help="With --pass both: the slide is stained already; do not stain it.")
@click.option("--fields", type=click.IntRange(min=1), help="Take this many fields of view.")
@click.option("--cells", type=click.IntRange(min=1), help="Take the fields expected to hold so many white cells [200].")
@deadline_option
@sequencing_option
@click.option("--overlap", type=float, default=0.1, show_default=True, help="Of neighbouring fields, 0 to 0.5.")
@specimen_options
@data_option
@json_option
def acquire(
    slide: str,
    sample_name: str | None,
    scope_name: str,
    slot: str,
    passes: Literal["single", "brightfield", "fluorescence", "both"],
    stained: bool,
    fields: int | None,
    cells: int | None,
    deadline_s: float | None,
    sequencing: Literal["auto", "on", "off"] | None,
    overlap: float,
    specimen_seed: int | None,
    specimen_preparation: str | None,
    data: Path | None,
    as_json: bool,
) -> None:
    """Scan a slide: its frames at each field of view, one OME-TIFF a field and pass.

    The focus is mapped first, in bright field, so that the stain does not bleach. Then fields are taken row by row
    from the corner of the slot. Fields that are on disk already are kept: after a power cut, a crash or Ctrl-C the same
    command goes on where it stopped, and a larger --fields takes more. A field that cannot be taken, even after its
    devices were loaded anew or their process was started again, is noted in missing.json; the run goes on, and the same
    command tries it again.

    For a slide that is stained between the passes, --pass brightfield takes the three illuminations, and
    --pass fluorescence, minutes or days later, finds the slide again by a few fields and takes the fluorescence where
    it belongs; --pass both does the two with the scope file's staining between them, if the first came to its end
    before the deadline and is worth it: something is on disk, and no more than a fifth is missing.

    \b
    Examples:
      wbcpipe acquire --slide demo1 --fields 12               the virtual scope, no microscope needed
      wbcpipe acquire --slide S42 --scope mylab --slot B --cells 400
      wbcpipe acquire --slide S42 --scope mylab --pass brightfield
    """
    from wbcpipe.acquire.capture.sample_record import check_sample
    from wbcpipe.acquire.config.scope import load_scope
    from wbcpipe.acquire.deadline import earliest_deadline_s
    from wbcpipe.acquire.passes import check_room, passes_to_take, take_passes
    from wbcpipe.acquire.plan import AcquisitionPlan
    from wbcpipe.acquire.request import AcquisitionRequest
    from wbcpipe.acquire.staining.checks import check_staining
    from wbcpipe.cli.progress import Reporter
    from wbcpipe.samples.fields import fields_on_disk
    from wbcpipe.samples.sample import Sample, data_root
    from wbcpipe.samples.scan_outcome import ScanOutcome

    # Everything that can be refused is refused before anything is written.
    sample = Sample.open(data_root(data), sample_name or slide)
    scope = load_scope(scope_name).with_sequencing(sequencing)
    plan = AcquisitionPlan.from_scope(scope, slot, overlap=overlap)
    if passes == "fluorescence" and fields is None and cells is None:
        fields = max(fields_on_disk(sample.raw_path("brightfield")), default=0) + 1
    n_fields = fields_for(scope, plan, fields, cells)
    from wbcpipe.acquire.open_microscope import specimen_for

    specimen = specimen_for(scope, specimen_seed, specimen_preparation)
    todo = passes_to_take(sample, passes, stained=stained)
    if todo == ("brightfield", "fluorescence"):
        check_staining(scope)
    request = AcquisitionRequest(sample, scope, plan, specimen, todo[0], slide=slide)
    check_sample(request)
    check_room(sample, scope, todo, n_fields)
    started_s = time.monotonic()
    deadline_s = earliest_deadline_s(scope, deadline_s, time.time())
    with sample.lock("acquire"), sample.log_failure("acquire"):
        request = replace(request, deadline_s=deadline_s)
        with Reporter(quiet=as_json) as reporter:
            outcomes = take_passes(request, todo, n_fields, reporter, stain=passes == "both", stained=stained)
        last = list(outcomes.values())[-1]
        end = ScanOutcome(
            reason="fields" if last.in_time else "deadline", fields_done=len(last.settled), fields_wanted=n_fields
        )
        end.save(sample)
    _tell(sample, outcomes, end, time.monotonic() - started_s, as_json=as_json)


def _tell(
    sample: Sample, outcomes: Mapping[Pass, PassOutcome], end: ScanOutcome, seconds: float, *, as_json: bool
) -> None:
    """Show what came of the passes, as their workers told; each looked its fields up on the disk at its end.

    Raises:
        AcquisitionError: no field of a pass could be taken, or none at all before the deadline.
    """
    from wbcpipe.acquire.passes import nothing_in_time

    n_fields = end.fields_wanted
    if end.reason == "deadline" and not any(told.taken for told in outcomes.values()):
        raise nothing_in_time(sample)
    for told in outcomes.values():
        if told.missing and len(told.missing) == len(told.settled):
            reason = told.missing[min(told.missing)]
            raise AcquisitionError(
                f"sample {sample.name!r}: none of {n_fields} fields could be taken; the first: {reason}"
            )
    told = list(outcomes.values())[-1]
    if as_json:
        content = {
            "sample": sample.name,
            "path": str(sample.path),
            "fields_wanted": n_fields,
            "fields_taken": len(told.taken),
            "fields_missing": {str(index): reason for index, reason in sorted(told.missing.items())},
            "fields_empty": len(told.empty),
            "passes": {name: len(one.taken) for name, one in outcomes.items()},
            "stopped_by_deadline": end.reason == "deadline",
            "seconds": round(seconds, 2),
        }
        click.echo(json.dumps(content, indent=2))
        return
    if end.reason == "deadline":
        click.secho(f"{end.text}.", fg="red", bold=True)
    for name, one in outcomes.items():
        lost = f", {len(one.missing)} missing (see {sample.raw_path(name) / 'missing.json'})" if one.missing else ""
        lost += f", {len(one.empty)} skipped as empty" if one.empty else ""
        when = f" after {seconds:.1f} s" if one is told else ""
        click.echo(f"{len(one.taken)} of {n_fields} fields on disk{lost}{when}: {sample.raw_path(name)}")


@click.command(context_settings={"max_content_width": 100})
@scope_option
@click.option("--slot", help="Slot whose scan area is checked. Default: the scope's first.")
@click.option("--fields", type=click.IntRange(min=1), default=60, show_default=True, help="Of one slide.")
@click.option("--offline", is_flag=True, help="Look at the files only; load no core.")
@data_option
@json_option
def doctor(scope_name: str, slot: str | None, fields: int, offline: bool, data: Path | None, as_json: bool) -> None:
    """Check a scope before a slide depends on it.

    Reads the scope file, its Micro-Manager .cfg and its calibration, if there is one, then loads the core in a process
    of its own, so that a driver that crashes is reported, not suffered. Every light is switched with the shutter closed
    and one dark frame is taken; no stage moves. Exit code 0, or 21 (the files) or 23 (the hardware) if a check fails.

    \b
    Examples:
      wbcpipe doctor                          the virtual scope: is the installation complete?
      wbcpipe doctor --scope mylab --slot B
      wbcpipe doctor --scope ./new.toml --offline
    """
    from wbcpipe.acquire.config.scope import load_scope
    from wbcpipe.acquire.doctor import Check, check_live, check_offline, first_failure
    from wbcpipe.samples.sample import data_root

    checks: list[Check] = []
    try:
        scope = load_scope(scope_name)
        checks += check_offline(scope, slot or next(iter(scope.slots)), fields, data_root(data))
        if not offline and not any(check.status == "fail" for check in checks):
            checks += check_live(scope)
    except ConfigError as error:
        checks.append(Check("scope file", "fail", str(error)))
    failure = first_failure(checks)
    if as_json:
        click.echo(
            json.dumps({"scope": scope_name, "ok": failure is None, "checks": [asdict(c) for c in checks]}, indent=2)
        )
    else:
        _print_checks(checks)
    if failure is not None:
        raise failure


def _print_checks(checks: list[Check]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    table = Table(box=None, pad_edge=False)
    for column in ("check", "", "found"):
        table.add_column(column, overflow="fold")
    for check in checks:
        table.add_row(check.name, Text(check.status, colours[check.status]), Text(check.detail))
    Console(highlight=False).print(table)


@click.command(context_settings={"max_content_width": 100})
@json_option
def scopes(as_json: bool) -> None:
    """List the microscopes that are described.

    Scope files lie in the folder named by WBCPIPE_SCOPES and among those shipped; `--scope` takes a name listed here,
    or the path of a .toml file. To add yours, copy a shipped file and run `wbcpipe doctor --scope ./yours.toml`.
    """
    from wbcpipe.acquire.config.scope import list_scopes, load_scope

    found = []
    for name, path in list_scopes().items():
        try:
            scope = load_scope(path)
            entry = {"name": name, "title": scope.title, "virtual": scope.virtual, "slots": list(scope.slots)}
        except WbcpipeError as error:
            entry = {"name": name, "error": str(error)}
        found.append({**entry, "path": str(path)})
    if as_json:
        click.echo(json.dumps({"scopes": found}, indent=2))
        return
    for entry in found:
        click.echo(f"{entry['name']:<16} {entry.get('title') or entry.get('error', '')}")
        click.echo(f"{'':<16} {entry['path']}")
