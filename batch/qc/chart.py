"""Levey-Jennings charts as SVG, in the colours of the page that holds them: light or dark."""

from __future__ import annotations

import html
import io
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from wbcpipe.batch.qc.westgard import WARNING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from wbcpipe.batch.qc.series import Period, Point, Series

__all__ = ["chart_description", "qc_chart_svg"]

#: What matplotlib draws with, and what takes its place: the CSS variable of the page's style, and
#: the colour where the drawing stands alone.
_COLOURS: Final = {
    "#010101": "var(--ink, #1d2a35)",
    "#020202": "var(--soft, #5a6875)",
    "#030303": "var(--line, #dde3e8)",
    "#040404": "var(--accent, #1f5f7a)",
    "#050505": "var(--warn, #8a5a00)",
    "#060606": "var(--bad, #a3252b)",
    "#070707": "var(--paper, #ffffff)",
    "#080808": "var(--normal-band, #cfe5d9)",
}
_INK, _SOFT, _LINE, _ACCENT, _WARN, _BAD, _PAPER, _BAND = _COLOURS
_SETTINGS: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 8.5,
    "text.color": _INK,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _SOFT,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
}
#: Space above and below the lines at 3 SD, in SD.
_ROOM_SD: Final = 3.6
_DATES: Final = 9


def qc_chart_svg(
    series: Series, *, width_in: float = 7.6, height_in: float = 2.5, last: int = 60
) -> str:
    """Draw the chart of a figure, to be put into a page with the style of `style.css.j2`.

    The values stand side by side in their order, with some of their dates: nights without a run
    leave no gap. Hollow: values of the baseline. Diamond: warning (1-2s). Cross: a broken rule.

    Args:
        series: of `build_series`.
        width_in, height_in: of the drawing, in inches; the page may scale it.
        last: number of values shown, the newest.

    Returns: An ``<svg>`` element with a description for screen readers, and without ids that could
        clash.
    """
    points = [(period, point) for period in series.periods for point in period.points][-last:]
    with rc_context({**_SETTINGS, "svg.hashsalt": series.figure + series.material}):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        axes = figure.subplots()
        _draw(axes, series, points)
        text = io.StringIO()
        figure.savefig(
            text,
            format="svg",
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    return _for_page(
        text.getvalue(),
        chart_description(series),
        f"{series.kind}-{series.material}-{series.figure}",
    )


def chart_description(series: Series) -> str:
    """Return what a chart shows, in words."""
    points = series.points
    if not points:
        return f"{series.info.title}: no value yet."
    last, unit = points[-1], f" {series.info.unit}".rstrip()
    text = (
        f"{series.info.title}: {len(points)} values, the last "
        f"{last.value:.{series.info.decimals}f}{unit}"
    )
    period = series.periods[-1]
    if last.z is not None and period.mean is not None:
        text += (
            f", {last.z:+.1f} standard deviations from the mean of "
            f"{period.mean:.{series.info.decimals}f}{unit}"
        )
    broken = sum(map(_is_broken, points))
    return f"{text}; {series.state}; {broken} values break a control rule."


def _draw(axes: Axes, series: Series, points: Sequence[tuple[Period, Point]]) -> None:
    starts = [
        number
        for number in range(len(points))
        if number == 0 or points[number][0] is not points[number - 1][0]
    ]
    for start, end in pairwise([*starts, len(points)]):
        _draw_period(axes, points[start][0], start, end, is_last=end == len(points))
        axes.plot(
            range(start, end),
            [point.value for _, point in points[start:end]],
            color=_ACCENT,
            lw=1,
            zorder=2,
        )
    for number, (period, point) in enumerate(points):
        before = points[number - 1] if number else None
        follows = before is not None and before[0] is period and _is_broken(before[1])
        _draw_point(axes, number, point, named=not follows)
    for start in starts[1:]:
        axes.axvline(start - 0.5, color=_SOFT, lw=1, ls=(0, (4, 3)))
        axes.annotate(
            points[start][0].reason[:40],
            (start - 0.5, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, -2),
            textcoords="offset points",
            va="top",
            color=_SOFT,
            fontsize=7.5,
        )
    _limits(axes, points)
    axes.set_ylabel(series.info.unit)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.ticklabel_format(axis="y", style="plain", useOffset=False)
    axes.set_xlim(-0.7, max(len(points) - 0.3, 8))
    step = max(1, -(-len(points) // _DATES))
    axes.set_xticks(
        range(0, len(points), step), [f"{point.time:%d %b}" for _, point in points[::step]]
    )
    axes.tick_params(length=2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _draw_period(axes: Axes, period: Period, start: int, end: int, *, is_last: bool) -> None:
    """Draw the mean and the limits at 1, 2 and 3 standard deviations, over the period's values."""
    if period.mean is None or period.sd is None:
        return
    left, right = start - 0.5, end - 0.5
    axes.fill_between(
        [left, right],
        period.mean - 2 * period.sd,
        period.mean + 2 * period.sd,
        color=_BAND,
        alpha=0.45,
        lw=0,
        zorder=0,
    )
    styles = {0: (_SOFT, "-"), 1: (_LINE, "-"), 2: (_WARN, (0, (4, 3))), 3: (_BAD, (0, (4, 3)))}
    for distance in range(-3, 4):
        colour, style = styles[abs(distance)]
        value = period.mean + distance * period.sd
        axes.plot([left, right], [value, value], color=colour, ls=style, lw=1, zorder=1)
        if is_last and abs(distance) != 1:
            axes.annotate(
                f"{distance:+d} SD" if distance else "mean",
                (1.0, value),
                xycoords=("axes fraction", "data"),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                color=colour,
                fontsize=7.5,
            )


def _is_broken(point: Point) -> bool:
    return any(rule != WARNING for rule in point.rules)


def _draw_point(axes: Axes, number: int, point: Point, *, named: bool) -> None:
    """Draw a value; ``named``: with the rules that it breaks, for they would cover one another in a
    row of values.
    """
    if point.interval is not None:
        axes.plot([number, number], point.interval, color=_ACCENT, lw=0.8, alpha=0.45, zorder=1)
    marker, size, colour, face = "o", 4.0, _ACCENT, _PAPER if point.in_baseline else _ACCENT
    if _is_broken(point):
        marker, size, colour, face = "X", 8.0, _BAD, _BAD
    elif point.rules:
        marker, size, colour, face = "D", 5.5, _WARN, _WARN
    axes.plot(number, point.value, marker, ms=size, mec=colour, mfc=face, mew=1.1, zorder=3)
    if named and (names := [rule for rule in point.rules if rule != WARNING]):
        axes.annotate(
            " ".join(names),
            (number, point.value),
            xytext=(-7, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            color=_BAD,
            fontsize=7.5,
        )


def _limits(axes: Axes, points: Sequence[tuple[Period, Point]]) -> None:
    """Show the limits of every baseline, and all values."""
    values = [point.value for _, point in points]
    ends = [end for _, point in points for end in point.interval or ()]
    for period, _ in points:
        if period.mean is not None and period.sd is not None:
            ends += [period.mean - _ROOM_SD * period.sd, period.mean + _ROOM_SD * period.sd]
    everything = [*values, *ends] or [0.0, 1.0]
    low, high = min(everything), max(everything)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    axes.set_ylim(low - room, high + 1.8 * room)


def _for_page(content: str, description: str, name: str) -> str:
    """Return the ``<svg>`` element with the page's colours, a description, and ids of its own."""
    body = content[content.index("<svg") :].strip()
    # A style element would hold for the page too; ids are only needed where something refers to
    # them.
    body = re.sub(r"<metadata>.*?</metadata>|<style .*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    mark = re.sub(r"[^A-Za-z0-9]+", "-", name)
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{mark}-", body)
    for colour, variable in _COLOURS.items():
        body = body.replace(colour, variable)
    # The page's own font: matplotlib lists those of its installation.
    body = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", body)
    # Attributes in place of styles: a page with a strict content security policy shows them too.
    body = re.sub(r'\bstyle="([^"]*)"', lambda match: _as_attributes(match[1]), body)
    view = re.search(r'viewBox="[^"]*"', body)
    assert view is not None
    head = (
        f'<svg role="img" aria-label="{html.escape(description)}" {view[0]} '
        f'xmlns="http://www.w3.org/2000/svg" '
        'xmlns:xlink="http://www.w3.org/1999/xlink" '
        'stroke-linejoin="round" stroke-linecap="butt" font-family="system-ui, sans-serif">'
        f"<title>{html.escape(description)}</title>"
    )
    return head + body[body.index(">") + 1 :]


def _as_attributes(style: str) -> str:
    """Return CSS declarations as attributes of an SVG element."""
    pairs = [part.split(":", 1) for part in style.split(";") if part.strip()]
    return " ".join(f'{name.strip()}="{value.strip()}"' for name, value in pairs)
