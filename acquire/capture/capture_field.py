"""Take the frames of one field into a buffer, and record what the hardware read back.

No files, no retries.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
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

__all__ = ["FieldCapture"]


@dataclass(frozen=True)
class FieldCapture:
    """Takes the frames of one field at a time.

    Attributes:
        microscope: An open microscope.
        scope: For the pixel size and the saturation.
        empty_detector: Checks the first frame while the next ones are exposed, and decides before
            any fluorescence. With it, fluorescence is therefore never part of a hardware sequence.
        check_stop: Called before each frame or sequence; raises an exception to stop.
    """

    microscope: Microscope
    scope: Scope
    empty_detector: EmptyFieldDetector | None = None
    check_stop: Callable[[], None] = lambda: None

    def events_before_empty_check(
        self, events: tuple[CaptureEvent, ...]
    ) -> tuple[CaptureEvent, ...]:
        """Return the events of a field that come before the empty check decides.

        All of them without that check.
        """
        bright = tuple(event for event in events if event.modality != "fluorescence")
        return bright if bright and self.empty_detector is not None else events

    def take(
        self,
        events: tuple[CaptureEvent, ...],
        out: NDArray[np.uint16],
        next_position_um: tuple[float, float] | None = None,
        on_frame_complete: Callable[[int], None] = lambda _: None,
    ) -> FieldInfo:
        """Take the frames of a field.

        Args:
            events: One field's events, in channel order.
            out: (C, Y, X) uint16; overwritten.
            next_position_um: (x, y) of the next field: the stage moves there while the last frame
                is read out.
            on_frame_complete: Called with each channel number, in order, once its frame is complete
                in ``out``; from another thread.

        Returns:
            The field as the hardware reported it.

        Raises:
            EmptyFieldError: The first frame shows bare glass; ``out`` is no longer written to.
        """
        microscope, detector = self.microscope, self.empty_detector
        first = self.events_before_empty_check(events)
        has_bright_field = events[0].modality != "fluorescence"
        if detector is not None:
            detector.reset()
        # The focus moves, and light and camera are set, while the stage moves.
        microscope.start_move_xy(events[0].x_um, events[0].y_um)
        microscope.move_z(events[0].z_um)
        microscope.sequencing.prepare(first)
        x_um, y_um = microscope.move_xy(events[0].x_um, events[0].y_um)

        def frame_complete(channel: int) -> None:
            if detector is not None and channel == 0 and has_bright_field:
                detector.start(out[0])
            on_frame_complete(channel)

        rest = events[len(first) :]
        move_to_um = None if rest else next_position_um
        if microscope.sequencing.can_sequence(first):
            self.check_stop()
            exposures = microscope.sequencing.expose_sequence(
                first, out[: len(first)], move_to_um, frame_complete
            )
        else:
            exposures = self._take_one_by_one(first, out, move_to_um, frame_complete)
        if rest:
            assert detector is not None
            detector.raise_if_empty(microscope)
            if rest[0].z_um != first[-1].z_um:
                microscope.move_z(rest[0].z_um)
            exposures += self._take_one_by_one(
                rest,
                out[len(first) :],
                next_position_um,
                lambda channel: on_frame_complete(len(first) + channel),
            )
        info = self._field_info(events, exposures, (x_um, y_um))
        microscope.wait_for_frames()
        if detector is not None and not rest and has_bright_field:
            detector.raise_if_empty(microscope)
        return info

    def _field_info(
        self,
        events: tuple[CaptureEvent, ...],
        exposures: list[Exposure],
        position_um: tuple[float, float],
    ) -> FieldInfo:
        """Return the record of a field that was just exposed."""
        started_s = exposures[0].started_s or time.monotonic()
        frames = []
        for event, exposure in zip(events, exposures, strict=True):
            later_s = round((exposure.started_s or started_s) - started_s, 3)
            frames.append(
                FrameInfo(
                    event.modality,
                    exposure.exposure_ms,
                    event.wavelength_nm,
                    exposure.z_um,
                    later_s,
                )
            )
        acquired = datetime.now(UTC) - timedelta(seconds=time.monotonic() - started_s)
        return FieldInfo(
            index=events[0].field,
            x_um=position_um[0],
            y_um=position_um[1],
            pixel_um=self.scope.camera.image_pixel_um,
            frames=tuple(frames),
            saturation=self.scope.camera.saturation,
            acquired=acquired.isoformat(timespec="milliseconds"),
        )

    def _take_one_by_one(
        self,
        events: tuple[CaptureEvent, ...],
        out: NDArray[np.uint16],
        next_position_um: tuple[float, float] | None,
        on_frame_complete: Callable[[int], None],
    ) -> list[Exposure]:
        """Take frames with one command for each change of focus, light and exposure."""
        microscope, exposures = self.microscope, []
        last_z_um = events[0].z_um
        for channel, event in enumerate(events):
            self.check_stop()
            if event.z_um != last_z_um:
                microscope.move_z(event.z_um)
                last_z_um = event.z_um
            microscope.switch_light(event.modality)
            started_s = time.monotonic()
            move_to_um = next_position_um if channel == len(events) - 1 else None
            exposure = microscope.expose(event.exposure_ms, out[channel], move_to_um)
            exposures.append(replace(exposure, started_s=started_s))
            microscope.notify_when_complete(partial(on_frame_complete, channel))
        return exposures
