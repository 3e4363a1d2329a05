"""The Micro-Manager core through pycromanager: the only module that imports it.

Loaded into this process or reached in a running Micro-Manager, it answers alike: typed errors, plain Python values,
a deadline on every wait.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wbcpipe.acquire.config import TEST_ADAPTERS
from wbcpipe.errors import ConfigError, CoreLostError, DeviceTimeoutError, HardwareError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from wbcpipe.acquire.config import Scope

__all__ = ["CoreLink", "adapter_folder", "check_interface", "interface_versions"]

_INSTALL = "pip install 'pymmcore==12.5.1.75.*' 'mm-test-adapters==75.*' pycromanager"
_POLL_S = 0.0003
#: How long the devices may take to come back after their configuration is loaded anew.
_RELOAD_S = 60.0
#: What pycromanager says once the other end of the bridge is gone.
_LOST = ("Bridge has been closed", "Socket timed out", "is already closed")
#: A process can hold one core: pycromanager hands out the first it finds.
_open: list[CoreLink] = []


def interface_versions() -> tuple[str, str]:
    """The device interface of pymmcore and that of mm-test-adapters; they must be equal to load a device.

    Raises:
        HardwareError: one of the packages is not installed.
    """
    try:
        core = importlib.metadata.version("pymmcore")
        adapters = importlib.metadata.version("mm-test-adapters")
    except importlib.metadata.PackageNotFoundError as error:
        raise HardwareError(f"package {error.name} is not installed: {_INSTALL}.") from error
    return core.split(".")[3], adapters.split(".")[0]


def check_interface(scope: Scope) -> str:
    """Say which device interface the core speaks, before anything is loaded: a mismatch can crash the interpreter.

    Raises:
        HardwareError: the test adapters speak another interface than pymmcore.
    """
    core, adapters = interface_versions()
    if adapter_folder(scope) == _test_adapter_folder() and core != adapters:
        raise HardwareError(
            f"pymmcore speaks device interface {core}, mm-test-adapters {adapters}; they must be equal: {_INSTALL}."
        )
    return core


def _test_adapter_folder() -> Path:
    import mm_test_adapters

    return Path(mm_test_adapters.device_adapter_path())


def adapter_folder(scope: Scope) -> Path:
    """The folder of the device adapters: WBCPIPE_MICROMANAGER, else what the scope says.

    Raises:
        HardwareError: no such folder.
    """
    own = os.environ.get("WBCPIPE_MICROMANAGER")
    text = own if own and not scope.virtual else scope.micromanager.folder
    folder = _test_adapter_folder() if text == TEST_ADAPTERS else Path(text).expanduser()
    if not folder.is_dir():
        raise HardwareError(
            f"{folder}: no Micro-Manager there; correct 'micromanager.folder' in {scope.path} or WBCPIPE_MICROMANAGER."
        )
    return folder


class CoreLink:
    """A core, loaded or reached as the scope says.

    Args:
        scope: which backend, folder and .cfg.

    Attributes:
        found_lit: the shutter stood open before this link closed it.

    Raises:
        HardwareError: the core or a device could not be loaded, or this process holds a core already.
    """

    def __init__(self, scope: Scope) -> None:
        self.found_lit = False
        if _open:
            raise HardwareError("this process drives a microscope already; close it first, or use another process.")
        self._scope = scope
        self._headless = scope.micromanager.backend == "headless"
        self._stuck: threading.Thread | None = None
        self._shutter = scope.light.shutter_device
        self._core: Any = self._load() if self._headless else self._reach()
        _open.append(self)
        try:
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
                str(folder), config_file=str(self._scope.config_path), python_backend=True, buffer_size_mb=64
            )
            return pycromanager.Core()
        except Exception as error:
            raise HardwareError(
                f"{self._scope.config_path}: Micro-Manager could not load it from {folder}: {_text(error)}. Check "
                f"power and cables; this core speaks device interface {interface}, a Micro-Manager of another one "
                "needs the pymmcore with that fourth version number. `wbcpipe doctor` looks closer."
            ) from error

    def _reach(self) -> Any:
        import pycromanager

        port = self._scope.micromanager.port
        try:
            timeout_ms = int(1000 * self._scope.reliability.camera_timeout_s)
            return pycromanager.Core(port=port, timeout=timeout_ms)
        except Exception as error:
            raise HardwareError(
                f"no Micro-Manager answers on port {port}: {_text(error)}. Start it and tick Tools > Options > 'Run "
                "server on port', or use backend 'headless'."
            ) from error

    def _assign_roles(self) -> None:
        self._call("set_camera_device", self._scope.camera.device)
        self._call("set_xy_stage_device", self._scope.stage.xy_device)
        self._call("set_focus_device", self._scope.stage.z_device)
        self._call("set_auto_shutter", False)
        if self._shutter:
            self._call("set_shutter_device", self._shutter)
            with contextlib.suppress(HardwareError):  # a shutter that does not tell is closed all the same
                self.found_lit |= self.shutter_is_open()
            self.set_shutter(is_open=False)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call the core; what it raises becomes a `HardwareError` that says what was asked."""
        if self._core is None:
            raise HardwareError("the microscope is closed.")
        try:
            return getattr(self._core, name)(*arguments)
        except Exception as error:
            shown = ", ".join(repr(argument) for argument in arguments)
            if not self._headless and any(words in str(error) for words in _LOST):
                raise CoreLostError(f"{name}({shown}): Micro-Manager answers no more: {_text(error)}.") from error
            raise HardwareError(f"{name}({shown}) failed: {_text(error)}.") from error

    def _with_deadline(self, call: Callable[[], None], timeout_s: float, doing: str) -> None:
        """Run a call that blocks inside a driver; after the deadline it is left behind, and nothing else is begun."""
        if self._stuck is not None:
            self._stuck.join(timeout_s)
            if self._stuck.is_alive():
                raise DeviceTimeoutError(f"{doing}: an earlier call still hangs in the driver; restart the device.")
            self._stuck = None
        errors: list[BaseException] = []

        def run() -> None:
            try:
                call()
            except BaseException as error:  # noqa: BLE001 - handed over to the caller's thread
                errors.append(error)

        thread = threading.Thread(target=run, name="wbcpipe-core", daemon=True)
        thread.start()
        try:
            thread.join(timeout_s)
        finally:
            if thread.is_alive():
                self._stuck = thread
        if self._stuck is not None:
            raise DeviceTimeoutError(f"{doing} did not end within {timeout_s:g} s.")
        if errors:
            raise errors[0]

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
        if self._stuck is not None:
            self._stuck.join(self._scope.reliability.camera_timeout_s)
            if self._stuck.is_alive():
                raise CoreLostError("a call hangs in a driver, so its devices cannot be initialised in this process.")
        try:
            self._with_deadline(self._load_devices, _RELOAD_S, "initialising the devices anew")
        except HardwareError as error:
            raise CoreLostError(f"the devices do not come back: {error}") from error

    def _load_devices(self) -> None:
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
        import numpy as np

        pixels = np.asarray(self._call("get_image"))
        if pixels.ndim == 1 and pixels.size == shape[0] * shape[1]:
            pixels = pixels.reshape(shape)  # the bridge gives rows one after another: (Y * X,) -> (Y, X)
        if pixels.shape != shape or pixels.dtype.itemsize > 2:
            raise HardwareError(
                f"the camera gave {pixels.dtype} of {pixels.shape}, a monochrome frame of {shape} was expected; check "
                "'camera.pixel_type', 'camera.binning' and 'camera.roi_px'."
            )
        return pixels.view(f"u{pixels.dtype.itemsize}")

    def close(self) -> None:
        """Close the shutter and unload the devices of a core loaded here; may be called twice."""
        if self._core is None:
            return
        try:
            if self._stuck is not None:
                self._stuck.join(self._scope.reliability.camera_timeout_s)
            if self._shutter:
                with contextlib.suppress(HardwareError):
                    self.set_shutter(is_open=False)
        finally:
            self._core = None
            _open.remove(self)
            # Unloading under a call that hangs would take the process down.
            if self._headless and not (self._stuck is not None and self._stuck.is_alive()):
                import pycromanager

                pycromanager.stop_headless()


def _strings(values: Any) -> list[str]:
    """A core's list of names: a tuple in this process, a Java StrVector over the bridge."""
    if isinstance(values, list | tuple):
        return [str(value) for value in values]
    return [str(values.get(index)) for index in range(values.size())]


def _text(error: BaseException) -> str:
    """The driver's message on one line, without a closing stop."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
