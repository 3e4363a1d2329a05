"""From the entries of a scope to control charts.

One series a figure, its periods, baselines, and broken rules.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal

from wbcpipe.batch.qc.figures import describe
from wbcpipe.batch.qc.records import BrokenRule
from wbcpipe.batch.qc.westgard import RULES, WARNING, rules_broken

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from wbcpipe.batch.qc.figures import FigureInfo
    from wbcpipe.batch.qc.records import QcEntry, QcTarget, RuleName

__all__ = [
    "BASELINE_POINTS",
    "Period",
    "Point",
    "Series",
    "broken_rules",
    "build_series",
    "checks_of_period",
]

#: A standard deviation of fewer values is too uncertain: of 20 it is within a third (95 %).
BASELINE_POINTS: Final = 20
#: What begins a new period when it changes.
_DEPENDS_ON: Final = {
    "night_check": ("calibration", "setup"),
    "control": ("calibration", "setup", "bundle"),
}
_WHAT: Final = {
    "calibration": "new calibration",
    "setup": "changed devices or lights",
    "bundle": "another model",
}


@dataclass(frozen=True)
class Point:
    """One value of a figure.

    Attributes:
        time, value: of the entry.
        interval: ends of its 95 % interval, where it has one.
        batch, sample: of the entry.
        z: difference from the baseline's mean in its standard deviations; ``None`` without a
            baseline.
        in_baseline: one of the values that make the baseline; no rule applies to it.
        rules: broken by it, together with those before it in its period.
    """

    time: datetime
    value: float
    interval: tuple[float, float] | None = None
    batch: str = ""
    sample: str = ""
    z: float | None = None
    in_baseline: bool = False
    rules: tuple[RuleName, ...] = ()


@dataclass(frozen=True)
class Period:
    """Values that are compared with one baseline.

    Attributes:
        reason: why it began; empty for the first.
        points: of the period.
        mean, sd: of the baseline; ``None`` while it is being collected.
        source: of the mean and standard deviation.
    """

    reason: str
    points: tuple[Point, ...]
    mean: float | None = None
    sd: float | None = None
    source: Literal["measured", "target"] = "measured"


@dataclass(frozen=True)
class Series:
    """One figure over the weeks.

    Attributes:
        figure: its name.
        kind, material: see `QcEntry`.
        info: title, unit and so on.
        periods: the oldest first; the last one may have no point yet.
    """

    figure: str
    kind: Literal["night_check", "control"]
    material: str
    info: FigureInfo
    periods: tuple[Period, ...]

    @property
    def points(self) -> tuple[Point, ...]:
        """The points of all periods."""
        return tuple(point for period in self.periods for point in period.points)

    @property
    def state(self) -> str:
        """Whether the last period has a baseline, in words."""
        period = self.periods[-1]
        if period.source == "target":
            return "target set by the laboratory"
        if period.mean is None:
            return f"baseline is being collected, {len(period.points)} of {BASELINE_POINTS}"
        return f"baseline of the first {BASELINE_POINTS} values"

    def since(self, time: datetime) -> Series:
        """Return the series without the points before a time.

        What was found about the others stays.
        """
        kept = (
            replace(p, points=tuple(point for point in p.points if point.time >= time))
            for p in self.periods
        )
        periods = tuple(period for period in kept if period.points)
        return replace(self, periods=periods or (replace(self.periods[-1], points=()),))


@dataclass
class _Open:
    """A period while its points are collected."""

    reason: str
    target: QcTarget | None = None
    points: list[Point] = field(default_factory=list)


def build_series(entries: Iterable[QcEntry]) -> list[Series]:
    """Return the series of every figure that has a chart, in the order in which they first appear.

    Within a series the values are in the order of the file. A new period begins when a note or a
    target says so, and when what the figure depends on has changed.
    """
    found: dict[tuple[str, str, str], list[_Open]] = {}
    versions: dict[tuple[str, str, str], dict[str, str]] = {}
    pending: list[QcEntry] = []  # notes and targets, for figures that appear later
    for entry in entries:
        if entry.kind in ("note", "target"):
            pending.append(entry)
            for key, periods in found.items():
                _apply(entry, key, periods)
            continue
        for name, value in entry.figures.items():
            if not describe(name).charted or not math.isfinite(value):
                continue
            key = (entry.kind, entry.material, name)
            if key not in found:
                found[key] = [_Open("")]
                for earlier in pending:
                    _apply(earlier, key, found[key])
            before = versions.setdefault(key, entry.versions)
            if reason := _changed(entry.kind, before, entry.versions):
                found[key].append(_Open(reason, found[key][-1].target))
            versions[key] = {**before, **entry.versions}
            found[key][-1].points.append(_point(entry, name, value))
    return [_series(key, periods) for key, periods in found.items()]


def checks_of_period(entries: Iterable[QcEntry], versions: dict[str, str]) -> list[QcEntry]:
    """Return the night checks since the last new baseline that depend on the same calibration and
    setup.
    """
    checks: list[QcEntry] = []
    for entry in entries:
        if entry.kind == "note" and entry.new_baseline and not entry.figure:
            checks = []
        elif entry.kind == "night_check":
            same = all(
                entry.versions.get(key) == versions.get(key) for key in _DEPENDS_ON["night_check"]
            )
            checks = [*checks, entry] if same else []
    return checks


def _apply(entry: QcEntry, key: tuple[str, str, str], periods: list[_Open]) -> None:
    """Begin a new period where a note or a target concerns a figure."""
    _, material, figure = key
    if entry.kind == "target":
        if entry.figure == figure and entry.material == material:
            periods.append(_Open("target set" if entry.target else "target removed", entry.target))
    elif entry.new_baseline and entry.figure in ("", figure) and entry.material in ("", material):
        periods.append(_Open(entry.comment or "new baseline"))


def _changed(kind: str, before: dict[str, str], after: dict[str, str]) -> str:
    changed = [key for key in _DEPENDS_ON[kind] if key in after and after[key] != before.get(key)]
    return ", ".join(_WHAT[key] for key in changed)


def _point(entry: QcEntry, name: str, value: float) -> Point:
    kind, _, part = name.partition(".")
    ends = [entry.figures.get(f"{kind}_{end}.{part}") for end in ("low", "high")]
    interval = None if ends[0] is None or ends[1] is None else (ends[0], ends[1])
    return Point(entry.time, value, interval, entry.batch, entry.sample)


def _series(key: tuple[str, str, str], periods: list[_Open]) -> Series:
    kind, material, figure = key
    assert kind in ("night_check", "control")
    info = describe(figure)
    kept = [period for period in periods[:-1] if period.points] + periods[-1:]
    return Series(figure, kind, material, info, tuple(_judged(period, info) for period in kept))  # type: ignore[arg-type]


def _judged(period: _Open, info: FigureInfo) -> Period:
    """Compare the points of a period with its baseline."""
    points = period.points
    baseline = 0 if period.target else BASELINE_POINTS
    if period.target is None and len(points) < baseline:
        return Period(period.reason, tuple(replace(point, in_baseline=True) for point in points))
    if period.target is not None:
        mean, sd = period.target.mean, period.target.sd
    else:
        values = [point.value for point in points[:baseline]]
        mean = statistics.fmean(values)
        sd = max(statistics.stdev(values), info.min_sd, info.min_sd_percent / 100 * abs(mean))
    # A figure that never varied and has no smallest difference: any other value is beyond every
    # limit.
    sd = sd or max(abs(mean), 1.0) * 1e-9
    z = [(point.value - mean) / sd for point in points]
    broken = rules_broken([max(value, 0.0) if info.high_only else value for value in z[baseline:]])
    judged = [
        replace(point, z=value, in_baseline=True)
        for point, value in zip(points[:baseline], z, strict=False)
    ]
    judged += [
        replace(point, z=value, rules=rules)
        for point, value, rules in zip(points[baseline:], z[baseline:], broken, strict=True)
    ]
    return Period(period.reason, tuple(judged), mean, sd, "target" if period.target else "measured")


def broken_rules(
    series: Iterable[Series], *, batch: str | None = None, since: datetime | None = None
) -> list[BrokenRule]:
    """Return the control rules that entries of a batch, or since a time, break: the quality gate of
    a night.

    The gate is passed if no rule but ``1-2s`` is broken.

    Args:
        series: of `build_series`.
        batch: its name; of all batches by default.
        since: time of the first entry; the first of all by default.
    """
    found = []
    for line in series:
        for period in line.periods:
            for point in period.points:
                if (batch is None or point.batch == batch) and (
                    since is None or point.time >= since
                ):
                    found += [
                        _broken(line, period, point, rule)
                        for rule in point.rules
                        if _tells(rule, point)
                    ]
    return sorted(found, key=lambda item: (item.rule == WARNING, item.time))


def _tells(rule: RuleName, point: Point) -> bool:
    """1-2s adds nothing where 1-3s is broken by the same point."""
    return not (rule == WARNING and len(point.rules) > 1)


def _broken(line: Series, period: Period, point: Point, rule: RuleName) -> BrokenRule:
    assert period.mean is not None
    assert period.sd is not None
    assert point.z is not None
    shown = f"{point.value:.{line.info.decimals}f} {line.info.unit}".strip()
    material = f" of {line.material}" if line.material else ""
    return BrokenRule(
        figure=line.figure,
        title=line.info.title,
        kind=line.kind,
        material=line.material,
        rule=rule,
        time=point.time,
        value=point.value,
        mean=period.mean,
        sd=period.sd,
        z=round(point.z, 2),
        text=f"{line.info.title}{material} is {shown} ({point.z:+.1f} SD): {RULES[rule].meaning}",
    )
