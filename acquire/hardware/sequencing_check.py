"""Is the light really switched within a burst? The core takes a device's word; a trigger cable has none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from wbcpipe.errors import HardwareError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.events import CaptureEvent
    from wbcpipe.acquire.hardware.protocols import Microscope

__all__ = ["SequencingCheck", "compare_lights"]

#: Every so many pixels of a frame are compared, along each side.
_STEP: Final = 8
#: A frame is recognised when it differs from its own light's by at most this part of what it differs from any other's.
_CLEARLY: Final = 0.8
#: Fields that may show too little to tell.
_TRIES: Final = 3

Verdict = Literal["right", "wrong", "unclear"]


def compare_lights(single: NDArray[np.uint16], burst: NDArray[np.uint16]) -> Verdict:
    """Whether the frames of a burst are lit as those taken one by one.

    Args:
        single: (C, Y, X) uint16, a command for each.
        burst: (C, Y, X) uint16, the same place and lights.

    Returns:
        ``unclear`` where the lights look too much alike to tell, as on bare glass.
    """
    some, same = (frames[:, ::_STEP, ::_STEP].astype(np.float32) for frames in (single, burst))
    away = np.abs(same[:, None] - some[None]).mean(axis=(2, 3))  # (C of the burst, C one by one)
    verdicts = []
    for own, row in enumerate(away):
        nearest = int(row.argmin())
        others = np.delete(row, nearest)
        clear = row[nearest] <= _CLEARLY * others.min()
        verdicts.append("unclear" if not clear else "right" if nearest == own else "wrong")
    if "wrong" in verdicts:
        return "wrong"
    return "right" if all(verdict == "right" for verdict in verdicts) else "unclear"


class SequencingCheck:
    """Takes bright field both ways at the first fields of a session, until it is clear that bursts are lit rightly.

    Bright field only: proving must not bleach the stain.

    Args:
        microscope: opened.
        scope: for ``light.sequencing``: with ``auto`` bursts that are wrong or stay unproven are done without.
        log: told what was found, as an event with details.
    """

    def __init__(self, microscope: Microscope, scope: Scope, log: Callable[..., None]) -> None:
        self._microscope, self._scope, self._log = microscope, scope, log
        self._tries = 0 if scope.light.sequencing == "off" else _TRIES

    def consider(self, events: Sequence[CaptureEvent]) -> None:
        """Prove bursts at the field of ``events``, if they would be used there and that is still open.

        Raises:
            HardwareError: ``light.sequencing`` is ``on`` and the light does not follow.
        """
        bright = [event for event in events if event.modality != "fluorescence"]
        if not self._tries or not self._microscope.can_sequence(events) or not self._microscope.can_sequence(bright):
            return
        self._tries -= 1
        verdict = compare_lights(*self._both_ways(bright))
        if verdict == "right":
            self._tries = 0
            self._log("sequencing_verified", field=bright[0].field)
        elif verdict == "wrong":
            self._refuse(
                "frames of a burst show another light than theirs: is the light source triggered by the camera?"
            )
        elif not self._tries and self._scope.light.sequencing == "auto":
            self._refuse(f"{_TRIES} fields showed too little to see whether the light follows a burst")

    def _both_ways(self, events: Sequence[CaptureEvent]) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        """The frames (C, Y, X) of a field with a command for each, and in a burst."""
        microscope = self._microscope
        single, burst = (np.zeros((len(events), *self._scope.camera.image_px), np.uint16) for _ in range(2))
        microscope.move_xy(events[0].x_um, events[0].y_um)
        microscope.move_z(events[0].z_um)
        for event, frame in zip(events, single, strict=True):
            microscope.switch_light(event.modality)
            microscope.expose(event.exposure_ms, frame)
        microscope.wait_for_frames()
        microscope.expose_sequence(events, burst)
        microscope.wait_for_frames()
        return single, burst

    def _refuse(self, reason: str) -> None:
        self._tries = 0
        self._log("sequencing_disabled", reason=reason)
        if self._scope.light.sequencing == "on":
            raise HardwareError(f"{self._scope.path}: {reason} Or set 'light.sequencing' to \"off\".")
        self._microscope.disable_sequencing()
