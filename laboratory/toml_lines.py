"""The line of a key in a TOML file, for messages: tomllib does not keep it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["line_of_key"]

_HEADER: Final = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
_ENTRY: Final = re.compile(
    r"\s*((?:[\w-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*(?:[\w-]+|\"[^\"]*\"|'[^']*'))*)\s*="
)
_PART: Final = re.compile(r"[\w-]+|\"[^\"]*\"|'[^']*'")


def line_of_key(text: str, location: Sequence[str | int]) -> int:
    """Return the line, from 1, of the key at a location, or of the nearest key that contains it.

    Args:
        text: of the TOML file.
        location: such as ``("reflex", 1, "above")``.

    >>> line_of_key("a = 1\\n[[b]]\\nc = 1\\n[[b]]\\nc = 2\\n", ("b", 1, "c"))
    5
    """
    wanted = tuple(str(part) for part in location)
    best, depth = 1, 0
    table: tuple[str, ...] = ()
    arrays: dict[tuple[str, ...], int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = _resolve(_parts(header[2]), arrays, new=header[1] == "[[")
            here = table
        elif entry := _ENTRY.match(line):
            here = (*table, *_parts(entry[1]))
        else:
            continue
        # A key that has no line of its own, such as a missing one, has that of the table that lacks
        # it.
        if len(here) > depth and wanted[: len(here)] == here:
            best, depth = number, len(here)
    return best


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _PART.findall(name))


def _resolve(
    parts: tuple[str, ...], arrays: dict[tuple[str, ...], int], *, new: bool
) -> tuple[str, ...]:
    """Return the location of a header: after the name of an array of tables stands the number of
    its last table.
    """
    found: tuple[str, ...] = ()
    for k, part in enumerate(parts, 1):
        found = (*found, part)
        if new and k == len(parts):
            arrays[found] = arrays.get(found, -1) + 1
        if found in arrays:
            found = (*found, str(arrays[found]))
    return found
