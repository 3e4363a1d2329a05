"""A supervised child.

Its messages, its errors, its silence, its death, and the death of its parent.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from wbcpipe.errors import CoreLostError, DiskFullError
from wbcpipe.system.child_process import ChildLostError, ChildProcess

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_TARGETS = """
import errno, logging, os, signal, sys, time
from pathlib import Path
from wbcpipe.errors import CoreLostError

def echo(first, parent):
    parent.send(first)
    parent.send(parent.receive())

def chat(parent):
    log = logging.getLogger("wbcpipe.acquire.test")
    log.debug("too low")
    log.info("focus %.1f um", 3.25)
    parent.send("first")
    log.warning("a retry")
    parent.send("second")

def log_for_ever(parent):
    while True:
        logging.getLogger("wbcpipe.acquire.test").info("a try")
        time.sleep(0.01)

def lose_core(parent):
    raise CoreLostError("the core is gone.")

def fail(parent):
    {}["key"]

def fill(parent):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

def die(parent):
    os.kill(os.getpid(), signal.SIGSEGV)

def sleep(parent):
    time.sleep(600)

def hang(path, parent):
    parent.if_hung = lambda: Path(path).write_text("closed")
    time.sleep(600)

def signal_itself(parent):
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        os.kill(os.getpid(), getattr(signal, name))
    parent.send("alive")

def note_the_end(path, parent):
    parent.send("ready")
    parent.stop_requested(60)
    Path(path).write_text("closed")
"""
_PARENT = """
import sys, time
import child_targets
from wbcpipe.system.child_process import ChildProcess

if __name__ == "__main__":
    target = getattr(child_targets, sys.argv[1])
    with ChildProcess(target, *sys.argv[2:], name="test", end_s=1.0) as child:
        print(child.pid, flush=True)
        child.receive(60)
"""


@pytest.fixture
def targets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Callable[..., None]]:
    """Give functions of a module that a child can import."""
    (tmp_path / "child_targets.py").write_text(_TARGETS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "child_targets", raising=False)
    return lambda name: getattr(importlib.import_module("child_targets"), name)


def test_messages_go_both_ways_and_the_end_is_seen(
    targets: Callable[[str], Callable[..., None]],
) -> None:
    child: ChildProcess[object] = ChildProcess(targets("echo"), (1, "two"), name="test")
    with child:
        assert child.receive(60) == (1, "two")
        child.send("back")
        assert list(child.messages(60)) == ["back"]
    assert child.exit_code == 0


@pytest.mark.parametrize(
    ("forwards_log", "lines"),
    [(True, [("INFO", "focus 3.2 um"), ("WARNING", "a retry")]), (False, [])],
)
def test_the_log_of_a_child_is_logged_by_its_parent(
    targets: Callable[[str], Callable[..., None]],
    caplog: pytest.LogCaptureFixture,
    forwards_log: bool,
    lines: list[tuple[str, str]],
) -> None:
    child: ChildProcess[str] = ChildProcess(targets("chat"), name="test", forwards_log=forwards_log)
    with caplog.at_level("INFO", "wbcpipe"), child:
        assert list(child.messages(60)) == ["first", "second"]
    found = [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name == "wbcpipe.acquire.test"
    ]
    assert found == lines


def test_a_line_of_the_log_is_no_sign_of_life(
    targets: Callable[[str], Callable[..., None]], caplog: pytest.LogCaptureFixture
) -> None:
    child: ChildProcess[str] = ChildProcess(targets("log_for_ever"), name="test")
    with (
        caplog.at_level("INFO", "wbcpipe"),
        child,
        pytest.raises(ChildLostError, match="gave no sign of life"),
    ):
        child.receive(3)


def test_an_error_arrives_with_its_class_and_text(
    targets: Callable[[str], Callable[..., None]],
) -> None:
    with (
        ChildProcess[object](targets("lose_core"), name="test") as child,
        pytest.raises(CoreLostError) as caught,
    ):
        child.receive(60)
    assert str(caught.value) == "the core is gone."


def test_an_error_of_another_class_arrives_as_text_with_its_traceback(
    targets: Callable[[str], Callable[..., None]],
) -> None:
    with (
        ChildProcess[object](targets("fail"), name="test") as child,
        pytest.raises(RuntimeError, match=r"^a child process failed: KeyError: 'key'") as caught,
    ):
        child.receive(60)
    assert 'in fail\n    {}["key"]' in caught.value.__notes__[0]


def test_a_disk_that_is_full_is_no_defect_of_a_child(
    targets: Callable[[str], Callable[..., None]],
) -> None:
    with (
        ChildProcess[object](targets("fill"), name="test") as child,
        pytest.raises(DiskFullError, match="a file: no space"),
    ):
        child.receive(60)


@pytest.mark.skipif(sys.platform == "win32", reason="signals to a process are POSIX")
def test_the_signal_that_ended_a_child_is_named(
    targets: Callable[[str], Callable[..., None]],
) -> None:
    with (
        ChildProcess[object](targets("die"), name="test") as child,
        pytest.raises(ChildLostError) as caught,
    ):
        child.receive(60)
    assert (caught.value.reason, caught.value.exit_code) == ("died (SIGSEGV)", -signal.SIGSEGV)


def test_a_child_that_is_silent_is_killed(targets: Callable[[str], Callable[..., None]]) -> None:
    with (
        ChildProcess[object](targets("sleep"), name="test") as child,
        pytest.raises(ChildLostError) as caught,
    ):
        child.receive(0.2)
    assert caught.value.reason == "gave no sign of life for 0.2 s and was ended"
    assert child.exit_code is not None


def test_a_child_that_does_not_end_by_itself_is_killed(
    targets: Callable[[str], Callable[..., None]],
) -> None:
    with ChildProcess[object](targets("sleep"), name="test", end_s=0.2) as child:
        pass
    assert child.exit_code not in (0, None)


@pytest.mark.skipif(sys.platform == "win32", reason="signals to a process are POSIX")
def test_a_child_ignores_stop_signals(targets: Callable[[str], Callable[..., None]]) -> None:
    with ChildProcess[object](targets("signal_itself"), name="test") as child:
        assert child.receive(60) == "alive"
    assert child.exit_code == 0


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
@pytest.mark.parametrize(
    ("target", "arguments"),
    [("note_the_end", ["closed.txt"]), ("hang", ["closed.txt"]), ("sleep", [])],
)
def test_a_child_ends_with_a_parent_that_is_killed(
    tmp_path: Path, targets: Callable[[str], Callable[..., None]], target: str, arguments: list[str]
) -> None:
    assert callable(targets(target))
    (tmp_path / "parent.py").write_text(_PARENT, encoding="utf-8")
    command = [sys.executable, "parent.py", target, *arguments]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        time.sleep(1.0)
        parent.kill()
    until_s = time.monotonic() + 30
    while _is_alive(pid):
        assert time.monotonic() < until_s, "it outlives its parent"
        time.sleep(0.05)
    assert not arguments or (tmp_path / arguments[0]).read_text(encoding="utf-8") == "closed"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat", encoding="utf-8") as handle:  # noqa: PTH123 - gone between the two is gone
        return handle.read().rsplit(")", 1)[1].split()[0] != "Z"
