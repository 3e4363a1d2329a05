"""What blind readers called a cell, and whether they agree; pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wbcpipe.samples.review.replay import ReviewState

__all__ = ["COMPETENCE", "Decision", "blind_calls", "decide", "is_competence_reading"]

COMPETENCE: Final = "competence-"
"""Beginning of the name of a blind reading that tests the reader: its calls decide nothing about
the cells.
"""

How: TypeAlias = Literal["agreed", "majority", "open"]


class Decision(NamedTuple):
    """What follows from the calls of two or more readers.

    Attributes:
        to: the class; empty while the readers differ.
        how: all called it so; most of three or more did; or it is open.
    """

    to: str
    how: How


def is_competence_reading(reading: str) -> bool:
    """Return whether a blind reading of this name tests the reader."""
    return reading.startswith(COMPETENCE)


def blind_calls(state: ReviewState) -> dict[str, dict[str, str]]:
    """Return name of each cell to reader to class, of blind readings.

    A reader's last call of a cell counts.

    Readings that test a reader are left out.
    """
    found: dict[str, dict[str, str]] = {}
    for reading in state.readings.values():
        if is_competence_reading(reading.reading):
            continue
        for cell, to in reading.calls.items():
            found.setdefault(cell, {})[reading.reader] = to
    return found


def decide(calls: Mapping[str, str]) -> Decision | None:
    """Return what readers decide about a cell; ``None`` for fewer than two.

    >>> decide({"ann": "NEU", "ben": "NEU", "cat": "MO"})
    Decision(to='NEU', how='majority')
    """
    if len(calls) < 2:
        return None
    (to, votes), *_ = Counter(calls.values()).most_common(1)
    if votes == len(calls):
        return Decision(to, "agreed")
    return Decision(to, "majority") if 2 * votes > len(calls) else Decision("", "open")
