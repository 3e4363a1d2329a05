"""The page of `wbcpipe qc --html`: a table and the charts of one or several scopes, in one file."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from markupsafe import Markup

from wbcpipe.batch.qc.chart import qc_chart_svg
from wbcpipe.batch.qc.series import broken_rules
from wbcpipe.batch.qc.westgard import RULES, WARNING
from wbcpipe.report.page_style import page_environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from wbcpipe.batch.qc.records import QcEntry
    from wbcpipe.batch.qc.series import Series

__all__ = ["ScopeCharts", "render_qc_page", "table_row"]

_GROUPS: Final = {"night_check": "Checks of the microscope", "control": "Control slide"}
#: In the grid of the page, two charts stand side by side.
_CHART_IN: Final = (5.4, 2.3)


@dataclass(frozen=True)
class ScopeCharts:
    """What the page shows of a scope: its name, its series, and the operators' notes."""

    name: str
    series: tuple[Series, ...]
    notes: tuple[QcEntry, ...] = ()


@dataclass(frozen=True)
class TableRow:
    """One line of the table, as text."""

    title: str
    last: str
    time: str
    mean: str
    sd: str
    z: str
    rules: str
    state: str
    tone: str


@dataclass(frozen=True)
class _Chart:
    title: str
    state: str
    tone: str
    rules: str
    svg: Markup


@dataclass(frozen=True)
class _Group:
    title: str
    rows: tuple[TableRow, ...]
    charts: tuple[_Chart, ...]


@dataclass(frozen=True)
class _Broken:
    """A figure whose last value breaks rules, and since when they have been broken without a
    pause.
    """

    title: str
    value: str
    z: float
    rules: str
    since: datetime
    values: int


@dataclass(frozen=True)
class _ScopePage:
    name: str
    groups: tuple[_Group, ...]
    broken: tuple[_Broken, ...]
    earlier: int
    warnings: int
    notes: tuple[QcEntry, ...]
    nights: int


def table_row(series: Series) -> TableRow:
    """Return the table's line of a figure: its last value against its baseline."""
    period, info = series.periods[-1], series.info
    point = period.points[-1] if period.points else None
    unit = f" {info.unit}" if info.unit else ""

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.{info.decimals}f}"

    rules = (
        [rule for rule in point.rules if rule != WARNING or len(point.rules) == 1] if point else []
    )
    broken = [rule for rule in rules if rule != WARNING]
    return TableRow(
        title=info.title,
        last=number(point.value) + unit if point else "",
        time=f"{point.time:%Y-%m-%d %H:%M}" if point else "",
        mean=number(period.mean),
        sd="" if period.sd is None else f"{period.sd:.3g}",
        z=f"{point.z:+.1f}" if point and point.z is not None else "",
        rules=", ".join(rules),
        state=series.state.removeprefix("baseline of the ").removeprefix("baseline is "),
        tone="bad"
        if broken
        else "warn"
        if rules
        else "good"
        if point and period.mean is not None
        else "soft",
    )


def render_qc_page(scopes: Sequence[ScopeCharts], created: datetime) -> str:
    """Return the page: HTML that needs no other file."""
    environment = page_environment("wbcpipe.batch.qc")
    return environment.get_template("qc.html.j2").render(
        scopes=[_scope_page(scope) for scope in scopes],
        created=created,
        rules={name: rule.meaning for name, rule in RULES.items()},
    )


def _scope_page(scope: ScopeCharts) -> _ScopePage:
    groups: dict[tuple[str, str], list[Series]] = {}
    for series in scope.series:
        groups.setdefault((series.kind, series.material), []).append(series)
    found = broken_rules(scope.series)
    times = {point.time for series in scope.series for point in series.points}
    return _ScopePage(
        name=scope.name,
        groups=tuple(_group(kind, material, lines) for (kind, material), lines in groups.items()),
        broken=tuple(_still_broken(scope.series)),
        earlier=len(
            {(item.figure, item.material, item.time) for item in found if item.rule != WARNING}
        ),
        warnings=sum(item.rule == WARNING for item in found),
        notes=scope.notes,
        nights=len(times),
    )


def _still_broken(lines: Sequence[Series]) -> Iterator[_Broken]:
    for series in lines:
        points = series.periods[-1].points
        run = list(
            takewhile(lambda point: any(rule != WARNING for rule in point.rules), reversed(points))
        )
        if run:
            last, row = run[0], table_row(series)
            title = f"{row.title}, {series.material}" if series.material else row.title
            yield _Broken(title, row.last, last.z or 0.0, row.rules, run[-1].time, len(run))


def _group(kind: str, material: str, lines: Sequence[Series]) -> _Group:
    charts = []
    for series in lines:
        row = table_row(series)
        svg = Markup(qc_chart_svg(series, width_in=_CHART_IN[0], height_in=_CHART_IN[1]))
        charts.append(_Chart(series.info.title, series.state, row.tone, row.rules, svg))
    title = f"{_GROUPS[kind]} {material}".strip()
    return _Group(title, tuple(table_row(series) for series in lines), tuple(charts))
