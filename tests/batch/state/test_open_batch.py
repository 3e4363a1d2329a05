"""The batch of a worklist, and of one that was edited since."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from wbcpipe.batch.records import JournalEntry
from wbcpipe.batch.state.open_batch import compare_with_batch, open_batch, started_rows
from wbcpipe.batch.state.posting import new_command
from wbcpipe.batch.worklist import read_worklist
from wbcpipe.errors import WorklistError

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(["sample;slot;fields;priority", *lines, ""]), encoding="utf-8")
    return path


def test_an_edited_worklist_is_merged_into_its_batch(tmp_path: Path) -> None:
    path, said = write(tmp_path / "night.csv", "a;A;3;0", "b;B;3;0"), list[str]()
    data = tmp_path / "data"
    folder = open_batch(path, None, data, "demo", said.append)
    created = folder.record().created
    assert (folder.path / "worklist.csv").read_bytes() == path.read_bytes()
    folder.append(JournalEntry(time=datetime.now(UTC), event="scan_started", sample="a", attempt=1))

    before = (folder.path / "batch.json").stat().st_mtime_ns
    open_batch(path, None, data, "demo", said.append)
    assert (folder.path / "batch.json").stat().st_mtime_ns == before
    assert said == []

    write(path, "b;B;4;0", "a;A;3;7")
    assert open_batch(path, None, data, "demo", said.append) == folder
    write(path, "new;B;5;0", "a;A;3;7")
    open_batch(path, None, data, "demo", said.append)
    record = folder.record()
    assert [(row.sample, row.fields, row.priority) for row in record.rows] == [
        ("new", 5, 0),
        ("a", 3, 7),
        ("b", 4, 0),
    ]
    assert record.created == created
    assert (folder.path / "worklist.csv").read_bytes() == path.read_bytes()
    events = [(entry.event, entry.sample) for entry in folder.journal()]
    assert folder.journal()[1].reason == "changed in the worklist: fields 3 to 4"
    assert events[1:] == [("row_changed", "b"), ("row_added", "new")]
    assert said == [
        "no longer in night.csv, but still in the batch: b; `wbcpipe batch skip` takes a sample out"
    ]


def test_a_started_row_does_not_change(tmp_path: Path) -> None:
    path, data = write(tmp_path / "night.csv", "a;A;3;0", "b;B;3;0"), tmp_path / "data"
    folder = open_batch(path, "other", data, "demo", print)
    assert folder.name == "other"
    folder.append(JournalEntry(time=datetime.now(UTC), event="scan_started", sample="b", attempt=1))
    before = (folder.path / "batch.json").read_bytes()
    write(path, "b;A;4;0")
    with pytest.raises(
        WorklistError,
        match=r"line 2: sample 'b' was started and is scanning; its slot can no longer change\n"
        r"Restore these lines, or add the slide under another sample name; .* may change\.",
    ):
        open_batch(path, "other", data, "demo", print)
    assert (folder.path / "batch.json").read_bytes() == before


@pytest.mark.parametrize(
    ("header", "target", "what"),
    [
        ("fields", "6", "fields 2 to 6"),
        ("cells", "150", "cells none to 150, fields 2 to none"),
        ("precision", "NEU:5%", "precision none to NEU:5%, fields 2 to none"),
    ],
)
def test_a_quarantined_row_takes_another_target(
    tmp_path: Path, header: str, target: str, what: str
) -> None:
    path, data, said = tmp_path / "night.csv", tmp_path / "data", list[str]()
    path.write_text("sample,slot,fields\na,A,2\n", encoding="utf-8")
    folder = open_batch(path, None, data, "demo", said.append)
    for event in ("scan_started", "attempt_failed", "quarantined"):
        entry = {"time": datetime.now(UTC), "event": event, "sample": "a", "attempt": 1}
        folder.append(JournalEntry.model_validate(entry))
    path.write_text(f"sample,slot,{header}\na,A,{target}\n", encoding="utf-8")
    compared = read_worklist(path, data=data, scope="demo")
    retried = "`wbcpipe batch retry a`"
    refused, (warning,) = compare_with_batch(folder, compared)
    assert refused == ()
    assert f"a is quarantined in batch 'night' and is not scanned; {retried}" in warning.text
    command = folder.post(new_command("retry", "a"))
    assert compare_with_batch(folder, compared) == ((), ())
    command.unlink()
    open_batch(path, None, data, "demo", said.append)
    assert said == [f"a, which is quarantined, has changed: {what}; {retried} tries it again"]
    assert folder.record().rows == compared.rows
    last = folder.journal()[-1]
    assert (last.event, last.reason) == ("row_changed", f"changed in the worklist: {what}")
    assert folder.status()["a"].state == "quarantined"


def test_a_finished_row_keeps_its_target(tmp_path: Path) -> None:
    path, data = write(tmp_path / "night.csv", "a;A;3;0", "b;B;3;0"), tmp_path / "data"
    folder = open_batch(path, None, data, "demo", print)
    for event in ("scan_started", "finished"):
        entry = {"time": datetime.now(UTC), "event": event, "sample": "a", "attempt": 1}
        folder.append(JournalEntry.model_validate(entry))
    write(path, "a;A;4;0")
    refused, warnings = compare_with_batch(
        folder, read_worklist(path, data=data, scope="demo", started=started_rows(folder))
    )
    assert [str(one) for one in refused] == [
        "line 2: sample 'a' was started and is finished; its fields can no longer change. Restore "
        "these lines, or add the slide under another sample name; fields, cells and precision of a "
        "sample that is not finished may change. To run the file as a new batch, give another "
        "--name."
    ]
    assert [one.text for one in warnings] == [
        "no longer in night.csv, but still in the batch: b; `wbcpipe batch skip` takes a sample "
        "out."
    ]
    command = folder.post(new_command("skip", "b"))
    changed = read_worklist(path, data=data, scope="demo", started=started_rows(folder))
    assert compare_with_batch(folder, changed) == (refused, ())
    command.unlink()
    write(path, "b;B;3;0")  # a finished row can be left out: nothing is said, since nothing helps
    said = list[str]()
    open_batch(path, None, data, "demo", said.append)
    assert said == []


def test_a_deadline_that_is_past_is_judged_until_its_row_is_started(tmp_path: Path) -> None:
    data, day = tmp_path / "data", datetime.now().astimezone() + timedelta(days=1)
    path = tmp_path / "night.csv"

    def lines(a: datetime, b: datetime, fields: int = 3) -> None:
        rows = [
            f"{name};{slot};{fields};{at:%Y-%m-%d %H:%M}"
            for name, slot, at in (("a", "A", a), ("b", "B", b))
        ]
        path.write_text("\n".join(["sample;slot;fields;deadline", *rows, ""]), encoding="utf-8")

    lines(day, day)
    folder = open_batch(path, None, data, "demo", print)
    past = day - timedelta(days=2)
    record = folder.record()
    exact = past.replace(second=0, microsecond=0)
    folder.write(
        record.model_copy(
            update={"rows": tuple(r.model_copy(update={"deadline": exact}) for r in record.rows)}
        )
    )
    folder.append(JournalEntry(time=datetime.now(UTC), event="scan_started", sample="a", attempt=1))
    folder.append(JournalEntry(time=datetime.now(UTC), event="finished", sample="a"))

    lines(past, day)  # a is finished, b has a later deadline
    rows = open_batch(path, None, data, "demo", print).record().rows
    assert [row.deadline for row in rows] == [exact, day.replace(second=0, microsecond=0)]
    lines(past - timedelta(hours=1), past)
    with pytest.raises(WorklistError) as error:
        open_batch(path, None, data, "demo", print)
    assert str(error.value).count("is past") == 2  # a's has changed, b was never started
