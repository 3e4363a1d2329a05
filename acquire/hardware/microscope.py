"""A microscope on a Micro-Manager core: moves within limits, reads back, exposes under a closed shutter's care."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from wbcpipe.acquire.hardware.core_link import CoreLink
from wbcpipe.acquire.hardware.illumination import Illumination
from wbcpipe.acquire.hardware.protocols import Exposure
from wbcpipe.acquire.hardware.sequencing import Sequencer
from wbcpipe.errors import DeviceTimeoutError, DroppedFrameError, HardwareError, StageLimitError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from wbcpipe.acquire.config.scope import Camera, Scope
    from wbcpipe.acquire.events import CaptureEvent

__all__ = ["CoreMicroscope", "oriented"]

#: After a failure a stage may end its move within this, then it is stopped.
_REST_S = 2.0


class CoreMicroscope:
    """The microscope of a scope file; fulfils `hardware.Microscope`.

    Raises:
        HardwareError: the core, a device or the camera's settings failed.
    """

    #: Copied in a thread while the burst goes on: that takes no time from it, and the core's memory is used again.
    _develops_at_once: ClassVar[bool] = True

    def __init__(self, scope: Scope, link: CoreLink | None = None) -> None:
        self.scope = scope
        self.link = link or CoreLink(scope)
        try:
            self.illumination = Illumination(scope, self.link)
            self.sequencer = Sequencer(scope, self.link, self.illumination)
            self._good_z_um = self.link.z_um()
            self._heading_um: tuple[float, float] | None = None
            self._copies: list[Future[None]] = []
            self._undeveloped: list[Callable[[], None]] = []
            self._copier = ThreadPoolExecutor(1, thread_name_prefix="wbcpipe-copy")
            self._exposure_ms = (0.0, 0.0)
            self.on_fluorescence: Callable[[float], None] = lambda _: None
            self._set_up_camera()
        except BaseException:
            self.link.close()
            raise

    @property
    def shutter_was_open(self) -> bool:
        """See `hardware.Microscope.shutter_was_open`."""
        return self.link.shutter_was_open

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

    def start_move_xy(self, x_um: float, y_um: float) -> None:
        """See `hardware.Microscope.start_move_xy`."""
        self._set_off(x_um, y_um)

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

    def focus_by_device(self) -> float:
        """See `hardware.Microscope.focus_by_device`."""
        stage, before_um = self.scope.stage, self.link.z_um()
        self.link.focus_by_device(self.scope.focus)
        self.link.wait_for((stage.z_device,), self.scope.reliability.move_timeout_s, "focusing by the device")
        there_um = self.link.z_um()
        if not stage.z_um[0] <= there_um <= stage.z_um[1]:
            self.move_z(min(max(before_um, stage.z_um[0]), stage.z_um[1]))
            raise HardwareError(
                f"{self.scope.focus.hardware_device!r} went to Z = {there_um:g} um, beyond the soft limits "
                f"{stage.z_um[0]:g} to {stage.z_um[1]:g} um; driven back."
            )
        self._good_z_um = there_um
        return there_um

    def switch_light(self, modality: str) -> None:
        """See `hardware.Microscope.switch_light`."""
        self.illumination.switch(modality)

    def expose(
        self, exposure_ms: float, out: NDArray[np.uint16], next_position_um: tuple[float, float] | None = None
    ) -> Exposure:
        """See `hardware.Microscope.expose`."""
        real_ms = self._set_exposure(exposure_ms)
        if self.illumination.current == "fluorescence":
            self.on_fluorescence(real_ms)  # told first: what fails from here on has lit the slide
        with self.illumination.lit():
            self.link.snap(self.scope.reliability.camera_timeout_s + exposure_ms / 1000)
            seen = self._observe()
        z_um = self.link.z_um()
        self._go_on(next_position_um)
        self._develop(self.link.image(self.frame_px), real_ms, out, seen)
        return Exposure(real_ms, z_um)

    def expose_dark(self, exposure_ms: float, out: NDArray[np.uint16]) -> Exposure:
        """See `hardware.Microscope.expose_dark`."""
        self.link.darken()
        real_ms = self._set_exposure(exposure_ms)
        self.link.snap(self.scope.reliability.camera_timeout_s + exposure_ms / 1000)
        seen = self._observe()
        self._develop(self.link.image(self.frame_px), real_ms, out, seen)
        self.wait_for_frames()
        return Exposure(real_ms, self.link.z_um())

    def _set_exposure(self, exposure_ms: float) -> float:
        """Set the camera's exposure unless it stands so; gives back what the camera made of it."""
        if self._exposure_ms[0] != exposure_ms:
            self._exposure_ms = (exposure_ms, self.link.set_exposure(exposure_ms))
        return self._exposure_ms[1]

    def _go_on(self, next_position_um: tuple[float, float] | None) -> None:
        """Begin the move to the next field; one that cannot be made is that field's affair: `move_xy` finds it."""
        if next_position_um is not None:
            with contextlib.suppress(HardwareError, StageLimitError):
                self._set_off(*next_position_um)

    def prepare(self, events: Sequence[CaptureEvent]) -> None:
        """See `hardware.Microscope.prepare`."""
        if self.can_sequence(events):
            self.sequencer.prepare(events)
        self._set_exposure(events[0].exposure_ms)
        self.illumination.switch(events[0].modality)

    def can_sequence(self, events: Sequence[CaptureEvent]) -> bool:
        """See `hardware.Microscope.can_sequence`."""
        return self.sequencer.can(events)

    def disable_sequencing(self) -> None:
        """See `hardware.Microscope.disable_sequencing`."""
        self.sequencer.refuse()

    def expose_sequence(
        self,
        events: Sequence[CaptureEvent],
        out: NDArray[np.uint16],
        next_position_um: tuple[float, float] | None = None,
        on_frame_complete: Callable[[int], None] = lambda _: None,
    ) -> list[Exposure]:
        """See `hardware.Microscope.expose_sequence`."""
        timeout_s = self.scope.reliability.camera_timeout_s
        real_ms = self.sequencer.prepare(events)
        self._set_exposure(events[0].exposure_ms)
        exposures: list[Exposure] = []
        if lit_ms := sum(ms for event, ms in zip(events, real_ms, strict=True) if event.modality == "fluorescence"):
            self.on_fluorescence(lit_ms)
        try:
            with self.sequencer.playing(events[0].modality), self._lit_then(next_position_um):
                self.link.start_sequence(len(events), timeout_s)
                started_s = time.monotonic()
                deadline_s = started_s + timeout_s + sum(real_ms) / 1000
                for channel, exposure_ms in enumerate(real_ms):
                    if not self.link.wait_frame(deadline_s):
                        raise DroppedFrameError(
                            f"the camera gave {channel} of the {len(events)} frames of a burst; check its trigger and "
                            "its link, or set 'light.sequencing' to \"off\"."
                        )
                    seen = self._observe(channel)
                    started_s = max(started_s, time.monotonic() - exposure_ms / 1000)
                    exposures.append(Exposure(exposure_ms, self.link.z_um(), started_s))
                    started_s += exposure_ms / 1000  # the next exposure begins after this one, however late it is seen
                    if channel < len(events) - 1:
                        exposures[-1] = self._pop(
                            exposures[-1], out[channel], seen, partial(on_frame_complete, channel)
                        )
            self._go_on(next_position_um)
            last = len(events) - 1
            exposures[-1] = self._pop(exposures[-1], out[last], seen, partial(on_frame_complete, last))
            self._submit()
            self.link.end_sequence(timeout_s)
        except BaseException:
            self._undeveloped.clear()
            self.sequencer.forget()
            with contextlib.suppress(HardwareError):
                self.link.end_sequence(self.scope.reliability.switch_timeout_s)
            raise
        finally:
            self._exposure_ms = (0.0, 0.0)  # where the camera's sequence leaves it is its own affair
        return exposures

    @contextlib.contextmanager
    def _lit_then(self, next_position_um: tuple[float, float] | None) -> Iterator[None]:
        """Light for a burst; once the slide is dark the stage moves on, and the last frame is read meanwhile."""
        with self.illumination.lit_sequence():
            yield
        if self.scope.light.shutter_device:
            self._go_on(next_position_um)

    def _pop(self, exposure: Exposure, out: NDArray[np.uint16], seen: object, whole: Callable[[], None]) -> Exposure:
        """Take the oldest frame of a burst into ``out``; its exposure is the camera's own word where it gives one."""
        pixels, noted_ms = self.link.next_frame(self.frame_px)
        if noted_ms is not None:
            exposure = replace(exposure, exposure_ms=noted_ms)

        def develop() -> None:
            self._fill(pixels, exposure_ms, out, seen)
            whole()

        exposure_ms = exposure.exposure_ms
        self._undeveloped.append(develop)
        if self._develops_at_once:
            self._submit()
        return exposure

    def _submit(self) -> None:
        """Let the copying thread develop what was popped."""
        self._copies += [self._copier.submit(job) for job in self._undeveloped]
        self._undeveloped.clear()

    def _observe(self, frame: int | None = None) -> object:
        """Called while the shutter is open after an exposure; the virtual scope notes what the devices say.

        Args:
            frame: number of the exposure in a burst.
        """
        del frame
        return None

    def _develop(
        self, pixels: NDArray[np.unsignedinteger], exposure_ms: float, out: NDArray[np.uint16], seen: object
    ) -> None:
        """Have a frame put into ``out``: by a thread, while the next exposure runs."""
        self._copies.append(self._copier.submit(self._fill, pixels, exposure_ms, out, seen))

    def _fill(
        self, pixels: NDArray[np.unsignedinteger], exposure_ms: float, out: NDArray[np.uint16], seen: object
    ) -> None:
        """Put the camera's pixels (y, x), lying as the stage does, into ``out``."""
        del exposure_ms, seen
        np.copyto(out, oriented(pixels, self.scope.camera))

    def notify_when_complete(self, call: Callable[[], None]) -> None:
        """See `hardware.Microscope.notify_when_complete`."""
        self._copies.append(self._copier.submit(call))

    def wait_for_frames(self) -> None:
        """See `hardware.Microscope.wait_for_frames`."""
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

    def recover(self) -> None:
        """See `hardware.Microscope.recover`."""
        policy, stage = self.scope.reliability, self.scope.stage
        # One device that fails must not keep the others from coming to rest.
        with contextlib.suppress(HardwareError):
            self.link.darken()
        for stop in (self.link.stop_device_sequences, partial(self.link.end_sequence, policy.switch_timeout_s)):
            with contextlib.suppress(HardwareError):
                stop()
        self.wait_for_frames()  # a copy under way would write into a buffer that is used again
        self._forget()
        for device in (stage.xy_device, stage.z_device):
            with contextlib.suppress(HardwareError):
                self._halt(device)
        with contextlib.suppress(HardwareError):
            self.link.start_z(self._good_z_um)
            self.link.wait_for((stage.z_device, stage.xy_device), policy.move_timeout_s, "coming to rest")

    def _forget(self) -> None:
        """Take nothing for granted of what the devices were told."""
        self.illumination.forget()
        self.sequencer.forget()
        self._heading_um = None
        self._exposure_ms = (0.0, 0.0)

    def _halt(self, device: str) -> None:
        """Stop a stage that still moves after a short while: its own move may have never ended."""
        try:
            rest_s = min(_REST_S, self.scope.reliability.move_timeout_s)
            self.link.wait_for((device,), rest_s, "coming to rest")
        except DeviceTimeoutError:
            self.link.stop(device)

    def reinitialise(self) -> None:
        """See `hardware.Microscope.reinitialise`."""
        self.wait_for_frames()
        self.link.reload()
        self._forget()
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
