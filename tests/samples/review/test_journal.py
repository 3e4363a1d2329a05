"""The journal: round trips, two writers, crashes, changed lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wbcpipe.errors import SampleStateError
from wbcpipe.samples.review.entries import (
    Assign,
    Change,
    Comment,
    Entry,
    Look,
    Redo,
    Sign,
    Undo,
    Unsign,
    parse_action,
    parse_entry,
)
from wbcpipe.samples.review.journal import Journal, JournalConflictError
from wbcpipe.samples.review.replay import replay
from wbcpipe.samples.review.sign_basis import LabReference, ReferenceUsed, SignBasis

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.samples.review.entries import Action

CELLS = [f"f{index}y{10 * index}x-{index}" for index in range(12)]
CLASSES = ["NEU", "LYM", "unidentified", "not_classed", ""]


def assign(*cells: str, to: str = "NEU", before: str = "LYM", why: str = "") -> Assign:
    return Assign(cells=tuple(Change(cell=cell, before=before, to=to) for cell in cells), why=why)


def sign() -> Sign:
    basis = SignBasis(
        cells_sha256="a" * 64,
        reference=ReferenceUsed(percent={"NEU": (40.0, 75.5)}, source="here"),
        extra_classes={"SMUDGE": True},
        lab=LabReference(version="1", sha256="b" * 64),
        created="2026-11-30T06:00:00+00:00",
    )
    return Sign(differential="c" * 64, counts={"NEU": 3}, basis=basis)


texts = st.text(max_size=40).map(
    lambda text: "".join(character for character in text if character.isprintable()).strip()
)
assigns = st.builds(
    lambda cells, to, why: assign(*cells, to=to, why=why),
    st.lists(st.sampled_from(CELLS), min_size=1, max_size=4, unique=True),
    st.sampled_from(CLASSES),
    texts,
)
looks = st.builds(
    lambda cells: Look(cells=tuple(cells)),
    st.lists(st.sampled_from(CELLS), min_size=1, max_size=5, unique=True),
)
comments = st.builds(
    lambda cell, text: Comment(cell=cell, text=f"x{text}"), st.sampled_from([*CELLS, None]), texts
)
actions = st.one_of(assigns, looks, comments)
quick = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@quick
@given(st.lists(st.tuples(st.sampled_from(["Ada", "Émile Ωx"]), actions), max_size=12))
def test_what_was_appended_is_read_again(tmp_path: Path, steps: list[tuple[str, Any]]) -> None:
    path = tmp_path / f"{time.monotonic_ns()}" / "journal.jsonl"
    journal = Journal(path)
    for reader, action in steps:
        journal.append([action], reader=reader, base=journal.head())
    again = Journal(path).entries()
    assert [(entry.reader, entry.action) for entry in again] == steps
    assert again == journal.entries()
    assert [entry.n for entry in again] == list(range(1, len(steps) + 1))
    assert replay(again) == journal.state() == Journal(path).state()
    assert all(parse_entry(entry.line()) == entry for entry in again)


@quick
@given(st.lists(st.one_of(assigns, st.sampled_from(["undo", "redo"])), max_size=25))
def test_undo_and_redo_are_those_of_an_editor(tmp_path: Path, steps: list[Any]) -> None:
    """Compare with a list of the classes after each edit, in which undo and redo step back and
    forth.
    """
    journal = Journal(tmp_path / f"{time.monotonic_ns()}" / "journal.jsonl")
    history: list[dict[str, str]] = [{}]
    position = 0
    for step in steps:
        state = journal.state()
        if step == "undo":
            ids = state.undoable("Ada")
            assert len(ids) == position
            if ids:
                journal.append([Undo(target=ids[-1])], reader="Ada", base=journal.head())
                position -= 1
        elif step == "redo":
            ids = state.redoable("Ada")
            assert len(ids) == len(history) - 1 - position
            if ids:
                journal.append([Redo(target=ids[-1])], reader="Ada", base=journal.head())
                position += 1
        else:
            journal.append([step], reader="Ada", base=journal.head())
            now = history[position] | {change.cell: change.to for change in step.cells}
            history, position = [*history[: position + 1], now], position + 1
        classes = {cell: found.to for cell, found in journal.state().assigned().items()}
        assert classes == {cell: to for cell, to in history[position].items() if to}


@quick
@given(st.lists(st.tuples(st.booleans(), assigns, st.booleans()), max_size=20))
def test_two_writers_merge_or_conflict(tmp_path: Path, steps: list[tuple[bool, Any, bool]]) -> None:
    """Each of two readers knows the journal up to their last request.

    Nobody's edit is lost or overwritten unseen.
    """
    path = tmp_path / f"{time.monotonic_ns()}" / "journal.jsonl"
    journals = {True: Journal(path), False: Journal(path)}
    seen = {True: "", False: ""}
    written: list[Any] = []
    for who, action, look_first in steps:
        journal = journals[who]
        if look_first:
            seen[who] = journal.head()
        all_before = journal.entries()
        known = next((entry.n for entry in all_before if entry.id == seen[who]), 0)
        newer = all_before[known:]
        shared = {change.cell for entry in newer for change in entry.action.cells} & {  # type: ignore[union-attr]
            change.cell for change in action.cells
        }
        if shared:
            with pytest.raises(JournalConflictError) as caught:
                journal.append([action], reader=f"reader {who}", base=seen[who])
            assert caught.value.newer == newer
            assert journal.entries() == all_before
        else:
            found = journal.append([action], reader=f"reader {who}", base=seen[who])
            assert found[:-1] == newer
            written.append(action)
        seen[who] = journal.head()
    assert [entry.action for entry in Journal(path).entries()] == written


def test_threads_and_processes_append_to_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "review" / "journal.jsonl"
    shared, own = Journal(path), Journal(path)

    def write(journal: Journal, name: str) -> None:
        for number in range(15):
            journal.append([Look(cells=(CELLS[number % 12],))], reader=name, base="")

    threads = [
        threading.Thread(target=write, args=(journal, f"r{number}"))
        for number, journal in enumerate((shared, shared, own))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = Journal(path).entries()
    assert len(entries) == 45
    assert [sum(entry.reader == f"r{number}" for entry in entries) for number in range(3)] == [
        15,
        15,
        15,
    ]


_WRITER = """
import sys
from pathlib import Path
from wbcpipe.samples.review.entries import Look
from wbcpipe.samples.review.journal import Journal
journal = Journal(Path(sys.argv[1]))
while True:
    look = Look(cells=tuple(f"f1y{n}x{n}" for n in range(300)))
    entry = journal.append([look], reader="killed", base="")[-1]
    print(entry.id, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "review" / "journal.jsonl"
    for kill in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path)],
            stdout=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
        )
        assert process.stdout is not None
        acknowledged = [process.stdout.readline().strip() for _ in range(5 + kill)]
        process.kill()
        acknowledged += [line.strip() for line in process.stdout if line.endswith("\n")]
        process.wait()
        process.stdout.close()
        journal = Journal(path)
        entries = journal.append([Look(cells=(CELLS[0],))], reader="after", base="")
        ids = {entry.id for entry in entries}
        assert ids.issuperset(acknowledged)
        assert len(acknowledged) >= 5 + kill
        assert Journal(path).entries() == entries


@pytest.mark.parametrize(
    "kept", [1, 40, -1], ids=["one byte", "a part", "all but the end of the line"]
)
def test_a_line_cut_short_is_moved_aside(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "review" / "journal.jsonl"
    journal = Journal(path)
    journal.append([assign(CELLS[0])], reader="Ada", base="")
    journal.append([assign(CELLS[1])], reader="Ada", base=journal.head())
    first, second = path.read_bytes().splitlines(keepends=True)
    torn = second[:kept]
    path.write_bytes(first + torn)
    again = Journal(path)
    assert [entry.n for entry in again.entries()] == [1]
    assert again.torn_bytes() == len(torn)
    assert path.read_bytes() == first + torn, "reading changes nothing"
    again.append([assign(CELLS[2])], reader="Ada", base=again.head())
    assert path.with_suffix(".torn").read_bytes() == torn + b"\n"
    assert [entry.n for entry in Journal(path).entries()] == [1, 2]
    assert Journal(path).torn_bytes() == 0


def _three(path: Path) -> list[bytes]:
    journal = Journal(path)
    for cell in CELLS[:3]:
        journal.append([assign(cell)], reader="Ada", base=journal.head())
    return path.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda lines: [lines[0], lines[1].replace(b"NEU", b"LYM"), lines[2]], 2),
        (lambda lines: [lines[0].replace(b"Ada", b"Bob"), *lines[1:]], 1),
        (lambda lines: [*lines[:2], lines[2].replace(b'"n":3', b'"n": 3')], 3),
        (lambda lines: [lines[0], lines[2]], 2),
        (lambda lines: [lines[0], lines[2], lines[1]], 2),
        (lambda lines: [*lines[:2], lines[1], lines[2]], 3),
        (lambda lines: [lines[0], b"\n", *lines[1:]], 2),
        (lambda lines: [lines[0], b"\xff\x00\n", *lines[1:]], 2),
        (lambda lines: [*lines, b"[1]\n"], 4),
        (lambda lines: [*lines, b'{"action":"erase","n":4}\n'], 4),
    ],
    ids=[
        "class",
        "reader",
        "layout",
        "removed",
        "exchanged",
        "repeated",
        "empty",
        "bytes",
        "list",
        "no entry",
    ],
)
def test_a_changed_line_is_refused_with_its_number(tmp_path: Path, change: Any, line: int) -> None:
    path = tmp_path / "review" / "journal.jsonl"
    path.write_bytes(b"".join(change(_three(path))))
    before = path.read_bytes()
    with pytest.raises(SampleStateError, match=rf"journal\.jsonl, line {line}: "):
        Journal(path).entries()
    with pytest.raises(SampleStateError, match=rf"line {line}: "):
        Journal(path).append([assign(CELLS[4])], reader="Ada", base="")
    assert path.read_bytes() == before


def test_a_line_with_a_right_hash_that_no_edit_could_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "review" / "journal.jsonl"
    lines = _three(path)
    last = json.loads(lines[-1])
    forged = Entry.build(4, last["id"], last["time"], "Ada", Unsign(why="not signed at all"))
    path.write_bytes(b"".join(lines) + forged.line() + b"\n")
    with pytest.raises(SampleStateError, match="line 4: unsign: the sample is not signed"):
        Journal(path).entries()


def test_a_journal_that_became_shorter_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "review" / "journal.jsonl"
    lines = _three(path)
    journal = Journal(path)
    journal.entries()
    path.write_bytes(lines[0])
    with pytest.raises(SampleStateError, match="shorter than it was"):
        journal.entries()


@pytest.mark.parametrize(
    "action",
    [
        assign(CELLS[0], to="EOS"),
        Look(cells=(CELLS[0],)),
        Comment(cell=CELLS[0], text="clumped"),
        assign(CELLS[5]),
    ],
    ids=["same cell", "look", "comment", "other cell"],
)
def test_only_an_edit_of_the_same_cell_conflicts(tmp_path: Path, action: Action) -> None:
    journal = Journal(tmp_path / "review" / "journal.jsonl")
    base = journal.append([Look(cells=(CELLS[3],))], reader="Ada", base="")[-1].id
    journal.append([assign(CELLS[0], CELLS[1])], reader="Bob", base=base)
    if isinstance(action, Assign) and action.cells[0].cell == CELLS[0]:
        with pytest.raises(JournalConflictError, match="Bob changed the same cell") as caught:
            journal.append([action], reader="Ada", base=base)
        assert [entry.reader for entry in caught.value.newer] == ["Bob"]
        assert len(journal.entries()) == 2
    else:
        assert len(journal.append([action], reader="Ada", base=base)) == 2


def test_a_base_that_is_not_there_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "review" / "journal.jsonl")
    journal.append([assign(CELLS[0])], reader="Ada", base="")
    with pytest.raises(JournalConflictError, match="not in this journal"):
        journal.append([assign(CELLS[1])], reader="Ada", base="f" * 64)


@pytest.mark.parametrize(
    "reader",
    ["", " Ada", "a\nb", "\x1b[31m", "x" * 65, "a\u202eb", "a\u2028b", "\ud800"],
    ids=["empty", "blank", "line", "escape", "long", "reordered", "separator", "half"],
)
def test_a_name_that_could_harm_is_refused(tmp_path: Path, reader: str) -> None:
    journal = Journal(tmp_path / "review" / "journal.jsonl")
    with pytest.raises(ValueError, match="the reader's name"):
        journal.append([assign(CELLS[0])], reader=reader, base="")
    assert journal.entries() == ()


@pytest.mark.parametrize(
    "content",
    [
        {"action": "comment", "text": "a\x00b"},
        {"action": "comment", "text": "x" * 4001},
        {"action": "comment", "text": ""},
        {"action": "comment", "cell": "../../etc/passwd", "text": "a"},
        {"action": "assign", "cells": []},
        {"action": "assign", "cells": [{"cell": "f1y1x1", "from": "", "to": "A\u202eB"}]},
        {"action": "assign", "cells": [{"cell": "f1y1x1", "from": "", "to": "A"}] * 2},
        {"action": "assign", "cells": [{"cell": "f1y1x1", "from": "", "to": "A"}], "n": 3},
        {"action": "look", "cells": ["f1y1x1"], "seen": ["NEU", "LYM"]},
        {"action": "undo", "target": "1"},
        {"action": ["undo"]},
        {"action": "erase"},
        [],
        None,
    ],
    ids=str,
)
def test_actions_that_are_refused(content: Any) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        parse_action(content)


@pytest.mark.parametrize("reader", ["wbcpipe", "WBCpipe"])
def test_nobody_takes_the_name_of_the_software(tmp_path: Path, reader: str) -> None:
    journal = Journal(tmp_path / "review" / "journal.jsonl")
    with pytest.raises(JournalConflictError, match="is that of the software"):
        journal.append([assign(CELLS[0])], reader=reader, base="")
    replaced = parse_action({"action": "cells_replaced", "new": "a" * 64})
    with pytest.raises(JournalConflictError, match="the software alone writes this entry"):
        journal.append([replaced], reader="Ada", base="")


def test_a_signed_sample_takes_no_edit_until_it_is_amended(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "review" / "journal.jsonl")
    journal.append([assign(CELLS[0])], reader="Ada", base="")
    journal.append([sign()], reader="Ada", base=journal.head())
    assert journal.state().state == "verified"
    for action in (
        assign(CELLS[1]),
        Comment(text="late"),
        sign(),
        Undo(target=journal.entries()[0].id),
    ):
        with pytest.raises(JournalConflictError, match="the sample is signed"):
            journal.append([action], reader="Ada", base=journal.head())
    journal.append([Look(cells=(CELLS[2],))], reader="Bob", base=journal.head())
    journal.append(
        [parse_action({"action": "amend", "why": "a monocyte"})], reader="Bob", base=journal.head()
    )
    assert journal.state().state == "preliminary"
    journal.append([assign(CELLS[1])], reader="Bob", base=journal.head())
    journal.append([sign()], reader="Bob", base=journal.head())
    assert journal.state().state == "corrected"
    assert [signature.state for signature in journal.state().signatures] == [
        "verified",
        "corrected",
    ]
    assert journal.state().signed is not None
    assert journal.state().signed.reason == "a monocyte"  # type: ignore[union-attr]
    journal.append([Unsign(why="too early")], reader="Bob", base=journal.head())
    assert journal.state().state == "preliminary"


def test_an_edit_behind_a_newer_signature_conflicts(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "review" / "journal.jsonl")
    base = journal.append([assign(CELLS[0])], reader="Ada", base="")[-1].id
    journal.append([sign()], reader="Ada", base=base)
    with pytest.raises(JournalConflictError, match="Ada wrote meanwhile: sign"):
        journal.append([assign(CELLS[1])], reader="Bob", base=base)


def test_a_batch_that_does_not_fit_writes_none_of_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "review" / "journal.jsonl")
    edit = journal.append([assign(CELLS[0])], reader="Ada", base="")[-1].id
    with pytest.raises(JournalConflictError, match="undone already"):
        journal.append([Undo(target=edit), Undo(target=edit)], reader="Ada", base=edit)
    assert len(Journal(journal.path).entries()) == 1
    assert journal.state() == Journal(journal.path).state()
    with pytest.raises(JournalConflictError, match="the entry is of Ada"):
        journal.append([Undo(target=edit)], reader="Bob", base=edit)
