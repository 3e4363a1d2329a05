"""A microscope on a Micro-Manager core: moves within limits, reads back, exposes under a closed shutter's care."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from wbcpipe.acquire.hardware import Exposure
from wbcpipe.acquire.illumination import Illumination
from wbcpipe.acquire.mmcore import CoreLink
from wbcpipe.errors import DeviceTimeoutError, HardwareError, StageLimitError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from wbcpipe.acquire.config import Camera, Scope

__all__ = ["CoreMicroscope", "oriented"]

#: After a failure a stage may end its move within this, then it is stopped.
_REST_S = 2.0


class CoreMicroscope:
    """The microscope of a scope file; fulfils `hardware.Microscope`.

    Raises:
        HardwareError: the core, a device or the camera's settings failed.
    """

    def __init__(self, scope: Scope, link: CoreLink | None = None) -> None:
        self.scope = scope
        self.link = link or CoreLink(scope)
        try:
            self.illumination = Illumination(scope, self.link)
            self._good_z_um = self.link.z_um()
            self._heading_um: tuple[float, float] | None = None
            self._copies: list[Future[None]] = []
            self._copier = ThreadPoolExecutor(1, thread_name_prefix="wbcpipe-copy")
            self._exposure_ms = (0.0, 0.0)
            self._set_up_camera()
        except BaseException:
            self.link.close()
            raise

    @property
    def found_lit(self) -> bool:
        """See `hardware.Microscope.found_lit`."""
        return self.link.found_lit

    def _set_up_camera(self) -> None:
        camera = self.scope.camera
        if camera.pixel_type:
            self.link.set_property(camera.device, "PixelType", camera.pixel_type)
        if self.link.has_property(camera.device, "Binning"):
            self.link.set_property(camera.device, "Binning", str(camera.binning))
        whole = self.link.set_region(None)
        expected = tuple(side // camera.binning for side in camera.sensor_px)
        if whole != expected:
            raise HardwareError(
                f"{self.scope.path}: the camera {camera.device!r} has {whole[0]} x {whole[1]} pixels at binning "
                f"{camera.binning}, 'camera.sensor_px' and binning say {expected[0]} x {expected[1]}."
            )
        self.region_px = camera.region_px
        self._read_region(camera.region_px)

    def _read_region(self, region_px: tuple[int, int, int, int]) -> None:
        """Read (x, y, width, height), in unbinned pixels."""
        camera = self.scope.camera
        whole = region_px == (0, 0, *camera.sensor_px)
        x, y, width, height = (number // camera.binning for number in region_px)
        got = self.link.set_region(None if whole else (x, y, width, height))
        if got != (width, height):
            raise HardwareError(
                f"the camera reads {got[0]} x {got[1]} pixels, 'camera.roi_px' asks for {width} x {height}; give a "
                "region whose sides its driver takes (often multiples of 8)."
            )
        self.region_px = region_px
        self.frame_px = (height, width)

    def _set_off(self, x_um: float, y_um: float) -> tuple[float, float]:
        """Begin a move that brings (x, y) to the middle of the image; gives back the stage's own target."""
        stage = self.scope.stage
        offset_um = self.scope.camera.centre_offset_um()
        target_um = (x_um - offset_um[0], y_um - offset_um[1])
        if target_um == self._heading_um:
            return target_um
        self._heading_um = None
        for axis, asked, reach in zip("xy", target_um, (stage.x_um, stage.y_um), strict=True):
            if not reach[0] <= asked <= reach[1]:
                raise StageLimitError(
                    f"{axis} = {asked:g} um is beyond the stage's limits, {reach[0]:g} to {reach[1]:g}; nothing moved."
                )
        self.link.start_xy(*target_um)
        self._heading_um = target_um
        return target_um

    def move_xy(self, x_um: float, y_um: float) -> tuple[float, float]:
        """See `hardware.Microscope.move_xy`."""
        stage = self.scope.stage
        target_um = self._set_off(x_um, y_um)
        self._heading_um = None
        self.link.wait_for((stage.xy_device,), self.scope.reliability.move_timeout_s, "moving the stage")
        if stage.settle_ms:
            time.sleep(stage.settle_ms / 1000)
        there_um = self.link.xy_um()
        away_um = float(np.hypot(there_um[0] - target_um[0], there_um[1] - target_um[1]))
        if away_um > stage.tolerance_um:
            raise HardwareError(
                f"the stage stands at ({there_um[0]:.2f}, {there_um[1]:.2f}) um, {away_um:.2f} um from where it was "
                f"sent; 'stage.tolerance_um' allows {stage.tolerance_um:g} um."
            )
        offset_um = self.scope.camera.centre_offset_um()
        return there_um[0] + offset_um[0], there_um[1] + offset_um[1]

    def move_z(self, z_um: float) -> float:
        """See `hardware.Microscope.move_z`."""
        stage = self.scope.stage
        if not stage.z_um[0] <= z_um <= stage.z_um[1]:
            raise StageLimitError(
                f"Z = {z_um:g} um is outside the soft limits {stage.z_um[0]:g} to {stage.z_um[1]:g} um; nothing moved."
            )
        self.link.start_z(z_um)
        self.link.wait_for((stage.z_device,), self.scope.reliability.move_timeout_s, "moving the focus")
        there_um = self.link.z_um()
        if abs(there_um - z_um) > stage.tolerance_um:
            raise HardwareError(f"the focus stands at {there_um:g} um, it was sent to {z_um:g} um.")
        self._good_z_um = there_um
        return there_um

    def light(self, modality: str) -> None:
        """See `hardware.Microscope.light`."""
        self.illumination.switch(modality)

    def expose(
        self, exposure_ms: float, out: NDArray[np.uint16], then_to_um: tuple[float, float] | None = None
    ) -> Exposure:
        """See `hardware.Microscope.expose`."""
        if self._exposure_ms[0] != exposure_ms:
            self._exposure_ms = (exposure_ms, self.link.set_exposure(exposure_ms))
        real_ms = self._exposure_ms[1]
        with self.illumination.lit():
            self.link.snap(self.scope.reliability.camera_timeout_s + exposure_ms / 1000)
            self._observe()
        z_um = self.link.z_um()
        if then_to_um is not None:
            # A move that cannot be made is the next field's affair: `move_xy` finds it again.
            with contextlib.suppress(HardwareError, StageLimitError):
                self._set_off(*then_to_um)
        self._develop(self.link.image(self.frame_px), real_ms, out)
        return Exposure(real_ms, z_um)

    def _observe(self) -> None:
        """Called while the shutter is still open after an exposure; the virtual scope looks at the devices here."""

    def _develop(self, pixels: NDArray[np.unsignedinteger], exposure_ms: float, out: NDArray[np.uint16]) -> None:
        """Put the camera's pixels (y, x), lying as the stage does, into ``out``."""
        # Copied while the next exposure runs; the core gives each frame in memory of its own.
        self._copies.append(self._copier.submit(np.copyto, out, oriented(pixels, self.scope.camera)))

    def finish(self) -> None:
        """See `hardware.Microscope.finish`."""
        while self._copies:
            self._copies.pop().result()

    @contextlib.contextmanager
    def focus_region(self, side_px: int) -> Iterator[tuple[int, int]]:
        """See `hardware.Microscope.focus_region`."""
        before = self.region_px
        x, y, width, height = before
        unit = 8 * self.scope.camera.binning
        wide, high = (max(min(side_px, side) // unit, 1) * unit for side in (width, height))
        left, top = ((start + room // 2) // unit * unit for start, room in ((x, width - wide), (y, height - high)))
        self._read_region((left, top, wide, high))
        try:
            yield self.frame_px[::-1] if self.scope.camera.quarter_turned else self.frame_px
        finally:
            self._read_region(before)

    def age(self, exposures: Iterable[tuple[float, float, float]]) -> None:
        """See `hardware.Microscope.age`: a real slide remembers by itself."""

    def recover(self) -> None:
        """See `hardware.Microscope.recover`."""
        self.finish()  # a copy under way would write into a buffer that is used again
        self.illumination.forget()
        self._heading_um = None
        self._exposure_ms = (0.0, 0.0)
        stage = self.scope.stage
        # One device that fails must not keep the others from coming to rest.
        if self.scope.light.shutter_device:
            with contextlib.suppress(HardwareError):
                self.link.set_shutter(is_open=False)
        for device in (stage.xy_device, stage.z_device):
            with contextlib.suppress(HardwareError):
                self._halt(device)
        with contextlib.suppress(HardwareError):
            self.link.start_z(self._good_z_um)
            devices = (stage.z_device, stage.xy_device)
            self.link.wait_for(devices, self.scope.reliability.move_timeout_s, "coming to rest")

    def _halt(self, device: str) -> None:
        """Stop a stage that still moves after a short while: its own move may have never ended."""
        try:
            rest_s = min(_REST_S, self.scope.reliability.move_timeout_s)
            self.link.wait_for((device,), rest_s, "coming to rest")
        except DeviceTimeoutError:
            self.link.stop(device)

    def reinitialise(self) -> None:
        """See `hardware.Microscope.reinitialise`."""
        self.finish()
        self.link.reload()
        self.illumination.forget()
        self._heading_um = None
        self._exposure_ms = (0.0, 0.0)
        self._set_up_camera()

    def close(self) -> None:
        """See `hardware.Microscope.close`."""
        self._copier.shutdown()
        self.link.close()

    def __enter__(self) -> CoreMicroscope:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def oriented(pixels: NDArray[np.unsignedinteger], camera: Camera) -> NDArray[np.unsignedinteger]:
    """A view of the camera's frame (y, x) that lies as the stage does: x grows to the right, y downwards."""
    (a, b), (c, d) = camera.stage_affine
    if camera.quarter_turned:
        # The image's right goes along the stage's y (c), its down along the stage's x (b).
        return pixels.T[:: 1 if c > 0 else -1, :: 1 if b > 0 else -1]
    return pixels[:: 1 if d > 0 else -1, :: 1 if a > 0 else -1]
