"""The shutter is closed by another process when the one that opened it cannot."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from wbcpipe.acquire.hardware.safe_dark import close_shutter_in_subprocess

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.tests.acquire.conftest import Bridged

ROOT = Path(__file__).parents[3]
_HUNG = """
import functools, os, sys, time
from wbcpipe.acquire.config.scope import load_scope
from wbcpipe.acquire.hardware.core_link import CoreLink
from wbcpipe.acquire.hardware.safe_dark import close_shutter_after_this_process
from wbcpipe.system.child_process import ChildProcess

def hang(scope, parent):
    parent.if_hung = functools.partial(close_shutter_after_this_process, scope)
    CoreLink(scope).shutter.set_open(is_open=True)
    parent.send("open")
    time.sleep(60)

if __name__ == "__main__":
    child = ChildProcess(hang, load_scope(sys.argv[1]), name="hung", end_s=0.3)
    child.start()
    print(child.receive(60), flush=True)
    sys.stdin.readline()
    os._exit(1)
"""


def test_the_shutter_is_closed_once_a_process_that_hangs_is_gone(
    tmp_path: Path, bridged: Bridged
) -> None:
    scope, script = tmp_path / "over.toml", tmp_path / "hung.py"
    text = (tmp_path / "small.toml").read_text(encoding="utf-8")
    backend = f'backend = "bridge"\nport = {bridged.port}'
    scope.write_text(text.replace('backend = "headless"', backend), encoding="utf-8")
    script.write_text(_HUNG, encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, str(script), str(scope)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT.parent,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        assert bridged.order("shutter") == "open"
        process.communicate("end\n")  # the parent of the process that hangs is gone
    until_s = time.monotonic() + 120
    while bridged.order("shutter") == "open":
        assert time.monotonic() < until_s, "the shutter stays open"
        time.sleep(0.05)


def test_the_shutter_is_closed_by_a_process_of_its_own_or_it_is_said_why_not(
    make_scope: Callable[..., Scope],
) -> None:
    assert close_shutter_in_subprocess(make_scope()) == ""
    crash = "Property,Camera,BitDepth,16\nProperty,Camera,SimulateCrash,Dereference Null Pointer"
    assert (
        close_shutter_in_subprocess(make_scope(("Property,Camera,BitDepth,16", crash)))
        == "the process died (SIGSEGV)"
    )
