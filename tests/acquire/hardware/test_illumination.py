"""Light on the real core: only during an exposure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from wbcpipe.acquire.simulation.virtual_scope import VirtualScope
from wbcpipe.errors import HardwareError

if TYPE_CHECKING:
    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan


def test_the_specimen_sees_only_light_that_is_on(small_scope: Scope, specimen: SpecimenPlan) -> None:
    frame = np.empty((256, 256), np.uint16)
    with VirtualScope(small_scope, specimen) as microscope:
        microscope.switch_light("color2")
        assert microscope.illumination.observed() == ""
        microscope.expose(5.0, frame)
        bright = frame.mean()
        assert microscope.illumination.observed() == ""
        microscope.link.set_property("LED", "Label", "Closed")
        microscope.expose(5.0, frame)
        assert frame.mean() < 0.05 * bright
        with pytest.raises(HardwareError, match=r"It takes: .*385nm"):
            microscope.link.set_property("LED", "Label", "999nm")
