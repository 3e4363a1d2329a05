"""Text of HL7 v2.5.1: fields, components, escape sequences and times."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wbcpipe.exchange.documents.envelope import refuse

if TYPE_CHECKING:
    from wbcpipe.errors import DocumentError

__all__ = ["SegmentText", "components", "escape", "from_time", "join", "to_time", "unescape"]

_ESCAPES: Final = {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\"}
_PLAIN: Final = {sequence: character for character, sequence in _ESCAPES.items()}
_SEQUENCE: Final = re.compile(r"\\[^\\]*\\?")
_TIME: Final = re.compile(r"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\.\d{3})?\+0000")


def escape(text: str) -> str:
    r"""Return a text without characters that part fields.

    >>> escape("A|B & C")
    'A\\F\\B \\T\\ C'
    """
    return "".join(_ESCAPES.get(character, character) for character in text)


def unescape(text: str) -> str:
    """Return the text of `escape`.

    Raises:
        ValueError: it has another escape sequence.
    """

    def plain(found: re.Match[str]) -> str:
        if found[0] not in _PLAIN:
            raise ValueError(f"the escape sequence {found[0]!r} is not known")
        return _PLAIN[found[0]]

    return _SEQUENCE.sub(plain, text)


def join(*parts: str) -> str:
    """Return components as a field, each escaped; empty ones at the end are left out."""
    return "^".join(escape(part) for part in parts).rstrip("^")


def components(field: str, count: int) -> list[str]:
    """Return the components of a field, ``count`` of them, empty where there are fewer.

    Raises:
        ValueError: there are more, or a repetition.
    """
    if "~" in field:
        raise ValueError("a repetition, where one value is expected")
    found = field.split("^")
    if len(found) > count:
        raise ValueError(f"{len(found)} components, where at most {count} are expected")
    return [unescape(part) for part in found] + [""] * (count - len(found))


def to_time(iso: str) -> str:
    """Return a UTC time of ISO 8601 as HL7 writes it.

    >>> to_time("2026-11-30T06:15:00+00:00")
    '20261130061500+0000'
    """
    return iso.replace("-", "").replace("T", "").replace(":", "")


def from_time(text: str) -> str:
    """Return the time of `to_time` in ISO 8601.

    Raises:
        ValueError: it is no time in UTC.
    """
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError(f"{text[:40]!r} is no time in UTC, such as 20261130061500+0000")
    year, month, day, hour, minute, second, fraction = found.groups()
    return f"{year}-{month}-{day}T{hour}:{minute}:{second}{fraction or ''}+00:00"


@dataclass(frozen=True)
class SegmentText:
    """One segment of a message that is read.

    Attributes:
        line: its number, from 1.
        name: such as ``OBX``.
        fields: as the message holds them; index 0 is the name, so that field n has index n. MSH-1
            is the separator.
    """

    line: int
    name: str
    fields: tuple[str, ...]

    @classmethod
    def parse(cls, line: int, text: str) -> SegmentText:
        """Split a segment into its fields."""
        fields = text.split("|")
        if fields[0] == "MSH":
            fields.insert(1, "|")
        return cls(line, fields[0], tuple(fields))

    @property
    def er7(self) -> str:
        """The segment as the message holds it."""
        if self.name == "MSH":
            return "|".join((self.name, *self.fields[2:]))
        return "|".join(self.fields)

    def raw(self, number: int) -> str:
        """Return a field; empty where the segment ends before it."""
        return self.fields[number] if number < len(self.fields) else ""

    def text(self, number: int) -> str:
        """Return a field of one component."""
        return self.parts(number, 1)[0]

    def parts(self, number: int, count: int) -> list[str]:
        """Return the components of a field; see `components`."""
        try:
            return components(self.raw(number), count)
        except ValueError as error:
            raise self.refuse(number, str(error)) from error

    def refuse(self, number: int, reason: str) -> DocumentError:
        """Return the error about a field."""
        return refuse(self.line, f"{self.name}-{number}", reason)
