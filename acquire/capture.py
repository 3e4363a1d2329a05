"""Take one field: its four frames into a buffer, and what was read back with them. No files, no retries."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from wbcpipe.acquire.autofocus import climb_to_focus, search_focus
from wbcpipe.acquire.frames import FieldInfo, FrameInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from wbcpipe.acquire.config import Scope
    from wbcpipe.acquire.events import CaptureEvent
    from wbcpipe.acquire.hardware import Microscope
    from wbcpipe.acquire.quicklook import QuickLook

__all__ = ["FieldFocuser", "capture_field"]


def capture_field(
    microscope: Microscope,
    scope: Scope,
    events: tuple[CaptureEvent, ...],
    out: NDArray[np.uint16],
    *,
    started_s: float,
    then_to_um: tuple[float, float] | None = None,
    check: Callable[[], None] = lambda: None,
    look: QuickLook | None = None,
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
        look: judges the first frame while the next ones are taken, and decides before any fluorescence.

    Returns:
        The field as the hardware says it was taken.

    Raises:
        FieldIsEmpty: ``look`` found bare glass; ``out`` is whole as far as it was taken, and free again.
    """
    x_um, y_um = microscope.move_xy(events[0].x_um, events[0].y_um)
    frames = []
    last_z_um: float | None = None
    for channel, event in enumerate(events):
        check()
        if look is not None and event.modality == "fluorescence":
            look.decide(microscope)
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
        if look is not None and channel == 0 and event.modality != "fluorescence":
            microscope.finish()  # the frame is whole in its buffer
            look.begin(out[channel])
    microscope.finish()
    if look is not None:
        look.decide(microscope)
    return FieldInfo(
        index=events[0].field,
        x_um=x_um,
        y_um=y_um,
        pixel_um=scope.camera.image_pixel_um,
        frames=tuple(frames),
        saturation=scope.camera.saturation,
    )


class FieldFocuser:
    """Focuses at a place of the slide, in the middle of the camera.

    Args:
        microscope: reading only the region for focusing.
        scope: for the policy and the limits of Z.
        frame_px: (height, width) of that region's frames.
        check: called before each frame; raises to stop.
    """

    def __init__(
        self, microscope: Microscope, scope: Scope, frame_px: tuple[int, int], check: Callable[[], None] = lambda: None
    ) -> None:
        self._microscope = microscope
        self._scope = scope
        self._check = check
        self._frame = np.empty(frame_px, np.uint16)

    def __call__(self, x_um: float, y_um: float, near_um: float, *, wide: bool) -> float | None:
        """Z of best focus at a place near ``near_um``, or through the whole range; ``None`` where nothing shows."""
        policy, limits_um = self._scope.focus, self._scope.stage.z_um
        self._microscope.move_xy(x_um, y_um)
        self._microscope.light(policy.modality)
        near_um -= policy.offset_um
        if wide:
            found = search_focus(
                self._take, near_um, policy.range_um, policy.coarse_step_um, policy.fine_step_um, limits_um
            )
        else:
            found = climb_to_focus(self._take, near_um, policy.fine_step_um, limits_um)
        return None if found is None else round(found.z_um + policy.offset_um, 3)

    def _take(self, z_um: float) -> NDArray[np.uint16]:
        self._check()
        self._microscope.move_z(z_um)
        self._microscope.expose(self._scope.modalities.named(self._scope.focus.modality).exposure_ms, self._frame)
        self._microscope.finish()
        return self._frame
