"""The command ``qc`` and its subcommands."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from wbcpipe.cli.click_types import ParamType
from wbcpipe.cli.options import (
    OutputFile,
    data_option,
    json_option,
    options_into,
    scope_option,
    specimen_options,
)
from wbcpipe.errors import BatchCheckError, ConfigError
from wbcpipe.samples.sample import Sample, data_root
from wbcpipe.system.files import make_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from wbcpipe.batch.qc.page import ScopeCharts
    from wbcpipe.batch.qc.records import CheckResult, QcEntry
    from wbcpipe.batch.qc.series import Series
    from wbcpipe.batch.qc.store import QcStore

# Modules that read scopes, cells or matplotlib are imported when a command runs.

__all__ = ["qc"]

_SPAN: Final = re.compile(r"(\d{1,4})([dw])")


class _Since(ParamType[datetime]):
    """A span back from now, or a date."""

    name = "since"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        if isinstance(value, datetime):
            return value
        text = str(value).strip()
        if span := _SPAN.fullmatch(text):
            return datetime.now(UTC) - timedelta(days=int(span[1]) * (7 if span[2] == "w" else 1))
        try:
            return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
        except ValueError:
            self.fail(
                f"{text!r} is neither a span such as 30d or 8w nor a date such as 2026-11-01.",
                param,
                ctx,
            )


@dataclass(frozen=True)
class QcOptions:
    """The options of `qc`, as parsed."""

    scope_name: str | None
    figure: str | None
    since: datetime | None
    html: Path | None
    data: Path | None
    as_json: bool


@click.group("qc", invoke_without_command=True, context_settings={"max_content_width": 100})
@click.option(
    "--scope",
    "scope_name",
    metavar="NAME",
    help="Only this scope. Default: every scope that has figures.",
)
@click.option(
    "--figure",
    metavar="NAME",
    help="Only figures whose name begins so: light, light.color1, percent.NEU.",
)
@click.option(
    "--since",
    type=_Since(),
    metavar="SPAN|DATE",
    help="Show values from then on: 30d, 8w, 2026-11-01.",
)
@click.option("--html", type=OutputFile(), metavar="OUT", help="Write a page with the charts.")
@data_option
@json_option
@click.pass_context
def qc(context: click.Context, /, **given: Any) -> None:
    """Show how the microscope and its control slides have behaved over the weeks.

    The check of each night (light, flat-field, dark level, focus, stage) and the rows of a worklist
    with `control = true` append their figures to <data>/qc/<scope>.jsonl. This command compares
    each figure with its baseline, the first 20 values or a target of yours, by the control rules of
    Westgard: 1-2s (a warning), 1-3s, 2-2s, R-4s, 4-1s and 10x. --html draws the Levey-Jennings
    charts. A new calibration, other devices or another model begin a new baseline; `qc note
    --new-baseline` begins one by hand. See docs/how-to/quality-control.md.

    \b
    Examples:
      wbcpipe qc                                        all figures of all scopes
      wbcpipe qc --scope mylab --since 30d --html qc.html
      wbcpipe qc --scope mylab --figure light --json
      wbcpipe qc note --scope mylab "new lamp" --new-baseline
      wbcpipe qc set-target --scope mylab percent.NEU --material LOT-7 --mean 62 --sd 2.5
      wbcpipe qc check --scope mylab --slot A           the check of a night, now
      wbcpipe qc control --sample CONTROL-01            record a control slide that was run by hand
    """
    if context.invoked_subcommand is None:
        _show(QcOptions(**given))


def _show(options: QcOptions) -> None:
    from wbcpipe.batch.qc.page import ScopeCharts, render_qc_page
    from wbcpipe.system.files import disk_errors, write_atomic

    data = data_root(options.data)
    shown = []
    for store in _stores(data, options.scope_name):
        entries = store.entries()
        notes = tuple(entry for entry in entries if entry.kind in ("note", "target"))
        shown.append(ScopeCharts(store.scope_name, tuple(_chosen(entries, options)), notes))
    if options.html is not None:
        with disk_errors(options.html), write_atomic(options.html.absolute()) as handle:
            handle.write(render_qc_page(shown, datetime.now(UTC)).encode())
    if options.as_json:
        content = {"data": str(data), "scopes": [_as_json(scope) for scope in shown]}
        click.echo(json.dumps(content, indent=2, ensure_ascii=False, default=str))
        return
    for scope in shown:
        _print_table(scope)
    if not shown:
        click.echo(
            f"no figures in {data / 'qc'} yet: the check of a night and control slides record them."
        )
    if options.html is not None:
        click.echo(f"charts: {options.html.absolute()}")


def _stores(data: Path, scope_name: str | None) -> Sequence[QcStore]:
    from wbcpipe.batch.qc.store import QcStore, list_stores

    if scope_name is None:
        return list_stores(data)
    store = QcStore.of_scope(data, scope_name)
    if not store.path.is_file():
        known = ", ".join(item.scope_name for item in list_stores(data)) or "none"
        raise ConfigError(
            f"scope {scope_name!r} has no figures in {store.path.parent}; scopes with figures: "
            f"{known}."
        )
    return [store]


def _chosen(entries: Sequence[QcEntry], options: QcOptions) -> list[Series]:
    from wbcpipe.batch.qc.series import build_series

    series = build_series(entries)
    if options.figure is not None:
        wanted = [item for item in series if item.figure == options.figure]
        wanted = wanted or [item for item in series if item.figure.startswith(options.figure)]
        if series and not wanted:
            known = ", ".join(dict.fromkeys(item.figure for item in series))
            raise ConfigError(f"no figure {options.figure!r}; figures: {known}.")
        series = wanted
    return series if options.since is None else [item.since(options.since) for item in series]


def _as_json(scope: ScopeCharts) -> dict[str, object]:
    from wbcpipe.batch.qc.series import broken_rules

    return {
        "scope": scope.name,
        "broken_rules": [rule.model_dump(mode="json") for rule in broken_rules(scope.series)],
        "series": [{**_without_info(item), "state": item.state} for item in scope.series],
    }


def _without_info(series: Series) -> dict[str, object]:
    content = asdict(series)
    info = series.info
    del content["info"]
    return {**content, "title": info.title, "unit": info.unit}


def _print_table(scope: ScopeCharts) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from wbcpipe.batch.qc.page import table_row
    from wbcpipe.batch.qc.series import broken_rules

    console = Console(highlight=False)
    table = Table(
        box=None, pad_edge=False, title=f"{scope.name}", title_justify="left", title_style="bold"
    )
    for column, right in (
        ("figure", 0),
        ("last", 1),
        ("mean", 1),
        ("SD", 1),
        ("z", 1),
        ("rules", 0),
        ("baseline", 0),
    ):
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    style = {"bad": "bold red", "warn": "yellow", "good": "green", "soft": "dim"}
    for series in scope.series:
        row = table_row(series)
        name = f"{row.title} ({series.material})" if series.material else row.title
        table.add_row(
            Text(name),
            row.last,
            row.mean,
            row.sd,
            row.z,
            Text(row.rules or "-", style[row.tone]),
            row.state,
        )
    console.print(table)
    last = max((point.time for series in scope.series for point in series.points), default=None)
    for rule in broken_rules(scope.series, since=last):
        console.print(
            Text(f"{rule.rule}: {rule.text}", "yellow" if rule.rule == "1-2s" else "bold red")
        )


@qc.command("note")
@click.option("--scope", "scope_name", required=True, metavar="NAME", help="The scope.")
@click.argument("comment")
@click.option(
    "--new-baseline", is_flag=True, help="Values from now on are compared with a new baseline."
)
@click.option(
    "--figure", default="", metavar="NAME", help="Only this figure begins a new baseline."
)
@data_option
def note(scope_name: str, comment: str, new_baseline: bool, figure: str, data: Path | None) -> None:
    """Write what was done to a microscope beside its figures.

    \b
    Examples:
      wbcpipe qc note --scope mylab "objective cleaned"
      wbcpipe qc note --scope mylab "new lamp, color2" --new-baseline --figure light.color2
    """
    from wbcpipe.batch.qc.records import QcEntry

    _append(
        scope_name,
        data,
        QcEntry(
            time=_now(),
            kind="note",
            comment=comment,
            new_baseline=new_baseline,
            figure=figure,
            by=_operator(),
        ),
    )


@dataclass(frozen=True)
class SetTargetOptions:
    """Options of `qc set-target`."""

    scope_name: str
    figure: str
    mean: float | None
    sd: float | None
    material: str
    remove: bool
    comment: str
    data: Path | None


@qc.command("set-target")
@click.option("--scope", "scope_name", required=True, metavar="NAME", help="The scope.")
@click.argument("figure")
@click.option("--mean", type=float, help="Target mean, in the figure's unit.")
@click.option("--sd", type=float, help="Standard deviation that is accepted, in the figure's unit.")
@click.option(
    "--material", default="", metavar="ID", help="The control slide's id, for its figures."
)
@click.option("--remove", is_flag=True, help="Remove the target: a baseline is collected again.")
@click.option("--comment", default="", help="Where the target comes from.")
@data_option
@options_into(SetTargetOptions)
def set_target(options: SetTargetOptions) -> None:
    """Compare a figure with a mean and standard deviation of yours, from now on, in place of its
    first 20 values.

    \b
    Examples:
      wbcpipe qc set-target --scope mylab percent.NEU --material LOT-7 --mean 62 --sd 2.5
      wbcpipe qc set-target --scope mylab light.color1 --remove
    """
    from wbcpipe.batch.qc.figures import FIGURES
    from wbcpipe.batch.qc.records import QcEntry, QcTarget

    if options.figure.partition(".")[0] not in FIGURES:
        raise ConfigError(
            f"no figure {options.figure!r}; a figure begins with one of: {', '.join(FIGURES)}."
        )
    target = None
    if not options.remove:
        if options.mean is None or options.sd is None or not options.sd > 0:
            raise ConfigError("a target needs --mean and --sd, the latter above 0; or --remove.")
        target = QcTarget(mean=options.mean, sd=options.sd)
    entry = QcEntry(
        time=_now(),
        kind="target",
        figure=options.figure,
        material=options.material,
        target=target,
        comment=options.comment,
        by=_operator(),
    )
    _append(options.scope_name, options.data, entry)


@qc.command("control")
@click.option("--sample", "name", required=True, metavar="NAME", help="The sample, reported.")
@click.option(
    "--slide", default="", metavar="ID", help="Id of the control slide, the same every night."
)
@data_option
def control(name: str, slide: str, data: Path | None) -> None:
    """Record the figures of a control slide that was run by hand.

    \b
    Example:
      wbcpipe qc control --sample CONTROL-2026-11-29 --slide LOT-7
    """
    from wbcpipe.batch.qc.control import record_control

    root = data_root(data)
    sample = Sample.open(root, name)
    scope = sample.record().scope
    if scope is None:
        raise ConfigError(f"sample {name!r} was imported: a control slide is taken on a scope.")
    entry = record_control(sample, scope.name, root, slide=slide)
    click.echo(f"{len(entry.figures)} figures of {name} recorded for {scope.name}")


@dataclass(frozen=True)
class CheckOptions:
    """The options of `qc check`, as parsed."""

    scope_name: str
    slot: str | None
    unstained: bool
    specimen_seed: int | None
    specimen_preparation: str | None
    data: Path | None
    as_json: bool


@qc.command("check")
@scope_option
@click.option("--slot", help="Where a slide lies. Default: the scope's first slot.")
@click.option(
    "--unstained", is_flag=True, help="The slide is not stained yet: take no fluorescence frame."
)
@specimen_options
@data_option
@json_option
@options_into(CheckOptions)
def check(options: CheckOptions) -> None:
    """Check the microscope as before a night, and record the figures.

    Runs doctor, looks at the disk, and measures light, flat-field, dark level, focus and stage with
    a few frames; one fluorescence frame is taken beside the scan area. The limits are in the scope
    file, `[night_check]`. Exit code 54 if the microscope must not be used: a check failed, or
    `on_drift = "stop"` and a limit is exceeded.

    \b
    Examples:
      wbcpipe qc check --scope mylab --slot A
      wbcpipe qc check --scope demo --json
    """
    from wbcpipe.acquire.config.scope import load_scope
    from wbcpipe.acquire.open_microscope import specimen_for
    from wbcpipe.batch.qc.night_checks import NightCheckRequest, run_night_check
    from wbcpipe.batch.qc.records import CheckResult
    from wbcpipe.batch.qc.store import FOLDER
    from wbcpipe.cli.progress import Reporter

    scope, data = load_scope(options.scope_name), data_root(options.data)
    path = data / FOLDER / f"{scope.name}.check.json"
    make_folder(path.parent)
    request = NightCheckRequest(
        scope=scope,
        slot=options.slot or next(iter(scope.slots)),
        rows=(),
        data=data,
        result_path=path,
        specimen=specimen_for(scope, options.specimen_seed, options.specimen_preparation),
        stained=not options.unstained,
    )
    failure: BatchCheckError | None = None
    with Reporter(quiet=options.as_json) as reporter:
        try:
            result = run_night_check(request, reporter.update)
        except BatchCheckError as error:
            failure, result = error, CheckResult.read(path)
    if options.as_json:
        click.echo(json.dumps(result.content(), indent=2))
    else:
        _print_check(result)
    if failure is not None:
        raise failure


def _print_check(result: CheckResult) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    style = {
        "ok": "green",
        "baseline": "cyan",
        "warn": "yellow",
        "drift": "bold red",
        "fail": "bold red",
    }
    table = Table(box=None, pad_edge=False)
    for column in ("check", "", "found"):
        table.add_column(column, overflow="fold")
    for found in result.findings:
        table.add_row(Text(found.name), Text(found.status, style[found.status]), Text(found.detail))
    console = Console(highlight=False)
    console.print(table)
    for rule in result.broken_rules:
        console.print(
            Text(f"{rule.rule}: {rule.text}", "yellow" if rule.rule == "1-2s" else "bold red")
        )
    console.print(
        f"{result.frames} frames, {result.fluorescence_frames} of fluorescence, "
        f"{result.seconds:.0f} s"
    )


def _append(scope_name: str, data: Path | None, entry: QcEntry) -> None:
    from wbcpipe.batch.qc.store import QcStore

    store = QcStore.of_scope(data_root(data), scope_name)
    store.append(entry)
    click.echo(f"noted in {store.path}")
    _tell_if_unknown(store, entry)


def _tell_if_unknown(store: QcStore, entry: QcEntry) -> None:
    """Say so where an entry is of a figure, or of a control slide, that has no value yet."""
    from wbcpipe.batch.qc.series import build_series

    known = {(one.figure, one.material) for one in build_series(store.entries())}
    if entry.kind == "note":
        known |= {(figure, "") for figure, _ in known}
    if not entry.figure or (entry.figure, entry.material) in known:
        return
    stem = entry.figure.partition(".")[0]
    like = sorted(_named(*one) for one in known if one[0].partition(".")[0] == stem)
    click.echo(
        f"{_named(entry.figure, entry.material)} has no value yet on scope {store.scope_name!r}; "
        f"those with values: {', '.join(like) or 'none'}."
    )


def _named(figure: str, material: str) -> str:
    return f"{figure} of {material}" if material else figure


def _now() -> datetime:
    from wbcpipe.batch.qc.store import now

    return now()


def _operator() -> str:
    from wbcpipe.batch.state.batch_folder import operator_name

    return operator_name()
