"""What is done, and when, to take one field on the real core."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from wbcpipe.acquire.capture.capture_field import FieldCapture
from wbcpipe.acquire.events import field_events
from wbcpipe.acquire.hardware.microscope import CoreMicroscope
from wbcpipe.acquire.plan import AcquisitionPlan

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.acquire.config.scope import Scope


@pytest.mark.parametrize("sequencing", ["on", "off"])
def test_light_and_camera_are_set_while_the_stage_moves(
    make_scope: Callable[..., Scope], sequencing: str
) -> None:
    scope = make_scope(("virtual = true", "virtual = false"), sequencing=sequencing)
    field = AcquisitionPlan.from_scope(scope, "A").fields()[0]
    events = field_events(scope, field, scope.focus.fixed_um)
    calls: list[tuple[str, tuple[Any, ...]]] = []
    with CoreMicroscope(scope) as microscope:
        call = microscope.link.call
        out = np.zeros((4, 256, 256), np.uint16)
        FieldCapture(microscope, scope).take(events, out)

        def noted(name: str, *arguments: Any) -> Any:
            calls.append((name, arguments))
            return call(name, *arguments)

        microscope.link.call = noted  # type: ignore[method-assign]
        FieldCapture(microscope, scope).take(events, out)
    names = [name for name, _ in calls]
    setting, arrival, opening = (
        names.index(name) for name in ("set_exposure", "get_x_position", "set_shutter_open")
    )
    switching = calls.index(("set_property", ("LED", "Label", "385nm")))
    assert names.index("set_xy_position") < setting < arrival < opening
    assert switching < arrival, "the first light is there before the stage is"
    between = set(names[arrival:opening]) - {"get_x_position", "get_y_position", "device_busy"}
    assert between <= {"start_property_sequence", "start_exposure_sequence"}
