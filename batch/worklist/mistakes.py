"""Mistakes in a worklist: each with the lines of the file where it stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Mistake", "Mistakes", "join_lines", "mistakes_text"]


@dataclass(frozen=True)
class Mistake:
    """One mistake, or one warning.

    Attributes:
        lines: numbers of the lines of the file, from 1; empty where the file as such is meant.
        text: what was got, what is allowed, what to do; one sentence or more.
    """

    lines: tuple[int, ...]
    text: str

    def __str__(self) -> str:
        return f"{join_lines(self.lines)}: {self.text}" if self.lines else self.text


def join_lines(lines: Iterable[int]) -> str:
    """Return line numbers for people.

    >>> join_lines([3]), join_lines([4, 5, 9])
    ('line 3', 'lines 4, 5 and 9')
    """
    numbers = [str(line) for line in lines]
    if len(numbers) == 1:
        return f"line {numbers[0]}"
    return f"lines {', '.join(numbers[:-1])} and {numbers[-1]}"


@dataclass
class Mistakes:
    """The mistakes of a worklist; a text that several lines share is listed once."""

    _lines: dict[str, list[int]] = field(default_factory=dict)

    def add(self, line: int, text: str) -> None:
        """Add a mistake; line 0 stands for the file as such."""
        lines = self._lines.setdefault(" ".join(text.split()), [])
        if line and line not in lines:
            lines.append(line)

    def __bool__(self) -> bool:
        return bool(self._lines)

    def listed(self) -> tuple[Mistake, ...]:
        """Return the mistakes in the order of their first lines."""
        found = [Mistake(tuple(sorted(lines)), text) for text, lines in self._lines.items()]
        return tuple(sorted(found, key=lambda mistake: mistake.lines[:1]))


def mistakes_text(name: str, found: Sequence[Mistake]) -> str:
    """Return all mistakes, one a line, or a single one in one line.

    Args:
        name: of the file.
        found: one at least.
    """
    if len(found) == 1:
        return f"{name}: {found[0]}"
    return "\n  ".join([f"{name}: {len(found)} mistakes; correct them all:", *map(str, found)])
