"""The classes that a reader, or the machine, gave the cells of a sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wbcpipe.errors import SampleStateError
from wbcpipe.laboratory.lab_file import find_lab
from wbcpipe.report.reviewed_cells import row_keys
from wbcpipe.report.rows import read_rows
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.review.blind_calls import is_competence_reading
from wbcpipe.samples.review.carry_over import carry_over
from wbcpipe.samples.review.journal import Journal, journal_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wbcpipe.report.rows import CellRows
    from wbcpipe.samples.review.replay import ReviewState
    from wbcpipe.samples.sample import Sample

__all__ = ["MACHINE", "Calls", "ReadSample", "calls_of", "open_read_sample"]

MACHINE: Final = "machine"
"""Name under which the machine's classes are compared with a reader's."""


@dataclass(frozen=True)
class Calls:
    """The classes that one reader gave.

    Attributes:
        reader: who, or `MACHINE`.
        by_cell: name of the cell to class, in the order in which the cells were read.
        blind: the reader saw neither the machine's classes nor another reader's.
        finished: no blind reading of the reader is open.
    """

    reader: str
    by_cell: dict[str, str]
    blind: bool
    finished: bool = True


@dataclass(frozen=True)
class ReadSample:
    """A classified sample and what its readers did.

    Attributes:
        name: of the sample.
        rows: its cells.
        keys: N names of the cells, in the order of ``rows``.
        state: of the review.
        not_white: classes of the laboratory that are no white cells, counted per 100 of them.
    """

    name: str
    rows: CellRows
    keys: tuple[str, ...]
    state: ReviewState
    not_white: tuple[str, ...] = ()

    @property
    def countable(self) -> list[str]:
        """Names of the cells that no quality flag excludes."""
        return [
            key
            for key, reason in zip(self.keys, self.rows.exclusion_reason, strict=True)
            if not reason
        ]

    @property
    def readers(self) -> list[str]:
        """Everyone who read blind or gave a class, in order of their first entry."""
        found = [reading.reader for reading in self.state.readings.values()]
        return list(
            dict.fromkeys([*found, *(edit.entry.reader for edit in self.state.edits.values())])
        )


def open_read_sample(sample: Sample) -> ReadSample:
    """Read the cells and the journal of a sample, and the laboratory's file in its data root.

    Raises:
        SampleStateError: no such sample, no classified cells, or a damaged file.
        ConfigError: the laboratory's file is not valid.
    """
    sample.record()
    rows = read_rows(CellStore(sample.cells_path))
    keys = row_keys(rows)
    journal = Journal(journal_path(sample))
    carry_over(journal, keys, rows.digest())
    lab = find_lab(sample.path.parent)
    not_white = tuple(extra.name for extra in lab.extra_classes if not extra.white_cell)
    return ReadSample(sample.name, rows, tuple(keys), journal.state(), not_white)


def calls_of(sample: ReadSample, reader: str) -> Calls:
    """Return the classes that a reader gave.

    They are those of the reader's blind readings, all together, the last one of a cell. Of a reader
    without a blind reading they are the classes that the reader assigned, and those with which the
    reader looked at cells and left
    them: these were given in view of the machine's.

    Args:
        sample: that was read.
        reader: name of a reader, or `MACHINE` for the machine's classes of the cells that count.

    Raises:
        SampleStateError: the reader called no cell.
    """
    if reader == MACHINE:
        named = zip(
            sample.keys, sample.rows.predicted_class, sample.rows.exclusion_reason, strict=True
        )
        return Calls(MACHINE, {key: name for key, name, reason in named if not reason}, blind=True)
    own = [
        reading
        for reading in sample.state.readings.values()
        if reading.reader == reader and not is_competence_reading(reading.reading)
    ]
    calls = {key: name for reading in own for key, name in reading.calls.items()}
    if calls:
        return Calls(reader, calls, blind=True, finished=all(reading.finished for reading in own))
    machine = dict(zip(sample.keys, sample.rows.predicted_class, strict=True))
    looked = {
        key: seen[reader] or machine[key]
        for key, seen in sample.state.looked.items()
        if reader in seen and key in machine
    }
    assigned = {
        key: given.to for key, given in sample.state.assigned(reader).items() if key in machine
    }
    if not looked and not assigned:
        raise SampleStateError(
            f"{sample.name}: {reader!r} called no cell; readers of this sample: "
            f"{_listed(sample.readers)}, and {MACHINE!r}."
        )
    return Calls(reader, {**looked, **assigned}, blind=False)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"
