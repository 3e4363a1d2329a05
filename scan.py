"""Stages 1 and 2 at the same time: fields are segmented while the stage moves on, until enough cells are counted.

How many fields are taken depends only on what the fields hold, never on timing, so that a run that was broken takes
the same fields as one that was not.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["CALIBRATION_FIELDS", "FieldSource", "Segmenter", "next_field_count", "scan_until"]

#: Flat-field and registration prior are estimated from this many fields at the beginning of the plan.
CALIBRATION_FIELDS: Final = 16


class FieldSource(Protocol):
    """Takes planned fields, in order."""

    def take(self, wanted: int) -> Iterator[int | None]:
        """See that the first ``wanted`` planned fields are on disk.

        Yields:
            The index of each of them as it becomes available, in order; ``None`` for one recorded missing.
        """
        ...


class Segmenter(Protocol):
    """Turns fields into cells."""

    def calibrate(self, indices: list[int]) -> None:
        """Estimate what all fields share."""
        ...

    def process(self, index: int) -> object:
        """Segment one field."""
        ...

    def count(self) -> int:
        """Cells found so far that would count."""
        ...


def next_field_count(*, taken: int, cells: int, wanted_cells: int, expected_per_field: float, available: int) -> int:
    """How many of the planned fields to have, given what the first ``taken`` of them hold.

    Args:
        taken: planned fields looked at so far.
        cells: cells counted in them.
        wanted_cells: the target.
        expected_per_field: the scope file's guess, used before anything is known.
        available: fields in the plan.

    Returns:
        The number of leading fields to take; ``taken`` when it is enough or the plan is used up.

    >>> next_field_count(taken=0, cells=0, wanted_cells=200, expected_per_field=4.0, available=500)
    40
    >>> next_field_count(taken=40, cells=160, wanted_cells=200, expected_per_field=4.0, available=500)
    50
    >>> next_field_count(taken=50, cells=201, wanted_cells=200, expected_per_field=4.0, available=500)
    50
    """
    if taken and cells >= wanted_cells:
        return taken
    if not taken:
        # A little short of the guess: going on costs less than fields nobody asked for.
        first = max(CALIBRATION_FIELDS, math.ceil(0.8 * wanted_cells / expected_per_field))
        return min(first, available)
    per_field = max(cells / taken, 0.25)
    more = min(max(math.ceil((wanted_cells - cells) / per_field), 1), max(taken, CALIBRATION_FIELDS))
    return min(taken + more, available)


def scan_until(
    source: FieldSource,
    segmenter: Segmenter,
    *,
    decide: Callable[[int, int], int],
    progress: Callable[[int, int, int], None],
) -> list[int]:
    """Take and segment fields until ``decide`` asks for no more.

    Args:
        source: takes the fields.
        segmenter: segments them.
        decide: from fields taken and cells counted to the number of fields to have.
        progress: called with fields done, fields wanted and cells counted.

    Returns:
        The indices of the fields segmented, in order.
    """
    done: list[int] = []
    looked_at, waiting, calibrated = 0, [], False
    while (wanted := decide(looked_at, segmenter.count())) > looked_at:
        position = 0
        for index in source.take(wanted):
            position += 1
            if position <= looked_at:
                continue
            if index is not None:
                waiting.append(index)
            if not calibrated and position >= min(CALIBRATION_FIELDS, wanted) and waiting:
                segmenter.calibrate(list(waiting))
                calibrated = True
            while calibrated and waiting:
                done.append(waiting.pop(0))
                segmenter.process(done[-1])
            progress(position, wanted, segmenter.count())
        looked_at = wanted
    return done
