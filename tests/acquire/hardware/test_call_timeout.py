"""Calls that hang are left behind at their deadline."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from wbcpipe.acquire.hardware.call_timeout import DeadlineCaller
from wbcpipe.acquire.simulation.virtual_scope import VirtualScope
from wbcpipe.errors import DeviceTimeoutError

if TYPE_CHECKING:
    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan


def test_calls_with_a_deadline_share_one_thread() -> None:
    caller, threads = DeadlineCaller(), set()
    for _ in range(20):
        caller.run(lambda: threads.add(threading.get_ident()), 5.0, "nothing")
    assert len(threads) == 1
    with pytest.raises(ZeroDivisionError):
        caller.run(lambda: print(1 // 0), 5.0, "dividing")
    release = threading.Event()
    with pytest.raises(DeviceTimeoutError, match=r"waiting did not end within 0\.02 s"):
        caller.run(lambda: print(release.wait(5)), 0.02, "waiting")
    assert not caller.wait(0.01)
    release.set()
    assert caller.wait(5.0)
    caller.close()
    assert threads.isdisjoint(thread.ident for thread in threading.enumerate())


def test_a_hanging_driver_is_left_behind(small_scope: Scope, specimen: SpecimenPlan) -> None:
    release = threading.Event()
    with VirtualScope(small_scope, specimen) as microscope:
        link = microscope.link

        def hang() -> None:
            release.wait(5)

        with pytest.raises(DeviceTimeoutError, match=r"exposure did not end within 0\.05 s"):
            link.call_with_deadline(hang, 0.05, "the camera's exposure")
        with pytest.raises(DeviceTimeoutError, match="an earlier call still hangs"):
            microscope.camera.snap(0.05)
        release.set()
        microscope.camera.snap(5.0)
