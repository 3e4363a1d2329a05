"""The class that readers agree on: by the same call, by adjudication, or by a third reader's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from wbcpipe.review.readers.calls import calls_of
from wbcpipe.samples.review.blind_calls import blind_calls, decide
from wbcpipe.samples.review.entries import Adjudicate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wbcpipe.review.readers.calls import ReadSample

__all__ = ["Consensus", "adjudications", "blind_readers", "consensus_of", "to_adjudicate"]


@dataclass(frozen=True)
class Consensus:
    """The class of a cell on which readers agree.

    Attributes:
        cell: its name.
        to: the class; empty while the readers differ.
        how: every blind reader called it so; most of three or more did; or it was adjudicated.
        calls: reader to class, of the blind readings.
        why: of the adjudication.
        time: of the adjudication, UTC; empty otherwise.
        by: who adjudicated; empty otherwise.
    """

    cell: str
    to: str
    how: Literal["agreed", "majority", "adjudicated", "open"]
    calls: dict[str, str]
    why: str = ""
    time: str = ""
    by: str = ""


def blind_readers(sample: ReadSample) -> list[str]:
    """Return who called a cell in a blind reading, in order of the first call."""
    return list(
        dict.fromkeys(reader for calls in blind_calls(sample.state).values() for reader in calls)
    )


def adjudications(sample: ReadSample) -> dict[str, Consensus]:
    """Return the adjudicated cells by name, the last adjudication of each that was not undone."""
    return {
        cell: Consensus(
            cell,
            to,
            "adjudicated",
            {},
            edit.entry.action.why,
            edit.entry.time,
            edit.entry.reader,
        )
        for edit in sample.state.edits.values()
        if edit.active and isinstance(edit.entry.action, Adjudicate)
        for cell, to in edit.cells.items()
    }


def consensus_of(sample: ReadSample, readers: Sequence[str] = ()) -> list[Consensus]:
    """Return what is agreed about each cell that two or more readers called blind, or that was
    adjudicated.

    An adjudication counts before the calls. Without one the class is that of all readers, or, of
    three or more, that of more than half of them.

    Args:
        sample: that was read.
        readers: whose blind calls count; by default all.

    Raises:
        SampleStateError: a reader called no cell.
    """
    calls = {
        reader: calls_of(sample, reader).by_cell for reader in readers or blind_readers(sample)
    }
    decided = adjudications(sample)
    found = []
    for cell in sample.keys:
        own = {reader: given[cell] for reader, given in calls.items() if cell in given}
        if cell in decided:
            last = decided[cell]
            found.append(Consensus(cell, last.to, "adjudicated", own, last.why, last.time, last.by))
        elif decision := decide(own):
            found.append(Consensus(cell, *decision, own))
    return found


def to_adjudicate(sample: ReadSample, readers: Sequence[str] = ()) -> list[Consensus]:
    """Return the cells on which readers differ and which nobody has decided, in the order of the
    cell table.
    """
    return [item for item in consensus_of(sample, readers) if item.how == "open"]
