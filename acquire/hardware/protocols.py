"""What acquisition asks of a microscope, as protocols; `mmcore` is the one that fulfils them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    import numpy as np
    from numpy.typing import NDArray

    from wbcpipe.acquire.events import CaptureEvent

__all__ = ["Exposure", "Microscope"]


@dataclass(frozen=True)
class Exposure:
    """What the hardware says it did for a frame.

    Attributes:
        exposure_ms: read back from the camera.
        z_um: read back from the focus drive.
        started_s: of `time.monotonic`, when the exposure began, where the caller cannot know: in a burst.
    """

    exposure_ms: float
    z_um: float
    started_s: float | None = None


class Microscope(Protocol):
    """An opened microscope. Every call has a deadline and raises a typed error, never a bare one of the driver's.

    Attributes:
        on_fluorescence: called with the exposure (ms) before its light falls on the slide, whatever comes of it; what
            this raises keeps the slide dark.
    """

    on_fluorescence: Callable[[float], None]

    @property
    def shutter_was_open(self) -> bool:
        """Whether the shutter stood open when the microscope was opened; it was closed then."""
        ...

    def move_xy(self, x_um: float, y_um: float) -> tuple[float, float]:
        """Bring a place of the slide to the middle of the image; gives back where the stage says that this is.

        Raises:
            StageLimitError: outside the limits; nothing moved.
            DeviceTimeoutError: the stage did not arrive before its deadline.
            HardwareError: the stage failed or stands elsewhere.
        """
        ...

    def start_move_xy(self, x_um: float, y_um: float) -> None:
        """Begin the move that `move_xy` to the same place ends, so that other devices may move meanwhile.

        Raises as `move_xy` does.
        """
        ...

    def move_z(self, z_um: float) -> float:
        """Drive the focus; gives back where it stands. Raises as `move_xy` does."""
        ...

    def focus_by_device(self) -> float:
        """Let the scope's own focusing device find the focus from here; gives back where Z then stands.

        Raises:
            DeviceTimeoutError: it did not answer before its deadline.
            HardwareError: it failed, or went beyond the soft limits of Z and was driven back.
        """
        ...

    def switch_light(self, modality: str) -> None:
        """Switch the illumination; the shutter stays closed."""
        ...

    def expose(
        self, exposure_ms: float, out: NDArray[np.uint16], next_position_um: tuple[float, float] | None = None
    ) -> Exposure:
        """Open the shutter, expose, close it, and read the frame, lying as the stage does, into ``out``.

        Args:
            exposure_ms: of the camera.
            out: (y, x) uint16, overwritten; whole only after `wait_for_frames`.
            next_position_um: where to (x, y) the stage may set off while the frame is read; `move_xy` there follows.
        """
        ...

    def expose_dark(self, exposure_ms: float, out: NDArray[np.uint16]) -> Exposure:
        """Expose without light, and read the whole frame into ``out`` as `expose` does."""
        ...

    def prepare(self, events: Sequence[CaptureEvent]) -> None:
        """Set light and camera for the first of a field's frames, so that little is left to do when the stage stands.

        The shutter stays closed, and nothing is exposed. Raises as `switch_light`, `expose` and `expose_sequence` do.
        """
        ...

    def can_sequence(self, events: Sequence[CaptureEvent]) -> bool:
        """Whether the hardware can take these frames of a field in one burst, and the scope file lets it."""
        ...

    def disable_sequencing(self) -> None:
        """Take frames by command from now on: `can_sequence` says no."""
        ...

    def expose_sequence(
        self,
        events: Sequence[CaptureEvent],
        out: NDArray[np.uint16],
        next_position_um: tuple[float, float] | None = None,
        on_frame_complete: Callable[[int], None] = lambda _: None,
    ) -> list[Exposure]:
        """Take the frames of a field in one burst that the hardware times, at the Z where the focus stands.

        The shutter is open from the first exposure to the last; afterwards single commands are obeyed as before.

        Args:
            events: that `can_sequence` allowed, in the order of taking.
            out: (C, Y, X) uint16 with a frame for each event, overwritten; whole only after `wait_for_frames`.
            next_position_um: where to (x, y) the stage may set off after the last exposure; `move_xy` there follows.
            on_frame_complete: called from another thread with the number of each frame, in order, once it is complete
                in ``out``.

        Raises:
            DroppedFrameError: the camera gave fewer frames than asked for; it was stopped and its frames dropped.
            HardwareError: a device failed.
        """
        ...

    def notify_when_complete(self, call: Callable[[], None]) -> None:
        """Have ``call`` called, from another thread, once every frame exposed so far is whole in its buffer."""
        ...

    def wait_for_frames(self) -> None:
        """Wait until every frame exposed is whole in its buffer."""
        ...

    def focus_region(self, side_px: int) -> AbstractContextManager[tuple[int, int]]:
        """Read only the middle of the camera for as long as this is open; gives the frame's (height, width)."""
        ...

    def recover(self) -> None:
        """Bring everything to rest after a failure: shutter closed, focus where it last was good."""
        ...

    def reinitialise(self) -> None:
        """Load the devices anew and set them up as at the beginning; a frame under way is given up.

        Raises:
            CoreLostError: they do not come back in this process.
            HardwareError: they came back otherwise than the scope says.
        """
        ...

    def close(self) -> None:
        """Close the shutter and let go of the devices; may be called twice."""
        ...
