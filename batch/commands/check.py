"""``batch check``: all complaints about a worklist at once, and what it needs; nothing moves."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wbcpipe.batch.commands.options import rows_scope_option
from wbcpipe.cli.options import data_option, json_option
from wbcpipe.errors import DiskFullError, SampleNameError, WorklistError

if TYPE_CHECKING:
    from rich.console import Console

    from wbcpipe.acquire.doctor import Check
    from wbcpipe.batch.state.batch_folder import BatchFolder
    from wbcpipe.batch.state.estimate import BatchEstimate, RowEstimate
    from wbcpipe.batch.worklist import Worklist
    from wbcpipe.batch.worklist.mistakes import Mistake
    from wbcpipe.errors import WbcpipeError

__all__ = ["check"]


@dataclass(frozen=True)
class _Findings:
    """What `batch check` finds.

    Attributes:
        worklist: as read.
        estimate: ``None`` for a worklist with mistakes.
        doctor: scope to its checks that did not pass.
    """

    worklist: Worklist
    estimate: BatchEstimate | None
    doctor: dict[str, list[Check]]

    def error(self) -> WbcpipeError | None:
        """Return the error that the findings amount to."""
        from wbcpipe.acquire.doctor import first_failure
        from wbcpipe.batch.durations import format_bytes

        if self.worklist.mistakes:
            return WorklistError(_all(self.worklist))
        if failure := first_failure([check for checks in self.doctor.values() for check in checks]):
            return failure
        estimate = self.estimate
        if estimate is not None and estimate.disk_bytes > estimate.disk_free_bytes:
            return DiskFullError(
                f"the worklist needs {format_bytes(estimate.disk_bytes)} and "
                f"{format_bytes(estimate.disk_free_bytes)} "
                "are free; free space, ask for fewer fields or cells, or give another disk with "
                "--data."
            )
        return None


def _all(worklist: Worklist) -> str:
    from wbcpipe.batch.worklist.mistakes import mistakes_text

    return mistakes_text(str(worklist.path), worklist.mistakes)


@click.command("check")
@click.argument("worklist_path", metavar="NIGHT.csv", type=click.Path(path_type=Path))
@click.option("--name", metavar="NAME", help="Name of the batch [the worklist's file name].")
@rows_scope_option
@data_option
@json_option
def check(
    worklist_path: Path, name: str | None, scope_name: str, data: Path | None, as_json: bool
) -> None:
    """Check a worklist and estimate its time and disk space; nothing moves and nothing is written.

    All mistakes are listed at once, each with its line number. A worklist without mistakes is shown
    as a plan: the slides in their order, the time of each, when the last report is written, the
    disk space needed and free, the slots used, and what the samples on disk have already. If
    `batch run` has started the batch, what it would refuse to change is listed too. The scope
    files are checked as `wbcpipe doctor --offline` does.

    Exit code 0; 50 for mistakes, 13 if the disk is too small, 21 if a scope file is not in order.

    NIGHT.csv, as a spreadsheet program saves it (comma, semicolon or tab; UTF-8, UTF-16 or
    Windows-1252):

    \b
      sample,slot,cells,precision,deadline,notes
      S001,A,400,,,thin film
      S002,B,,"NEU:2,5%",06:30,

    Columns: sample; slot, slide, scope, protocol (one-pass, two-pass, two-pass-list), cells,
    precision, fields, bundle, priority, deadline, control, notes, specimen_seed,
    specimen_preparation.

    \b
    Examples:
      wbcpipe batch check NIGHT.csv
      wbcpipe batch check NIGHT.csv --scope mylab --data D:\\slides --json
    """
    from wbcpipe.batch.commands.console import plan_console
    from wbcpipe.batch.state.open_batch import compare_with_batch, started_rows
    from wbcpipe.batch.worklist import inspect_worklist
    from wbcpipe.samples.sample import data_root

    root = data_root(data)
    folder, problem = _batch_folder(root, worklist_path, name)
    started = {} if folder is None else started_rows(folder)
    worklist = inspect_worklist(worklist_path, data=root, scope=scope_name, started=started)
    if folder is not None:
        refused, warnings = compare_with_batch(folder, worklist)
        worklist = replace(
            worklist,
            mistakes=(*worklist.mistakes, *refused),
            warnings=(*worklist.warnings, *warnings),
        )
    if problem is not None:
        worklist = replace(worklist, warnings=(*worklist.warnings, problem))
    findings = _find(worklist, root)
    error = findings.error()
    if as_json:
        click.echo(json.dumps(_content(findings, error), indent=2, ensure_ascii=False))
    else:
        _print(findings, plan_console())
    if error is not None:
        raise error


def _batch_folder(
    root: Path, worklist_path: Path, name: str | None
) -> tuple[BatchFolder | None, Mistake | None]:
    """Return the batch that `batch run` of this file would run or resume, or why it has none."""
    from wbcpipe.batch.state.batch_folder import BatchFolder
    from wbcpipe.batch.worklist.mistakes import Mistake

    try:
        return BatchFolder.open(root, name or worklist_path.stem), None
    except SampleNameError as error:
        if name is not None:
            raise
        return None, Mistake((), f"`batch run` needs a --name: {error}")


def _find(worklist: Worklist, root: Path) -> _Findings:
    from wbcpipe.acquire.doctor import check_offline
    from wbcpipe.batch.state.estimate import estimate_batch

    if worklist.mistakes:
        return _Findings(worklist, None, {})
    estimate = estimate_batch(worklist.rows, worklist.scopes, root)
    doctor = {}
    for name, scope in worklist.scopes.items():
        rows = [row for row in estimate.rows if row.row.scope == name]
        slots = {row.slot: row.fields for row in rows}
        checks = [
            one
            for slot, fields in slots.items()
            for one in check_offline(scope, slot, fields, root)
        ]
        # Time, area and disk are those of the whole list here.
        others = ("time", "scan area", "fields", "disk")
        doctor[name] = list(
            dict.fromkeys(one for one in checks if one.status != "ok" and one.name not in others)
        )
    return _Findings(worklist, estimate, doctor)


def _content(findings: _Findings, error: WbcpipeError | None) -> dict[str, object]:
    worklist, estimate = findings.worklist, findings.estimate
    content: dict[str, object] = {
        "worklist": str(worklist.path),
        "sha256": worklist.sha256,
        "ok": error is None,
        "mistakes": [asdict(mistake) for mistake in worklist.mistakes],
        "warnings": [asdict(warning) for warning in worklist.warnings],
        "virtual_scopes": [scope.name for scope in worklist.scopes.values() if scope.virtual],
        "doctor": {
            name: [asdict(one) for one in checks] for name, checks in findings.doctor.items()
        },
    }
    if estimate is not None:
        ends = estimate.row_ends()
        content |= {
            "rows": [
                {
                    **row.row.model_dump(mode="json"),
                    "state": row.state,
                    "fields_expected": row.fields,
                    "fields_done": row.fields_done,
                    "seconds": row.seconds,
                    "disk_bytes": row.disk_bytes,
                    "ends": ends[row.row.sample].isoformat(timespec="seconds"),
                    "late": row in estimate.late(),
                }
                for row in estimate.rows
            ],
            "seconds": round(estimate.seconds, 1),
            "check_seconds": round(estimate.check_seconds, 1),
            "ends": estimate.ends.isoformat(timespec="seconds"),
            "disk_bytes": estimate.disk_bytes,
            "disk_free_bytes": estimate.disk_free_bytes,
        }
    return content


def _print(findings: _Findings, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    from wbcpipe.batch.durations import format_bytes, format_seconds
    from wbcpipe.batch.state.microscopes import microscope_lines

    estimate = findings.estimate
    if estimate is None:
        return
    ends = estimate.row_ends()
    rows = estimate.rows
    columns: dict[str, list[str]] = {
        "line": [f"{row.row.line}" for row in rows],
        "sample": [r.row.sample for r in rows],
    }
    if any(row.row.slide != row.row.sample for row in rows):
        columns["slide"] = [row.row.slide for row in rows]
    if len(findings.worklist.scopes) > 1:
        columns["scope"] = [row.scope_name for row in rows]
    columns["slot"] = [row.slot for row in rows]
    if any(row.row.protocol != "one-pass" for row in rows):
        columns["protocol"] = [row.row.protocol for row in rows]
    columns["target"] = [_target(row) for row in rows]
    columns["fields"] = [
        f"{row.fields_done} of {row.fields}" if row.fields_done else f"{row.fields}" for row in rows
    ]
    columns["time"] = [format_seconds(row.seconds) for row in rows]
    columns["until"] = [
        "finished" if r.state == "finished" else f"{ends[r.row.sample]:%H:%M}" for r in rows
    ]
    columns["disk"] = [format_bytes(row.disk_bytes) for row in rows]
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*map(Text, cells))
    console.print(table)
    done, begun = (
        sum(row.state == state for row in estimate.rows) for state in ("finished", "started")
    )
    for line in microscope_lines(row.row for row in rows):
        console.print(line, markup=False)
    for name, scope in findings.worklist.scopes.items():
        used = {row.slot for row in rows if row.row.scope == name}
        if not scope.loader_slot:
            free = ", ".join(slot for slot in scope.slots if slot not in used) or "none"
            console.print(f"slots of {scope.name}: {len(used)} used, free: {free}", markup=False)
    check_s = estimate.check_seconds
    checking = f" with {format_seconds(check_s)} for the check of the microscope" if check_s else ""
    console.print(
        f"{len(rows)} slides ({done} finished, {begun} partly done): about "
        f"{format_seconds(estimate.seconds)}{checking}, until "
        f"{estimate.ends:%Y-%m-%d %H:%M} if started now (estimated, not measured)"
    )
    console.print(
        f"disk: {format_bytes(estimate.disk_bytes)} needed, "
        f"{format_bytes(estimate.disk_free_bytes)} free"
    )
    _print_warnings(findings, console)


def _print_warnings(findings: _Findings, console: Console) -> None:
    assert findings.estimate is not None
    for warning in findings.worklist.warnings:
        console.print(f"warning: {warning}", markup=False)
    ends = findings.estimate.row_ends()
    for row in findings.estimate.late():
        console.print(
            f"warning: line {row.row.line}: the deadline of {row.row.sample}, "
            f"{row.row.deadline:%Y-%m-%d %H:%M}, is "
            f"before its estimated end, {ends[row.row.sample]:%Y-%m-%d %H:%M}; give it a higher "
            f"priority.",
            markup=False,
        )
    for name, checks in findings.doctor.items():
        for one in checks:
            console.print(f"{one.status}: scope {name}: {one.name}: {one.detail}", markup=False)


def _target(row: RowEstimate) -> str:
    if row.row.fields is not None:
        return f"{row.row.fields} fields"
    cells = f"{row.row.cells} cells" if row.row.cells else ""
    return ", ".join(filter(None, [cells, *row.row.precision])) or "200 cells"
