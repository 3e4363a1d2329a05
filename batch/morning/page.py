"""``morning.html`` and ``morning.txt``: drawn from a summary, written atomically."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
import textwrap
import unicodedata
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from markupsafe import Markup

from wbcpipe.batch.morning.advice import QC_ADVICE
from wbcpipe.batch.morning.summary import PHASES, summarise
from wbcpipe.report.page_style import class_colours, code_markup, page_environment
from wbcpipe.samples.differential_record import NOTICE
from wbcpipe.system.files import write_atomic
from wbcpipe.system.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from wbcpipe.batch.morning.records import NightEvent, NightSummary
    from wbcpipe.batch.state.batch_folder import BatchFolder

__all__ = ["HTML_NAME", "TEXT_NAME", "render_html", "render_text", "write_morning_page"]

HTML_NAME: Final = "morning.html"
TEXT_NAME: Final = "morning.txt"
#: A line of a mail.
_WIDTH: Final = 76
#: Signs for a state beside its word, so that colour is not alone.
_STATE_SIGNS: Final = {
    "finished": ("✓", "good"),
    "quarantined": ("✗", "bad"),
    "skipped": ("–", "soft"),
    "held": ("‖", "warn"),
    "waiting": ("…", "soft"),
}
_STYLE: Final = re.compile(r"<style>(.*?)</style>", re.S)


def write_morning_page(
    folder: BatchFolder, *, now: datetime | None = None, ended: bool = False
) -> Path:
    """Write ``morning.html`` and ``morning.txt`` of a batch; return the path of the page.

    A sample whose files are damaged is shown as such.

    Args:
        folder: of the batch.
        now: time that the page gives.
        ended: the batch has ended, though the process that ran it still holds its lock.

    Raises:
        WorklistError: no such batch.
        SampleStateError: ``batch.json`` or the journal is damaged.
        DiskFullError: no space left; the earlier pages stay.
    """
    summary = summarise(folder, now=now, ended=ended)
    for name, text in ((HTML_NAME, render_html(summary)), (TEXT_NAME, render_text(summary))):
        with write_atomic(folder.path / name) as handle:
            handle.write(text.encode())
    return folder.path / HTML_NAME


def render_html(summary: NightSummary) -> str:
    """Return the page: one file, without scripts, whose content security policy allows its own
    style alone.
    """
    page = _render("morning.html.j2", summary)
    # A policy that names the style by its hash; no attribute of the page holds style, and nothing
    # is fetched.
    style = _STYLE.search(page)
    digest = base64.b64encode(hashlib.sha256(style[1].encode() if style else b"").digest()).decode()
    return page.replace("{style-hash}", f"sha256-{digest}", 1)


def render_text(summary: NightSummary) -> str:
    """Return the text for a mail, in lines of at most 76 characters where words allow."""
    return _render("morning.txt.j2", summary)


def _render(template: str, summary: NightSummary) -> str:
    environment = page_environment("wbcpipe.batch.morning")
    environment.filters |= {
        "clock": functools.partial(_clock, started=summary.started),
        "day": lambda time: f"{time.astimezone():%a %d %b %Y}",
        "span": _span,
        "one_line": one_line,
        "wrap": _wrap,
        "code": lambda text: code_markup(one_line(text)),
        "drawing": Markup,  # of qc_chart_svg, which escapes its texts
        "si": _si,
    }
    names = dict.fromkeys(share.name for sample in summary.samples for share in sample.classes)
    return environment.get_template(template).render(
        summary=summary,
        notice=NOTICE,
        version=VERSION,
        colours=class_colours(list(names)),
        phases=[
            phase for phase in PHASES if any(phase in sample.phases_s for sample in summary.samples)
        ],
        signs=_STATE_SIGNS,
        attention=[sample for sample in summary.samples if sample.needs_attention],
        unsafe=[quality for quality in summary.quality if quality.broken and not quality.passed],
        advised=_advised(summary.events),
        qc_advice=QC_ADVICE,
        zone=_zone(summary.as_of),
    )


def _advised(events: Sequence[NightEvent]) -> dict[str, dict[str, list[datetime]]]:
    """Return advice to texts to the times of their events: equal ones are listed once."""
    found: dict[str, dict[str, list[datetime]]] = {}
    for event in events:
        if event.advice:
            found.setdefault(event.advice, {}).setdefault(event.text, []).append(event.time)
    return found


def one_line(text: object) -> str:
    """Return text of a worklist or an error as one line without control characters and without
    marks of direction.

    >>> one_line("two\\nlines \\x1b[31m\\u202egnp.exe")
    'two lines [31mgnp.exe'
    """
    spaced = re.sub(r"\s+", " ", str(text)).strip()
    return "".join(char for char in spaced if unicodedata.category(char) not in ("Cc", "Cf", "Cs"))


def _clock(time: datetime | None, *, started: datetime | None, date: bool = True) -> str:
    """Return the local time of day, with the date (unless ``date`` is off) where it is not that of
    the start.
    """
    if time is None:
        return "–"
    local = time.astimezone()
    same_day = (
        started is not None and started.astimezone().date() == local.date() and time != started
    )
    return f"{local:%H:%M}" if same_day or not date else f"{local:%Y-%m-%d %H:%M}"


def _zone(time: datetime) -> str:
    """Return the local time zone at a time, for example ``CET (UTC+0100)``."""
    local = time.astimezone()
    return f"{local:%Z}" if local.utcoffset() == timedelta() else f"{local:%Z (UTC%z)}"


def _span(seconds: float | None) -> str:
    """Return a length of time in two units.

    >>> _span(5), _span(185), _span(7380), _span(240)
    ('5 s', '3 min 5 s', '2 h 3 min', '4 min')
    """
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = timedelta(seconds=round(seconds))
    hours, rest = divmod(int(whole.total_seconds()), 3600)
    minutes, left = divmod(rest, 60)
    units = [(hours, "h"), (minutes, "min"), (left, "s")]
    first = next((i for i, (number, _) in enumerate(units) if number), 2)
    shown = [f"{number} {unit}" for number, unit in units[first : first + 2] if number]
    return " ".join(shown) or "0 s"


def _si(number: float | None) -> str:
    """Return bytes in the unit that suits.

    >>> _si(1_600_000_000)
    '1.6 GB'
    """
    if number is None:
        return "–"
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def _wrap(text: object, indent: int = 2) -> str:
    """Return one line of text wrapped for a mail, each line indented."""
    space = " " * indent
    lines = textwrap.wrap(
        one_line(text),
        _WIDTH,
        initial_indent=space,
        subsequent_indent=space,
        break_on_hyphens=False,
    )
    return "\n".join(lines)
