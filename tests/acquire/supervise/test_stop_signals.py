"""Ctrl-C, SIGTERM and SIGHUP to a run.

Once, and by an impatient operator twice, at every stage of the acquisition.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from wbcpipe.samples.fields import fields_on_disk, read_field
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wbcpipe.tests.acquire.conftest import Bridged, BridgeMaker

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="groups of processes and their signals are POSIX"
)


@pytest.fixture(autouse=True)
def default_sigint() -> Iterator[None]:
    """Let child processes receive SIGINT also where a shell that runs the tests in its background
    ignores it.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Run:
    """A command at work on a small scope over the bridge, in a process group of its own, as in a
    terminal.
    """

    def __init__(self, command: str, bridge: Bridged, folder: Path) -> None:
        self.bridge, self.folder, self.command = bridge, folder, command
        self.sample = Sample.open(folder, "S1")
        self.raw = self.sample.raw_path()
        self.scope = folder / "over.toml"
        text = (folder / "small.toml").read_text(encoding="utf-8")
        backend = f'backend = "bridge"\nport = {bridge.port}'
        self.scope.write_text(text.replace('backend = "headless"', backend), encoding="utf-8")
        self.output = folder / "output.txt"
        with self.output.open("w") as stream:
            self.process = subprocess.Popen(
                self.words(command, 25),
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                cwd=ROOT.parent,
            )

    def words(self, command: str, fields: int) -> list[str]:
        name = "--slide" if command == "acquire" else "--sample"
        given = [
            command,
            name,
            "S1",
            "--scope",
            str(self.scope),
            "--fields",
            str(fields),
            "--data",
            str(self.folder),
        ]
        return [sys.executable, "-m", "wbcpipe", *given]

    @property
    def said(self) -> str:
        return self.output.read_text(encoding="utf-8")

    def taken(self) -> dict[int, Path]:
        return fields_on_disk(self.raw) if self.raw.is_dir() else {}

    def wait_for(self, moment: str) -> None:
        reached: Callable[[], object] = {
            "locked": lambda: (self.sample.path / ".sample.holder").is_file(),
            "opening": lambda: (self.sample.path / ".acquire.holder").is_file(),
            "focusing": lambda: "finding the focus" in self.said,
            "taking": self.taken,
            "sequence": lambda: (
                (self.sample.path / "log.jsonl").is_file() and self.events("sequencing_verified")
            ),
        }[moment]
        until_s = time.monotonic() + 90
        while not reached():
            assert time.monotonic() < until_s, self.said
            assert self.process.poll() is None, self.said
            time.sleep(0.005)

    def hang(self) -> None:
        """Have the microscope hang in its next calls, and wait until it does.

        The first signal then does not end the run before the second comes.
        """
        for name in ("getLoadedDevices", "snapImage", "popNextTaggedImage", "deviceBusy"):
            self.bridge.order(f"hang {name} 1 600")
        until_s = time.monotonic() + 90
        while self.bridge.order("hanging") == "0":
            assert time.monotonic() < until_s, self.said
            assert self.process.poll() is None, self.said
            time.sleep(0.005)

    def check(self, code: int) -> None:
        """See that it has ended with ``code``, in the dark, with all that is on disk in order."""
        # A signal that arrives in the last moments of Python's exit ends it itself; a shell shows
        # the same code.
        assert self.process.wait(60) in (code, 128 - code), self.said
        for word in ("Traceback", "Exception ignored", "KeyboardInterrupt", "StopRequested"):
            assert word not in self.said, self.said
        assert "same command" in self.said
        assert left_behind(self.process.pid) == []
        assert self.bridge.order("shutter") == "closed"
        for path in self.taken().values():
            read_field(path)
        assert len(self.taken()) < 25

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = (self.sample.path / "log.jsonl").read_text(encoding="utf-8").splitlines()
        return [event for line in lines if (event := json.loads(line))["event"] == name]

    def go_on(self) -> None:
        """See that the same command takes one field more."""
        wanted = len(self.taken()) + 1
        again = subprocess.run(
            self.words("acquire", wanted),
            capture_output=True,
            text=True,
            cwd=ROOT.parent,
            check=False,
        )
        assert again.returncode == 0, again.stderr
        assert "light was found on" not in again.stderr
        assert len(self.taken()) == wanted


def left_behind(group: int) -> list[str]:
    """Return the processes of a group that still live.

    A child that outlives its parent is given its time.
    """
    found: list[str] = []
    for _ in range(200):
        table = subprocess.run(
            ["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True, check=True
        ).stdout
        rows = [line.split(maxsplit=2) for line in table.splitlines()]
        found = [
            row[2]
            for row in rows
            if len(row) == 3 and row[0] == str(group) and not row[1].startswith("Z")
        ]
        if not found:
            break
        time.sleep(0.05)
    return found


@pytest.fixture
def start(tmp_path: Path, make_bridge: BridgeMaker) -> Iterator[Callable[[str, str], Run]]:
    started: list[Run] = []

    def run(command: str, moment: str) -> Run:
        changes = {
            "focusing": [
                ('method = "fixed"', 'method = "surface"'),
                ("window_px = 384", "window_px = 256"),
            ],
            "sequence": [('sequencing = "off"', 'sequencing = "on"')],
        }.get(moment, [])
        started.append(Run(command, make_bridge(*changes), tmp_path))
        started[-1].wait_for(moment)
        return started[-1]

    yield run
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


@pytest.mark.parametrize(
    ("command", "moment", "number", "code", "reason"),
    [
        ("acquire", "locked", signal.SIGINT, 130, "stopped by the operator"),
        ("acquire", "opening", signal.SIGTERM, 143, "stopped by SIGTERM"),
        ("acquire", "focusing", signal.SIGHUP, 129, "stopped by SIGHUP"),
        ("acquire", "sequence", signal.SIGINT, 130, "stopped by the operator"),
        ("run", "taking", signal.SIGINT, 130, "stopped by the operator"),
    ],
)
def test_one_signal_stops_gracefully_and_the_same_command_goes_on(
    start: Callable[[str, str], Run],
    command: str,
    moment: str,
    number: signal.Signals,
    code: int,
    reason: str,
) -> None:
    run = start(command, moment)
    for _ in range(3):  # a key held down is one signal
        os.killpg(run.process.pid, number)
        time.sleep(0.02)
    run.check(code)
    (ended,) = run.events("run_ended")
    assert (ended["command"], ended["reason"], ended["signal"]) == (command, reason, number.name)
    run.go_on()


@pytest.mark.parametrize(
    ("command", "moment", "numbers"),
    [
        ("acquire", "opening", (signal.SIGINT, signal.SIGINT)),
        ("acquire", "focusing", (signal.SIGINT, signal.SIGINT)),
        ("acquire", "sequence", (signal.SIGINT, signal.SIGINT)),
        ("run", "taking", (signal.SIGTERM, signal.SIGHUP)),
    ],
)
def test_a_second_signal_ends_the_parent_at_once_and_the_child_closes_the_shutter(
    start: Callable[[str, str], Run],
    command: str,
    moment: str,
    numbers: tuple[signal.Signals, signal.Signals],
) -> None:
    run = start(command, moment)
    run.hang()
    os.killpg(run.process.pid, numbers[0])
    time.sleep(0.5)
    assert run.process.poll() is None, "the first signal ended it already"
    os.killpg(run.process.pid, numbers[1])
    assert run.process.wait(60) == 128 + numbers[1], "it waited for the device"
    run.bridge.order("heal")
    run.check(128 + numbers[1])
    assert "ended at once" in run.said
    run.go_on()
