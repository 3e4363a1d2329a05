"""A microscope on a Micro-Manager core: its devices behind one object."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Final

from wbcpipe.acquire.hardware.camera import CoreCamera
from wbcpipe.acquire.hardware.core_link import CoreLink
from wbcpipe.acquire.hardware.device_sequences import DeviceSequences
from wbcpipe.acquire.hardware.illumination import CoreIllumination
from wbcpipe.acquire.hardware.label_camera import CoreLabelCamera
from wbcpipe.acquire.hardware.sequencing import CoreSequencing
from wbcpipe.acquire.hardware.stages import CoreFocusDrive, CoreXYStage
from wbcpipe.errors import DeviceTimeoutError, HardwareError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    import numpy as np
    from numpy.typing import NDArray

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.protocols import Exposure

__all__ = ["CoreMicroscope"]

#: After a failure a stage may end its move within this, then it is stopped.
_SETTLE_S: Final = 2.0


class CoreMicroscope:
    """The microscope of a scope file; fulfils `protocols.Microscope`.

    Attributes:
        link: the core.
        stage, focus, camera, illumination, label_camera, sequencing: the devices, each with its
            role of `protocols`.
        sequences: what the devices step through.

    Raises:
        HardwareError: the core, a device or the camera's settings failed.
    """

    def __init__(self, scope: Scope, link: CoreLink | None = None) -> None:
        self.scope = scope
        self.link = link or CoreLink(scope)
        try:
            self.sequences = DeviceSequences(scope, self.link)
            self.illumination = CoreIllumination(
                scope, self.link, self.link.shutter, self.sequences
            )
            self.stage = CoreXYStage(scope, self.link)
            self.focus = CoreFocusDrive(scope, self.link)
            self.camera = CoreCamera(scope, self.link, self.illumination, self.stage, self.focus)
            self.label_camera = CoreLabelCamera(scope, self.link)
            self.sequencing = CoreSequencing(scope, self.sequences, self.camera)
            self.focus.mark_good()
            self.camera.set_up()
        except BaseException:
            self.link.close()
            raise

    @property
    def on_fluorescence(self) -> Callable[[float], None]:
        """See `protocols.Illumination`."""
        return self.illumination.on_fluorescence

    @on_fluorescence.setter
    def on_fluorescence(self, callback: Callable[[float], None]) -> None:
        self.illumination.on_fluorescence = callback

    @property
    def shutter_was_open(self) -> bool:
        """See `protocols.Illumination.shutter_was_open`."""
        return self.link.shutter_was_open

    def start_move_xy(self, x_um: float, y_um: float) -> None:
        """See `protocols.XYStage.start_move_xy`."""
        self.stage.start_move_xy(x_um, y_um)

    def move_xy(self, x_um: float, y_um: float) -> tuple[float, float]:
        """See `protocols.XYStage.move_xy`."""
        return self.stage.move_xy(x_um, y_um)

    def move_z(self, z_um: float) -> float:
        """See `protocols.Focus.move_z`."""
        return self.focus.move_z(z_um)

    def focus_by_device(self) -> float:
        """See `protocols.Focus.focus_by_device`."""
        return self.focus.focus_by_device()

    def switch_light(self, modality: str) -> None:
        """See `protocols.Illumination.switch_light`."""
        self.illumination.switch_light(modality)

    def expose(
        self,
        exposure_ms: float,
        out: NDArray[np.uint16],
        next_position_um: tuple[float, float] | None = None,
    ) -> Exposure:
        """See `protocols.Camera.expose`."""
        return self.camera.expose(exposure_ms, out, next_position_um)

    def expose_dark(self, exposure_ms: float, out: NDArray[np.uint16]) -> Exposure:
        """See `protocols.Camera.expose_dark`."""
        return self.camera.expose_dark(exposure_ms, out)

    def focus_region(self, side_px: int) -> AbstractContextManager[tuple[int, int]]:
        """See `protocols.Camera.focus_region`."""
        return self.camera.focus_region(side_px)

    def notify_when_complete(self, callback: Callable[[], None]) -> None:
        """See `protocols.Camera.notify_when_complete`."""
        self.camera.copier.run(callback)

    def wait_for_frames(self) -> None:
        """See `protocols.Camera.wait_for_frames`."""
        self.camera.copier.wait()

    def recover(self) -> None:
        """See `protocols.Microscope.recover`."""
        policy, stage = self.scope.reliability, self.scope.stage
        # Each step is tried, whatever the device before it answers.
        for stop in (
            self.illumination.darken,
            self.sequences.stop,
            partial(self.camera.stop_sequence, policy.switch_timeout_s),
        ):
            with contextlib.suppress(HardwareError):
                stop()
        self.wait_for_frames()  # a copy under way would write into a buffer that is used again
        self._forget()
        for device in (stage.xy_device, stage.z_device):
            with contextlib.suppress(HardwareError):
                self._halt(device)
        with contextlib.suppress(HardwareError):
            self.focus.start_return()
            self.link.wait_for(
                (stage.z_device, stage.xy_device),
                policy.move_timeout_s,
                "returning to the last good Z",
            )

    def reinitialise(self) -> None:
        """See `protocols.Microscope.reinitialise`."""
        self.wait_for_frames()
        self.link.reload()
        self.sequences.clear()
        self._forget()
        self.camera.set_up()

    def close(self) -> None:
        """See `protocols.Microscope.close`."""
        self.camera.copier.close()
        self.link.close()

    def __enter__(self) -> CoreMicroscope:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _forget(self) -> None:
        """Set all devices anew the next time."""
        self.illumination.forget()
        self.sequencing.forget()
        self.stage.forget()
        self.camera.forget_exposure()

    def _halt(self, device: str) -> None:
        """Stop a stage that still moves after a short while: its own move may never end."""
        try:
            settle_s = min(_SETTLE_S, self.scope.reliability.move_timeout_s)
            self.link.wait_for((device,), settle_s, "stopping")
        except DeviceTimeoutError:
            self.link.call("stop", device)
