"""The text of one cell as its value; each function raises ValueError with what is allowed."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, get_args

from wbcpipe.acquire.simulation.specimen.plan import Preparation
from wbcpipe.cli.options import deadline_time
from wbcpipe.scan.targets import parse_target

if TYPE_CHECKING:
    from wbcpipe.batch.records import BatchProtocol

__all__ = [
    "check_spreadsheet_damage",
    "parse_deadline",
    "parse_flag",
    "parse_precision",
    "parse_preparation",
    "parse_protocol",
    "parse_whole_number",
    "rounded_digits",
]

#: As Excel and LibreOffice show a long number: 1.23E+11, 1,23457E+11, 1E+11, 2.5E-04.
_SCIENTIFIC: Final = re.compile(r"[+-]?[0-9]+(?:[.,][0-9]+E[+-]?|E\+)[0-9]+", re.IGNORECASE)
_MONTH: Final = (
    r"(?:jan|feb|mar|mär|mrz|apr|may|mai|june?|juni?|july?|juli?|aug|sept?|oct|okt|nov|dec|dez|january|januar|"
    r"february|februar|march|märz|april|august|september|october|oktober|november|december|dezember)\.?"
)
#: As a spreadsheet shows what it took for a date: 03. Jan, 3-Jan, Jan 12, Mrz-12.
_DATE: Final = re.compile(
    rf"[0-9]{{1,2}}[.\- ]+{_MONTH}(?:[ -][0-9]{{2,4}})?|{_MONTH}[ -]+[0-9]{{2,4}}", re.IGNORECASE
)
_AS_TEXT: Final = (
    "format the column as text before the codes are entered or scanned, and enter them again"
)
_PROTOCOLS: Final[dict[str, BatchProtocol]] = {
    "one-pass": "one-pass",
    "onepass": "one-pass",
    "single": "one-pass",
    "1": "one-pass",
    "two-pass": "two-pass",
    "twopass": "two-pass",
    "both": "two-pass",
    "2": "two-pass",
    "two-pass-list": "two-pass-list",
    "twopasslist": "two-pass-list",
}
_YES: Final = frozenset({"true", "yes", "y", "x", "1", "ja", "j", "wahr"})
_NO: Final = frozenset({"", "false", "no", "n", "0", "nein", "falsch"})
_TARGET: Final = re.compile(r"\s*([^\s:;,/|+&%]+)\s*:\s*([0-9]+(?:[.,][0-9]+)?)\s*%?\s*")
_DAY_FIRST: Final = re.compile(r"([0-9]{1,2})\.([0-9]{1,2})\.([0-9]{4}|[0-9]{2})(?:[ ,T]+(.+))?")
_YEAR_FIRST: Final = re.compile(r"([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})(?:[ ,T]+(.+))?")
#: With a dot only before "Uhr": 11.12 may be a date.
_TIME: Final = re.compile(
    r"([0-9]{1,2})(?::(?=[0-9])|[.](?=[0-9]{2}\s*uhr))([0-9]{2})(?::[0-9]{2})?(?:\s*(am|pm|uhr))?",
    re.IGNORECASE,
)
_DEADLINES: Final = (
    "give a time such as 06:30, a span such as 8h, or a date such as 2026-11-23 "
    "06:30 or 23.11.2026 06:30"
)
_MAX_AHEAD: Final = timedelta(days=366)


def check_spreadsheet_damage(text: str) -> None:
    """Refuse an id that a spreadsheet program has turned into a number, a date or an error: it
    cannot be known again.

    >>> check_spreadsheet_damage("1,23457E+11")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: '1,23457E+11' is a number that a spreadsheet program made of a code, and its ...
    """
    if _SCIENTIFIC.fullmatch(text):
        raise ValueError(
            f"{text!r} is a number that a spreadsheet program made of a code, and its digits are "
            f"lost; {_AS_TEXT}"
        )
    if _DATE.fullmatch(text):
        raise ValueError(
            f"{text!r} is a date that a spreadsheet program made of a code; {_AS_TEXT}"
        )
    if text.startswith("#"):
        raise ValueError(
            f"{text!r} is an error of a spreadsheet program, or a column too narrow to show its "
            f"number; {_AS_TEXT}"
        )


def rounded_digits(text: str) -> bool:
    """Return whether a number looks rounded: Excel keeps 15 digits and writes zeros for the others.

    >>> rounded_digits("4012345678901230000"), rounded_digits("401234567890123")
    (True, False)
    """
    return text.isascii() and text.isdigit() and len(text) > 16 and not text[15:].strip("0")


def parse_whole_number(text: str, *, lowest: int, highest: int) -> int:
    """Return a whole number, also where a spreadsheet program wrote it as 200.0 or 200,00.

    >>> parse_whole_number("200,0", lowest=1, highest=1000)
    200
    """
    found = re.fullmatch(r"([+-]?[0-9]{1,15})(?:[.,]0{1,2})?", text)
    if found is None:
        raise ValueError(
            f"{text[:40]!r} is not a whole number; give one such as {max(lowest, 200)}, without "
            f"separators"
        )
    number = int(found[1])
    if not lowest <= number <= highest:
        raise ValueError(f"{number} is out of range; give {lowest} to {highest}")
    return number


def parse_flag(text: str) -> bool:
    """Return yes or no."""
    if text.casefold() in _YES:
        return True
    if text.casefold() in _NO:
        return False
    raise ValueError(f"{text[:40]!r} is neither yes nor no; give 'yes' or leave the cell empty")


def parse_protocol(text: str) -> BatchProtocol:
    """Return the protocol, also by the other names of the passes."""
    key = re.sub(r"[\s_-]+", "-", text.casefold())
    if key not in _PROTOCOLS:
        raise ValueError(
            f"{text[:40]!r} is no protocol; give one-pass, two-pass (each slide is stained after "
            f"its bright field) or two-pass-list (all are stained after the bright field of the "
            "last)"
        )
    return _PROTOCOLS[key]


def parse_preparation(text: str) -> str:
    """Return the preparation of a virtual specimen."""
    allowed = get_args(Preparation)
    if text not in allowed:
        raise ValueError(f"{text[:40]!r} is no preparation; give {' or '.join(allowed)}")
    return text


def parse_precision(text: str) -> tuple[str, ...]:
    """Return precision targets as `run --precision` takes them.

    Decimal commas and any separator are understood.

    >>> parse_precision("NEU:2,5%; eos: 2"), parse_precision("NEU:5%,LYM:5%")
    (('NEU:2.5%', 'eos:2%'), ('NEU:5%', 'LYM:5%'))
    """
    targets, position = [], 0
    while position < len(text):
        found = _TARGET.match(text, position)
        if found is None:
            raise ValueError(
                f"{text[:60]!r} is no precision; give CLASS:H% for each class, for example NEU:5% "
                f"or 'NEU:2.5% EOS:2%'"
            )
        target = parse_target(f"{found[1]}:{found[2].replace(',', '.')}")
        targets.append(f"{target.name}:{target.half_width_percent:g}%")
        position = found.end()
        if separator := re.compile(r"[;,/|+&\s]+").match(text, position):
            position = separator.end()
    return tuple(targets)


def parse_deadline(text: str, now: datetime, accepted: datetime | None = None) -> datetime:
    """Return the time of a deadline, in local time.

    Args:
        text: as `run --deadline` takes it, a date (its end is meant), or a date and a time; year
            first, or day first with dots.
        now: with its time zone.
        accepted: a deadline that may be past: the row had it when it was started.

    Raises:
        ValueError: it is none of these, is past, or is more than a year ahead.
    """
    try:
        at = _on_date(text) or _next(text, now)
    except (OverflowError, OSError) as error:
        raise ValueError(f"{text[:40]!r} is no deadline; {_DEADLINES}") from error
    if at <= now and at != accepted:
        raise ValueError(
            f"the deadline {text!r} is past: it is {now.astimezone():%Y-%m-%d %H:%M} now; give a "
            f"later one"
        )
    if at > now + _MAX_AHEAD:
        raise ValueError(f"the deadline {text!r} is more than a year ahead; correct the year")
    return at


def _on_date(text: str) -> datetime | None:
    """Return the time on a date; ``None`` if the text has no date."""
    if found := _YEAR_FIRST.fullmatch(text):
        year, month, day, time = found.groups()
    elif found := _DAY_FIRST.fullmatch(text):
        day, month, year, time = found.groups()
        year = f"20{year}" if len(year) == 2 else year
    else:
        return None
    hour, minute = _clock(time) if time else (23, 59)
    try:
        return datetime(int(year), int(month), int(day), hour, minute).astimezone()
    except ValueError as error:
        raise ValueError(f"{text[:40]!r} is no date of the calendar; {_DEADLINES}") from error


def _clock(text: str) -> tuple[int, int]:
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text[:40]!r} is no deadline; {_DEADLINES}")
    hour, minute, half = int(found[1]), int(found[2]), (found[3] or "").casefold()
    if half in ("am", "pm"):
        if not 1 <= hour <= 12:
            raise ValueError(f"{text[:40]!r} is not a time of day; {_DEADLINES}")
        hour = hour % 12 + 12 * (half == "pm")
    if hour > 23 or minute > 59:
        raise ValueError(f"{text[:40]!r} is not a time of day; give 00:00 to 23:59")
    return hour, minute


def _next(text: str, now: datetime) -> datetime:
    """Return the time after a span, or the next time of day."""
    if _TIME.fullmatch(text):
        hour, minute = _clock(text)
        # Without a zone, so that the time of day holds on both sides of a change to or from summer
        # time.
        return deadline_time(
            f"{hour}:{minute:02}", now.astimezone().replace(tzinfo=None)
        ).astimezone()
    try:
        return deadline_time(text, now)
    except ValueError as error:
        raise ValueError(f"{text[:40]!r} is no deadline; {_DEADLINES}") from error
