"""Commands to a batch from another terminal, and its status: from the files of the batch alone."""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from wbcpipe.batch.cli import batch
from wbcpipe.batch.commands.status_view import read_status
from wbcpipe.batch.records import (
    BatchRecord,
    Command,
    Heartbeat,
    JournalEntry,
    MicroscopeState,
    ProcessStatus,
    WorklistRow,
)
from wbcpipe.batch.row_status import RowStatus
from wbcpipe.batch.state.batch_folder import BatchFolder, list_batches
from wbcpipe.batch.state.command_rules import command_problem
from wbcpipe.batch.state.open_batch import open_batch
from wbcpipe.batch.state.posting import new_command
from wbcpipe.errors import DiskFullError, WbcpipeError, WorklistError
from wbcpipe.system.process_limits import process_created

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from wbcpipe.samples.sample import Sample

NOW = datetime.now(UTC)
SAMPLES = ("S1", "S2", "S3", "S4")


def make_batch(root: Path, name: str = "night", samples: tuple[str, ...] = SAMPLES) -> BatchFolder:
    folder = BatchFolder.open(root, name)
    rows = tuple(
        WorklistRow(line=2 + i, sample=s, slide=s, slot="", scope="demo")
        for i, s in enumerate(samples)
    )
    folder.write(BatchRecord(name=name, created=NOW, worklist_sha256="", rows=rows))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> BatchFolder:
    """S1 finished, S2 quarantined, S3 on hold, S4 waiting."""
    folder = make_batch(tmp_path)
    journal(folder, "batch_started")
    journal(folder, "scan_started", sample="S1", attempt=1)
    journal(
        folder,
        "finished",
        sample="S1",
        figures={"scanning_s": 60.0, "focusing_s": 20.0, "cells": 210, "fields": 58},
    )
    journal(
        folder,
        "attempt_failed",
        sample="S2",
        attempt=1,
        error="DeviceTimeoutError",
        reason="the camera is silent",
    )
    journal(folder, "quarantined", sample="S2", reason="the camera is silent")
    journal(folder, "held", sample="S3")
    return folder


def journal(folder: BatchFolder, event: Any, **more: Any) -> None:
    folder.append(JournalEntry(time=datetime.now(UTC), event=event, **more))


def call(folder: BatchFolder, *arguments: str) -> tuple[str, BaseException | None]:
    result = CliRunner().invoke(
        batch, [*arguments, "--data", str(folder.root)], env={"COLUMNS": "200"}
    )
    return result.output, result.exception


def posted(folder: BatchFolder) -> list[tuple[str, str]]:
    return [(c.kind, c.sample) for _, c in folder.commands() if isinstance(c, Command)]


@contextmanager
def supervisor(
    folder: BatchFolder, apply: Callable[[BatchFolder, Path, Command], None] | None
) -> Iterator[None]:
    """Hold the lock, as `batch run` does, and take the commands with ``apply``, or none."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.01):
            for path, command in list(folder.commands()):
                assert isinstance(command, Command)
                if apply is not None:
                    apply(folder, path, command)

    thread = threading.Thread(target=look)
    with folder.lock():
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def take(_folder: BatchFolder, path: Path, _command: Command) -> None:
    path.unlink()


def refuse(folder: BatchFolder, path: Path, command: Command) -> None:
    journal(folder, "command_refused", reason=f"{command.kind} {command.sample}: not now")
    (folder.inbox_path / "refused").mkdir(exist_ok=True)
    path.replace(folder.inbox_path / "refused" / path.name)


def test_commands_wait_in_the_inbox_when_nothing_runs(folder: BatchFolder) -> None:
    output, error = call(folder, "skip", "S2")  # it is quarantined, and is taken out
    assert error is None
    assert posted(folder) == [("skip", "S2")]
    next(folder.inbox_path.glob("*.json")).unlink()
    output, error = call(folder, "hold", "S4")
    assert error is None
    assert output == (
        "batch night: hold S4: posted; no process runs the batch, and the next `wbcpipe batch "
        "run` applies it\n"
    )
    call(folder, "retry", "--all")
    call(folder, "release", "S3")
    assert posted(folder) == [("hold", "S4"), ("retry", "S2"), ("release", "S3")]
    view = read_status(folder)
    assert [command.kind for command in view.pending] == ["hold", "retry", "release"]
    assert view.supervisor == "interrupted"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("skip", "S1"), "skip has no effect on sample 'S1': it is finished; its result stays."),
        (
            ("retry", "S1"),
            "it is finished; to scan the slide again, add it under another sample name",
        ),
        (("retry", "S4"), "it waits, and is tried without being asked"),
        (("release", "S4"), "release has no effect on sample 'S4': its state is 'waiting'."),
        (("hold", "S3"), "it is on hold already"),
        (("hold", "S9"), "batch 'night' has no sample 'S9'; it has S1, S2, S3, S4."),
        (("stop",), "no process runs batch 'night': there is nothing to stop."),
        (("confirm",), "no process runs batch 'night': there is nothing to confirm."),
        (("hold", "S4", "--batch", "other"), "no batch 'other' in"),
        (("add", "--sample", "S4", "--slot", "A"), "sample 'S4' is given twice: line 5 has it too"),
        (
            ("add", "--sample", "S5", "--slot", "Z"),
            "scope 'demo' has no slot 'Z'; its slots: A, B.",
        ),
        (
            ("add", "--sample", "S5", "--slot", "A", "--cells", "x"),
            "sample 'S5' is not added: cells: 'x' is not",
        ),
    ],
    ids=" ".join,
)
def test_a_command_without_effect_is_refused_before_it_is_posted(
    folder: BatchFolder, arguments: tuple[str, ...], expected: str
) -> None:
    _, error = call(folder, *arguments)
    assert isinstance(error, WorklistError)
    assert expected in str(error)
    assert posted(folder) == []


def test_one_wrong_sample_posts_nothing_of_the_others(folder: BatchFolder) -> None:
    _, error = call(folder, "skip", "S4", "S1", "S9")
    assert "'S1': it is finished" in str(error)
    assert "no sample 'S9'" in str(error)
    assert posted(folder) == []


@pytest.mark.parametrize(
    "arguments", [("skip",), ("hold",), ("hold", "S4", "--all"), ("stop", "S4")]
)
def test_a_slip_in_the_arguments_posts_nothing(
    folder: BatchFolder, arguments: tuple[str, ...]
) -> None:
    result = CliRunner().invoke(batch, [*arguments, "--data", str(folder.root)])
    assert result.exit_code == 2
    assert posted(folder) == []


def test_a_row_is_added_with_its_defaults(folder: BatchFolder) -> None:
    output, error = call(
        folder, "add", "--sample", "S5", "--slot", "b", "--precision", "neu:2,5%", "--control"
    )
    assert error is None, output
    ((_, command),) = list(folder.commands())
    assert isinstance(command, Command)
    assert command.row is not None
    row = command.row
    assert (row.sample, row.slide, row.slot, row.scope, row.line) == ("S5", "S5", "B", "demo", 0)
    assert (row.precision, row.control) == (("NEU:2.5%",), True)
    assert command.by
    _, error = call(folder, "add", "--sample", "S6", "--slot", "B")
    assert "slot 'B' is given twice: sample 'S5' has it already" in str(error)


def test_a_running_batch_takes_commands_and_says_so(folder: BatchFolder) -> None:
    with supervisor(folder, take):
        output, error = call(folder, "skip", "S4", "--json")
        assert error is None
        told = json.loads(output)
        assert (told["running"], told["taken"], told["refused"]) == (True, True, [])
        output, _ = call(folder, "stop", "--now")
        assert output == "batch night: stop at once: done\n"
    with supervisor(folder, refuse):
        output, error = call(folder, "skip", "S4")
        assert "skip S4: refused" in output
        assert str(error) == "skip S4: not now"


def test_a_busy_batch_is_not_waited_for_long(
    folder: BatchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wbcpipe.batch.state import posting

    monkeypatch.setattr(posting.post_and_wait, "__kwdefaults__", {"wait_s": 0.1})
    with supervisor(folder, None):
        output, _ = call(folder, "skip", "S4")
    assert "posted; the batch is busy and takes it soon" in output


def heartbeat(
    folder: BatchFolder, *, age_s: float = 0.0, pid: int = 0, created: float = 0.0
) -> None:
    at = datetime.now(UTC) - timedelta(seconds=age_s)
    since = at - timedelta(seconds=100)
    process = ProcessStatus(
        sample="S4",
        attempt=1,
        pid=1,
        created=0.0,
        phase="scanning",
        phase_since=since,
        done=20,
        total=60,
        cells=75,
    )
    Heartbeat(
        time=at,
        pid=pid or os.getpid(),
        created=created or process_created(os.getpid()) or 0.0,
        host="pc",
        microscope=MicroscopeState(
            state="waiting", sample="S4", since=at, reason="stain the slide [red]"
        ),
        processes=(process,),
        stopping="after this sample",
        disk_free_bytes=2_000_000_000,
    ).write(folder.heartbeat_path)


def test_status_shows_what_is_on_disk(folder: BatchFolder) -> None:
    heartbeat(folder)
    folder.post(new_command("skip", "S3"))
    before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*") if path.is_file()}
    with supervisor(folder, None):
        journal(folder, "scan_started", sample="S4", attempt=1)
        output, error = call(folder, "status")
        assert error is None, output
        told = json.loads(call(folder, "status", "--json")[0])
    lines = [" ".join(line.split()) for line in output.splitlines()]
    assert lines[0].startswith(f"batch night: running, process {os.getpid()}, last sign of life")
    assert any(
        line.startswith("microscope: waiting S4 since") and "stain the slide [red]" in line
        for line in lines
    )
    assert "stopping after this sample" in lines
    assert "S1 finished 58 210" in lines
    assert "S2 quarantined 1 failed the camera is silent" in lines
    assert "S4 scanning 20 of 60 75 3 min" in lines
    assert "not taken yet: skip S3" in lines
    assert told["counts"] == {"finished": 1, "quarantined": 1, "held": 1, "scanning": 1}
    assert told["rows"][3]["seconds_left"] == 200.0
    assert told["seconds_left"] == 200.0
    changed = {
        path.name for path, at in before.items() if path.exists() and path.stat().st_mtime_ns != at
    }
    assert changed <= {"journal.jsonl", "lock", "lock.holder"}


def test_status_shows_the_cells_of_the_differential_on_disk(
    folder: BatchFolder, write_sample: Callable[..., Sample]
) -> None:
    def shown() -> tuple[int, int | None]:
        row = read_status(folder).rows[0]
        return row.done, row.cells

    assert shown() == (58, 210)  # as the batch finished it
    path = write_sample(folder.root, "S1", counts=(130, 60, 6, 9, 6, 0)).path / "differential.json"
    assert shown() == (20, 211)  # as it was signed after a review
    path.write_bytes(b"{")
    assert shown() == (58, 210)


@pytest.mark.parametrize(
    ("age_s", "held", "event", "expected"),
    [
        (0, True, "", "running"),
        (120, True, "", "not answering"),
        (120, False, "", "interrupted"),
        (5, False, "batch_ended", "ended"),
    ],
)
def test_the_supervisor_is_told_alive_silent_dead_or_ended(
    folder: BatchFolder, age_s: float, held: bool, event: str, expected: str
) -> None:
    heartbeat(folder, age_s=age_s)
    if event:
        journal(folder, event)
    if held:
        with supervisor(folder, None):
            assert read_status(folder).supervisor == expected
    else:
        assert read_status(folder).supervisor == expected


def test_a_reused_process_id_is_not_the_supervisor(folder: BatchFolder) -> None:
    heartbeat(folder, created=1.0)
    with supervisor(folder, None):
        view = read_status(folder)
    assert (view.supervisor, view.microscope) == ("starting", None)


def test_the_time_left_follows_the_slides_so_far(folder: BatchFolder) -> None:
    assert (
        read_status(folder).seconds_left == 80.0
    )  # one waits; S1 took 60 s to scan and 20 s to focus
    assert read_status(make_batch(folder.root, "other")).seconds_left is None


def test_watching_ends_with_the_batch(folder: BatchFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    from wbcpipe.batch.commands import status as status_cli

    monkeypatch.setattr(status_cli, "EVERY_S", 0.01)
    heartbeat(folder)
    with supervisor(folder, None):
        ended = threading.Timer(0.2, lambda: journal(folder, "scan_started", sample="S4"))
        ended.start()
        result: list[str] = []
        watcher = threading.Thread(
            target=lambda: result.append(call(folder, "status", "--watch")[0])
        )
        watcher.start()
        ended.join()
        time.sleep(0.1)
        assert watcher.is_alive()
    watcher.join(10)
    assert result[0].count("batch night: running") == 2
    assert result[0].count("batch night: not running: it was interrupted") == 1


def test_watching_waits_a_while_for_the_start(
    folder: BatchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wbcpipe.batch.commands import status as status_cli

    monkeypatch.setattr(status_cli, "EVERY_S", 0.01)
    monkeypatch.setattr(status_cli, "START_S", 0.1)
    output, error = call(folder, "status", "--watch", "--json")
    assert error is None
    shown = [json.loads(line) for line in output.splitlines()]
    assert len(shown) > 2
    assert {one["supervisor"] for one in shown} == {"interrupted"}


def test_damaged_files_give_one_clear_line(folder: BatchFolder) -> None:
    folder.heartbeat_path.write_bytes(b"{half")
    assert read_status(folder).heartbeat_age_s is None
    (folder.path / "batch.json").write_bytes(b"\0\0")
    _, error = call(folder, "status")
    assert isinstance(error, WbcpipeError)
    assert "batch.json" in str(error)


def test_the_batch_that_was_started_last_is_meant(folder: BatchFolder) -> None:
    later = make_batch(folder.root, "second")
    os.utime(later.path / "batch.json", (2e9, 2e9))
    assert [one.name for one in list_batches(folder.root)] == ["second", "night"]
    with folder.lock():
        os.utime(folder.path / "lock.holder", (3e9, 3e9))
    assert [one.name for one in list_batches(folder.root)] == ["night", "second"]


def test_the_rules_know_every_state(folder: BatchFolder) -> None:
    row = folder.record().rows[0]
    failed = RowStatus(row, attempts=1)
    for state in (
        "waiting",
        "held",
        "scanning",
        "scanned",
        "staining",
        "stained",
        "processing",
        "skipped",
    ):
        texts = [
            command_problem(kind, replace(failed, state=state))
            for kind in ("hold", "release", "skip", "retry")
        ]
        assert any(not text for text in texts), state


def test_check_prints_the_plan_and_its_estimates(tmp_path: Path) -> None:
    path = tmp_path / "NIGHT.csv"
    path.write_text("sample;slot;fields;deadline\nS1;A;40;\nS2;B;20;1m\n")
    result = CliRunner().invoke(
        batch, ["check", str(path), "--data", str(tmp_path / "data"), "--json"]
    )
    told = json.loads(result.output)
    assert result.exception is None
    assert told["ok"]
    assert [(row["sample"], row["state"], row["fields_expected"]) for row in told["rows"]] == [
        ("S1", "new", 40),
        ("S2", "new", 20),
    ]
    assert told["rows"][1]["late"]
    assert told["rows"][0]["disk_bytes"] > 40 * 4 * 2 * 2048**2
    assert told["check_seconds"] == 30
    assert told["seconds"] > 30 + told["rows"][0]["seconds"] + told["rows"][1]["seconds"] > 90
    assert not (tmp_path / "data").exists()
    shown = CliRunner().invoke(batch, ["check", str(path), "--data", str(tmp_path / "data")]).output
    assert "2 slides (0 finished, 0 partly done): about " in shown
    assert "with 30 s for the check of the microscope, until" in " ".join(shown.split())
    assert "warning: line 3: the deadline of S2" in " ".join(shown.split())


@pytest.mark.parametrize("named", [(), ("--name", "other")], ids=["file name", "--name"])
def test_check_refuses_what_run_refuses(tmp_path: Path, named: tuple[str, ...]) -> None:
    path, data = tmp_path / "NIGHT.csv", tmp_path / "data"
    path.write_text("sample;slot;bundle;fields\nS1;A;auto;2\nS2;B;auto;2\n")
    folder = open_batch(path, named[-1] if named else None, data, "demo", print)
    for sample in ("S1", "S2"):
        journal(folder, "scan_started", sample=sample, attempt=1)
    journal(folder, "finished", sample="S1")
    journal(folder, "quarantined", sample="S2", error="NoCellsError", reason="no cells")

    def check() -> BaseException | None:
        words = ["check", str(path), "--data", str(data), *named]
        return CliRunner().invoke(batch, words).exception

    assert check() is None
    path.write_text("sample;slot;bundle;fields\nS1;A;auto;5\nS2;C;auto;5\nS2;B;auto;5\n")
    refused = check()
    assert isinstance(refused, WorklistError)
    for expected in (
        "3 mistakes; correct them all:",
        "line 3: scope 'demo' has no slot 'C'",
        "line 4: sample 'S2' is given twice",
        "line 2: sample 'S1' was started and is finished; its fields can no longer change.",
    ):
        assert expected in str(refused)
    path.write_text("sample;slot;bundle;fields\nS1;A;auto;2\nS2;B;auto;5\n")
    assert check() is None  # a quarantined row takes another target


def test_check_says_that_run_needs_a_name(tmp_path: Path) -> None:
    path = tmp_path / "my night.csv"
    path.write_text("sample;slot\nS1;A\n")
    for named, expected in (((), 1), (("--name", "night"), 0)):
        words = ["check", str(path), "--data", str(tmp_path), *named]
        output = CliRunner().invoke(batch, words).output
        assert output.count("warning: `batch run` needs a --name: ") == expected, output


def test_check_refuses_mistakes_and_a_small_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "NIGHT.csv"
    path.write_text("sample;slot\nS1;A\nS1;C\n")
    result = CliRunner().invoke(batch, ["check", str(path), "--data", str(tmp_path)])
    assert isinstance(result.exception, WorklistError)
    assert result.exception.exit_code == 50
    assert "2 mistakes; correct them all:\n  line 3: " in str(result.exception)
    path.write_text("sample;slot\nS1;A\nS2;B\n")
    usage = type("Usage", (), {"free": 10**9})
    monkeypatch.setattr("wbcpipe.batch.state.estimate.shutil.disk_usage", lambda _path: usage)
    result = CliRunner().invoke(batch, ["check", str(path), "--data", str(tmp_path)])
    assert isinstance(result.exception, DiskFullError)
    assert "the worklist needs" in str(result.exception)
