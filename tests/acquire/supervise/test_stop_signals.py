"""Ctrl-C from an impatient operator: pressed again and again, also while the first one is obeyed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from wbcpipe.samples.fields import fields_on_disk, read_field
from wbcpipe.samples.sample import Sample
from wbcpipe.system.signals import ignore_stop_signals_in_children, install_stop_handlers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="groups of processes and SIGINT are POSIX")


@pytest.fixture(autouse=True)
def heard_interrupts() -> Iterator[None]:
    """Let child processes hear SIGINT also where the tests run in the background of a shell, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def words(command: str, scope: Path, data: Path, fields: int) -> list[str]:
    name = "--slide" if command == "acquire" else "--sample"
    given = [command, name, "S1", "--scope", str(scope), "--fields", str(fields), "--data", str(data)]
    return [sys.executable, "-m", "wbcpipe", *given]


def left_behind(group: int) -> list[str]:
    """Processes of a group that still live; Python's own, which ends with the pipe to it, is given a moment."""
    found: list[str] = []
    for _ in range(40):
        table = subprocess.run(["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True, check=True).stdout
        rows = [line.split(maxsplit=2) for line in table.splitlines()]
        found = [row[2] for row in rows if len(row) == 3 and row[0] == str(group) and not row[1].startswith("Z")]
        if not found:
            break
        time.sleep(0.05)
    return found


def events(sample: Sample) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (sample.path / "log.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("command", "moment", "gap_s"),
    [
        ("acquire", "begun", 0.02),
        ("acquire", "opening", 0.0),
        ("acquire", "taking", 0.0),
        ("acquire", "taking", 0.3),
        ("run", "taking", 0.02),
    ],
)
def test_pressed_three_times_it_ends_dark_and_whole_and_the_same_command_goes_on(
    tmp_path: Path, bridged: Any, command: str, moment: str, gap_s: float
) -> None:
    scope = tmp_path / "over.toml"
    text = (tmp_path / "small.toml").read_text(encoding="utf-8")
    scope.write_text(
        text.replace('backend = "headless"', f'backend = "bridge"\nport = {bridged.port}'), encoding="utf-8"
    )
    sample = Sample.open(tmp_path, "S1")
    raw = sample.raw_path()
    reached: Callable[[], bool] = {
        "begun": lambda: (sample.path / ".sample.holder").is_file(),
        "opening": lambda: (sample.path / ".acquire.holder").is_file(),
        "taking": lambda: raw.is_dir() and bool(fields_on_disk(raw)),
    }[moment]
    with subprocess.Popen(
        words(command, scope, tmp_path, 25),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        cwd=ROOT.parent,
    ) as process:
        until_s = time.monotonic() + 60
        while not reached():
            assert time.monotonic() < until_s
            assert process.poll() is None
            time.sleep(0.005)
        for _ in range(3):
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(gap_s)
        said = process.communicate(timeout=60)[0]
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    assert "KeyboardInterrupt" not in said
    assert "the same command goes on" in said
    assert not left_behind(process.pid)
    assert bridged.order("shutter") == "closed"
    ended = [event for event in events(sample) if event["event"] == "run_ended"]
    assert [(event["command"], event["reason"]) for event in ended] == [(command, "stopped by the operator")]
    taken = fields_on_disk(raw) if raw.is_dir() else {}
    assert len(taken) < 25
    for path in taken.values():
        read_field(path)
    again = subprocess.run(
        words("acquire", scope, tmp_path, len(taken) + 1), capture_output=True, text=True, cwd=ROOT.parent, check=False
    )
    assert again.returncode == 0, again.stderr
    assert "light was found on" not in again.stderr
    assert len(fields_on_disk(raw)) == len(taken) + 1


def test_only_the_first_is_heard_until_the_run_had_time_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = {"s": 1000.0}
    monkeypatch.setattr("wbcpipe.system.signals.time.monotonic", lambda: now["s"])
    install_stop_handlers()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    now["s"] += 100
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    now["s"] += 30
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_ctrl_c_that_is_ignored_stays_so() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    install_stop_handlers()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_ctrl_c_that_another_thread_hears_waits_until_a_started_process_is_known() -> None:
    over = threading.Event()
    other = threading.Thread(target=over.wait)
    other.start()
    seen: list[str] = []

    def start() -> None:
        with ignore_stop_signals_in_children():
            signal.pthread_kill(int(other.ident or 0), signal.SIGINT)
            time.sleep(0.05)
            seen.append("started")
        seen.append("went on")

    try:
        with pytest.raises(KeyboardInterrupt):
            start()
        assert seen == ["started"]
        with ignore_stop_signals_in_children():
            pass
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        over.set()
        other.join()
