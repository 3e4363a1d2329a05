"""A child, whatever it does at that moment, and its own children end with a parent that is
killed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_TARGETS = """
import ctypes, os, subprocess, sys, time
from pathlib import Path
from wbcpipe.system.child_process import ChildProcess, worker_pool
from wbcpipe.system.parent_watch import end_program_with_parent

def note(name):
    Path(f"{name}.partial").write_text(str(os.getpid()))
    os.replace(f"{name}.partial", f"{name}.pid")

def hold_interpreter():
    ctypes.PyDLL(None).sleep(600)

def unpickle(name, native):
    note(name)
    hold_interpreter() if native else time.sleep(600)

class SlowArgument:
    def __init__(self, name, native):
        self.arguments = name, native

    def __reduce__(self):
        return unpickle, self.arguments

def ignore(*_):
    pass

def compute(name, parent):
    note(name)
    while True:
        pass

def hang(name, parent):
    note(name)
    hold_interpreter()

def outlive_its_devices(name, parent):
    note(name)
    started = time.monotonic()
    parent.stop_requested(None)
    time.sleep(0.3)
    Path("shutter.txt").write_text("closed")

def raise_child(name, parent):
    with ChildProcess(compute, name, end_s=0.0, name="grandchild") as child:
        child.receive(600)

def run_pool(name, parent):
    with worker_pool(1, note, name) as pool:
        pool.submit(hold_interpreter).result()

def run_program(name, parent):
    code = f"import child_targets, time; child_targets.note({name!r}); time.sleep(600)"
    subprocess.run([sys.executable, "-c", code], preexec_fn=end_program_with_parent)
"""
_SLOW_MODULE = """
import child_targets
child_targets.note("import")
import time
time.sleep(600)
target = child_targets.compute
"""
_PARENT = """
import sys, threading, time
import child_targets as targets
from wbcpipe.system.child_process import ChildProcess

class SlowModule:
    def __reduce__(self):
        import importlib
        return importlib.import_module, ("slow_module",)

def start(target, *arguments, end_s):
    child = ChildProcess(target, *arguments, name="test", end_s=end_s)
    children.append(child)
    child.start()

if __name__ == "__main__":
    children = []
    start(targets.ignore, targets.SlowArgument("unpickle", False), end_s=60)
    start(targets.ignore, targets.SlowArgument("unpickle_native", True), end_s=60)
    start(targets.ignore, SlowModule(), end_s=60)
    start(targets.compute, "loop", end_s=0.5)
    start(targets.hang, "native", end_s=0)
    start(targets.hang, "native_devices", end_s=1)
    start(targets.outlive_its_devices, "devices", end_s=30)
    start(targets.raise_child, "grandchild", end_s=0)
    start(targets.run_pool, "pool", end_s=0)
    start(targets.run_program, "program", end_s=0)
    args = (targets.hang, "thread_native")
    thread = threading.Thread(target=start, args=args, kwargs={"end_s": 0})
    thread.start()
    thread.join()
    time.sleep(600)
"""
#: What the children do when their parent is killed, in the order in which they end.
_CHILDREN: Final = (
    "unpickle",
    "unpickle_native",
    "import",
    "native",
    "thread_native",
    "grandchild",
    "pool",
    "program",
    "loop",
    "devices",
    "native_devices",
)
#: None of them would end by itself within this time.
_DEADLINE_S: Final = 120.0


@pytest.fixture(scope="module")
def orphans(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Path, dict[str, psutil.Process], float]]:
    """Folder, children of a killed parent by what they do, and when it was killed."""
    folder = tmp_path_factory.mktemp("orphans")
    for name, code in (
        ("child_targets", _TARGETS),
        ("slow_module", _SLOW_MODULE),
        ("parent", _PARENT),
    ):
        (folder / f"{name}.py").write_text(code, encoding="utf-8")
    with subprocess.Popen([sys.executable, "parent.py"], cwd=folder) as parent:
        until_s = time.monotonic() + 60
        while not all((folder / f"{name}.pid").exists() for name in _CHILDREN):
            assert parent.poll() is None
            assert time.monotonic() < until_s, "the children do not start"
            time.sleep(0.05)
        processes = {
            name: psutil.Process(int((folder / f"{name}.pid").read_text())) for name in _CHILDREN
        }
        # A thread that started a child has ended, and its child lives.
        assert all(process.is_running() for process in processes.values())
        parent.kill()
    killed_s = time.monotonic()
    yield folder, processes, killed_s
    for process in processes.values():
        if process.is_running():
            process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
@pytest.mark.parametrize("name", _CHILDREN)
def test_a_child_ends_with_its_parent_whatever_it_does(
    orphans: tuple[Path, dict[str, psutil.Process], float], name: str
) -> None:
    folder, processes, killed_s = orphans
    while _is_alive(processes[name]):
        assert time.monotonic() < killed_s + _DEADLINE_S, f"{name}: it outlives its parent"
        time.sleep(0.02)
    if name == "devices":
        assert (folder / "shutter.txt").read_text() == "closed"


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
@pytest.mark.parametrize(("end_s", "number"), [(0.5, 12), (20.0, 34), (40.5, 41), (300.0, 64)])
def test_the_delay_of_a_child_with_devices_is_its_own_or_longer(end_s: float, number: int) -> None:
    code = (
        f"from wbcpipe.system.parent_watch import _delay_signal; raise "
        f"SystemExit(_delay_signal({end_s}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == number


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
