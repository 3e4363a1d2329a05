"""Roles of a microscope's devices, as protocols; `CoreMicroscope` fulfils them on a Micro-Manager
core.

Every call has a deadline and raises a typed error, never a driver's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    import numpy as np
    from numpy.typing import NDArray

    from wbcpipe.acquire.events import CaptureEvent

__all__ = [
    "Camera",
    "Core",
    "Exposure",
    "Focus",
    "Illumination",
    "LabelCamera",
    "Microscope",
    "Sequencing",
    "XYStage",
]


@dataclass(frozen=True)
class Exposure:
    """How a frame was exposed, as the hardware says.

    Attributes:
        exposure_ms: read back from the camera.
        z_um: read back from the focus drive.
        started_s: start of the exposure, of `time.monotonic`; ``None`` after a single command,
            whose caller knows it.
    """

    exposure_ms: float
    z_um: float
    started_s: float | None = None


class XYStage(Protocol):
    """Moves the slide; positions are those of the image centre, in um."""

    def start_move_xy(self, x_um: float, y_um: float) -> None:
        """Start a move and return at once, so that other devices move meanwhile; `move_xy` to that
        position ends it.

        Raises as `move_xy` does.
        """
        ...

    def move_xy(self, x_um: float, y_um: float) -> tuple[float, float]:
        """Move to a position; return the position (x, y) that the stage reads back.

        Raises:
            StageLimitError: outside the limits; nothing moved.
            DeviceTimeoutError: the stage did not arrive before its deadline.
            HardwareError: the stage failed, or is farther from its target than its tolerance.
        """
        ...


class Focus(Protocol):
    """Moves along Z, in um."""

    def move_z(self, z_um: float) -> float:
        """Move the focus drive; return the Z that it reads back.

        Raises as `XYStage.move_xy` does.
        """
        ...

    def focus_by_device(self) -> float:
        """Focus with the microscope's own focusing device, starting here.

        Return the Z of the focus drive then.

        Raises:
            DeviceTimeoutError: the device did not answer before its deadline.
            HardwareError: it failed, or left the soft limits of Z; the focus drive was then driven
                back.
        """
        ...


class Illumination(Protocol):
    """Switches the light of a modality; the shutter is open during an exposure only.

    Attributes:
        on_fluorescence: called with the exposure (ms) before fluorescence light falls on the slide,
            also if the exposure fails then; if it raises, the slide stays dark.
    """

    on_fluorescence: Callable[[float], None]

    @property
    def shutter_was_open(self) -> bool:
        """Whether the shutter was open when the microscope was opened, which closed it."""
        ...

    def switch_light(self, modality: str) -> None:
        """Switch to the light of a modality; the shutter stays closed.

        Raises:
            DeviceTimeoutError: a device was busy after its deadline.
            HardwareError: a device failed.
        """
        ...


class Camera(Protocol):
    """Exposes one frame at a time.

    Frames are (y, x) uint16 in the orientation of the stage. They are copied by a thread while the
    next exposure runs.
    """

    def expose(
        self,
        exposure_ms: float,
        out: NDArray[np.uint16],
        next_position_um: tuple[float, float] | None = None,
    ) -> Exposure:
        """Open the shutter, expose, close it, and read the frame.

        Args:
            exposure_ms: of the camera.
            out: (y, x) uint16, overwritten; complete only after `wait_for_frames`.
            next_position_um: (x, y) to which the stage may move while the frame is read; `move_xy`
                there follows.

        Raises:
            DeviceTimeoutError: the camera or the shutter did not answer before its deadline.
            HardwareError: a device failed, or the camera gave another frame than expected.
        """
        ...

    def expose_dark(self, exposure_ms: float, out: NDArray[np.uint16]) -> Exposure:
        """Expose without light, and read the frame into ``out``, which is complete on return.

        Raises as `expose`.
        """
        ...

    def focus_region(self, side_px: int) -> AbstractContextManager[tuple[int, int]]:
        """Read only the centre of the sensor inside a ``with`` block, which gets the frame's
        (height, width).

        Args:
            side_px: longest side of the region, in unbinned pixels.

        Raises:
            HardwareError: the camera refuses the region.
        """
        ...

    def notify_when_complete(self, callback: Callable[[], None]) -> None:
        """Call ``callback``, from another thread, once every frame exposed so far is complete in
        its buffer.
        """
        ...

    def wait_for_frames(self) -> None:
        """Wait until every frame exposed so far is complete in its buffer.

        Raise what a copy failed with.
        """
        ...


class Sequencing(Protocol):
    """Takes the frames of a field in one hardware sequence: light and camera step by themselves."""

    def prepare(self, events: Sequence[CaptureEvent]) -> None:
        """Set light and camera for the first frames of a field while the stage still moves.

        Nothing is exposed.

        Raises as `Illumination.switch_light` and `expose_sequence` do.
        """
        ...

    def can_sequence(self, events: Sequence[CaptureEvent]) -> bool:
        """Return whether hardware and scope file allow to take these frames of a field in one
        sequence.
        """
        ...

    def disable_sequencing(self) -> None:
        """Take frames by command from now on: `can_sequence` returns False."""
        ...

    def expose_sequence(
        self,
        events: Sequence[CaptureEvent],
        out: NDArray[np.uint16],
        next_position_um: tuple[float, float] | None = None,
        on_frame_complete: Callable[[int], None] = lambda _: None,
    ) -> list[Exposure]:
        """Take the frames of a field in one sequence that the hardware times, at the present Z.

        The shutter is open from the first exposure to the last; afterwards the devices obey single
        commands again.

        Args:
            events: those that `can_sequence` allowed, in the order of taking.
            out: (C, Y, X) uint16 with a frame for each event, overwritten; complete only after
                `wait_for_frames`.
            next_position_um: (x, y) to which the stage may move after the last exposure; `move_xy`
                there follows.
            on_frame_complete: called from another thread with the number of each frame, in order,
                once it is complete in ``out``.

        Raises:
            DroppedFrameError: the camera gave fewer frames than asked for; it was stopped and its
                frames dropped.
            HardwareError: a device failed.
        """
        ...


class LabelCamera(Protocol):
    """Sees the labels of slides."""

    def lit(self) -> AbstractContextManager[None]:
        """Light the label inside a ``with`` block, and not on any way out; for the scan camera too.

        Raises:
            HardwareError: the lamp failed.
        """
        ...

    def snap(self, exposure_ms: float) -> NDArray[np.unsignedinteger]:
        """Return an image (y, x) of the label by the camera that the scope file names.

        Raises:
            DeviceTimeoutError: the camera did not answer before its deadline.
            HardwareError: it failed, or gave no frame that can be read.
        """
        ...


class Microscope(XYStage, Focus, Illumination, Camera, Protocol):
    """An opened microscope."""

    @property
    def sequencing(self) -> Sequencing:
        """Return its hardware sequences."""
        ...

    @property
    def label_camera(self) -> LabelCamera:
        """Return what sees the labels."""
        ...

    def recover(self) -> None:
        """Bring the devices to rest after a failure: shutter closed, stage stopped, focus at the
        last good Z.
        """
        ...

    def reinitialise(self) -> None:
        """Load the devices anew and set them up as at the start; a frame under way is lost.

        Raises:
            CoreLostError: they do not come back in this process.
            HardwareError: they came back in another state than the scope file says.
        """
        ...

    def close(self) -> None:
        """Close the shutter and release the devices; may be called twice."""
        ...


class Core(Protocol):
    """Micro-Manager's core, as far as the device classes call it; see `core_link.CoreLink`."""

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a method of the core by its snake_case name.

        Raises:
            HardwareError: the call failed, or the link is closed; the text names the call and its
                arguments.
        """
        ...

    def call_with_deadline(
        self, call: Callable[[], None], timeout_s: float, doing: str, *, focusing: bool = False
    ) -> None:
        """Run a call that blocks inside a driver.

        After the deadline it is left behind, and no other is started.

        Args:
            call: runs in a thread.
            timeout_s: of the call.
            doing: names it in the error.
            focusing: it is the focusing device's; while it hangs, the other devices can still be
                called.

        Raises:
            DeviceTimeoutError: it did not end in time, or an earlier one still hangs.
        """
        ...

    def wait_for(self, devices: tuple[str, ...], timeout_s: float, doing: str) -> None:
        """Wait until no device is busy; raise `DeviceTimeoutError` after the deadline."""
        ...

    def has_property(self, device: str, name: str) -> bool:
        """Return whether a device has a property."""
        ...

    def allowed_values(self, device: str, name: str) -> list[str]:
        """Return the values that a property takes; empty where it takes any."""
        ...

    def set_property(self, device: str, name: str, value: str) -> None:
        """Set a device property.

        Raises:
            HardwareError: no such device or property, or not a value it takes; the text lists those
                it takes.
        """
        ...

    def get_property(self, device: str, name: str) -> str:
        """Return a property's value, read from the device."""
        ...
