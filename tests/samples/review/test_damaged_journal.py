"""Whatever happens to the bytes of a journal.

What is read is what was written, or it is refused.
"""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wbcpipe.errors import DiskFullError, SampleStateError
from wbcpipe.samples.review.carry_over import carry_over
from wbcpipe.samples.review.entries import (
    SYSTEM_READER,
    Adjudicate,
    Amend,
    Assign,
    Call,
    CellsReplaced,
    Change,
    Comment,
    LocationMark,
    Look,
    Reading,
    Redo,
    Sign,
    Undo,
    Unsign,
)
from wbcpipe.samples.review.journal import Journal, JournalConflictError
from wbcpipe.samples.review.replay import replay
from wbcpipe.samples.review.sign_basis import ReferenceUsed, SignBasis

if TYPE_CHECKING:
    from pathlib import Path

CELLS = [f"f{index}y{10 * index}x0" for index in range(4)]
BASIS = SignBasis(
    cells_sha256="a" * 64,
    reference=ReferenceUsed(percent={}, source=""),
    created="2026-11-30T06:00:00+00:00",
)
cell = st.sampled_from(CELLS)
to = st.sampled_from(["NEU", "LYM", "artefact", "unidentified"])
#: Every kind of action; of undo and redo, which entry it means.
steps = st.one_of(
    st.builds(lambda c, t: Assign(cells=(Change(cell=c, before="", to=t),)), cell, to),
    st.builds(lambda c: Look(cells=(c,), seen=("NEU",)), cell),
    st.builds(lambda c: Comment(cell=c, text="x"), cell),
    st.builds(lambda c, t: Adjudicate(cell=c, to=t, between=("Ada", "Bob")), cell, to),
    st.builds(
        lambda n: Reading(event="start", reading=n, cells=tuple(CELLS)), st.sampled_from("ab")
    ),
    st.builds(lambda n: Reading(event="finish", reading=n), st.sampled_from("ab")),
    st.builds(lambda n, c, t: Call(reading=n, cell=c, to=t), st.sampled_from("ab"), cell, to),
    st.just(Sign(differential="b" * 64, counts={}, basis=BASIS)),
    st.just(Unsign(why="x")),
    st.just(Amend(why="x")),
    st.builds(lambda c: CellsReplaced(new="c" * 64, matched={c: f"{c}n2"}), cell),
    st.builds(lambda c: CellsReplaced(new="c" * 64, unmatched=(c,)), cell),
    st.just(LocationMark(field=0, y_px=1, x_px=2)),
    st.tuples(st.sampled_from([Undo, Redo]), st.integers(0, 30)),
)
many = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def fresh(tmp_path: Path) -> Journal:
    return Journal(tmp_path / f"{time.monotonic_ns()}" / "journal.jsonl")


def apply(journal: Journal, reader: str, step: Any) -> bool:
    """Append a step if it is allowed; return whether it was."""
    entries = journal.entries()
    if isinstance(step, tuple):
        kind, number = step
        target = entries[number % len(entries)].id if entries else "d" * 64
        step = kind(target=target)
    if isinstance(step, CellsReplaced):
        reader = SYSTEM_READER
    try:
        journal.append([step], reader=reader, base=journal.head())
    except JournalConflictError:
        assert journal.entries() == entries
        return False
    return True


@many
@given(st.lists(st.tuples(st.sampled_from(["Ada", "Bob"]), steps), max_size=25))
def test_every_sequence_that_is_allowed_is_replayed(
    tmp_path: Path, sequence: list[tuple[str, Any]]
) -> None:
    journal = fresh(tmp_path)
    written = sum(apply(journal, reader, step) for reader, step in sequence)
    again = Journal(journal.path)
    assert len(again.entries()) == written
    assert again.state() == journal.state() == replay(again.entries())
    state = again.state()
    for reader in ("Ada", "Bob"):
        undoable, redoable = state.undoable(reader), state.redoable(reader)
        assert not set(undoable) & set(redoable)
        assert all(state.edits[key].entry.reader == reader for key in undoable + redoable)
    assert set(state.assigned()) <= state.cells()
    assert {**state.assigned("Ada"), **state.assigned("Bob")}.keys() == state.assigned().keys()
    if state.signed:
        assert state.signatures[-1] is state.signed


@many
@given(st.lists(steps, min_size=1, max_size=8), st.data())
def test_one_changed_byte_is_noticed(
    tmp_path: Path, sequence: list[Any], data: st.DataObject
) -> None:
    journal = fresh(tmp_path)
    for step in sequence:
        apply(journal, "Ada", step)
    journal.append([Look(cells=(CELLS[0],))], reader="Ada", base=journal.head())
    content = bytearray(journal.path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    journal.path.write_bytes(content)
    changed = Journal(journal.path)
    if at == len(content) - 1:  # the end of the last line: as if that line had been cut short
        assert changed.entries() == journal.entries()[:-1]
        assert changed.torn_bytes() > 0
    else:
        with pytest.raises(SampleStateError, match=r"journal\.jsonl, line [0-9]+: "):
            changed.entries()


@many
@given(st.lists(steps, min_size=1, max_size=8), st.data())
def test_a_file_cut_anywhere_keeps_the_entries_before(
    tmp_path: Path, sequence: list[Any], data: st.DataObject
) -> None:
    journal = fresh(tmp_path)
    for step in sequence:
        apply(journal, "Ada", step)
    journal.append([Look(cells=(CELLS[0],))], reader="Ada", base=journal.head())
    content, written = journal.path.read_bytes(), journal.entries()
    cut = data.draw(st.integers(0, len(content)))
    journal.path.write_bytes(content[:cut])
    again = Journal(journal.path)
    number = content[:cut].count(b"\n")
    assert again.entries() == written[:number]
    again.append([LocationMark(field=1, y_px=0, x_px=0)], reader="Bob", base=again.head())
    assert len(Journal(journal.path).entries()) == number + 1
    torn = content[content.rfind(b"\n", 0, cut) + 1 : cut]
    aside = journal.path.with_suffix(".torn")
    assert (aside.read_bytes() if aside.exists() else b"") == (torn + b"\n" if torn else b"")


def test_a_full_disk_leaves_the_journal_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = fresh(tmp_path)
    edit = Assign(cells=(Change(cell=CELLS[0], before="", to="NEU"),))
    journal.append([edit], reader="Ada", base="")
    before, state = journal.path.read_bytes(), replay(journal.entries())

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("wbcpipe.system.files.os.fsync", full)
        with pytest.raises(DiskFullError, match="no space left"):
            journal.append([edit], reader="Ada", base=journal.head())
    assert journal.path.read_bytes() == before
    assert journal.state() == state
    journal.append([edit], reader="Ada", base=journal.head())
    assert len(Journal(journal.path).entries()) == 2


def test_cells_are_carried_over_once(tmp_path: Path) -> None:
    journal = fresh(tmp_path)
    assert not carry_over(journal, CELLS, "e" * 64)
    assert not journal.path.exists(), "a sample that nobody reviewed has no journal"
    journal.append([Look(cells=(CELLS[1],))], reader="Ada", base="")
    assert not carry_over(journal, CELLS, "e" * 64)
    moved = [CELLS[0], "f1y12x0", *CELLS[2:]]
    assert carry_over(journal, moved, "f" * 64)
    assert not carry_over(journal, moved, "f" * 64)
    assert journal.state().looked == {"f1y12x0": {"Ada": ""}}
