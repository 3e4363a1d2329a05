"""One process at a time drives a microscope; whoever comes second is told who is first."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from wbcpipe.acquire.hardware.core_link import CoreLink
from wbcpipe.acquire.hardware.microscope_lock import microscope_lock
from wbcpipe.errors import HardwareBusyError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope

#: Holds a scope's microscope until its standard input closes, or it is killed.
HOLDER = """
import sys
from wbcpipe.acquire.config.scope import load_scope
from wbcpipe.acquire.hardware.microscope_lock import microscope_lock
with microscope_lock(load_scope(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def real_scope(
    make_scope: Callable[..., Scope], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Scope:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("wbcpipe.acquire.hardware.microscope_lock.WAIT_S", 0.0)
    return make_scope(("virtual = true", "virtual = false"))


def over_bridge(scope: Scope, port: int) -> Scope:
    changed = scope.micromanager.model_copy(update={"backend": "bridge", "port": port})
    return scope.model_copy(update={"micromanager": changed})


def test_a_second_process_is_refused_and_a_dead_one_holds_nothing(
    real_scope: Scope, tmp_path: Path
) -> None:
    words = [sys.executable, "-c", HOLDER, str(real_scope.path)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        told = rf"small\.cfg is driven by another process \(process {process.pid}, -c\)"
        with pytest.raises(HardwareBusyError, match=told), microscope_lock(real_scope):
            pass
        process.kill()
        process.wait(10)
    with microscope_lock(real_scope):
        pass


def test_whatever_loads_the_core_is_refused_beside_a_run(real_scope: Scope) -> None:
    busy = pytest.raises(HardwareBusyError, match="is driven by another process")
    with microscope_lock(real_scope), busy:
        CoreLink(real_scope)
    link = CoreLink(real_scope)
    with pytest.raises(HardwareBusyError), microscope_lock(real_scope):
        pass
    link.close()
    with microscope_lock(real_scope):
        pass


def test_a_micro_manager_is_known_by_its_port_and_a_virtual_scope_is_nobodys(
    real_scope: Scope, make_scope: Callable[..., Scope]
) -> None:
    first, second = over_bridge(real_scope, 5001), over_bridge(real_scope, 5002)
    virtual = make_scope()
    with (
        microscope_lock(first),
        microscope_lock(second),
        microscope_lock(virtual),
        microscope_lock(virtual),
        pytest.raises(HardwareBusyError, match="Micro-Manager on port 5001 is driven by another"),
        microscope_lock(over_bridge(virtual, 5001)),
    ):
        pass
