"""Compare two readers of a sample, or a reader and the machine.

Cells that differ, kappa, and the two counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wbcpipe.report.count_comparison import differ_by_chance, paired_differ_by_chance, rumke_limits
from wbcpipe.review.readers.calls import calls_of
from wbcpipe.review.statistics.agreement import compare_readers
from wbcpipe.samples.cell_columns import UNIDENTIFIED
from wbcpipe.samples.review.entries import ARTEFACT, NOT_CLASSED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wbcpipe.review.readers.calls import Calls, ReadSample
    from wbcpipe.review.statistics.agreement import Agreement

__all__ = [
    "NO_CLASS",
    "ClassCounts",
    "DifferingCell",
    "ReaderComparison",
    "compare_counts",
    "compare_two",
    "white_counts",
]

NO_CLASS: Final = (UNIDENTIFIED, NOT_CLASSED, ARTEFACT)
"""Calls that are no class of white cell."""


@dataclass(frozen=True)
class ClassCounts:
    """One class in two counts; percentages are of the white cells that the reader gave a class.

    Attributes:
        name: class name.
        first, second: cells.
        first_percent, second_percent: ``None`` without cells.
        first_limits, second_limits: 95 % limits in whole per cent (Rümke).
        p_value: probability that chance alone makes them differ as much: McNemar's exact test where
            both counted the same cells, else Fisher's.
    """

    name: str
    first: int
    second: int
    first_percent: float | None
    second_percent: float | None
    first_limits: tuple[int, int]
    second_limits: tuple[int, int]
    p_value: float


@dataclass(frozen=True)
class DifferingCell:
    """A cell that two readers call differently, and its row in the cell table."""

    cell: str
    row: int
    first: str
    second: str


@dataclass(frozen=True)
class ReaderComparison:
    """Two readers of one sample.

    Attributes:
        sample: its name.
        first, second: the readers.
        blind: both read blind; the machine always does.
        finished: no reading of theirs is open.
        agreement: on the cells that both called.
        differ: of those, the cells with two classes, in the order of the cell table.
        counts: of all cells that each called.
        cells: called by the first and by the second reader.
    """

    sample: str
    first: str
    second: str
    blind: bool
    finished: bool
    agreement: Agreement
    differ: tuple[DifferingCell, ...]
    counts: tuple[ClassCounts, ...]
    cells: tuple[int, int]


def compare_two(sample: ReadSample, first: str, second: str) -> ReaderComparison:
    """Compare two readers, or a reader and the machine, on the cells that both called.

    Args:
        sample: that was read.
        first, second: names of readers, or ``machine``.

    Raises:
        SampleStateError: one of them called no cell.
    """
    one, other = calls_of(sample, first), calls_of(sample, second)
    shared = [
        row for row, key in enumerate(sample.keys) if key in one.by_cell and key in other.by_cell
    ]
    names = [(one.by_cell[sample.keys[row]], other.by_cell[sample.keys[row]]) for row in shared]
    return ReaderComparison(
        sample=sample.name,
        first=first,
        second=second,
        blind=one.blind and other.blind,
        finished=one.finished and other.finished,
        agreement=compare_readers(
            [a for a, _ in names], [b for _, b in names], sample.rows.classes
        ),
        differ=tuple(
            DifferingCell(sample.keys[row], row, a, b)
            for row, (a, b) in zip(shared, names, strict=True)
            if a != b
        ),
        counts=compare_counts(one, other, sample.rows.classes, sample.not_white),
        cells=(len(one.by_cell), len(other.by_cell)),
    )


def white_counts(
    calls: Mapping[str, str], classes: Sequence[str], not_white: Sequence[str]
) -> dict[str, int]:
    """Return the cells of each class of white cell: without `NO_CLASS` and the classes
    ``not_white``.
    """
    counted = [name for name in calls.values() if name not in (*NO_CLASS, *not_white)]
    return {
        name: counted.count(name)
        for name in dict.fromkeys((*classes, *sorted(set(counted) - set(classes))))
    }


def compare_counts(
    first: Calls, second: Calls, classes: Sequence[str], not_white: Sequence[str] = ()
) -> tuple[ClassCounts, ...]:
    """Compare what two readers counted, class by class.

    Where they called the same cells, McNemar's test compares them; where they share none or some,
    Fisher's, which for shared cells tells them apart less often.
    """
    one, other = (white_counts(calls.by_cell, classes, not_white) for calls in (first, second))
    total_one, total_other = sum(one.values()), sum(other.values())
    paired = set(first.by_cell) == set(second.by_cell)
    found = []
    for name in dict.fromkeys((*one, *other)):
        a, b = one.get(name, 0), other.get(name, 0)
        if paired:
            only_first = sum(
                call == name != second.by_cell[cell] for cell, call in first.by_cell.items()
            )
            only_second = sum(
                call == name != first.by_cell[cell] for cell, call in second.by_cell.items()
            )
            p_value = paired_differ_by_chance(only_first, only_second)
        else:
            p_value = differ_by_chance(a, total_one, b, total_other)
        found.append(
            ClassCounts(
                name=name,
                first=a,
                second=b,
                first_percent=100 * a / total_one if total_one else None,
                second_percent=100 * b / total_other if total_other else None,
                first_limits=rumke_limits(a, total_one),
                second_limits=rumke_limits(b, total_other),
                p_value=p_value,
            )
        )
    return tuple(found)
