"""Take one field: its four frames into a buffer, and what was read back with them. No files, no retries."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from wbcpipe.samples.fields import FieldInfo, FrameInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from wbcpipe.acquire.capture.empty_fields import EmptyFieldDetector
    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.events import CaptureEvent
    from wbcpipe.acquire.hardware.protocols import Exposure, Microscope

__all__ = ["capture_field", "taken_together"]


def capture_field(
    microscope: Microscope,
    scope: Scope,
    events: tuple[CaptureEvent, ...],
    out: NDArray[np.uint16],
    *,
    next_position_um: tuple[float, float] | None = None,
    check: Callable[[], None] = lambda: None,
    look: EmptyFieldDetector | None = None,
    on_frame_complete: Callable[[int], None] = lambda _: None,
) -> FieldInfo:
    """Take the frames of a field.

    Args:
        microscope: opened.
        scope: for the pixel size and the saturation.
        events: of one field, in channel order.
        out: (C, Y, X) uint16, overwritten.
        next_position_um: (x, y) of the field after this one: the stage sets off while the last frame is read.
        check: called before each frame, or before a burst of them; raises to stop.
        look: judges the first frame while the next ones are taken, and decides before any fluorescence: so that is
            never part of a burst.
        on_frame_complete: called with each channel, in order, once its frame is whole in ``out``; from another thread.

    Returns:
        The field as the hardware says it was taken.

    Raises:
        EmptyFieldError: ``look`` found bare glass; ``out`` is whole as far as it was taken, and free again.
    """
    first = taken_together(events, look)
    if look is not None:
        look.forget()
    # The focus moves, and light and camera are set, while the stage moves.
    microscope.start_move_xy(events[0].x_um, events[0].y_um)
    microscope.move_z(events[0].z_um)
    microscope.prepare(first)
    x_um, y_um = microscope.move_xy(events[0].x_um, events[0].y_um)

    def seen(channel: int) -> None:
        if look is not None and channel == 0 and events[0].modality != "fluorescence":
            look.begin(out[0])
        on_frame_complete(channel)

    rest = events[len(first) :]
    onward_um = None if rest else next_position_um
    if microscope.can_sequence(first):
        check()
        exposures = microscope.expose_sequence(first, out[: len(first)], onward_um, seen)
    else:
        exposures = _one_by_one(microscope, first, out, onward_um, check, seen)
    if rest:
        assert look is not None
        look.decide(microscope)
        if rest[0].z_um != first[-1].z_um:
            microscope.move_z(rest[0].z_um)
        exposures += _one_by_one(
            microscope, rest, out[len(first) :], next_position_um, check, partial(_later, on_frame_complete, first)
        )
    started_s = exposures[0].started_s or time.monotonic()
    acquired = datetime.now(UTC) - timedelta(seconds=time.monotonic() - started_s)
    microscope.wait_for_frames()
    if look is not None and not rest and events[0].modality != "fluorescence":
        look.decide(microscope)
    return FieldInfo(
        index=events[0].field,
        x_um=x_um,
        y_um=y_um,
        pixel_um=scope.camera.image_pixel_um,
        frames=tuple(_frame(event, exposure, started_s) for event, exposure in zip(events, exposures, strict=True)),
        saturation=scope.camera.saturation,
        acquired=acquired.isoformat(timespec="milliseconds"),
    )


def _later(on_frame_complete: Callable[[int], None], before: tuple[CaptureEvent, ...], channel: int) -> None:
    on_frame_complete(len(before) + channel)


def _frame(event: CaptureEvent, exposure: Exposure, started_s: float) -> FrameInfo:
    """A frame as it was exposed, in a field begun at ``started_s`` of `time.monotonic`."""
    later_s = round((exposure.started_s or started_s) - started_s, 3)
    return FrameInfo(event.modality, exposure.exposure_ms, event.wavelength_nm, exposure.z_um, later_s)


def taken_together(events: tuple[CaptureEvent, ...], look: EmptyFieldDetector | None) -> tuple[CaptureEvent, ...]:
    """Those of a field's events that come before it is decided whether it is worth the rest; all without a look."""
    bright = tuple(event for event in events if event.modality != "fluorescence")
    return bright if bright and look is not None else events


def _one_by_one(
    microscope: Microscope,
    events: tuple[CaptureEvent, ...],
    out: NDArray[np.uint16],
    next_position_um: tuple[float, float] | None,
    check: Callable[[], None],
    on_frame_complete: Callable[[int], None],
) -> list[Exposure]:
    """Take the frames with a command for each change of focus, light and exposure."""
    exposures = []
    last_z_um = events[0].z_um
    for channel, event in enumerate(events):
        check()
        if event.z_um != last_z_um:
            microscope.move_z(event.z_um)
            last_z_um = event.z_um
        microscope.switch_light(event.modality)
        started_s = time.monotonic()
        onward_um = next_position_um if channel == len(events) - 1 else None
        exposures.append(replace(microscope.expose(event.exposure_ms, out[channel], onward_um), started_s=started_s))
        microscope.notify_when_complete(partial(on_frame_complete, channel))
    return exposures
