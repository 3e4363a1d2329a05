"""The commands of stage 1: ``acquire``, ``doctor`` and ``scopes``."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

import click

from wbcpipe.cli.options import (
    already_stained_option,
    core_log_option,
    data_option,
    deadline_option,
    json_option,
    options_into,
    place_option,
    scope_option,
    sequencing_option,
    slot_option,
    specimen_options,
)
from wbcpipe.errors import AcquisitionError, ConfigError, WbcpipeError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.doctor import Check
    from wbcpipe.acquire.passes import PassResult
    from wbcpipe.acquire.plan import AcquisitionPlan
    from wbcpipe.samples.fields import Pass
    from wbcpipe.samples.sample import Sample
    from wbcpipe.samples.scan_outcome import ScanOutcome, StopReason

__all__ = ["acquire", "doctor", "fields_for", "scopes"]


def fields_for(scope: Scope, plan: AcquisitionPlan, fields: int | None, cells: int | None) -> int:
    """Return the number of planned fields to take.

    Args:
        scope: For the number of cells expected in a field.
        plan: For the number of fields in the slot.
        fields, cells: What the user asked for: at most one of the two; 200 cells if neither is
            given.

    Raises:
        ConfigError: Both are given, or more fields than the slot holds.
    """
    if fields is not None and cells is not None:
        raise ConfigError("give --fields or --cells, not both.")
    wanted = (
        fields if fields is not None else math.ceil((cells or 200) / scope.expected_cells_per_field)
    )
    max_fields = plan.n_fields
    if not 1 <= wanted <= max_fields:
        raise ConfigError(
            f"{wanted} fields are requested; slot {plan.slot!r} of scope {scope.name!r} has room "
            f"for 1 to {max_fields}. Request fewer, or enlarge 'slots.{plan.slot}' in {scope.path}."
        )
    return wanted


@dataclass(frozen=True)
class AcquireOptions:
    """The options of `acquire`, as parsed."""

    slide: str
    sample_name: str | None
    scope_name: str
    slot: str | None
    place: int | None
    protocol: Literal["one-pass", "two-pass"] | None
    pass_name: Pass | None
    already_stained: bool
    fields: int | None
    cells: int | None
    deadline_s: float | None
    sequencing: Literal["auto", "on", "off"] | None
    core_log: Path | None
    overlap: float
    specimen_seed: int | None
    specimen_preparation: str | None
    data: Path | None
    as_json: bool

    def passes(self) -> tuple[Pass, ...]:
        """Return the requested passes, in order.

        Raises:
            ConfigError: ``--pass`` is not a pass of ``--protocol``.
        """
        from wbcpipe.acquire.passes import TWO_PASS

        of_protocol: tuple[Pass, ...] = TWO_PASS if self.protocol == "two-pass" else ("single",)
        if self.pass_name is None:
            return of_protocol
        if self.protocol is not None and self.pass_name not in of_protocol:
            raise ConfigError(
                f"--pass {self.pass_name} is not a pass of --protocol {self.protocol}, which has "
                f"{' and '.join(of_protocol)}; leave one of the two options out."
            )
        return (self.pass_name,)


@click.command(context_settings={"max_content_width": 100})
@click.option(
    "--slide",
    required=True,
    help="Id of the slide; also names the sample unless --sample is given.",
)
@click.option("--sample", "sample_name", help="Name of the sample. Default: the slide's id.")
@scope_option
@slot_option
@place_option
@click.option(
    "--protocol",
    type=click.Choice(["one-pass", "two-pass"]),
    help="All four frames at each field; or bright field, the stain, then fluorescence, in one go "
    "[one-pass].",
)
@click.option(
    "--pass",
    "pass_name",
    type=click.Choice(["single", "brightfield", "fluorescence"]),
    help="Take only this pass: bright field before the stain, or fluorescence after it.",
)
@already_stained_option
@click.option("--fields", type=click.IntRange(min=1), help="Number of fields of view to take.")
@click.option(
    "--cells",
    type=click.IntRange(min=1),
    help="Take the fields expected to hold this many cells [200].",
)
@deadline_option
@sequencing_option
@core_log_option
@click.option(
    "--overlap",
    type=float,
    default=0.1,
    show_default=True,
    help="Overlap of neighbouring fields, 0 to 0.5.",
)
@specimen_options
@data_option
@json_option
@options_into(AcquireOptions)
def acquire(options: AcquireOptions) -> None:
    """Scan a slide: take the frames of each field of view, and write one OME-TIFF per field and
    pass.

    The focus is mapped first, in bright field, so that the stain does not bleach. Then fields are
    taken row by row from a corner of the slot. Fields on disk are kept: after a power cut, a crash
    or Ctrl-C the same command continues where it stopped, and a larger --fields takes more. A field
    that cannot be taken, even after its devices were reloaded or the acquisition process was
    restarted, is recorded in missing.json and the run continues; the same command tries it again.

    For a slide that is stained between the passes, --pass brightfield takes the three bright-field
    frames. Minutes or days later, --pass fluorescence finds the slide on the stage again and takes
    the fluorescence of the same fields. --protocol two-pass takes both passes and stains the slide
    between them, as the scope file says. It stains only if the bright-field pass is complete before
    the deadline and few of its fields are missing (20 %).

    \b
    Examples:
      wbcpipe acquire --slide demo1 --fields 12           the virtual scope, no microscope needed
      wbcpipe acquire --slide S42 --scope mylab --slot B --cells 400
      wbcpipe acquire --slide S42 --scope mylab --pass brightfield
      wbcpipe acquire --slide S42 --scope mylab --protocol two-pass
    """
    from wbcpipe.acquire.capture.sample_record import check_sample
    from wbcpipe.acquire.config.scope import load_scope
    from wbcpipe.acquire.hardware.device_adapters import require_core
    from wbcpipe.acquire.loader.checks import load_request, slot_for
    from wbcpipe.acquire.open_microscope import specimen_for
    from wbcpipe.acquire.passes import (
        TWO_PASS,
        PassJob,
        check_space_for_passes,
        passes_to_take,
        take_passes,
    )
    from wbcpipe.acquire.plan import AcquisitionPlan
    from wbcpipe.acquire.request import AcquisitionRequest, earliest_deadline_s
    from wbcpipe.acquire.staining.checks import check_staining
    from wbcpipe.cli.progress import Reporter
    from wbcpipe.samples.field_status import read_missing, read_skipped
    from wbcpipe.samples.fields import fields_on_disk
    from wbcpipe.samples.freed import refuse_if_freed
    from wbcpipe.samples.sample import Sample, data_root
    from wbcpipe.samples.scan_outcome import ScanOutcome

    # All checks come before anything is written.
    sample = Sample.open(data_root(options.data), options.sample_name or options.slide)
    scope = (
        load_scope(options.scope_name)
        .with_sequencing(options.sequencing)
        .with_core_log(options.core_log)
    )
    load = load_request(scope, sample.path.parent, options.slide, options.place)
    plan = AcquisitionPlan.from_scope(scope, slot_for(scope, options.slot), overlap=options.overlap)
    requested, fields = options.passes(), options.fields
    if requested == ("fluorescence",) and fields is None and options.cells is None:
        fields = max(fields_on_disk(sample.raw_path("brightfield")), default=0) + 1
    n_fields = fields_for(scope, plan, fields, options.cells)
    specimen = specimen_for(scope, options.specimen_seed, options.specimen_preparation)
    passes = passes_to_take(sample, requested, already_stained=options.already_stained)
    if passes == TWO_PASS:
        check_staining(scope)
    request = AcquisitionRequest(
        sample, scope, plan, specimen, passes[0], slide=options.slide, load=load
    )
    require_core(scope)
    check_sample(request)
    refuse_if_freed(sample, "acquire")
    check_space_for_passes(sample, scope, passes, n_fields)
    started_s = time.monotonic()
    request = replace(
        request, deadline_s=earliest_deadline_s(scope, options.deadline_s, time.time())
    )
    job = PassJob(request, passes, n_fields, requested == TWO_PASS, options.already_stained)
    with sample.lock("acquire"), sample.log_failure("acquire"):
        with Reporter(quiet=options.as_json) as reporter:
            results = take_passes(job, reporter)
        name, last = list(results.items())[-1]
        stop_reason: StopReason = "fields" if last.in_time else "deadline"
        # An earlier command may have taken more.
        raw = sample.raw_path(name)
        done = {*last.done, *fields_on_disk(raw), *read_missing(raw), *read_skipped(raw)}
        outcome = ScanOutcome(reason=stop_reason, fields_done=len(done), fields_wanted=n_fields)
        outcome.save(sample)
    _print_result(sample, results, outcome, time.monotonic() - started_s, as_json=options.as_json)


def _print_result(
    sample: Sample,
    results: Mapping[Pass, PassResult],
    outcome: ScanOutcome,
    seconds: float,
    *,
    as_json: bool,
) -> None:
    """Print the result of the passes.

    Raises:
        AcquisitionError: No field of a pass could be taken, or none at all before the deadline.
    """
    from wbcpipe.acquire.passes import no_field_before_deadline

    n_fields, stopped = outcome.fields_wanted, outcome.reason == "deadline"
    if stopped and not any(result.taken for result in results.values()):
        raise no_field_before_deadline(sample)
    for result in results.values():
        if result.missing and len(result.missing) == len(result.done):
            reason = result.missing[min(result.missing)]
            raise AcquisitionError(
                f"sample {sample.name!r}: none of {n_fields} fields could be taken; the first: "
                f"{reason}"
            )
    last = list(results.values())[-1]
    if as_json:
        content = {
            "sample": sample.name,
            "path": str(sample.path),
            "fields_wanted": n_fields,
            "fields_taken": len(last.taken),
            "fields_missing": {
                str(index): reason for index, reason in sorted(last.missing.items())
            },
            "fields_empty": len(last.empty),
            "passes": {name: len(result.taken) for name, result in results.items()},
            "stopped_by_deadline": stopped,
            "seconds": round(seconds, 2),
        }
        click.echo(json.dumps(content, indent=2))
        return
    if stopped:
        click.secho(f"{outcome.text}.", fg="red", bold=True)
    for name, result in results.items():
        missing_path = sample.raw_path(name) / "missing.json"
        details = f", {len(result.missing)} missing (see {missing_path})" if result.missing else ""
        details += f", {len(result.empty)} skipped as empty" if result.empty else ""
        details += f" after {seconds:.1f} s" if result is last else ""
        click.echo(
            f"{len(result.taken)} of {n_fields} fields on disk{details}: {sample.raw_path(name)}"
        )


@dataclass(frozen=True)
class DoctorOptions:
    """The options of `doctor`, as parsed."""

    scope_name: str
    slot: str | None
    fields: int
    offline: bool
    core_log: Path | None
    data: Path | None
    as_json: bool


@click.command(context_settings={"max_content_width": 100})
@scope_option
@click.option("--slot", help="Slot whose scan area is checked. Default: the first of the scope.")
@click.option(
    "--fields",
    type=click.IntRange(min=1),
    default=60,
    show_default=True,
    help="Fields of one slide.",
)
@click.option("--offline", is_flag=True, help="Check the files only; load no core.")
@core_log_option
@data_option
@json_option
@options_into(DoctorOptions)
def doctor(options: DoctorOptions) -> None:
    """Check a scope file and its microscope.

    Reads the scope file, its Micro-Manager .cfg and its calibration, then loads the core in a
    separate process, so that a driver that crashes is reported. Every light is switched with the
    shutter closed, and one dark frame is taken; no stage moves, unless its own driver homes it when
    it is loaded. Each check that fails says what to do. Exit code 0, or 21 (files) or 23 (hardware)
    if one fails. With --json come the versions and the platform, as a report of a problem needs
    them; the home folder is written as ~.

    \b
    Examples:
      wbcpipe doctor                          the virtual scope: is the installation complete?
      wbcpipe doctor --scope mylab --slot B
      wbcpipe doctor --scope ./new.toml --offline
      wbcpipe doctor --scope mylab --core-log core.log   what a driver did, for its author
    """
    from wbcpipe.acquire.config.scope import load_scope
    from wbcpipe.acquire.doctor import Check, check_live, check_offline, first_failure
    from wbcpipe.samples.sample import data_root
    from wbcpipe.system.environment import describe_environment, without_home

    checks: list[Check] = []
    try:
        scope = load_scope(options.scope_name).with_core_log(options.core_log)
        slot = options.slot or next(iter(scope.slots))
        checks += check_offline(scope, slot, options.fields, data_root(options.data))
        if not options.offline and not any(check.status == "fail" for check in checks):
            checks += check_live(scope)
    except ConfigError as error:
        checks.append(Check("scope file", "fail", str(error)))
    failure = first_failure(checks)
    if options.as_json:
        click.echo(
            json.dumps(
                {
                    "scope": without_home(options.scope_name),
                    "ok": failure is None,
                    "checks": [asdict(c) | {"detail": without_home(c.detail)} for c in checks],
                    "environment": describe_environment(),
                },
                indent=2,
            )
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
    """List the scope files of the known microscopes.

    Scope files are searched in the folder named by WBCPIPE_SCOPES, then among the shipped ones.
    `--scope` takes a name from this list, or the path of a .toml file. To add yours, copy a shipped
    file and run `wbcpipe doctor --scope ./yours.toml`.
    """
    from wbcpipe.acquire.config.scope import list_scopes, load_scope

    found = []
    for name, path in list_scopes().items():
        try:
            scope = load_scope(path)
            entry = {
                "name": name,
                "title": scope.title,
                "virtual": scope.virtual,
                "slots": list(scope.slots),
            }
        except WbcpipeError as error:
            entry = {"name": name, "error": str(error)}
        found.append({**entry, "path": str(path)})
    if as_json:
        click.echo(json.dumps({"scopes": found}, indent=2))
        return
    for entry in found:
        click.echo(f"{entry['name']:<16} {entry.get('title') or entry.get('error', '')}")
        click.echo(f"{'':<16} {entry['path']}")
