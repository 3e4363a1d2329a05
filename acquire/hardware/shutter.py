"""The shutter that gates all light; on a microscope without one, the light source itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wbcpipe.acquire.config.micromanager_cfg import light_settings, read_config, same_value

if TYPE_CHECKING:
    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.protocols import Core

__all__ = ["CoreShutter"]


class CoreShutter:
    """Keeps light off the slide.

    Args:
        scope: names the shutter, or the light that counts as dark.
        core: calls the device.

    Attributes:
        device: label of the shutter; empty where the microscope has none.
    """

    def __init__(self, scope: Scope, core: Core) -> None:
        self._core = core
        self.device = scope.light.shutter_device
        config = read_config(scope.config_path)
        self._dark = () if scope.light.dark is None else light_settings(scope, config, scope.light.dark)
        self._lights = [light_settings(scope, config, modality) for _, modality in scope.modalities.items()]

    def set_open(self, *, is_open: bool) -> None:
        """Open or close the shutter."""
        self._core.call("set_shutter_open", is_open)

    def is_open(self) -> bool:
        """Return whether the shutter lets light pass."""
        return bool(self._core.call("get_shutter_open"))

    def darken(self) -> None:
        """Keep light off the slide: close the shutter and, without one, set the light that counts as dark."""
        if self.device:
            self.set_open(is_open=False)
        for device, name, value in self._dark:
            self._core.set_property(device, name, value)

    def is_lit(self) -> bool:
        """Return whether there is light on the slide; without a shutter, whether it is that of a modality."""
        if self.device:
            return self.is_open()
        return any(
            all(same_value(self._core.get_property(device, name), value) for device, name, value in settings)
            for settings in self._lights
        )
