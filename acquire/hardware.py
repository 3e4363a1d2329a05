"""What acquisition asks of a microscope, as protocols; `mmcore` is the one that fulfils them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Exposure", "Microscope"]


@dataclass(frozen=True)
class Exposure:
    """What the hardware says it did for a frame.

    Attributes:
        exposure_ms: read back from the camera.
        z_um: read back from the focus drive.
    """

    exposure_ms: float
    z_um: float


class Microscope(Protocol):
    """An opened microscope. Every call has a deadline and raises a typed error, never a bare one of the driver's."""

    @property
    def found_lit(self) -> bool:
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

    def move_z(self, z_um: float) -> float:
        """Drive the focus; gives back where it stands. Raises as `move_xy` does."""
        ...

    def light(self, modality: str) -> None:
        """Switch the illumination; the shutter stays closed."""
        ...

    def expose(
        self, exposure_ms: float, out: NDArray[np.uint16], then_to_um: tuple[float, float] | None = None
    ) -> Exposure:
        """Open the shutter, expose, close it, and read the frame, lying as the stage does, into ``out``.

        Args:
            exposure_ms: of the camera.
            out: (y, x) uint16, overwritten; whole only after `finish`.
            then_to_um: where to (x, y) the stage may set off while the frame is read; `move_xy` there follows.
        """
        ...

    def finish(self) -> None:
        """Wait until every frame exposed is whole in its buffer."""
        ...

    def focus_region(self, side_px: int) -> AbstractContextManager[tuple[int, int]]:
        """Read only the middle of the camera for as long as this is open; gives the frame's (height, width)."""
        ...

    def age(self, exposures: Iterable[tuple[float, float, float]]) -> None:
        """Tell a virtual specimen the fluorescence exposures of earlier runs: (x_um, y_um, exposure_ms) each."""
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
