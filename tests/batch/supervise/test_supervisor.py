"""A supervisor and real processes, whose work is done by a few lines.

Turns, failures, commands, resumption.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from wbcpipe.acquire.config.scope import load_scope
from wbcpipe.acquire.loader.record import LoaderRecord, write_loader
from wbcpipe.batch.commands.run import _tell
from wbcpipe.batch.records import BatchRecord, Command, JournalEntry, WorklistRow
from wbcpipe.batch.state.batch_folder import BatchFolder
from wbcpipe.batch.state.completion import RowContent
from wbcpipe.batch.supervise.leave_microscope import Left
from wbcpipe.batch.supervise.night_hooks import CheckOutcome, NightHooks
from wbcpipe.batch.supervise.options import SupervisorOptions
from wbcpipe.batch.supervise.supervisor import Supervisor
from wbcpipe.cli.progress import Reporter
from wbcpipe.errors import BatchBusyError, BatchCheckError, InterruptedRunError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wbcpipe.batch.records import ProcessStatus
    from wbcpipe.batch.row_status import RowStatus

ROOT = Path(__file__).parents[3]
#: The process of a sample. ``plans/<sample>`` has a word for each of its attempts; without one it
#: works.
_TARGET = """
import os, signal, time
from pathlib import Path
from wbcpipe.batch.sample_process.messages import *
from wbcpipe.batch.sample_process.process import SupervisorLink

def work(job, link):
    supervisor = SupervisorLink(link)
    name, root = job.row.sample, job.root
    plan = root / "plans" / name
    words = plan.read_text().split() if plan.exists() else []
    done = root / "attempts" / name
    done.parent.mkdir(exist_ok=True)
    attempt = len(done.read_text()) if done.exists() else 0
    word = words[attempt] if attempt < len(words) else "works"
    supervisor.send(MicroscopeWanted())
    supervisor.wait_for(TurnGranted)
    done.write_text("x" * (attempt + 1))
    supervisor.send(PhaseReport("scanning", 1, 2))
    if word == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if word == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "hang":
        time.sleep(60)
    if word == "wait":
        (root / f"{name}.waits").touch()
        while not (root / f"{name}.go").exists() and not link.stop_requested():
            time.sleep(0.01)
        if link.stop_requested():
            return
    if word == "fill":
        with (root / "filler").open("wb", buffering=0) as filler:
            try:
                while filler.write(bytes(1_000_000)):
                    pass
            except OSError as error:
                supervisor.send(SampleFailed("DiskFullError", str(error)))
                return
    if word == "memory":
        block = bytearray(400_000_000)
        block[::4096] = bytes(len(block[::4096]))
        time.sleep(60)
    if word.endswith("Error"):
        supervisor.send(SampleFailed(word, "the reason in words."))
        return
    now = time.monotonic()
    supervisor.send(MicroscopeReleased(True, now, now, {"fields": 2.0, "scanning_s": 0.0}))
    supervisor.send(SampleFinished({"cells": 5.0}))
"""


@dataclass
class Night:
    """A batch of some samples, run in this process.

    Attributes:
        told: journal entries, as the hooks receive them.
        on: called after an entry, by its event and sample; ``on_all`` after each.
    """

    folder: BatchFolder
    target: Callable[..., None]
    told: list[JournalEntry] = field(default_factory=list)
    on: dict[tuple[str, str], Callable[[], object]] = field(default_factory=dict)
    on_all: Callable[[JournalEntry], object] = lambda _: None
    check: Callable[[], object] = lambda: None

    def plan(self, sample: str, *words: str) -> None:
        folder = self.folder.root / "plans"
        folder.mkdir(exist_ok=True)
        (folder / sample).write_text(" ".join(words), encoding="utf-8")

    def run(self, **options: Any) -> dict[str, RowStatus]:
        night = self

        class Hooks(NightHooks):
            def told(self, _: BatchFolder, entry: JournalEntry) -> None:
                night.told.append(entry)
                night.on.get((entry.event, entry.sample), lambda: None)()
                night.on_all(entry)

            def check(self, *_: object) -> CheckOutcome | None:
                night.check()
                return None

        settings = SupervisorOptions(**{"target": self.target, **options})
        with Reporter(quiet=True) as reporter:
            return Supervisor(self.folder, settings, Hooks(), reporter).run()

    def post(self, kind: str, sample: str = "", **more: Any) -> None:
        self.folder.post(
            Command.model_validate(
                {"kind": kind, "sample": sample, "time": datetime.now(UTC), "by": "me@pc", **more}
            )
        )

    def events(self, sample: str = "") -> list[str]:
        return [entry.event for entry in self.folder.journal() if entry.sample == sample]


def rows(samples: Sequence[str]) -> tuple[WorklistRow, ...]:
    return tuple(
        WorklistRow(line=line, sample=sample, slide=sample, slot="A", scope="demo")
        for line, sample in enumerate(samples, 2)
    )


@pytest.fixture
def dark(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool, bool]]:
    """(scope, whether its slide is taken away, whether it parks) of each process that would close
    the shutter.
    """
    found: list[tuple[str, bool, bool]] = []

    def leave(scope: Any, _root: Path, *, unload: bool, park: bool, **_: Any) -> Left:
        found.append((scope.name, unload, park))
        return Left()

    def darken(scope: Any) -> str:
        found.append((scope.name, False, False))
        return ""

    monkeypatch.setattr("wbcpipe.batch.supervise.used_microscopes.leave_microscope", leave)
    monkeypatch.setattr("wbcpipe.batch.supervise.supervisor.make_dark", darken)
    return found


@pytest.fixture
def night(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dark: list[tuple[str, bool, bool]],  # noqa: ARG001 - it replaces what acts on the microscope
) -> Callable[..., Night]:
    (tmp_path / "batch_targets.py").write_text(_TARGET, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "batch_targets", raising=False)
    target = importlib.import_module("batch_targets").work

    def make(*samples: str, root: Path = tmp_path) -> Night:
        folder = BatchFolder.open(root, "night")
        record = BatchRecord(
            name="night", created=datetime.now(UTC), worklist_sha256="0" * 64, rows=rows(samples)
        )
        folder.write(record)
        return Night(folder, target)

    return make


def child_processes() -> list[str]:
    """Return the command lines of this process's children, without Python's own that removes
    semaphores.
    """
    lines = [" ".join(child.cmdline()) for child in psutil.Process().children()]
    return [line for line in lines if "resource_tracker" not in line]


def states(status: dict[str, RowStatus]) -> dict[str, str]:
    return {sample: one.state for sample, one in status.items()}


def test_each_sample_has_its_turn_and_its_entries(
    night: Callable[..., Night], dark: list[tuple[str, bool, bool]]
) -> None:
    batch = night("a", "b")
    assert states(batch.run()) == {"a": "finished", "b": "finished"}
    assert batch.events("a") == ["scan_started", "scan_finished", "processing_started", "finished"]
    assert batch.events() == ["batch_started", "batch_ended"]
    figures = batch.run()["b"].figures  # started again: nothing is left to do
    assert batch.events()[-2:] == ["batch_resumed", "batch_ended"]
    assert figures["cells"] == 5
    assert figures["idle_s"] < 5
    assert figures["memory_bytes"] >= 0
    assert dark == [("demo", True, True)]  # at the end of the run that scanned
    turns = [
        entry
        for entry in batch.folder.journal()
        if entry.event in ("scan_started", "scan_finished")
    ]
    assert [(entry.event, entry.sample) for entry in turns] == [
        ("scan_started", "a"),
        ("scan_finished", "a"),
        ("scan_started", "b"),
        ("scan_finished", "b"),
    ]
    heartbeat = batch.folder.heartbeat()
    assert heartbeat is not None
    assert (heartbeat.pid, heartbeat.microscope.state, heartbeat.processes) == (
        os.getpid(),
        "idle",
        (),
    )


@pytest.mark.usefixtures("dark")
def test_space_that_was_freed_before_anyone_looked_ends_the_wait(
    night: Callable[..., Night],
) -> None:
    batch = night("full")
    batch.plan("full", "DiskFullError", "DiskFullError")
    status = batch.run(free_bytes=lambda _: 10**9, disk_retry_s=0.1)
    assert states(status) == {"full": "finished"}
    assert [event for event in batch.events() if event.startswith("disk")] == [
        *("disk_low", "disk_freed"),
        *("disk_low", "disk_freed"),
    ]
    (reason, _) = [entry.reason for entry in batch.folder.journal() if entry.event == "disk_freed"]
    assert reason == "1 GB are free on the disk, which may be enough"


def test_what_fails_is_tried_again_and_given_up_with_its_reason(
    night: Callable[..., Night], dark: list[tuple[str, bool, bool]]
) -> None:
    batch = night("crashes", "always", "hopeless", "full")
    batch.plan("crashes", "crash")
    batch.plan("always", "killed", "killed")
    batch.plan("hopeless", "SampleStateError")
    batch.plan("full", "DiskFullError")
    free = [10_000_000]
    batch.on["disk_low", ""] = lambda: free.__setitem__(0, 10**9)
    status = batch.run(retries=1, free_bytes=lambda _: free[0])
    assert states(status) == {
        "crashes": "finished",
        "always": "quarantined",
        "hopeless": "quarantined",
        "full": "finished",
    }
    assert [event for event in batch.events() if event.startswith("disk")] == [
        "disk_low",
        "disk_freed",
    ]
    assert (batch.events("full").count("interrupted"), status["full"].attempts) == (1, 0)
    assert batch.events("crashes").count("attempt_failed") == 1
    (crash,) = [
        entry
        for entry in batch.folder.journal()
        if (entry.event, entry.sample) == ("attempt_failed", "crashes")
    ]
    assert crash.error == "ProcessCrashError"
    assert crash.reason.startswith(
        "its process crashed (SIGSEGV) while scanning: a fault in native code"
    )
    assert "The slide is in the dark" in crash.reason
    assert status["always"].error in ("ProcessKilledError", "OutOfMemoryError")
    assert "SIGKILL" in status["always"].reason or "out of memory" in status["always"].reason
    assert (status["hopeless"].error, status["hopeless"].attempts) == ("SampleStateError", 1)
    assert (
        dark.count(("demo", False, False)) == 5
    )  # after each attempt that failed with the microscope


def test_a_process_that_hangs_or_grows_is_ended(night: Callable[..., Night]) -> None:
    batch = night("hangs", "grows")
    batch.plan("hangs", "hang", "works")
    batch.plan("grows", "memory", "works")
    status = batch.run(limits_s={"scanning": 0.8}, memory_limit_bytes=350_000_000)
    assert states(status) == {"hangs": "finished", "grows": "finished"}
    failed = {
        entry.sample: entry for entry in batch.folder.journal() if entry.event == "attempt_failed"
    }
    assert failed["hangs"].error == "ProcessHungError"
    assert "it made no progress for" in failed["hangs"].reason
    assert failed["grows"].error in ("MemoryLimitError", "ProcessHungError")
    assert child_processes() == []


def test_a_process_is_not_to_blame_for_the_sleep_of_the_computer(
    night: Callable[..., Night], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = night("a")
    batch.plan("a", "wait")
    now, slept_s = time.monotonic, [0.0]
    monkeypatch.setattr(
        time, "monotonic", lambda: now() + slept_s[0]
    )  # as on Windows, where it goes on during sleep

    def sleep() -> None:
        while not (batch.folder.root / "a.waits").exists():
            time.sleep(0.01)
        slept_s[0] = 3600.0

    batch.on["scan_started", "a"] = threading.Thread(target=sleep).start
    batch.on["computer_slept", ""] = (batch.folder.root / "a.go").touch
    assert states(batch.run(limits_s={"scanning": 60.0})) == {"a": "finished"}
    assert batch.events().count("computer_slept") == 1
    assert "attempt_failed" not in batch.events("a")


def test_three_equal_faults_of_the_microscope_stop_the_scanning(
    night: Callable[..., Night], dark: list[tuple[str, bool, bool]]
) -> None:
    batch = night("a", "b", "c")
    for sample in ("a", "b", "c"):
        batch.plan(sample, "DeviceTimeoutError")
    status = batch.run()
    assert set(states(status).values()) == {"waiting"}
    assert {one.attempts for one in status.values()} == {
        0
    }  # the fault does not count against the slides
    assert batch.events().count("scanning_stopped") == 1
    assert dark[-1] == ("demo", False, True)  # no loader moves at a microscope with a fault


def test_a_mended_microscope_goes_on_unless_a_slide_may_be_half_loaded(
    night: Callable[..., Night], tmp_path: Path
) -> None:
    batch = night("a")
    shipped = ROOT / "hardware_configs"
    toml = (shipped / "demo.toml").read_text(encoding="utf-8")
    none = '"command"\nmethod = "none"'
    assert none in toml
    path = tmp_path / "hotel.toml"
    path.write_text(
        toml.replace(none, '"command"\nmethod = "prompt"\nslot = "A"'), encoding="utf-8"
    )
    shutil.copy(shipped / "demo.cfg", tmp_path)
    record = batch.folder.record()
    batch.folder.write(
        record.model_copy(
            update={"rows": (record.rows[0].model_copy(update={"scope": str(path)}),)}
        )
    )
    scope = load_scope(str(path))
    batch.plan("a", "LoaderStateError", "LoaderStateError")
    write_loader(scope, tmp_path, LoaderRecord(state="loading", method="prompt"))
    batch.on["scanning_stopped", ""] = lambda: batch.post("confirm")
    assert states(batch.run()) == {"a": "waiting"}
    (refused,) = [
        entry.reason for entry in batch.folder.journal() if entry.event == "command_refused"
    ]
    assert f"wbcpipe loader state --scope {path} --slide ID" in refused
    write_loader(scope, tmp_path, LoaderRecord(state="empty", method="operator"))
    assert states(batch.run()) == {"a": "finished"}
    assert batch.events()[-4:] == [
        "scanning_stopped",
        "scanning_resumed",
        "operator_confirmed",
        "batch_ended",
    ]


def test_a_disk_that_is_full_stops_nothing_for_good(
    tmp_path: Path, night: Callable[..., Night]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=90m", "tmpfs", str(disk)]
    if (
        sys.platform != "linux"
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("mounting a small disk needs Linux and root")
    try:
        batch = night("a", root=disk)
        batch.plan("a", "fill")

        def free(entry: JournalEntry) -> None:
            if entry.event == "disk_low":
                (disk / "filler").unlink(missing_ok=True)

        def scarce(path: Path) -> int:
            # The journal finds no space for the failure of the sample; then another program frees
            # some.
            left = shutil.disk_usage(path).free
            if left == 0 and (disk / "filler").stat().st_size > 80_000_000:
                os.truncate(disk / "filler", 80_000_000)
            return left

        batch.on_all = free
        assert states(batch.run(retries=0, free_bytes=scarce)) == {"a": "finished"}
        assert batch.events() == ["batch_started", "disk_low", "disk_freed", "batch_ended"]
        assert batch.events("a").count("interrupted") == 1
        assert list(batch.folder.path.glob("*.tmp*")) == []
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_commands_change_a_running_batch(night: Callable[..., Night]) -> None:
    batch = night("a", "b", "c", "bad")
    batch.plan("a", "wait")
    batch.plan("bad", "ConfigError")
    go = batch.folder.root / "a.go"

    def give() -> None:
        batch.post("skip", "b")
        batch.post("hold", "c")
        batch.post("hold", "a")
        batch.post("add", row=rows(["later"])[0])
        batch.post("add", row=rows(["b"])[0].model_copy(update={"slot": "B"}))
        batch.post("retry", "a")
        (batch.folder.inbox_path / "0-broken.json").write_text("{", encoding="utf-8")
        go.touch()

    batch.on["scan_started", "a"] = give
    batch.on["quarantined", "bad"] = lambda: batch.post("retry", "bad")
    batch.on["finished", "later"] = lambda: batch.post("release", "c")
    assert states(batch.run()) == {
        "a": "finished",
        "b": "skipped",
        "c": "finished",
        "bad": "finished",
        "later": "finished",
    }
    refused = [entry.reason for entry in batch.folder.journal() if entry.event == "command_refused"]
    assert len(refused) == 4
    assert any("is in the batch already" in reason for reason in refused)
    assert any(reason.startswith("hold a: it is being scanned") for reason in refused)
    assert len(list((batch.folder.inbox_path / "refused").iterdir())) == 4
    assert list(batch.folder.inbox_path.glob("*.json")) == []


def test_a_quarantined_sample_is_taken_out_and_the_batch_ends_in_order(
    night: Callable[..., Night],
) -> None:
    batch = night("a", "bad")
    batch.plan("bad", "NoCellsError")
    assert states(batch.run()) == {"a": "finished", "bad": "quarantined"}
    batch.post("skip", "bad")
    status = batch.run()
    assert states(status) == {"a": "finished", "bad": "skipped"}
    assert status["bad"].reason == "skipped by the operator"
    assert batch.events("bad")[-2:] == ["quarantined", "skipped"]
    _tell(batch.folder, status, 1.0, as_json=False)  # it raises unless the exit code is 0


def test_a_quarantined_sample_that_was_finished_by_hand_is_not_scanned_again(
    night: Callable[..., Night], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = night("bad")
    batch.plan("bad", "NoCellsError", "NoCellsError")
    assert states(batch.run()) == {"bad": "quarantined"}
    monkeypatch.setattr(
        "wbcpipe.batch.supervise.batch_state.row_content", lambda *_: RowContent("finished")
    )
    batch.post("retry", "bad")
    assert states(batch.run()) == {"bad": "finished"}
    assert batch.events("bad")[-3:] == ["quarantined", "retried", "finished"]


def test_a_stop_ends_the_batch_and_the_same_command_goes_on(
    night: Callable[..., Night], dark: list[tuple[str, bool, bool]]
) -> None:
    batch = night("a", "b")
    batch.plan("a", "wait", "wait")
    batch.on["scan_started", "a"] = lambda: batch.post("stop", at_once=True)
    with pytest.raises(InterruptedRunError, match="run the same command again"):
        batch.run()
    assert states(batch.folder.status()) == {"a": "waiting", "b": "waiting"}
    assert child_processes() == []
    assert dark == [
        ("demo", False, False),
        ("demo", False, True),
    ]  # the slide stays for the scan that goes on

    def stop() -> None:
        batch.post("stop")
        (batch.folder.root / "a.go").touch()

    batch.on["scan_started", "a"] = stop
    assert states(batch.run()) == {"a": "finished", "b": "waiting"}
    assert dark[-1] == ("demo", True, True)


def test_a_failed_check_scans_nothing(night: Callable[..., Night]) -> None:
    batch = night("a", "b")

    def fail() -> None:
        raise BatchCheckError("the lamp is dark.")

    batch.check = fail
    with pytest.raises(BatchCheckError, match="the lamp is dark"):
        batch.run()
    assert "scan_started" not in batch.events("a")
    assert [event for event in batch.events() if event.startswith(("check", "scanning"))] == [
        "check_failed",
        "scanning_stopped",
    ]
    assert states(batch.folder.status()) == {"a": "waiting", "b": "waiting"}


_SUPERVISE = """
import sys
from pathlib import Path
import batch_targets
import wbcpipe.batch.supervise.leave_microscope as leave_microscope
import wbcpipe.batch.supervise.supervisor as supervisor
import wbcpipe.batch.supervise.used_microscopes as used_microscopes
from wbcpipe.batch.state.batch_folder import BatchFolder
from wbcpipe.batch.supervise.night_hooks import NightHooks
from wbcpipe.batch.supervise.options import SupervisorOptions
from wbcpipe.cli.progress import Reporter
from wbcpipe.system.signals import install_stop_handlers

if __name__ == "__main__":
    supervisor.make_dark = lambda *_, **__: ""
    used_microscopes.leave_microscope = lambda *_, **__: leave_microscope.Left()
    install_stop_handlers()
    folder = BatchFolder.open(Path(sys.argv[1]), "night")
    options = SupervisorOptions(target=batch_targets.work)
    with Reporter(quiet=True) as reporter:
        supervisor.Supervisor(folder, options, NightHooks(), reporter).run()
"""


@pytest.mark.skipif(os.name == "nt", reason="signals between processes")
def test_killed_or_stopped_it_goes_on_without_leftovers(night: Callable[..., Night]) -> None:
    batch = night("a", "b")
    root = batch.folder.root
    batch.plan("a", "wait", "wait")
    script = root / "supervise.py"
    script.write_text(_SUPERVISE, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    working: list[ProcessStatus] = []
    for number in (signal.SIGKILL, signal.SIGTERM):
        with subprocess.Popen(
            [sys.executable, str(script), str(root)], env=environment, stderr=subprocess.PIPE
        ) as run:
            until_s = time.monotonic() + 60
            while (
                not (root / "a.waits").exists()
                and run.poll() is None
                and time.monotonic() < until_s
            ):
                time.sleep(0.01)
            with pytest.raises(BatchBusyError, match="is being run by another process"):
                batch.run()
            heartbeat = batch.folder.heartbeat()
            assert heartbeat is not None
            assert {one.sample for one in heartbeat.processes} >= {"a"}
            working += heartbeat.processes
            run.send_signal(number)
            run.wait(40)
        (root / "a.waits").unlink()
    (root / "a.go").touch()
    assert states(batch.run()) == {"a": "finished", "b": "finished"}
    assert not any(psutil.pid_exists(one.pid) for one in working)
    journal = batch.folder.journal()
    begun = ["scan_started", "interrupted"]
    done = ["scan_started", "scan_finished", "processing_started", "finished"]
    assert [entry.event for entry in journal if entry.sample == "a"] == [*begun, *begun, *done]
    assert (
        json.loads((batch.folder.path / "batch.json").read_text(encoding="utf-8"))["name"]
        == "night"
    )


def test_a_report_that_the_journal_does_not_know_is_finished(
    night: Callable[..., Night], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = night("a")
    for event in ("scan_started", "scan_finished", "processing_started"):
        entry = JournalEntry.model_validate(
            {"time": datetime.now(UTC), "event": event, "sample": "a", "attempt": 1}
        )
        batch.folder.append(entry)
    # The kill fell between the report and its line, which is cut short.
    with batch.folder.journal_path.open("a", encoding="utf-8") as journal:
        journal.write('{"time":"2026')
    monkeypatch.setattr(
        "wbcpipe.batch.supervise.batch_state.row_content", lambda *_: RowContent("finished")
    )
    assert states(batch.run()) == {"a": "finished"}
    assert batch.events("a").count("scan_started") == 1
