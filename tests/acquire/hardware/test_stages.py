"""The XY stage of the real core."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from wbcpipe.acquire.simulation.virtual_scope import VirtualScope
from wbcpipe.errors import DeviceTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan


def test_a_slow_stage_meets_its_deadline(
    make_scope: Callable[..., Scope], specimen: SpecimenPlan
) -> None:
    scope = make_scope(("move_timeout_s = 30.0", "move_timeout_s = 0.2"))
    with (
        VirtualScope(scope, specimen) as microscope,
        pytest.raises(
            DeviceTimeoutError, match=r"moving the stage: 'XY' is still busy after 0\.2 s"
        ),
    ):
        microscope.move_xy(20_000.0, 0.0)
