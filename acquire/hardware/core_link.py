"""The connection to a Micro-Manager core through pycromanager: the only module that imports it.

A core in this process and one in a running Micro-Manager answer alike: typed errors, plain Python
values, a deadline on every wait.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from wbcpipe.acquire.config.cfg_reader import read_config
from wbcpipe.acquire.config.stage_moves import config_for_core
from wbcpipe.acquire.hardware.call_timeout import DeadlineCaller
from wbcpipe.acquire.hardware.camera import stop_sequence
from wbcpipe.acquire.hardware.core_log import log_hint, start_core_log
from wbcpipe.acquire.hardware.device_adapters import (
    adapter_folder,
    check_interface,
    find_libraries_in,
    load_advice,
    path_for_core,
    require_core,
)
from wbcpipe.acquire.hardware.illumination import CoreShutter
from wbcpipe.acquire.hardware.java_bridge import BridgedCore
from wbcpipe.acquire.hardware.microscope_lock import microscope_lock
from wbcpipe.errors import CoreLostError, DeviceTimeoutError, HardwareError, WbcpipeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from wbcpipe.acquire.config.scope import Scope

__all__ = ["CoreLink"]

#: The client builds its own core from the methods of Micro-Manager's, which takes longer than a
#: call.
_CONNECT_S: Final = 5.0
_POLL_S: Final = 0.0001
#: How long the devices may take to come back after their configuration is loaded anew.
_RELOAD_S: Final = 60.0
#: A process can hold one core: pycromanager hands out the first it finds.
_open: list[CoreLink] = []


class CoreLink:
    """A core, loaded or reached as the scope says, with its devices in their roles and the slide
    dark.

    Args:
        scope: which backend, folder and .cfg.
        take_over: end a sequence that a dead process left running in a running Micro-Manager.

    Attributes:
        shutter: the shutter, or the light in its stead.
        shutter_was_open: there was light on the slide before this link made it dark.

    Raises:
        HardwareError: the core or a device could not be loaded, or this process holds a core
            already; or the camera of a running Micro-Manager is in use, and it is not taken over.
        MissingPackageError: pycromanager, or for a core loaded here pymmcore, is not installed.
        HardwareBusyError: another process of wbcpipe drives this microscope.
    """

    def __init__(self, scope: Scope, *, take_over: bool = False) -> None:
        self.shutter_was_open = False
        if _open:
            raise HardwareError(
                "this process drives a microscope already; close it first, or use another process."
            )
        require_core(scope)
        self._scope = scope
        self._headless = scope.micromanager.backend == "headless"
        self._caller = DeadlineCaller()
        # A focusing call that hangs has a thread of its own: the camera must still answer, to focus
        # by images instead.
        self._focus_caller = DeadlineCaller()
        self.shutter = CoreShutter(scope, self)
        self._auto_shutter = False
        self._lock = contextlib.ExitStack()
        self._lock.enter_context(microscope_lock(scope))
        try:
            self._core: Any = self._load() if self._headless else self._reach(take_over=take_over)
        except BaseException:
            self._lock.close()
            raise
        _open.append(self)
        try:
            if take_over:  # while the camera runs, no role can be given to a device
                self.shutter.select()
                self.shutter.darken()
                stop_sequence(self, scope.reliability.camera_timeout_s)
            self._assign_roles()
        except BaseException:
            self.close()
            raise

    def call(self, name: str, *arguments: Any) -> Any:
        """See `protocols.Core.call`."""
        if self._core is None:
            raise HardwareError("the microscope is closed.")
        try:
            answer = getattr(self._core, name)(*arguments)
        except HardwareError:
            raise  # the bridge's own: a deadline, or Micro-Manager gone
        except Exception as error:
            shown = ", ".join(repr(argument) for argument in arguments)
            raise HardwareError(
                f"{name}({shown}) failed: {_text(error)}.{self._log_hint}"
            ) from error
        return _readable(answer) if type(answer) is str else answer

    def call_with_deadline(
        self, call: Callable[[], None], timeout_s: float, doing: str, *, focusing: bool = False
    ) -> None:
        """See `protocols.Core.call_with_deadline`."""
        (self._focus_caller if focusing else self._caller).run(call, timeout_s, doing)

    def wait_for(self, devices: tuple[str, ...], timeout_s: float, doing: str) -> None:
        """See `protocols.Core.wait_for`."""
        deadline = time.monotonic() + timeout_s
        for device in devices:
            while self.call("device_busy", device):
                if time.monotonic() >= deadline:
                    hint = self._log_hint
                    raise DeviceTimeoutError(
                        f"{doing}: {device!r} is still busy after {timeout_s:g} s.{hint}"
                    )
                time.sleep(_POLL_S)

    def reload(self) -> None:
        """Initialise all devices anew from the .cfg file.

        A running Micro-Manager keeps its own, its roles are set.

        Raises:
            CoreLostError: a call still hangs in a driver, or the devices do not come back.
        """
        if not self._caller.wait(
            self._scope.reliability.camera_timeout_s
        ) or not self._focus_caller.wait(0.0):
            raise CoreLostError(
                "a call hangs in a driver, so its devices cannot be initialised in this process."
            )
        try:
            self.call_with_deadline(self._load_devices, _RELOAD_S, "initialising the devices anew")
        except HardwareError as error:
            raise CoreLostError(f"the devices do not come back: {error}") from error

    def devices(self) -> list[str]:
        """Return the labels of the loaded devices."""
        return _strings(self.call("get_loaded_devices"))

    def presets(self) -> dict[str, list[str]]:
        """Return the configuration groups and their presets."""
        groups = _strings(self.call("get_available_config_groups"))
        return {group: _strings(self.call("get_available_configs", group)) for group in groups}

    def has_property(self, device: str, name: str) -> bool:
        """See `protocols.Core.has_property`."""
        return bool(self.call("has_property", device, name))

    def properties(self, device: str) -> list[str]:
        """Return the names of a device's properties."""
        return _strings(self.call("get_device_property_names", device))

    def allowed_values(self, device: str, name: str) -> list[str]:
        """See `protocols.Core.allowed_values`."""
        return _strings(self.call("get_allowed_property_values", device, name))

    def limits(self, device: str, name: str) -> tuple[float, float] | None:
        """Return the lowest and highest value of a property that has limits."""
        if not self.call("has_property_limits", device, name):
            return None
        low, high = (
            self.call(f"get_property_{side}_limit", device, name) for side in ("lower", "upper")
        )
        return float(low), float(high)

    def set_property(self, device: str, name: str, value: str) -> None:
        """See `protocols.Core.set_property`."""
        try:
            self.call("set_property", device, name, value)
        except HardwareError as error:
            allowed = self.allowed_values(device, name) if self.has_property(device, name) else []
            hint = f" It takes: {', '.join(allowed)}." if allowed else ""
            raise HardwareError(f"{error}{hint}") from error.__cause__

    def get_property(self, device: str, name: str) -> str:
        """See `protocols.Core.get_property`."""
        return str(self.call("get_property", device, name))

    def close(self) -> None:
        """Leave the slide in the dark and unload the devices of a core loaded here.

        May be called twice.
        """
        if self._core is None:
            return
        hangs = True
        try:
            hangs = not self._caller.wait(
                self._scope.reliability.camera_timeout_s
            ) or not self._focus_caller.wait(0.0)
            with contextlib.suppress(HardwareError):
                self.shutter.darken()
            if self._auto_shutter and not self._headless:
                with contextlib.suppress(HardwareError):
                    self.call("set_auto_shutter", True)  # as the user of that Micro-Manager had it
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
            self._lock.close()

    @property
    def _log_hint(self) -> str:
        return log_hint(self._scope.core_log)

    def _load(self) -> Any:
        interface = check_interface(self._scope)
        read_config(
            self._scope.config_path
        )  # before a core is there: a file that is missing needs none
        import pycromanager

        folder = adapter_folder(self._scope)
        find_libraries_in(folder)
        pycromanager.start_headless(
            path_for_core(folder), python_backend=True, buffer_size_mb=_buffer_mb(self._scope)
        )
        core = pycromanager.Core()
        try:
            if self._scope.core_log is not None:
                start_core_log(core, self._scope.core_log)
            self._load_config(core.load_system_configuration)
        except BaseException as error:
            pycromanager.stop_headless()
            _free(core)
            if not isinstance(error, Exception) or isinstance(error, WbcpipeError):
                raise
            advice = load_advice(_text(error), folder, interface)
            raise HardwareError(
                f"{self._scope.config_path}: Micro-Manager could not load it from {folder}: "
                f"{_text(error)}. {advice}{self._log_hint}"
            ) from error
        return core

    def _load_config(self, load: Callable[[str], object]) -> None:
        """Let the core of this process load the .cfg file, without the lines that would move a
        stage.

        Args:
            load: the core's method for a file.
        """
        content = config_for_core(self._scope, read_config(self._scope.config_path))
        if content is None:
            load(path_for_core(self._scope.config_path))
            return
        handle, name = tempfile.mkstemp(prefix="wbcpipe-", suffix=".cfg")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            load(path_for_core(Path(name)))
        finally:
            Path(name).unlink(missing_ok=True)

    def _reach(self, *, take_over: bool) -> Any:
        port = self._scope.micromanager.port
        policy = self._scope.reliability
        connect_timeout_s = max(_CONNECT_S, policy.camera_timeout_s)
        try:
            core = BridgedCore(
                port,
                _Pycromanager(port, connect_timeout_s),
                connect_timeout_s=connect_timeout_s,
                call_timeout_s=max(
                    policy.camera_timeout_s, policy.move_timeout_s, policy.switch_timeout_s
                ),
            )
        except Exception as error:
            raise HardwareError(
                f"no Micro-Manager answers on port {port}: {_text(error)}. Start it and tick "
                f"Tools > Options > 'Run server on port', or use backend 'headless'."
            ) from error
        try:
            if not take_over and core.is_sequence_running():
                raise HardwareError(
                    f"Micro-Manager on port {port} is in live view or in an acquisition of its "
                    f"own; stop that first."
                )
        except BaseException:
            core.close()
            raise
        return core

    def _load_devices(self) -> None:
        if self._headless:
            self.call("unload_all_devices")
            self._load_config(partial(self.call, "load_system_configuration"))
        self._assign_roles()

    def _assign_roles(self) -> None:
        """Give the devices their roles, and make the slide dark."""
        self.call("set_timeout_ms", int(self._scope.reliability.move_timeout_s * 1000))
        self.call("set_camera_device", self._scope.camera.device)
        self.call("set_xy_stage_device", self._scope.stage.xy_device)
        self.call("set_focus_device", self._scope.stage.z_device)
        self._auto_shutter = bool(self.call("get_auto_shutter"))
        self.call("set_auto_shutter", False)
        self.shutter.select()
        with contextlib.suppress(
            HardwareError
        ):  # a shutter that cannot be read is closed all the same
            self.shutter_was_open |= self.shutter.is_lit()
        self.shutter.darken()


class _Pycromanager:
    """Makes the objects of pycromanager that `BridgedCore` needs."""

    def __init__(self, port: int, timeout_s: float) -> None:
        import pycromanager  # slow: not to be counted against a deadline

        self._package = pycromanager
        self._port, self._timeout_ms = port, int(1000 * timeout_s)

    def core(self, *, new_socket: bool) -> Any:
        return self._package.Core(port=self._port, timeout=self._timeout_ms, new_socket=new_socket)

    def vector(self, name: str) -> Any:
        return self._package.JavaObject(
            f"mmcorej.{name}", port=self._port, timeout=self._timeout_ms
        )


def _free(core: Any) -> None:
    """Free the memory of a core whose devices are unloaded.

    pycromanager keeps the first core of a process for good, and hangs methods bound to a core on
    that core: a circle that the garbage collector does not see. Each session would leave its frame
    buffer behind.
    """
    core.set_circular_buffer_memory_footprint(1)
    vars(core).clear()


def _buffer_mb(scope: Scope) -> int:
    """Return the size of the core's buffer: two fields' frames, so that no sequence waits for the
    one before.
    """
    camera = scope.camera
    frame_bytes = 2 * camera.sensor_px[0] * camera.sensor_px[1] // camera.binning**2
    return max(64, 8 * -(-frame_bytes // 2**20))


def _strings(values: Iterable[Any]) -> list[str]:
    """Return a core's names, which are a tuple in this process and a list over the bridge."""
    return [_readable(str(value)) for value in values]


def _readable(text: str) -> str:
    """Return a device's text as it can be printed and written: one that is not UTF-8 is that of a
    Western Windows.
    """
    if text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text):
        return text
    return text.encode("utf-8", "surrogateescape").decode("cp1252", "replace")


def _text(error: BaseException) -> str:
    """Return the driver's message on one line, without a closing stop."""
    return " ".join(_readable(str(error)).split()).rstrip(".") or type(error).__name__
