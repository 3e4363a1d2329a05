"""The values that devices step through in a hardware sequence: uploaded here, and remembered.

The core cannot be asked for them again.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.protocols import Core

__all__ = ["DeviceSequences"]


class DeviceSequences:
    """The sequences of a core's devices.

    Attributes:
        properties: (device, property) to the values it steps through, one at each exposure.
        exposures_ms: that the camera steps through; empty where none were uploaded.
        running: the devices step at each exposure.
    """

    def __init__(self, scope: Scope, core: Core) -> None:
        self._scope, self._core = scope, core
        self.properties: dict[tuple[str, str], tuple[str, ...]] = {}
        self.exposures_ms: tuple[float, ...] = ()
        self.running = False

    def clear(self) -> None:
        """Forget what was uploaded."""
        self.properties.clear()
        self.exposures_ms = ()
        self.running = False

    def max_property_steps(self, device: str, name: str) -> int:
        """Return how many values of a property the hardware can step through; 0 where it cannot."""
        if device == "Core" or not self._core.call("is_property_sequenceable", device, name):
            return 0
        return int(self._core.call("get_property_sequence_max_length", device, name))

    def max_exposure_steps(self) -> int:
        """Return how many exposures the camera can step through; 0 where it cannot."""
        camera = self._scope.camera.device
        if not self._core.call("is_exposure_sequenceable", camera):
            return 0
        return int(self._core.call("get_exposure_sequence_max_length", camera))

    def load_property(self, device: str, name: str, values: tuple[str, ...]) -> None:
        """Upload the values of a property, one for each exposure of the camera."""
        self._core.call("load_property_sequence", device, name, list(values))
        self.properties[device, name] = values

    def load_exposures(self, exposures_ms: tuple[float, ...]) -> None:
        """Upload the exposures of the camera."""
        self._core.call("load_exposure_sequence", self._scope.camera.device, list(exposures_ms))
        self.exposures_ms = exposures_ms

    def start(self) -> None:
        """Let the devices step through what was uploaded, from its first value."""
        self.running = True
        for device, name in self.properties:
            self._core.call("start_property_sequence", device, name)
        if self.exposures_ms:
            self._core.call("start_exposure_sequence", self._scope.camera.device)

    def stop(self) -> None:
        """Let all devices obey single commands again; each is stopped, whatever another answers.

        Raises:
            DeviceTimeoutError: a device hangs, or the camera still does.
        """
        self.running = False

        def stop_all() -> None:
            with contextlib.ExitStack() as stack:
                if self.exposures_ms:
                    stack.callback(
                        self._core.call, "stop_exposure_sequence", self._scope.camera.device
                    )
                for device, name in self.properties:
                    stack.callback(self._core.call, "stop_property_sequence", device, name)

        self._core.call_with_deadline(
            stop_all, self._scope.reliability.switch_timeout_s, "stopping the sequences"
        )

    def value(self, device: str, name: str, frame: int | None) -> str | None:
        """Return the value of a property at exposure ``frame`` of a sequence; ``None`` under single
        commands.
        """
        values = self.properties.get((device, name))
        if frame is None or values is None or not self.running:
            return None
        return values[frame % len(values)]

    def exposure_ms(self, frame: int | None) -> float | None:
        """Return the camera's exposure at exposure ``frame`` of a sequence; ``None`` under single
        commands.
        """
        if frame is None or not self.exposures_ms or not self.running:
            return None
        return self.exposures_ms[frame % len(self.exposures_ms)]
