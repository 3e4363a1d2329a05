"""Locks between processes, within one, and between users."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from wbcpipe.system.locks import exclusive_lock, try_lock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOLD = """
import sys
from pathlib import Path
from wbcpipe.system.locks import exclusive_lock
path = Path(sys.argv[1])
with exclusive_lock(path, path.with_suffix(".holder"), "holding", RuntimeError):
    print("held", flush=True)
    sys.stdin.readline()
"""


class BusyError(Exception):
    """Another process holds the lock."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "one.lock"


@pytest.fixture
def other(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until it is sent a line."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        yield child
        child.kill()


def test_another_process_is_named(path: Path, other: subprocess.Popen[str]) -> None:
    with (
        pytest.raises(BusyError, match=f"process {other.pid}, holding"),
        exclusive_lock(path, path.with_suffix(".holder"), "waiting", BusyError),
    ):
        pass
    with try_lock(path) as held:
        assert not held


def test_a_process_that_is_killed_leaves_no_lock(path: Path, other: subprocess.Popen[str]) -> None:
    other.send_signal(signal.SIGKILL)
    other.wait()
    with exclusive_lock(path, path.with_suffix(".holder"), "next", BusyError):
        assert path.with_suffix(".holder").read_text(encoding="utf-8").endswith("next\n")


def test_a_lock_is_waited_for(path: Path, other: subprocess.Popen[str]) -> None:
    released = threading.Event()

    def release() -> None:
        released.set()
        assert other.stdin is not None
        other.stdin.write("release\n")

    threading.Timer(0.3, release).start()
    with exclusive_lock(path, path.with_suffix(".holder"), "next", BusyError, wait_s=60.0):
        assert released.is_set()
    assert other.wait(60) == 0


def test_a_second_lock_of_the_same_process_is_refused(path: Path) -> None:
    with exclusive_lock(path, path.with_suffix(".holder"), "first", BusyError):
        with (
            pytest.raises(BusyError, match="first"),
            exclusive_lock(path, path.with_suffix(".holder"), "2", BusyError),
        ):
            pass
        with (
            pytest.raises(BusyError),
            exclusive_lock(path, path.with_suffix(".holder"), "2", BusyError, wait_s=0.2),
        ):
            pass
    with try_lock(path) as held:
        assert held


def test_a_spawned_child_does_not_keep_the_lock(path: Path) -> None:
    with exclusive_lock(path, path.with_suffix(".holder"), "first", BusyError):
        child = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
        )
    with try_lock(path) as held:
        assert held
    child.communicate(b"")


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of Unix")
def test_the_permissions_of_a_shared_lock_are_kept(path: Path) -> None:
    path.touch()
    path.chmod(0o666)
    with try_lock(path) as held:
        assert held
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
