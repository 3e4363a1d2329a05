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
    then_to_um: tuple[float, float] | None = None,
    check: Callable[[], None] = lambda: None,
    look: EmptyFieldDetector | None = None,
    whole: Callable[[int], None] = lambda _: None,
) -> FieldInfo:
    """Take the frames of a field.

    Args:
        microscope: opened.
        scope: for the pixel size and the saturation.
        events: of one field, in channel order.
        out: (C, Y, X) uint16, overwritten.
        then_to_um: (x, y) of the field after this one: the stage sets off while the last frame is read.
        check: called before each frame, or before a burst of them; raises to stop.
        look: judges the first frame while the next ones are taken, and decides before any fluorescence: so that is
            never part of a burst.
        whole: called with each channel, in order, once its frame is whole in ``out``; from another thread.

    Returns:
        The field as the hardware says it was taken.

    Raises:
        EmptyFieldError: ``look`` found bare glass; ``out`` is whole as far as it was taken, and free again.
    """
    first = taken_together(events, look)
    if look is not None:
        look.forget()
    # The focus moves, and light and camera are set, while the stage moves.
    microscope.approach_xy(events[0].x_um, events[0].y_um)
    microscope.move_z(events[0].z_um)
    microscope.set_up(first)
    x_um, y_um = microscope.move_xy(events[0].x_um, events[0].y_um)

    def seen(channel: int) -> None:
        if look is not None and channel == 0 and events[0].modality != "fluorescence":
            look.begin(out[0])
        whole(channel)

    rest = events[len(first) :]
    onward_um = None if rest else then_to_um
    if microscope.can_burst(first):
        check()
        exposures = microscope.burst(first, out[: len(first)], onward_um, seen)
    else:
        exposures = _one_by_one(microscope, first, out, onward_um, check, seen)
    if rest:
        assert look is not None
        look.decide(microscope)
        if rest[0].z_um != first[-1].z_um:
            microscope.move_z(rest[0].z_um)
        exposures += _one_by_one(microscope, rest, out[len(first) :], then_to_um, check, partial(_later, whole, first))
    begun_s = exposures[0].begun_s or time.monotonic()
    acquired = datetime.now(UTC) - timedelta(seconds=time.monotonic() - begun_s)
    microscope.finish()
    if look is not None and not rest and events[0].modality != "fluorescence":
        look.decide(microscope)
    return FieldInfo(
        index=events[0].field,
        x_um=x_um,
        y_um=y_um,
        pixel_um=scope.camera.image_pixel_um,
        frames=tuple(_frame(event, exposure, begun_s) for event, exposure in zip(events, exposures, strict=True)),
        saturation=scope.camera.saturation,
        acquired=acquired.isoformat(timespec="milliseconds"),
    )


def _later(whole: Callable[[int], None], before: tuple[CaptureEvent, ...], channel: int) -> None:
    whole(len(before) + channel)


def _frame(event: CaptureEvent, exposure: Exposure, begun_s: float) -> FrameInfo:
    """A frame as it was exposed, in a field begun at ``begun_s`` of `time.monotonic`."""
    later_s = round((exposure.begun_s or begun_s) - begun_s, 3)
    return FrameInfo(event.modality, exposure.exposure_ms, event.wavelength_nm, exposure.z_um, later_s)


def taken_together(events: tuple[CaptureEvent, ...], look: EmptyFieldDetector | None) -> tuple[CaptureEvent, ...]:
    """Those of a field's events that come before it is decided whether it is worth the rest; all without a look."""
    bright = tuple(event for event in events if event.modality != "fluorescence")
    return bright if bright and look is not None else events


def _one_by_one(
    microscope: Microscope,
    events: tuple[CaptureEvent, ...],
    out: NDArray[np.uint16],
    then_to_um: tuple[float, float] | None,
    check: Callable[[], None],
    whole: Callable[[int], None],
) -> list[Exposure]:
    """Take the frames with a command for each change of focus, light and exposure."""
    exposures = []
    last_z_um = events[0].z_um
    for channel, event in enumerate(events):
        check()
        if event.z_um != last_z_um:
            microscope.move_z(event.z_um)
            last_z_um = event.z_um
        microscope.light(event.modality)
        begun_s = time.monotonic()
        onward_um = then_to_um if channel == len(events) - 1 else None
        exposures.append(replace(microscope.expose(event.exposure_ms, out[channel], onward_um), begun_s=begun_s))
        microscope.when_whole(partial(whole, channel))
    return exposures
