"""The connection to the real core: what it needs, and what it leaves behind."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import pytest

from wbcpipe.acquire.hardware.core_link import CoreLink
from wbcpipe.acquire.simulation.virtual_scope import VirtualScope
from wbcpipe.errors import HardwareError

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan


def test_a_device_that_is_not_there_is_named(
    make_scope: Callable[..., Scope], specimen: SpecimenPlan
) -> None:
    scope = make_scope(("Device,Z,DemoCamera,DStage", "Device,Z,DemoCamera,DNothing"))
    with pytest.raises(
        HardwareError, match=r"small\.cfg: Micro-Manager could not load it .*DNothing"
    ):
        VirtualScope(scope, specimen)


def test_a_closed_microscope_leaves_no_frame_buffer_behind(
    small_scope: Scope, made_cores: list[Any]
) -> None:
    for _ in range(2):
        link = CoreLink(small_scope)
        link.call("initialize_circular_buffer")
        core = made_cores.pop()
        freed = weakref.ref(core)
        assert core.get_circular_buffer_memory_footprint() >= 64
        link.close()
        assert core.get_circular_buffer_memory_footprint() == 1
        del core
    assert freed() is None  # pycromanager keeps the first of a process, and no other
