"""Take one field: its four frames into a buffer, and what was read back with them. No files, no retries."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from wbcpipe.acquire.frames import FieldInfo, FrameInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from wbcpipe.acquire.config import Scope
    from wbcpipe.acquire.events import CaptureEvent
    from wbcpipe.acquire.hardware import Microscope

__all__ = ["capture_field"]


def capture_field(
    microscope: Microscope,
    scope: Scope,
    events: tuple[CaptureEvent, ...],
    out: NDArray[np.uint16],
    *,
    started_s: float,
    then_to_um: tuple[float, float] | None = None,
    check: Callable[[], None] = lambda: None,
) -> FieldInfo:
    """Take the frames of a field.

    Args:
        microscope: opened.
        scope: for the pixel size and the saturation.
        events: of one field, in channel order.
        out: (C, Y, X) uint16, overwritten.
        started_s: of `time.monotonic`, when the run began.
        then_to_um: (x, y) of the field after this one: the stage sets off while the last frame is read.
        check: called before each frame; raises to stop.

    Returns:
        The field as the hardware says it was taken.
    """
    x_um, y_um = microscope.move_xy(events[0].x_um, events[0].y_um)
    frames = []
    last_z_um: float | None = None
    for channel, event in enumerate(events):
        check()
        if event.z_um != last_z_um:
            microscope.move_z(event.z_um)
            last_z_um = event.z_um
        microscope.light(event.modality)
        time_s = time.monotonic() - started_s
        onward_um = then_to_um if channel == len(events) - 1 else None
        exposure = microscope.expose(event.exposure_ms, out[channel], onward_um)
        frames.append(
            FrameInfo(event.modality, exposure.exposure_ms, event.wavelength_nm, exposure.z_um, round(time_s, 3))
        )
    microscope.finish()
    return FieldInfo(
        index=events[0].field,
        x_um=x_um,
        y_um=y_um,
        pixel_um=scope.camera.image_pixel_um,
        frames=tuple(frames),
        saturation=scope.camera.saturation,
    )
