"""Check that the light really changes within a hardware sequence.

The core knows that a device can be sequenced; it does not know whether the trigger cable is plugged
in.
"""

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

__all__ = ["SequencingCheck", "Verdict", "compare_lights"]

#: Every so many pixels of a frame are compared, along each side.
_STEP_PX: Final = 8
#: A frame is recognised when it differs from its own light's by at most this part of its difference
#: to any other's.
_MAX_DISTANCE_RATIO: Final = 0.8
#: Fields to try before the check gives up: bare glass looks alike in every light.
_MAX_FIELDS: Final = 3

Verdict = Literal["right", "wrong", "unclear"]


def compare_lights(single: NDArray[np.uint16], sequence: NDArray[np.uint16]) -> Verdict:
    """Compare the lights of a hardware sequence with those of frames taken by command.

    Args:
        single: (C, Y, X) uint16, taken by command.
        sequence: (C, Y, X) uint16, the same position and lights.

    Returns:
        ``unclear`` where the lights look too much alike, as on bare glass.
    """
    reference, seen = (
        frames[:, ::_STEP_PX, ::_STEP_PX].astype(np.float32) for frames in (single, sequence)
    )
    distance = np.abs(seen[:, None] - reference[None]).mean(
        axis=(2, 3)
    )  # (C of the sequence, C by command)
    verdicts = []
    for own, row in enumerate(distance):
        nearest = int(row.argmin())
        is_clear = row[nearest] <= _MAX_DISTANCE_RATIO * np.delete(row, nearest).min()
        verdicts.append("unclear" if not is_clear else "right" if nearest == own else "wrong")
    if "wrong" in verdicts:
        return "wrong"
    return "right" if all(verdict == "right" for verdict in verdicts) else "unclear"


class SequencingCheck:
    """Takes the first fields of a session both ways until it is clear whether the light follows the
    sequence.

    It takes bright field only: the check must not bleach the stain.

    Args:
        microscope: opened.
        scope: its ``light.sequencing``; with ``auto``, sequencing that is wrong or stays unclear is
            disabled.
        log: called with the result, as an event with details.
    """

    def __init__(self, microscope: Microscope, scope: Scope, log: Callable[..., None]) -> None:
        self._microscope, self._scope, self._log = microscope, scope, log
        self._fields_left = 0 if scope.light.sequencing == "off" else _MAX_FIELDS

    def consider(self, events: Sequence[CaptureEvent]) -> None:
        """Check sequencing at the field of ``events``, if it would be used there and is not
        verified yet.

        Raises:
            HardwareError: ``light.sequencing`` is ``on`` and the light does not follow.
        """
        bright = [event for event in events if event.modality != "fluorescence"]
        can_sequence = self._microscope.sequencing.can_sequence
        if not self._fields_left or not can_sequence(events) or not can_sequence(bright):
            return
        self._fields_left -= 1
        verdict = compare_lights(*self._take_both_ways(bright))
        if verdict == "right":
            self._fields_left = 0
            self._log("sequencing_verified", field=bright[0].field)
        elif verdict == "wrong":
            self._disable(
                "the frames of a hardware sequence show another light than theirs: is the light "
                "source triggered by the camera?"
            )
        elif not self._fields_left and self._scope.light.sequencing == "auto":
            self._disable(
                f"{_MAX_FIELDS} fields showed too little to check that the light follows a "
                f"hardware sequence"
            )

    def _take_both_ways(
        self, events: Sequence[CaptureEvent]
    ) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        """Take the frames (C, Y, X) of a field by command, and in a hardware sequence."""
        microscope = self._microscope
        single, sequence = (
            np.zeros((len(events), *self._scope.camera.image_px), np.uint16) for _ in range(2)
        )
        microscope.move_xy(events[0].x_um, events[0].y_um)
        microscope.move_z(events[0].z_um)
        for event, frame in zip(events, single, strict=True):
            microscope.switch_light(event.modality)
            microscope.expose(event.exposure_ms, frame)
        microscope.wait_for_frames()
        microscope.sequencing.expose_sequence(events, sequence)
        microscope.wait_for_frames()
        return single, sequence

    def _disable(self, reason: str) -> None:
        self._fields_left = 0
        self._log("sequencing_disabled", reason=reason)
        if self._scope.light.sequencing == "on":
            raise HardwareError(
                f"{self._scope.path}: {reason} Or set 'light.sequencing' to \"off\"."
            )
        self._microscope.sequencing.disable_sequencing()
