"""The command ``calibrate``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from wbcpipe.cli.options import (
    OutputFile,
    core_log_option,
    data_option,
    json_option,
    options_into,
    scope_option,
    specimen_options,
)
from wbcpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from wbcpipe.acquire.calibration.compare import Finding

__all__ = ["calibrate"]


@dataclass(frozen=True)
class CalibrateOptions:
    """The options of `calibrate`, as parsed."""

    scope_name: str
    slot: str | None
    only: str | None
    out: Path | None
    specimen_seed: int | None
    specimen_preparation: str | None
    data: Path | None
    core_log: Path | None
    as_json: bool


@click.command(context_settings={"max_content_width": 100})
@scope_option
@click.option("--slot", help="Where the calibration slide lies. Default: the scope's first slot.")
@click.option(
    "--only",
    metavar="PART,...",
    help="Measure these of dark, flat, geometry, offsets; keep the rest.",
)
@click.option(
    "--out",
    type=OutputFile(),
    help="Write here instead of <data>/calibration/<scope>.json, where doctor looks.",
)
@specimen_options
@data_option
@core_log_option
@json_option
@options_into(CalibrateOptions)
def calibrate(options: CalibrateOptions) -> None:
    """Measure the figures of a scope file.

    Lay a stained slide with many cells in the slot. Use a slide that you can spare: fluorescence
    bleaches some of its places. The parts are: dark level, read noise and hot pixels of every
    exposure (dark); shading, lamp and use of the full scale of every modality (flat); pixel size,
    flip and rotation of the camera, and the stage's backlash, by known moves (geometry); and the
    sharpest plane of each modality (offsets). The command shows the figures, their standard errors
    and what to write into the scope file. It does not change the scope file. An earlier calibration
    is kept.

    \b
    Examples:
      wbcpipe calibrate --scope mylab
      wbcpipe calibrate --scope mylab --slot B --only geometry,offsets
      wbcpipe calibrate                           the virtual scope, to see what it does
    """
    from wbcpipe.acquire.calibration.compare import compare
    from wbcpipe.acquire.calibration.process import CalibrationRequest, run_calibration
    from wbcpipe.acquire.config.calibration_file import (
        calibration_path,
        new_record,
        save_calibration,
    )
    from wbcpipe.acquire.config.calibration_record import CalibrationRecord
    from wbcpipe.acquire.config.micromanager_cfg import check_configuration
    from wbcpipe.acquire.config.scope import load_scope
    from wbcpipe.acquire.open_microscope import specimen_for
    from wbcpipe.acquire.plan import AcquisitionPlan
    from wbcpipe.cli.progress import Reporter
    from wbcpipe.samples.sample import data_root

    # All checks come before anything moves.
    scope = load_scope(options.scope_name).with_core_log(options.core_log)
    for warning in check_configuration(scope):
        click.echo(f"warning: {warning}", err=True)
    slot = options.slot or next(iter(scope.slots))
    AcquisitionPlan.from_scope(scope, slot)
    parts = _parts(options.only)
    specimen = specimen_for(scope, options.specimen_seed, options.specimen_preparation)
    request = CalibrationRequest(scope, slot, parts, specimen)
    path = (options.out or calibration_path(scope, data_root(options.data))).absolute()
    earlier = CalibrationRecord.read_if_present(path)
    with Reporter(quiet=options.as_json) as reporter:
        result = run_calibration(request, reporter.update)
    record = new_record(scope, slot, result.parts, result.light, result.seconds, earlier)
    kept = save_calibration(path, record)
    findings = list(compare(scope, record.parts))
    if options.as_json:
        shown = [
            {"name": item.name, "status": item.status, "detail": item.detail} for item in findings
        ]
        files = {"path": str(path), "kept": str(kept) if kept else None}
        click.echo(json.dumps({**files, "findings": shown, **record.content()}))
        return
    _print_findings(findings)
    fluorescence = record.light.get("fluorescence")
    if fluorescence is not None:
        click.echo(
            f"light dose: {fluorescence.exposures} fluorescence exposures, "
            f"{fluorescence.total_ms:.0f} ms"
        )
    click.echo(f"calibration: {path}" + (f" (the earlier one: {kept.name})" if kept else ""))


def _parts(only: str | None) -> tuple[str, ...]:
    from wbcpipe.acquire.config.calibration_file import PARTS

    if only is None:
        return PARTS
    wanted = [name.strip() for name in only.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in PARTS]
    if unknown or not wanted:
        raise ConfigError(
            f"--only {only!r}: {', '.join(unknown) or 'nothing'} is no part; parts: "
            f"{', '.join(PARTS)}."
        )
    return tuple(name for name in PARTS if name in wanted)


def _print_findings(findings: Iterable[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in ("figure", "", "measured"):
        table.add_column(column, overflow="fold")
    for item in findings:
        table.add_row(
            item.name,
            Text(item.status, "yellow" if item.status == "warn" else "green"),
            Text(item.detail),
        )
    Console(highlight=False).print(table)
