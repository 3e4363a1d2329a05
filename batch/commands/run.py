"""``batch run``: read a worklist, run it, and end with the exit code of the night."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wbcpipe.batch.commands.metrics import metrics_port_option, metrics_textfile_option
from wbcpipe.batch.commands.options import rows_scope_option
from wbcpipe.cli.click_types import ParamType
from wbcpipe.cli.options import core_log_option, data_option, json_option, options_into

if TYPE_CHECKING:
    from wbcpipe.batch.row_status import RowStatus
    from wbcpipe.batch.state.batch_folder import BatchFolder

__all__ = ["RunBatchOptions", "run"]

_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
}


class _Bytes(ParamType[int]):
    """A number of bytes with a unit, such as ``6GB``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)\s*([kKmMgG]?[iI]?[bB]?)", str(value).strip())
        unit = found[2].upper() if found else None
        if found is None or unit not in _UNITS or not float(found[1]):
            self.fail(
                f"{value!r} is not a size of memory: give a number with a unit, such as 6GB.",
                param,
                ctx,
            )
        return int(float(found[1]) * _UNITS[unit])


@dataclass(frozen=True)
class RunBatchOptions:
    """The options of ``batch run``, by their names on the command line; see its help."""

    worklist: Path
    name: str | None
    scope_name: str
    data: Path | None
    retries: int
    memory_limit_bytes: int | None
    check: bool
    metrics_port: int | None
    metrics_textfile: Path | None
    alerts: Path | None
    core_log: Path | None
    as_json: bool


@click.command("run")
@click.argument("worklist", metavar="NIGHT.csv", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--name", metavar="NAME", help="Name of the batch [the worklist's file name].")
@rows_scope_option
@data_option
@click.option(
    "--retries",
    type=click.IntRange(0, 10),
    default=2,
    show_default=True,
    help="Further attempts of a sample that failed, before it is quarantined.",
)
@click.option(
    "--memory-limit",
    "memory_limit_bytes",
    type=_Bytes(),
    metavar="SIZE",
    help="End the process of a sample, with its children, that uses more memory: 6GB. It counts "
    "as a failed attempt.",
)
@click.option(
    "--check/--no-check",
    default=True,
    show_default=True,
    help="Check the microscope before the first slide.",
)
@metrics_port_option
@metrics_textfile_option
@click.option(
    "--alerts",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.toml",
    help="Whom to tell what, see docs/how-to/morning.md [$WBCPIPE_ALERTS].",
)
@core_log_option
@json_option
@options_into(RunBatchOptions)
def run(options: RunBatchOptions) -> None:
    """Scan and report every slide of a worklist, one after the other; the same command resumes.

    Each sample runs in a process of its own, and the next slide is scanned while the one before is
    classified and reported. A sample that fails is tried again. After the last attempt it is
    quarantined, that is, set aside with the reason, and the next slide begins. The page for the
    morning is <data>/batches/NIGHT/morning.html.

    \b
    From another terminal, while it runs:
      wbcpipe batch status        what it does, what it waits for, what went wrong
      wbcpipe batch confirm       slides are stained or loaded, or the microscope is mended
      wbcpipe batch skip S007     leave a sample out; also add, hold, release, retry
      wbcpipe batch stop          stop after this sample; --now stops at once

    \b
    Examples:
      wbcpipe batch run NIGHT.csv --scope mylab
      wbcpipe batch run NIGHT.csv --scope mylab --memory-limit 6GB
      wbcpipe batch run NIGHT.csv                  on the virtual microscope, to try it

    Exit codes: 0 all finished; 50 mistakes in the worklist; 51 some without a result; 52 none
    with a result; 53 the batch is running already; 54 the check failed; 130, 143 or 129 stopped by
    Ctrl-C, SIGTERM or SIGHUP.
    """
    from wbcpipe.batch.alerts.alerts import Alerter
    from wbcpipe.batch.night.metrics import MetricsExporter
    from wbcpipe.batch.night.night import Night
    from wbcpipe.batch.state.microscopes import check_core_logs, check_packages, microscope_lines
    from wbcpipe.batch.state.open_batch import open_batch
    from wbcpipe.batch.supervise.options import SupervisorOptions
    from wbcpipe.batch.supervise.supervisor import Supervisor
    from wbcpipe.cli.progress import Reporter
    from wbcpipe.samples.sample import data_root

    began = datetime.now(UTC)
    with Reporter(quiet=options.as_json) as reporter:
        folder = open_batch(
            options.worklist,
            options.name,
            data_root(options.data),
            options.scope_name,
            reporter.say,
        )
        left = [one.row for one in folder.status().values() if not one.done]
        check_packages(left)
        check_core_logs(left, options.core_log)
        for line in microscope_lines(left):
            reporter.say(line)
        settings = SupervisorOptions(
            retries=options.retries,
            memory_limit_bytes=options.memory_limit_bytes,
            core_log=options.core_log,
        )
        alerter = Alerter.from_file(options.alerts, folder)
        metrics = None
        if options.metrics_port is not None or options.metrics_textfile is not None:
            metrics = MetricsExporter(
                folder, port=options.metrics_port, textfile=options.metrics_textfile
            )
        night = Night(alerter, metrics, check=options.check)
        status = Supervisor(folder, settings, night, reporter).run()
    _tell(folder, status, (datetime.now(UTC) - began).total_seconds(), as_json=options.as_json)


def _tell(
    folder: BatchFolder, status: dict[str, RowStatus], seconds: float, *, as_json: bool
) -> None:
    """Print what became of each row, and raise unless all are finished."""
    from wbcpipe.errors import BatchFailedError, BatchIncompleteError

    finished = [sample for sample, one in status.items() if one.state == "finished"]
    without = [one for one in status.values() if one.state not in ("finished", "skipped")]
    if as_json:
        rows = [
            {
                "sample": sample,
                "state": one.state,
                "attempts": one.attempts,
                "error": one.error,
                "reason": one.reason,
            }
            for sample, one in status.items()
        ]
        content = {
            "batch": folder.name,
            "seconds": round(seconds, 1),
            "finished": len(finished),
            "rows": rows,
        }
        click.echo(json.dumps(content))
    else:
        for sample, one in status.items():
            reason = f": {one.reason}" if one.reason and one.state != "finished" else ""
            click.echo(f"{sample}  {one.state}{reason}")
    if not without:
        return
    first = without[0]
    text = f"batch {folder.name!r}: {len(finished)} of {len(status)} samples have a result"
    why = f"; the first without one, {first.row.sample}, is {first.state}"
    why += f": {first.reason.rstrip('.')}" if first.reason else ""
    raise (BatchIncompleteError if finished else BatchFailedError)(
        f"{text}{why}. `wbcpipe batch status --batch {folder.name}` shows all; the same command "
        f"goes on."
    )
