"""The reference differential of two readers, in the manner of CLSI H20-A2: 200 cells each, the mean
of both.

CLSI H20-A2 (Reference Leukocyte Differential Count, 2007): two qualified examiners count 200 cells
each; the reference is the mean of their percentages; where they differ by more than chance, a third
examiner counts.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from wbcpipe.classify.uncertainty.clopper_pearson import clopper_pearson
from wbcpipe.errors import SampleStateError
from wbcpipe.report.count_comparison import rumke_limits
from wbcpipe.review.readers.blind import READING_CELLS
from wbcpipe.review.readers.calls import Calls, calls_of
from wbcpipe.review.readers.compare import compare_counts, white_counts
from wbcpipe.review.readers.consensus import adjudications, consensus_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wbcpipe.review.readers.calls import ReadSample

__all__ = ["ReaderCount", "ReadersReference", "ReferenceClass", "build_reference"]

_LEVEL: Final = 0.05
_DIGITS: Final = 6


@dataclass(frozen=True)
class ReaderCount:
    """What one reader contributes.

    Attributes:
        reader: who.
        cells: called in blind readings.
        white: of them, cells of a class: the denominator of the percentages.
        adjudicated: cells whose call an adjudication, or most of the readers, replaced.
        counts: white cells by class.
    """

    reader: str
    cells: int
    white: int
    adjudicated: int
    counts: dict[str, int]


@dataclass(frozen=True)
class ReferenceClass:
    """One class of the reference.

    Attributes:
        name: class name.
        percent: mean of the readers' percentages.
        interval_percent: 95 % Clopper-Pearson interval, on the number of different white cells.
        limits_percent: the same in whole per cent (Rümke).
        by_reader: each reader's percentage, as read, before adjudication.
        p_value: the smallest probability that chance alone makes two of them differ as much.
    """

    name: str
    percent: float
    interval_percent: tuple[float, float]
    limits_percent: tuple[int, int]
    by_reader: tuple[float, ...]
    p_value: float


@dataclass(frozen=True)
class ReadersReference:
    """A reference differential of readers.

    Attributes:
        sample: its name.
        readers: two or more.
        white_cells: different cells of a class, of all readers.
        classes: in the order of the model's.
        open_cells: names of cells on which the readers differ and which nobody has decided; they
            count as read.
        discordant: classes in which two readers differ by more than chance, as read.
        notes: what is less than CLSI H20-A2 asks for, each one sentence.
    """

    sample: str
    readers: tuple[ReaderCount, ...]
    white_cells: int
    classes: tuple[ReferenceClass, ...]
    open_cells: tuple[str, ...]
    discordant: tuple[str, ...]
    notes: tuple[str, ...]

    def content(self) -> dict[str, Any]:
        """Return all of it as JSON holds it."""
        return asdict(self)

    def file_content(self, date: str) -> dict[str, Any]:
        """Return what `wbcpipe evaluate --reference-differential` reads.

        Args:
            date: ISO 8601.
        """
        counted = " and ".join(f"{count.reader} ({count.white})" for count in self.readers)
        shares = {entry.name: entry.percent for entry in self.classes}
        total = sum(shares.values())
        return {
            "source": f"blind readings of {self.sample} by {counted}, {date}"[:200],
            "method": "mean of the readers' percentages, in the manner of CLSI H20-A2",
            "cells": self.white_cells,
            "percent": {
                name: round(100 * share / total, _DIGITS) for name, share in shares.items()
            },
        }


def build_reference(sample: ReadSample, readers: Sequence[str]) -> ReadersReference:
    """Return the reference differential of two or more readers.

    A cell that several of them called and an adjudication, or most of three readers, decided has
    that class for each of them. The interval is that of the mean share among the different white
    cells: cells that both counted count once.

    Args:
        sample: that was read.
        readers: names of two or more, who read blind.

    Raises:
        SampleStateError: fewer than two readers, one who did not read blind, or no white cell.
    """
    if len(set(readers)) < 2 or len(set(readers)) < len(readers):
        raise SampleStateError(
            f"{sample.name}: readers {', '.join(readers) or 'none'}; a reference needs two "
            f"different ones or more."
        )
    read = [calls_of(sample, reader) for reader in readers]
    if seeing := [calls.reader for calls in read if not calls.blind]:
        raise SampleStateError(
            f"{sample.name}: {seeing[0]!r} did not read blind; a reference needs blind readings "
            f"(`wbcpipe review`)."
        )
    decided = {
        item.cell: item.to for item in consensus_of(sample, readers) if item.how == "majority"
    }
    decided |= {cell: item.to for cell, item in adjudications(sample).items()}
    final = [
        Calls(
            calls.reader,
            {cell: decided.get(cell, name) for cell, name in calls.by_cell.items()},
            blind=True,
        )
        for calls in read
    ]
    counts = [white_counts(calls.by_cell, sample.rows.classes, sample.not_white) for calls in final]
    if empty := [
        calls.reader for calls, count in zip(final, counts, strict=True) if not sum(count.values())
    ]:
        raise SampleStateError(
            f"{sample.name}: {empty[0]!r} called no white cell; read more cells."
        )
    names = tuple(dict.fromkeys(name for count in counts for name in count))
    white = len({cell for calls in final for cell, to in calls.by_cell.items() if to in names})
    p_values = _least_p_values(read, sample, names)
    raw = [white_counts(calls.by_cell, sample.rows.classes, sample.not_white) for calls in read]
    opened = tuple(item.cell for item in consensus_of(sample, readers) if item.how == "open")
    discordant = tuple(name for name in names if p_values[name] < _LEVEL)
    return ReadersReference(
        sample=sample.name,
        readers=tuple(
            ReaderCount(
                calls.reader,
                len(calls.by_cell),
                sum(count.values()),
                sum(before.by_cell[cell] != name for cell, name in calls.by_cell.items()),
                count,
            )
            for before, calls, count in zip(read, final, counts, strict=True)
        ),
        white_cells=white,
        classes=tuple(_class(name, counts, raw, white, p_values[name]) for name in names),
        open_cells=opened,
        discordant=discordant,
        notes=tuple(_notes(read, counts, opened, discordant)),
    )


def _class(
    name: str,
    counts: Sequence[dict[str, int]],
    raw: Sequence[dict[str, int]],
    white: int,
    p_value: float,
) -> ReferenceClass:
    share = sum(count.get(name, 0) / sum(count.values()) for count in counts) / len(counts)
    low, high = clopper_pearson(min(share, 1.0) * white, white)
    return ReferenceClass(
        name=name,
        percent=100 * share,
        interval_percent=(100 * low, 100 * high),
        limits_percent=rumke_limits(min(share, 1.0) * white, white),
        by_reader=tuple(100 * count.get(name, 0) / max(sum(count.values()), 1) for count in raw),
        p_value=p_value,
    )


def _least_p_values(
    read: Sequence[Calls], sample: ReadSample, names: Sequence[str]
) -> dict[str, float]:
    """Return by class the smallest probability of the differences between any two readers, as
    read.
    """
    least = dict.fromkeys(names, 1.0)
    for position, first in enumerate(read):
        for second in read[position + 1 :]:
            for entry in compare_counts(first, second, sample.rows.classes, sample.not_white):
                least[entry.name] = min(least.get(entry.name, 1.0), entry.p_value)
    return least


def _notes(
    read: Sequence[Calls],
    counts: Sequence[dict[str, int]],
    opened: Sequence[str],
    discordant: Sequence[str],
) -> list[str]:
    notes = []
    for calls, count in zip(read, counts, strict=True):
        white = sum(count.values())
        if white < READING_CELLS:
            notes.append(
                f"{calls.reader} counted {white} white cells; {READING_CELLS} are asked for."
            )
        if not calls.finished:
            notes.append(f"{calls.reader} has not finished a reading.")
    shared = set.intersection(*(set(calls.by_cell) for calls in read))
    if shared:
        notes.append(
            f"{len(shared)} cells were read by all: the readers' errors are averaged, the "
            f"sampling error is not."
        )
    if opened:
        notes.append(
            f"Not adjudicated: {len(opened)} of the cells that the readers call differently."
        )
    if discordant and len(read) == 2 and (opened or not shared):
        notes.append(
            f"The readers differ by more than chance in {', '.join(discordant)}: adjudicate, or "
            f"have a third one read."
        )
    return notes
