"""The competence test: a reader calls, blind, cells whose class others have decided."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import numpy as np

from wbcpipe.errors import SampleStateError
from wbcpipe.report.differential import interval_percent
from wbcpipe.review.proficiency.records import ClassResult, CompetenceResult
from wbcpipe.review.readers.consensus import consensus_of
from wbcpipe.review.statistics.agreement import compare_readers
from wbcpipe.samples.review.blind_calls import COMPETENCE, is_competence_reading
from wbcpipe.samples.review.entries import Reading

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wbcpipe.review.readers.calls import ReadSample

__all__ = [
    "LIMIT_PERCENT",
    "TEST_CELLS",
    "ReferenceCell",
    "begin_competence",
    "reference_cells",
    "score_competence",
]

TEST_CELLS: Final = 50
LIMIT_PERCENT: Final = 90.0
"""Of the cells, to be called as decided."""


@dataclass(frozen=True)
class ReferenceCell:
    """A cell of the laboratory's reference library.

    Attributes:
        sample: its name.
        cell: name of the cell.
        label: the class that was decided.
        how: ``adjudicated``, ``agreed`` or ``majority``.
        by: who adjudicated; empty otherwise.
        readers: who called it blind.
        why: of the adjudication.
    """

    sample: str
    cell: str
    label: str
    how: str
    by: str
    readers: tuple[str, ...]
    why: str


def reference_cells(samples: Sequence[ReadSample]) -> list[ReferenceCell]:
    """Return the laboratory's reference cells: adjudicated, or called alike by blind readers.

    Args:
        samples: in the order of the result.
    """
    return [
        ReferenceCell(
            sample.name, item.cell, item.to, item.how, item.by, tuple(item.calls), item.why
        )
        for sample in samples
        for item in consensus_of(sample)
        if item.to
    ]


def begin_competence(
    sample: ReadSample, reader: str, *, cells: int = TEST_CELLS, seed: int
) -> Reading:
    """Return the entry that begins a competence test: a blind reading of reference cells that
    others decided.

    Every class is drawn alike often, as far as there are cells; cells that the reader called,
    adjudicated or assigned are left out.

    Args:
        sample: with reference cells.
        reader: who is tested.
        cells: how many.
        seed: of the draw.

    Raises:
        SampleStateError: there is no reference cell that others decided.
    """
    seen = set(sample.state.assigned(reader))
    known = {
        item.cell
        for item in reference_cells([sample])
        if reader in (*item.readers, item.by) or item.cell in seen
    }
    by_class: dict[str, list[str]] = defaultdict(list)
    for item in reference_cells([sample]):
        if item.cell not in known:
            by_class[item.label].append(item.cell)
    if not by_class:
        raise SampleStateError(
            f"{sample.name}: no cell was decided by others than {reader}; two readers call cells "
            f"blind first, and adjudicate what differs."
        )
    rng = np.random.default_rng(seed)
    shuffled = [rng.permutation(members).tolist() for _, members in sorted(by_class.items())]
    # Round after round one cell of each class, so that rare ones are in every test.
    rounds = [
        members[turn]
        for turn in range(max(map(len, shuffled)))
        for members in shuffled
        if turn < len(members)
    ]
    drawn = tuple(str(cell) for cell in rng.permutation(rounds[:cells]))
    number = sum(is_competence_reading(name) for name in sample.state.readings) + 1
    return Reading(event="start", reading=f"{COMPETENCE}{number}-{seed}", seed=seed, cells=drawn)


def score_competence(
    samples: Sequence[ReadSample],
    reader: str,
    *,
    limit_percent: float = LIMIT_PERCENT,
    skip: Sequence[tuple[str, str]] = (),
) -> CompetenceResult:
    """Score the finished competence tests of a reader against what others decided.

    Args:
        samples: that were read.
        reader: who was tested.
        limit_percent: from which the test is passed.
        skip: sample and name of readings that were scored before.

    Raises:
        SampleStateError: the reader has no such reading.
    """
    readings: list[tuple[str, str]] = []
    called: list[str] = []
    decided: list[str] = []
    classes: tuple[str, ...] = ()
    for sample in samples:
        reference = {item.cell: item.label for item in reference_cells([sample])}
        for reading in sample.state.readings.values():
            key = (sample.name, reading.reading)
            own = (
                reading.reader == reader
                and reading.finished
                and is_competence_reading(reading.reading)
            )
            if not own or key in skip:
                continue
            readings.append(key)
            classes = tuple(dict.fromkeys((*classes, *sample.rows.classes)))
            for cell in reading.cells:
                if cell in reference:
                    decided.append(reference[cell])
                    called.append(reading.calls.get(cell, "not called"))
    if not decided:
        raise SampleStateError(
            f"{reader!r} has no finished competence test that was not scored; begin one with "
            f"--begin and read the cells on the review page."
        )
    found = compare_readers(called, decided, classes)
    percent = 100 * found.agreed / found.cells
    return CompetenceResult(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        reader=reader,
        limit_percent=limit_percent,
        passed=percent >= limit_percent,
        readings=tuple(readings),
        cells=found.cells,
        right=found.agreed,
        percent=percent,
        interval_percent=interval_percent(found.agreed, found.cells),
        kappa=found.kappa and (found.kappa.value, found.kappa.low, found.kappa.high),
        classes={
            entry.name: ClassResult(cells=entry.both + entry.only_second, right=entry.both)
            for entry in found.by_class
            if entry.both + entry.only_second
        },
    )
