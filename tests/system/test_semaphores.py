"""Semaphores that a killed process has left are removed; those in use stay."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from wbcpipe.system.semaphores import remove_abandoned_semaphores

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux keeps semaphores as files"
)

MAKER = """
import multiprocessing, multiprocessing.resource_tracker as tracker, sys
lock = multiprocessing.get_context("spawn").Lock()
print(lock._semlock.name.lstrip("/"), tracker._resource_tracker._pid, flush=True)
sys.stdin.read()
"""


def make_semaphore() -> tuple[subprocess.Popen[str], Path, int]:
    process = subprocess.Popen(
        [sys.executable, "-c", MAKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    name, tracker = process.stdout.readline().split()
    return process, Path("/dev/shm", f"sem.{name}"), int(tracker)


def test_one_left_by_a_kill_of_everything_is_removed_and_one_in_use_stays() -> None:
    killed, left, tracker = make_semaphore()
    living, used, _ = make_semaphore()
    try:
        assert left.exists()
        assert left.name not in remove_abandoned_semaphores()
        os.kill(tracker, signal.SIGKILL)
        killed.kill()
        killed.communicate()
        assert left.exists()

        removed = remove_abandoned_semaphores()

        assert left.name in removed
        assert used.name not in removed
        assert not left.exists()
        assert used.exists()
    finally:
        left.unlink(missing_ok=True)
        living.communicate("")
        killed.kill()
        killed.wait()
    assert not used.exists()


def test_only_unmapped_semaphores_of_multiprocessing_are_removed(tmp_path: Path) -> None:
    for name in ("sem.mp-left", "sem.mp-mapped", "sem.other", "mp-memory"):
        (tmp_path / name).write_bytes(bytes(32))
    with (
        (tmp_path / "sem.mp-mapped").open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ),
    ):
        assert remove_abandoned_semaphores(tmp_path) == ["sem.mp-left"]
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {"sem.mp-mapped", "sem.other", "mp-memory"}
