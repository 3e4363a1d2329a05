"""The camera of a Micro-Manager core.

Region, exposures one by one, and the frames of a hardware sequence.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from wbcpipe.acquire.hardware.protocols import Exposure
from wbcpipe.errors import CoreLostError, DeviceTimeoutError, HardwareError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from wbcpipe.acquire.config.scope import Camera, Scope
    from wbcpipe.acquire.hardware.illumination import CoreIllumination
    from wbcpipe.acquire.hardware.protocols import Core
    from wbcpipe.acquire.hardware.stages import CoreFocusDrive, CoreXYStage

__all__ = ["CoreCamera", "FrameCopier", "FrameSource", "oriented", "stop_sequence"]

_POLL_S: Final = 0.0001
#: Asking the camera itself takes longer than asking for the number of frames: once in so many
#: polls.
_POLLS_PER_CAMERA_CHECK: Final = 20
#: Sides of a focus region are multiples of so many binned pixels.
_REGION_UNIT_PX: Final = 8
#: Binning as cameras write it: 2, 2x2, 2 X 2, 1x1 (2048 x 2048).
_BINNING: Final = re.compile(r"\s*(\d{1,2})(?:\.0*)?\s*(?:[xX×*]\s*(\d{1,2}))?\s*(?:\(.*\))?\s*")


class FrameSource(Protocol):
    """Where the pixels of a frame come from.

    Attributes:
        slow: a frame takes longer than an exposure, so that none is made while the shutter is open.
    """

    slow: bool

    def observe(self, frame: int | None = None) -> object:
        """Note the state of the devices right after an exposure; ``frame`` is its number in a
        hardware sequence.
        """
        ...

    def fill(
        self,
        pixels: NDArray[np.unsignedinteger],
        exposure_ms: float,
        out: NDArray[np.uint16],
        observed: object,
    ) -> None:
        """Write a frame into ``out``.

        Args:
            pixels: (y, x), of the camera.
            exposure_ms: as the camera says.
            out: (y, x) uint16, lying as the stage does.
            observed: what `observe` returned.
        """
        ...


class FrameCopier:
    """Copies frames in order on one thread while the next exposure runs.

    Some wait until they are released.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="wbcpipe-copy")
        self._running: list[Future[None]] = []
        self._held: list[Callable[[], None]] = []

    def run(self, job: Callable[[], None]) -> None:
        """Run a job after those before it."""
        self._running.append(self._pool.submit(job))

    def hold(self, job: Callable[[], None]) -> None:
        """Keep a job until `release`."""
        self._held.append(job)

    def release(self) -> None:
        """Run the jobs that were held."""
        for job in self._held:
            self.run(job)
        self._held.clear()

    def drop_held(self) -> None:
        """Forget the jobs that were held."""
        self._held.clear()

    def wait(self) -> None:
        """Wait for all jobs that run; raise what one of them raised."""
        while self._running:
            self._running.pop().result()

    def close(self) -> None:
        """End the thread after its jobs."""
        self._pool.shutdown()


class CoreCamera:
    """The camera of `protocols.Camera`, and the `FrameSource` of its own pixels.

    Attributes:
        illumination, stage, focus: the devices that it works with.
        copier: completes the frames.
        region_px: x, y, width, height that are read, in unbinned pixels.
        frame_px: height and width of a frame of the camera.
        frames: where the pixels come from; by default the camera.
    """

    slow = False

    def __init__(
        self,
        scope: Scope,
        core: Core,
        illumination: CoreIllumination,
        stage: CoreXYStage,
        focus: CoreFocusDrive,
    ) -> None:
        self._scope, self._core = scope, core
        self.illumination, self.stage, self.focus = illumination, stage, focus
        self.frames: FrameSource = self
        self.copier = FrameCopier()
        self.region_px = scope.camera.region_px
        self.frame_px = (0, 0)
        self._exposure_ms = (0.0, 0.0)
        #: Focus windows that the camera does not read.
        self._refused_px: set[tuple[int, int, int, int]] = set()

    def set_up(self) -> None:
        """Set pixel type, binning and region as the scope file says.

        Raises:
            HardwareError: the camera refuses one of them, has another number of pixels or bits,
                gives colours, or is several cameras.
        """
        camera = self._scope.camera
        self._refuse_several()
        if camera.pixel_type:
            self._core.set_property(camera.device, "PixelType", camera.pixel_type)
        self._set_binning()
        self._refuse_colour()
        if (bits := self.bit_depth()) < camera.bits:
            raise HardwareError(
                f"{self._scope.path}: camera {camera.device!r} gives {bits} bits, 'camera.bits' "
                f"says {camera.bits}; over-exposure would not be seen: write bits = {bits}."
            )
        full_px = self._set_region(None)
        expected_px = tuple(side // camera.binning for side in camera.sensor_px)
        if full_px != expected_px:
            raise HardwareError(
                f"{self._scope.path}: the camera {camera.device!r} has {full_px[0]} x "
                f"{full_px[1]} pixels at binning {camera.binning}, 'camera.sensor_px' and binning "
                f"say {expected_px[0]} x {expected_px[1]}."
            )
        self._read_region(camera.region_px)

    def bit_depth(self) -> int:
        """Return the number of bits of a pixel, as the core says."""
        return int(self._core.call("get_image_bit_depth"))

    def _refuse_several(self) -> None:
        channels = int(self._core.call("get_number_of_camera_channels"))
        if channels > 1:
            raise HardwareError(
                f"{self._scope.path}: 'camera.device' {self._scope.camera.device!r} combines "
                f"{channels} cameras, whose frames would be mixed up in a sequence; name the one "
                "physical camera."
            )

    def _set_binning(self) -> None:
        """Set the allowed value that means the scope file's binning: ``2``, ``2x2``, ``2 x 2``.

        Unless it is set.
        """
        device, binning = self._scope.camera.device, self._scope.camera.binning
        if not self._core.has_property(device, "Binning"):
            return
        if _binning(self._core.get_property(device, "Binning")) == binning:
            return
        allowed = self._core.allowed_values(device, "Binning")
        meant = [value for value in allowed if _binning(value) == binning]
        if allowed and not meant:
            raise HardwareError(
                f"{self._scope.path}: the camera {device!r} has no binning of {binning}; it has "
                f"{', '.join(allowed)}: correct 'camera.binning'."
            )
        self._core.set_property(device, "Binning", meant[0] if meant else str(binning))

    def _refuse_colour(self) -> None:
        """Refuse a camera that gives colours, and say how to make it monochrome."""
        device = self._scope.camera.device
        components = int(self._core.call("get_number_of_components"))
        if components == 1:
            return
        names = [
            name for name in ("PixelType", "Pixel Format") if self._core.has_property(device, name)
        ]
        choices = [
            f"{name}: {', '.join(self._core.allowed_values(device, name))}" for name in names
        ]
        raise HardwareError(
            f"{self._scope.path}: the camera {device!r} is a colour camera ({components} "
            f"components a pixel): set a monochrome pixel type, such as 16bit or Mono12, in "
            "'camera.pixel_type' or in the .cfg"
            f"{f' ({choices[0]})' if choices else ''}."
        )

    @contextlib.contextmanager
    def focus_region(self, side_px: int) -> Iterator[tuple[int, int]]:
        """See `protocols.Camera.focus_region`."""
        camera = self._scope.camera
        before = self.region_px
        x, y, width, height = before
        unit = _REGION_UNIT_PX * camera.binning
        inner_width, inner_height = (
            max(min(side_px, side) // unit, 1) * unit for side in (width, height)
        )
        left = (x + (width - inner_width) // 2) // unit * unit
        top = (y + (height - inner_height) // 2) // unit * unit
        window_px = (left, top, inner_width, inner_height)
        try:
            if window_px not in self._refused_px:
                self._read_region(window_px)
        except (CoreLostError, DeviceTimeoutError):
            raise
        except HardwareError:
            # Its driver takes other steps, or no such region: the whole field serves as well, only
            # slower.
            self._refused_px.add(window_px)
            self._read_region(before)
        try:
            yield self.frame_px[::-1] if camera.quarter_turned else self.frame_px
        finally:
            self._read_region(before)

    def expose(
        self,
        exposure_ms: float,
        out: NDArray[np.uint16],
        next_position_um: tuple[float, float] | None = None,
    ) -> Exposure:
        """See `protocols.Camera.expose`."""
        actual_ms = self.set_exposure(exposure_ms)
        if self.illumination.current == "fluorescence":
            # First: what fails from here on has lit the slide, which it also does while the light
            # settles.
            self.illumination.on_fluorescence(actual_ms + self.illumination.settle_ms)
        with self.illumination.lit():
            self.snap(self._scope.reliability.camera_timeout_s + exposure_ms / 1000)
            observed = self.frames.observe()
        z_um = self.focus.z_um()
        self.stage.start_next_move(next_position_um)
        self._store(self.image(), actual_ms, out, observed)
        return Exposure(actual_ms, z_um)

    def expose_dark(self, exposure_ms: float, out: NDArray[np.uint16]) -> Exposure:
        """See `protocols.Camera.expose_dark`."""
        self.illumination.darken()
        actual_ms = self.set_exposure(exposure_ms)
        self.snap(self._scope.reliability.camera_timeout_s + exposure_ms / 1000)
        observed = self.frames.observe()
        self._store(self.image(), actual_ms, out, observed)
        self.copier.wait()
        return Exposure(actual_ms, self.focus.z_um())

    def observe(self, frame: int | None = None) -> object:
        """See `FrameSource.observe`; the camera's pixels need no note."""
        del frame
        return None

    def fill(
        self,
        pixels: NDArray[np.unsignedinteger],
        exposure_ms: float,
        out: NDArray[np.uint16],
        observed: object,
    ) -> None:
        """See `FrameSource.fill`."""
        del exposure_ms, observed
        np.copyto(out, oriented(pixels, self._scope.camera))

    def set_exposure(self, exposure_ms: float) -> float:
        """Set the exposure unless it is set already; return that of the camera, in ms."""
        if self._exposure_ms[0] != exposure_ms:
            self._exposure_ms = (exposure_ms, self.send_exposure(exposure_ms))
        return self._exposure_ms[1]

    def send_exposure(self, exposure_ms: float) -> float:
        """Set the exposure; return that of the camera, in ms."""
        self._core.call("set_exposure", float(exposure_ms))
        return float(self._core.call("get_exposure"))

    def forget_exposure(self) -> None:
        """Set the exposure anew the next time, whatever it was set to."""
        self._exposure_ms = (0.0, 0.0)

    def snap(self, timeout_s: float) -> None:
        """Expose once.

        Raises:
            DeviceTimeoutError: the camera did not return.
        """
        self._core.call_with_deadline(
            lambda: self._core.call("snap_image"), timeout_s, "the camera's exposure"
        )

    def image(self) -> NDArray[np.unsignedinteger]:
        """Return the last frame (y, x) as the camera gives it.

        Raises:
            HardwareError: it is not a monochrome frame of the region.
        """
        return _frame(self._core.call("get_image"), self.frame_px)

    def prepare_buffer(self, n_frames: int) -> None:
        """Allocate the core's buffer before the first sequence: else it is allocated while light
        falls.

        Raises:
            HardwareError: it does not hold ``n_frames``.
        """
        self._core.call("initialize_circular_buffer")
        capacity = int(self._core.call("get_buffer_total_capacity"))
        if capacity < n_frames:
            raise HardwareError(
                f"the core's circular buffer holds {capacity} frames, a sequence has {n_frames}; "
                f"enlarge it (Micro-Manager: Tools > Options > Sequence Buffer Size), or set "
                "'light.sequencing' to \"off\"."
            )

    def start_sequence(self, n_frames: int, timeout_s: float) -> None:
        """Start a sequence of ``n_frames`` exposures at the camera's own pace."""
        self._core.call_with_deadline(
            lambda: self._core.call("start_sequence_acquisition", n_frames, 0.0, True),
            timeout_s,
            "starting the camera",
        )

    def wait_frame(self, deadline_s: float) -> bool:
        """Wait until a frame of the sequence is in the core's buffer.

        Args:
            deadline_s: of `time.monotonic`.

        Returns:
            False when the deadline passed, or the camera ended, without one.

        Raises:
            HardwareError: the buffer overflowed: frames are lost.
        """
        for poll in itertools.count():
            if self._core.call("get_remaining_image_count"):
                return True
            if poll % _POLLS_PER_CAMERA_CHECK == 0:
                if self._core.call("is_buffer_overflowed"):
                    raise HardwareError(
                        "the core's circular buffer overflowed: frames of this sequence are lost."
                    )
                ended = not self._core.call("is_sequence_running") or time.monotonic() >= deadline_s
                if ended and not self._core.call("get_remaining_image_count"):
                    return False
            time.sleep(_POLL_S)
        raise AssertionError  # pragma: no cover - the loop returns or raises

    def next_frame(self) -> tuple[NDArray[np.unsignedinteger], float | None]:
        """Take the oldest frame (y, x) out of the core's buffer, and its exposure in ms if the
        camera notes it.

        Raises:
            HardwareError: there is none, or it is not a monochrome frame of the region.
        """
        tagged = self._core.call("pop_next_tagged_image")
        try:
            exposure_ms = float(tagged.tags["Exposure-ms"])
        except (KeyError, ValueError):
            exposure_ms = None
        return _frame(tagged.pix, self.frame_px), exposure_ms

    def stop_sequence(self, timeout_s: float) -> None:
        """Stop the camera if it still runs, and drop the frames in the buffer.

        Raises:
            DeviceTimeoutError: the camera hangs.
        """
        stop_sequence(self._core, timeout_s)

    def _store(
        self,
        pixels: NDArray[np.unsignedinteger],
        exposure_ms: float,
        out: NDArray[np.uint16],
        observed: object,
    ) -> None:
        """Put a frame into ``out``: by a thread, while the next exposure runs, unless that is
        slow.
        """
        if self.frames.slow:
            self.frames.fill(pixels, exposure_ms, out, observed)
        else:
            self.copier.run(partial(self.frames.fill, pixels, exposure_ms, out, observed))

    def _read_region(self, region_px: tuple[int, int, int, int]) -> None:
        """Read (x, y, width, height), in unbinned pixels."""
        camera = self._scope.camera
        is_full = region_px == (0, 0, *camera.sensor_px)
        x, y, width, height = (number // camera.binning for number in region_px)
        got = self._set_region(None if is_full else (x, y, width, height))
        got_x, got_y = (
            (x, y) if is_full else (int(number) for number in self._core.call("get_roi")[:2])
        )
        if (got_x, got_y, *got) != (x, y, width, height):
            key = (
                "'camera.roi_px'"
                if region_px == camera.region_px
                else "the focus window ('focus.window_px')"
            )
            raise HardwareError(
                f"the camera reads {got[0]} x {got[1]} pixels from ({got_x}, {got_y}), {key} asks "
                f"for {width} x {height} from ({x}, {y}); give a region whose sides its driver "
                f"takes (often multiples of 8)."
            )
        self.region_px = region_px
        self.frame_px = (height, width)

    def _set_region(self, region_px: tuple[int, int, int, int] | None) -> tuple[int, int]:
        """Read (x, y, width, height) in binned pixels, ``None`` for the full sensor.

        Return (width, height).
        """
        if region_px is None:
            self._core.call("clear_roi")
        else:
            self._core.call("set_roi", *region_px)
        return int(self._core.call("get_image_width")), int(self._core.call("get_image_height"))


def stop_sequence(core: Core, timeout_s: float) -> None:
    """Stop the core's camera if it still runs, and drop the frames in the buffer.

    Raises:
        DeviceTimeoutError: the camera hangs.
    """

    def stop() -> None:
        if core.call("is_sequence_running"):
            core.call("stop_sequence_acquisition")
        if core.call("get_remaining_image_count"):
            core.call("clear_circular_buffer")

    core.call_with_deadline(stop, timeout_s, "stopping the camera")


def oriented(pixels: NDArray[np.unsignedinteger], camera: Camera) -> NDArray[np.unsignedinteger]:
    """Return a view of the camera's frame (y, x) that lies as the stage does: x grows to the right,
    y downwards.
    """
    (a, b), (c, d) = camera.stage_affine
    if camera.quarter_turned:
        # The image's right goes along the stage's y (c), its down along the stage's x (b).
        return pixels.T[:: 1 if c > 0 else -1, :: 1 if b > 0 else -1]
    return pixels[:: 1 if d > 0 else -1, :: 1 if a > 0 else -1]


def _binning(value: str) -> int | None:
    """Return the binning that a value of a camera means, ``None`` if it means none or differs
    between the sides.
    """
    match = _BINNING.fullmatch(value)
    if match is None or (match[2] is not None and int(match[2]) != int(match[1])):
        return None
    return int(match[1])


def _frame(raw: Any, shape: tuple[int, int]) -> NDArray[np.unsignedinteger]:
    """Return the camera's answer as an unsigned frame (y, x)."""
    pixels = np.asarray(raw)
    if pixels.ndim == 1 and pixels.size == shape[0] * shape[1]:
        pixels = pixels.reshape(
            shape
        )  # the bridge gives rows one after another: (Y * X,) -> (Y, X)
    if (
        pixels.ndim == 3
        or pixels.dtype.itemsize > 2
        or pixels.size in (3 * math.prod(shape), 4 * math.prod(shape))
    ):
        raise HardwareError(
            f"the camera gave a colour frame ({pixels.dtype} of {pixels.shape}); set a monochrome "
            f"pixel type in 'camera.pixel_type' or in the .cfg."
        )
    if pixels.shape != shape:
        raise HardwareError(
            f"the camera gave {pixels.dtype} of {pixels.shape}, a monochrome frame of {shape} was "
            f"expected; check 'camera.pixel_type', 'camera.binning' and 'camera.roi_px'."
        )
    return pixels.view(f"u{pixels.dtype.itemsize}")
