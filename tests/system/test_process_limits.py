"""Memory, priority and end of process trees."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import psutil
import pytest

from wbcpipe.system.process_limits import (
    end_tree,
    is_alive,
    process_created,
    return_free_memory,
    tree_memory,
)

_TREE = """
import subprocess, sys, time
code = "x = bytearray(40_000_000); print(1, flush=True); import time; time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", code])
{first}
time.sleep(600)
"""


def _start(first: str = "") -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", _TREE.format(first=first)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_the_memory_of_a_tree_counts_its_children() -> None:
    with _start() as process:
        measured = tree_memory(process.pid)
        created = process_created(process.pid)
        assert created is not None
        assert end_tree(process.pid, created, 0)
    assert measured.processes == 2
    assert measured.peak_bytes >= measured.resident_bytes >= 40_000_000
    assert tree_memory(process.pid).processes == 0


@pytest.mark.parametrize("grace_s", [0.0, 0.3])
def test_a_tree_ends_also_where_it_ignores_requests(grace_s: float) -> None:
    with _start("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)") as process:
        child = psutil.Process(process.pid).children()[0]
        created = process_created(process.pid)
        assert created is not None
        assert is_alive(process.pid, created)
        assert end_tree(process.pid, created, grace_s)
        assert not is_alive(process.pid, created)
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_process_that_was_given_the_same_id_is_left_alone() -> None:
    with _start() as process:
        created = process_created(process.pid)
        assert created is not None
        assert end_tree(process.pid, created - 60, 0)
        assert process.poll() is None
        assert not is_alive(process.pid, created - 60)
        assert end_tree(process.pid, created, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="niceness is POSIX")
def test_background_priority_is_passed_on_to_children() -> None:
    code = (
        "import os, subprocess, sys; from wbcpipe.system.process_limits import "
        "set_background_priority;"
        "set_background_priority(); set_background_priority();"
        "sys.exit(subprocess.call([sys.executable, '-c', 'import os, sys; sys.exit(os.nice(0))']))"
    )
    expected = max(15, os.nice(0))
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == expected


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep nothing")
def test_free_memory_is_returned_below_a_block_that_is_in_use() -> None:
    process = psutil.Process()
    blocks = [bytes(50_000) for _ in range(4000)]
    used = process.memory_info().rss
    del blocks[:-1]
    return_free_memory()
    assert used - process.memory_info().rss > 150e6
