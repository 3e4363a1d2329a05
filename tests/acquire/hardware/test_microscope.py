"""A microscope on the real core: moves are checked, and a closed one is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from wbcpipe.acquire.hardware.microscope import CoreMicroscope
from wbcpipe.acquire.open_microscope import open_microscope
from wbcpipe.acquire.simulation.virtual_scope import VirtualScope
from wbcpipe.errors import HardwareError, StageLimitError

if TYPE_CHECKING:
    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan


def test_moves_are_checked_before_they_are_made(small_scope: Scope, specimen: SpecimenPlan) -> None:
    microscope = open_microscope(small_scope, specimen)
    assert isinstance(microscope, VirtualScope)
    try:
        microscope.move_xy(10.0, 20.0)
        with pytest.raises(
            StageLimitError, match="x = 70000 um is beyond the stage's limits, -60000 to 60000"
        ):
            microscope.move_xy(70_000.0, 0.0)
        with pytest.raises(
            StageLimitError, match="Z = -101 um is outside the soft limits -100 to 100 um"
        ):
            microscope.move_z(-101.0)
        assert microscope.stage.xy_um() == pytest.approx((10.0, 20.0), abs=0.02)
        with pytest.raises(HardwareError, match="this process drives a microscope already"):
            CoreMicroscope(small_scope)
    finally:
        microscope.close()
        microscope.close()
    with pytest.raises(HardwareError, match="the microscope is closed"):
        microscope.move_z(0.0)
