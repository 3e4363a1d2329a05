"""The Micro-Manager core through pycromanager: the only module that imports it.

Loaded into this process or reached in a running Micro-Manager, it answers alike: typed errors, plain Python values,
a deadline on every wait.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from typing import TYPE_CHECKING, Any, Final

from wbcpipe.acquire.config.micromanager_cfg import light_settings, read_config, same_value
from wbcpipe.acquire.hardware.call_timeout import DeadlineCaller
from wbcpipe.acquire.hardware.device_adapters import adapter_folder, check_interface
from wbcpipe.acquire.hardware.java_bridge import BridgedCore
from wbcpipe.acquire.hardware.microscope_lock import microscope_lock
from wbcpipe.acquire.hardware.sequence_state import SequenceState
from wbcpipe.errors import ConfigError, CoreLostError, DeviceTimeoutError, HardwareError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from wbcpipe.acquire.config.scope import Focus, Scope

__all__ = ["CoreLink"]

#: The client builds its own core from what Micro-Manager's can do, which takes longer than a call.
_CONNECT_S: Final = 5.0
_POLL_S = 0.0001
_LOCK_POLL_S = 0.02
_POLLS_A_LOOK = 20
#: How long the devices may take to come back after their configuration is loaded anew.
_RELOAD_S = 60.0
#: A process can hold one core: pycromanager hands out the first it finds.
_open: list[CoreLink] = []


class CoreLink:
    """A core, loaded or reached as the scope says.

    Args:
        scope: which backend, folder and .cfg.
        take_over: a process that died may have left the camera of a running Micro-Manager in a burst: end it.

    Attributes:
        shutter_was_open: there was light on the slide before this link made it dark.

    Raises:
        HardwareError: the core or a device could not be loaded, or this process holds a core already; or the camera of
            a running Micro-Manager is in use, and it is not taken over.
        HardwareBusyError: another process of wbcpipe drives this microscope.
    """

    def __init__(self, scope: Scope, *, take_over: bool = False) -> None:
        self.shutter_was_open = False
        if _open:
            raise HardwareError("this process drives a microscope already; close it first, or use another process.")
        self._scope = scope
        self._headless = scope.micromanager.backend == "headless"
        self._caller = DeadlineCaller()
        # A place of its own for a focusing call that hangs: the camera must still answer, to focus by images instead.
        self._focus_caller = DeadlineCaller()
        self.sequences = SequenceState()
        self._shutter = scope.light.shutter_device
        config = read_config(scope.config_path)
        self._dark = () if scope.light.dark is None else light_settings(scope, config, scope.light.dark)
        self._lights = [light_settings(scope, config, modality) for _, modality in scope.modalities.items()]
        self._auto_shutter = False
        self._alone = contextlib.ExitStack()
        self._alone.enter_context(microscope_lock(scope))
        try:
            self._core: Any = self._load() if self._headless else self._reach(take_over=take_over)
        except BaseException:
            self._alone.close()
            raise
        _open.append(self)
        try:
            if take_over:
                self._end_what_runs()
            self._call("set_timeout_ms", int(scope.reliability.move_timeout_s * 1000))
            self._assign_roles()
        except BaseException:
            self.close()
            raise

    def _load(self) -> Any:
        interface = check_interface(self._scope)
        if not self._scope.config_path.is_file():
            raise ConfigError(f"{self._scope.config_path}: no such file; correct 'micromanager.config'.")
        import pycromanager

        folder = adapter_folder(self._scope)
        try:
            pycromanager.start_headless(
                str(folder),
                config_file=str(self._scope.config_path),
                python_backend=True,
                buffer_size_mb=_buffer_mb(self._scope),
            )
            return pycromanager.Core()
        except Exception as error:
            raise HardwareError(
                f"{self._scope.config_path}: Micro-Manager could not load it from {folder}: {_text(error)}. Check "
                f"power and cables; this core speaks device interface {interface}, a Micro-Manager of another one "
                "needs the pymmcore with that fourth version number. `wbcpipe doctor` looks closer."
            ) from error

    def _reach(self, *, take_over: bool) -> Any:
        port = self._scope.micromanager.port
        policy = self._scope.reliability
        connect_timeout_s = max(_CONNECT_S, policy.camera_timeout_s)
        try:
            core = BridgedCore(
                port,
                _Pycromanager(port, connect_timeout_s),
                connect_timeout_s=connect_timeout_s,
                call_timeout_s=max(policy.camera_timeout_s, policy.move_timeout_s, policy.switch_timeout_s),
            )
        except Exception as error:
            raise HardwareError(
                f"no Micro-Manager answers on port {port}: {_text(error)}. Start it and tick Tools > Options > 'Run "
                "server on port', or use backend 'headless'."
            ) from error
        try:
            if not take_over and core.is_sequence_running():
                raise HardwareError(
                    f"Micro-Manager on port {port} is in live view or in an acquisition of its own; stop that first."
                )
        except BaseException:
            core.close()
            raise
        return core

    def _end_what_runs(self) -> None:
        """Darkness first, whatever the camera answers then; while it runs, no role can be given to a device."""
        if self._shutter:
            self._call("set_shutter_device", self._shutter)
        self.darken()
        self.end_sequence(self._scope.reliability.camera_timeout_s)

    def _assign_roles(self) -> None:
        self._call("set_camera_device", self._scope.camera.device)
        self._call("set_xy_stage_device", self._scope.stage.xy_device)
        self._call("set_focus_device", self._scope.stage.z_device)
        self._auto_shutter = bool(self._call("get_auto_shutter"))
        self._call("set_auto_shutter", False)
        if self._shutter:
            self._call("set_shutter_device", self._shutter)
        with contextlib.suppress(HardwareError):  # a shutter that does not tell is closed all the same
            self.shutter_was_open |= self._is_lit()
        self.darken()

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call the core; what it raises becomes a `HardwareError` that says what was asked."""
        if self._core is None:
            raise HardwareError("the microscope is closed.")
        try:
            return getattr(self._core, name)(*arguments)
        except HardwareError:
            raise  # the bridge's own: a deadline, or Micro-Manager gone
        except Exception as error:
            shown = ", ".join(repr(argument) for argument in arguments)
            raise HardwareError(f"{name}({shown}) failed: {_text(error)}.") from error

    def _with_deadline(self, call: Callable[[], None], timeout_s: float, doing: str) -> None:
        """Run a call that blocks inside a driver; after the deadline it is left behind, and nothing else is begun."""
        self._caller.run(call, timeout_s, doing)

    def wait_for(self, devices: tuple[str, ...], timeout_s: float, doing: str) -> None:
        """Wait until devices are at rest.

        Raises:
            DeviceTimeoutError: one is busy after ``timeout_s``.
        """
        deadline = time.monotonic() + timeout_s
        for device in devices:
            while self._call("device_busy", device):
                if time.monotonic() >= deadline:
                    raise DeviceTimeoutError(f"{doing}: {device!r} is still busy after {timeout_s:g} s.")
                time.sleep(_POLL_S)

    def stop(self, device: str) -> None:
        """Tell a stage to stop where it is."""
        self._call("stop", device)

    def reload(self) -> None:
        """Initialise all devices anew from the .cfg file; a running Micro-Manager keeps its own, its roles are set.

        Raises:
            CoreLostError: a call still hangs in a driver, or the devices do not come back.
        """
        if not self._caller.wait(self._scope.reliability.camera_timeout_s) or not self._focus_caller.wait(0.0):
            raise CoreLostError("a call hangs in a driver, so its devices cannot be initialised in this process.")
        try:
            self._with_deadline(self._load_devices, _RELOAD_S, "initialising the devices anew")
        except HardwareError as error:
            raise CoreLostError(f"the devices do not come back: {error}") from error

    def _load_devices(self) -> None:
        self.sequences = SequenceState()
        if self._headless:
            self._call("unload_all_devices")
            self._call("load_system_configuration", str(self._scope.config_path))
        self._call("set_timeout_ms", int(self._scope.reliability.move_timeout_s * 1000))
        self._assign_roles()

    def devices(self) -> list[str]:
        """Labels of the loaded devices."""
        return _strings(self._call("get_loaded_devices"))

    def presets(self) -> dict[str, list[str]]:
        """Configuration groups and their presets."""
        groups = _strings(self._call("get_available_config_groups"))
        return {group: _strings(self._call("get_available_configs", group)) for group in groups}

    def has_property(self, device: str, name: str) -> bool:
        """Whether a device has a property."""
        return bool(self._call("has_property", device, name))

    def properties(self, device: str) -> list[str]:
        """Names of a device's properties."""
        return _strings(self._call("get_device_property_names", device))

    def allowed_values(self, device: str, name: str) -> list[str]:
        """Values a property takes; empty where it takes any."""
        return _strings(self._call("get_allowed_property_values", device, name))

    def limits(self, device: str, name: str) -> tuple[float, float] | None:
        """Lowest and highest value of a property that has limits."""
        if not self._call("has_property_limits", device, name):
            return None
        low, high = (self._call(f"get_property_{side}_limit", device, name) for side in ("lower", "upper"))
        return float(low), float(high)

    def set_property(self, device: str, name: str, value: str) -> None:
        """Set a device property.

        Raises:
            HardwareError: no such device or property, or not a value it takes; the text lists those it takes.
        """
        try:
            self._call("set_property", device, name, value)
        except HardwareError as error:
            allowed = self.allowed_values(device, name) if self.has_property(device, name) else []
            hint = f" It takes: {', '.join(allowed)}." if allowed else ""
            raise HardwareError(f"{error}{hint}") from error.__cause__

    def get_property(self, device: str, name: str) -> str:
        """Ask a device for a property's value."""
        return str(self._call("get_property", device, name))

    def set_shutter(self, *, is_open: bool) -> None:
        """Open or close the shutter."""
        self._call("set_shutter_open", is_open)

    def shutter_is_open(self) -> bool:
        """Whether light can pass."""
        return bool(self._call("get_shutter_open"))

    def darken(self) -> None:
        """Leave no light on the slide: the shutter closed, or, without one, the lights set dark."""
        if self._shutter:
            self.set_shutter(is_open=False)
        for device, name, value in self._dark:
            self.set_property(device, name, value)

    def _is_lit(self) -> bool:
        """Whether there is light on the slide; without a shutter: that of a modality."""
        if self._shutter:
            return self.shutter_is_open()
        return any(
            all(same_value(self.get_property(device, name), value) for device, name, value in settings)
            for settings in self._lights
        )

    def start_xy(self, x_um: float, y_um: float) -> None:
        """Begin a move of the XY stage."""
        self._call("set_xy_position", float(x_um), float(y_um))

    def xy_um(self) -> tuple[float, float]:
        """Where the XY stage says it is."""
        return float(self._call("get_x_position")), float(self._call("get_y_position"))

    def start_z(self, z_um: float) -> None:
        """Begin a move of the focus drive."""
        self._call("set_position", float(z_um))

    def z_um(self) -> float:
        """Where the focus drive says it is."""
        return float(self._call("get_position"))

    def set_exposure(self, exposure_ms: float) -> float:
        """Set the camera's exposure; gives back what the camera made of it."""
        self._call("set_exposure", float(exposure_ms))
        return float(self._call("get_exposure"))

    def set_region(self, region_px: tuple[int, int, int, int] | None) -> tuple[int, int]:
        """Read only (x, y, width, height) of the camera in its own, binned pixels; ``None`` for all. Gives (w, h)."""
        if region_px is None:
            self._call("clear_roi")
        else:
            self._call("set_roi", *region_px)
        return int(self._call("get_image_width")), int(self._call("get_image_height"))

    def snap(self, timeout_s: float) -> None:
        """Expose once.

        Raises:
            DeviceTimeoutError: the camera did not return.
        """
        self._with_deadline(lambda: self._call("snap_image"), timeout_s, "the camera's exposure")

    def image(self, shape: tuple[int, int]) -> NDArray[Any]:
        """The last frame (y, x) as the camera gives it.

        Raises:
            HardwareError: it is not a monochrome frame of that shape.
        """
        return _frame(self._call("get_image"), shape)

    def property_sequence_length(self, device: str, name: str) -> int:
        """How many values of a property the hardware can step through by itself; 0 where it cannot."""
        if device == "Core" or not self._call("is_property_sequenceable", device, name):
            return 0
        return int(self._call("get_property_sequence_max_length", device, name))

    def exposure_sequence_length(self) -> int:
        """How many exposures the camera can step through by itself; 0 where it cannot."""
        camera = self._scope.camera.device
        if not self._call("is_exposure_sequenceable", camera):
            return 0
        return int(self._call("get_exposure_sequence_max_length", camera))

    def load_property_sequence(self, device: str, name: str, values: tuple[str, ...]) -> None:
        """Upload the values that a property shall step through, one at each exposure of the camera."""
        self._call("load_property_sequence", device, name, list(values))
        self.sequences.properties[device, name] = values

    def load_exposure_sequence(self, exposures_ms: tuple[float, ...]) -> None:
        """Upload the exposures that the camera shall step through."""
        self._call("load_exposure_sequence", self._scope.camera.device, list(exposures_ms))
        self.sequences.exposures_ms = exposures_ms

    def prepare_buffer(self, n_frames: int) -> None:
        """Have the core's buffer ready before the first burst: its memory is then not made while light falls.

        Raises:
            HardwareError: it does not hold ``n_frames``.
        """
        self._call("initialize_circular_buffer")
        room = int(self._call("get_buffer_total_capacity"))
        if room < n_frames:
            raise HardwareError(
                f"the core's circular buffer holds {room} frames, a burst has {n_frames}; enlarge it (Micro-Manager: "
                "Tools > Options > Sequence Buffer Size), or set 'light.sequencing' to \"off\"."
            )

    def start_device_sequences(self) -> None:
        """Let the devices step through what was uploaded, from its beginning."""
        self.sequences.playing = True
        for device, name in self.sequences.properties:
            self._call("start_property_sequence", device, name)
        if self.sequences.exposures_ms:
            self._call("start_exposure_sequence", self._scope.camera.device)

    def stop_device_sequences(self) -> None:
        """Have all devices obey single commands again; each is told, whatever another answers.

        Raises:
            DeviceTimeoutError: one hangs, or the camera does since before.
        """
        self.sequences.playing = False

        def stop() -> None:
            with contextlib.ExitStack() as stack:
                if self.sequences.exposures_ms:
                    stack.callback(self._call, "stop_exposure_sequence", self._scope.camera.device)
                for device, name in self.sequences.properties:
                    stack.callback(self._call, "stop_property_sequence", device, name)

        self._with_deadline(stop, self._scope.reliability.switch_timeout_s, "stopping the sequences")

    def start_sequence(self, n_frames: int, timeout_s: float) -> None:
        """Have the camera expose ``n_frames`` times at its own pace."""
        self._with_deadline(
            lambda: self._call("start_sequence_acquisition", n_frames, 0.0, True), timeout_s, "starting the camera"
        )

    def wait_frame(self, deadline_s: float) -> bool:
        """Wait until a frame of the burst lies in the core's buffer.

        Args:
            deadline_s: of `time.monotonic`.

        Returns:
            False when the deadline passed, or the camera ended, without one.

        Raises:
            HardwareError: the buffer overflowed: frames are lost.
        """
        for poll in itertools.count():
            if self._call("get_remaining_image_count"):
                return True
            if poll % _POLLS_A_LOOK == 0:  # at the camera itself, which takes longer
                if self._call("is_buffer_overflowed"):
                    raise HardwareError("the core's circular buffer overflowed: frames of this burst are lost.")
                ended = not self._call("is_sequence_running") or time.monotonic() >= deadline_s
                if ended and not self._call("get_remaining_image_count"):
                    return False
            time.sleep(_POLL_S)
        raise AssertionError  # pragma: no cover - the loop returns or raises

    def next_frame(self, shape: tuple[int, int]) -> tuple[NDArray[Any], float | None]:
        """Take the oldest frame (y, x) out of the core's buffer, and its exposure in ms if the camera notes it.

        Raises:
            HardwareError: there is none, or it is not a monochrome frame of that shape.
        """
        tagged = self._call("pop_next_tagged_image")
        try:
            exposure_ms = float(tagged.tags["Exposure-ms"])
        except (KeyError, ValueError):
            exposure_ms = None
        return _frame(tagged.pix, shape), exposure_ms

    def end_sequence(self, timeout_s: float) -> None:
        """Stop the camera if it runs still, and drop what lies in the buffer.

        Raises:
            DeviceTimeoutError: the camera hangs.
        """

        def end() -> None:
            if self._call("is_sequence_running"):
                self._call("stop_sequence_acquisition")
            if self._call("get_remaining_image_count"):
                self._call("clear_circular_buffer")

        self._with_deadline(end, timeout_s, "stopping the camera")

    def focus_by_device(self, policy: Focus) -> None:
        """Let the focusing device find the focus, in the way the scope says.

        Raises:
            DeviceTimeoutError: it did not answer before ``hardware_timeout_s``; other calls go on.
            HardwareError: it failed.
        """
        doing = f"focusing by {policy.hardware_device!r}"
        self._focus_caller.run(lambda: self._focus_now(policy), policy.hardware_timeout_s, doing)

    def choose_focusing_device(self, device: str) -> None:
        """Give a device the role of the one that focuses; refused where it is none."""
        self._call("set_auto_focus_device", device)

    def _focus_now(self, policy: Focus) -> None:
        self.choose_focusing_device(policy.hardware_device)
        if policy.device_offset is not None:
            self._call("set_auto_focus_offset", float(policy.device_offset))
        if policy.hardware_mode != "continuous":
            self._call(f"{policy.hardware_mode}_focus")
            return
        self._call("enable_continuous_focus", True)
        try:
            deadline = time.monotonic() + policy.hardware_timeout_s
            while not self._call("is_continuous_focus_locked"):
                if time.monotonic() >= deadline:
                    raise HardwareError(f"{policy.hardware_device!r} did not lock.")
                time.sleep(_LOCK_POLL_S)
        finally:
            # Held on, it would fight the offsets of the modalities.
            self._call("enable_continuous_focus", False)

    def close(self) -> None:
        """Leave the slide in the dark and unload the devices of a core loaded here; may be called twice."""
        if self._core is None:
            return
        hangs = True
        try:
            hangs = not self._caller.wait(self._scope.reliability.camera_timeout_s) or not self._focus_caller.wait(0.0)
            with contextlib.suppress(HardwareError):
                self.darken()
            if self._auto_shutter and not self._headless:
                with contextlib.suppress(HardwareError):
                    self._call("set_auto_shutter", True)  # as the user of that Micro-Manager had it
        finally:
            core, self._core = self._core, None
            for caller in (self._caller, self._focus_caller):
                caller.close()
            _open.remove(self)
            if not self._headless:
                core.close()
            # Unloading under a call that hangs would take the process down.
            if self._headless and not hangs:
                import pycromanager

                pycromanager.stop_headless()
                _free(core)
            self._alone.close()


def _free(core: Any) -> None:
    """Give back the memory of a core whose devices are unloaded.

    pycromanager keeps the first core of a process for good, and hangs methods bound to a core on that core: a circle
    that the garbage collector does not look into. Each session would leave its frame buffer behind.
    """
    core.set_circular_buffer_memory_footprint(1)
    vars(core).clear()


def _buffer_mb(scope: Scope) -> int:
    """Size of the core's buffer: two fields' frames, so that a burst never waits for the one before."""
    camera = scope.camera
    frame_bytes = 2 * camera.sensor_px[0] * camera.sensor_px[1] // camera.binning**2
    return max(64, 8 * -(-frame_bytes // 2**20))


def _frame(raw: Any, shape: tuple[int, int]) -> NDArray[Any]:
    """The camera's answer as an unsigned frame (y, x)."""
    import numpy as np

    pixels = np.asarray(raw)
    if pixels.ndim == 1 and pixels.size == shape[0] * shape[1]:
        pixels = pixels.reshape(shape)  # the bridge gives rows one after another: (Y * X,) -> (Y, X)
    if pixels.shape != shape or pixels.dtype.itemsize > 2:
        raise HardwareError(
            f"the camera gave {pixels.dtype} of {pixels.shape}, a monochrome frame of {shape} was expected; check "
            "'camera.pixel_type', 'camera.binning' and 'camera.roi_px'."
        )
    return pixels.view(f"u{pixels.dtype.itemsize}")


class _Pycromanager:
    """What `BridgedCore` needs of pycromanager."""

    def __init__(self, port: int, timeout_s: float) -> None:
        import pycromanager  # slow: not to be counted against a deadline

        self._package = pycromanager
        self._port, self._timeout_ms = port, int(1000 * timeout_s)

    def core(self, *, new_socket: bool) -> Any:
        return self._package.Core(port=self._port, timeout=self._timeout_ms, new_socket=new_socket)

    def vector(self, name: str) -> Any:
        return self._package.JavaObject(f"mmcorej.{name}", port=self._port, timeout=self._timeout_ms)


def _strings(values: Iterable[Any]) -> list[str]:
    """A core's names: a tuple in this process, a list over the bridge."""
    return [str(value) for value in values]


def _text(error: BaseException) -> str:
    """The driver's message on one line, without a closing stop."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
