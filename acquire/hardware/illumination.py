"""Light: the device properties of each modality, set in order and confirmed, and the shutter around
exposures.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from wbcpipe.acquire.config.cfg_reader import read_config, same_value
from wbcpipe.acquire.config.light_lint import shutters_of
from wbcpipe.acquire.config.micromanager_cfg import light_settings
from wbcpipe.samples.fields import MODALITIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.device_sequences import DeviceSequences
    from wbcpipe.acquire.hardware.protocols import Core

__all__ = ["CoreIllumination", "CoreShutter"]


class CoreShutter:
    """The shutter that gates all light; on a microscope without one, the light source itself.

    Args:
        scope: names the shutter, or the light that counts as dark.
        core: calls the device.

    Attributes:
        device: label of the shutter that is opened; empty where the microscope has none.
        devices: all shutters that some modality uses, each once; that of the scope file first.
    """

    def __init__(self, scope: Scope, core: Core) -> None:
        self._core = core
        self._own = self.device = scope.light.shutter_device
        config = read_config(scope.config_path)
        self._dark = (
            () if scope.light.dark is None else light_settings(scope, config, scope.light.dark)
        )
        self._lights = [
            light_settings(scope, config, modality) for _, modality in scope.modalities.items()
        ]
        #: Modality to its shutter.
        self._shutters = {
            key.removeprefix("modalities."): name
            for key, name in shutters_of(scope, config).items()
        }
        self.devices = (
            tuple(dict.fromkeys((self._own, *self._shutters.values()))) if self._own else ()
        )

    def of(self, modality: str) -> str:
        """Return the shutter of a modality; empty where there is none."""
        return self._shutters[modality] if self._own else ""

    def select(self, modality: str = "") -> None:
        """Make the shutter of a modality, by default that of the scope file, the one that is
        opened.
        """
        device = self.of(modality) if modality else self._own
        if device and (device != self.device or not modality):
            self._core.call("set_shutter_device", device)
        self.device = device

    def set_open(self, *, is_open: bool) -> None:
        """Open or close the shutter that is selected."""
        self._core.call("set_shutter_open", is_open)

    def is_open(self) -> bool:
        """Return whether the shutter lets light pass."""
        return bool(self._core.call("get_shutter_open"))

    def darken(self) -> None:
        """Keep light off the slide: close each shutter and, without one, set the light that counts
        as dark.
        """
        if self.device:
            with contextlib.ExitStack() as stack:  # each is closed, whatever another answers
                for device in self.devices:
                    if device != self.device:
                        stack.callback(self._core.call, "set_shutter_open", device, False)
                stack.callback(self.set_open, is_open=False)
        for device, name, value in self._dark:
            self._core.set_property(device, name, value)

    def is_lit(self) -> bool:
        """Return whether there is light on the slide.

        Without a shutter, whether it is that of a modality.
        """
        if self.device:
            others = (device for device in self.devices if device != self.device)
            return self.is_open() or any(
                bool(self._core.call("get_shutter_open", device)) for device in others
            )
        return any(
            all(
                same_value(self._core.get_property(device, name), value)
                for device, name, value in settings
            )
            for settings in self._lights
        )


class CoreIllumination:
    """Fulfils `protocols.Illumination`: the modalities of a scope on its devices.

    A configuration group is resolved through the .cfg file into its properties, so that groups and
    lists of properties are set the same way, and each device touched is waited for by name. Without
    a shutter the light itself is switched on for an exposure and off after it.

    Attributes:
        settings: modality to its (device, property, value) settings, in order.
        on_fluorescence: see `protocols.Illumination`.
        current: modality that was switched to, or will be lit; empty where that is not known.
    """

    def __init__(
        self, scope: Scope, core: Core, shutter: CoreShutter, sequences: DeviceSequences
    ) -> None:
        self._scope, self._core, self._shutter, self._sequences = scope, core, shutter, sequences
        self._timeout_s = scope.reliability.switch_timeout_s
        config = read_config(scope.config_path)
        # The shutter is no light: it is selected beside the settings.
        self.settings = {
            name: tuple(
                setting
                for setting in light_settings(scope, config, modality)
                if setting[:2] != ("Core", "Shutter")
            )
            for name, modality in scope.modalities.items()
        }
        self.on_fluorescence: Callable[[float], None] = lambda _: None
        self.current = ""

    def switch_light(self, modality: str) -> None:
        """See `protocols.Illumination.switch_light`; does nothing if that light is set."""
        if modality == self.current:
            return
        self.current = ""
        if self._shutter.device:
            self._set(modality)
        self.current = modality

    def forget(self) -> None:
        """Switch anew the next time, whatever was set before."""
        self.current = ""

    def darken(self) -> None:
        """Keep light off the slide."""
        self._shutter.darken()

    def observed(self, frame: int | None = None) -> str:
        """Return the modality whose light falls on the slide, as the devices say.

        Empty for darkness or another light.

        Args:
            frame: number of the exposure in a hardware sequence; a device that steps through
                uploaded values counts as set to the value of that exposure.
        """
        if self._shutter.device and not self._shutter.is_open():
            return ""
        values: dict[tuple[str, str], str] = {}
        for modality in MODALITIES:
            for device, name, value in self.settings[modality]:
                if (device, name) not in values:
                    uploaded = self._sequences.value(device, name, frame)
                    values[device, name] = (
                        self._core.get_property(device, name) if uploaded is None else uploaded
                    )
                if not same_value(values[device, name], value):
                    break
            else:
                return modality
        return ""

    @contextlib.contextmanager
    def lit(self) -> Iterator[None]:
        """Let light pass, and none on every way out."""
        try:
            if self._shutter.device:
                self._shutter.set_open(is_open=True)
                self._core.wait_for((self._shutter.device,), self._timeout_s, "opening the shutter")
            elif self.current:
                self._set(self.current)
            self._settle()
            yield
        finally:
            self.darken()

    @contextlib.contextmanager
    def stepping(self, first: str) -> Iterator[None]:
        """Set the light of ``first``, from which devices then step by themselves.

        Afterwards the light is not known.

        Without a shutter there is light from here on, and none on any way out.
        """
        try:
            if self._shutter.device:
                self.switch_light(first)
            else:
                self._set(first)
                self._settle()
            yield
        finally:
            self.current = ""
            if not self._shutter.device:
                self.darken()

    def lit_sequence(self) -> AbstractContextManager[None]:
        """Let light pass during a hardware sequence.

        Without a shutter `stepping` has set the light.
        """
        return self.lit() if self._shutter.device else contextlib.nullcontext()

    @property
    def settle_ms(self) -> float:
        """How long a light needs after it was let pass; it falls on the slide meanwhile."""
        return self._scope.light.settle_ms

    def shutter_of(self, modality: str) -> str:
        """Return the shutter of a modality; empty where there is none."""
        return self._shutter.of(modality)

    def _settle(self) -> None:
        if self.settle_ms:
            time.sleep(self.settle_ms / 1000)

    def _set(self, modality: str) -> None:
        settings = self.settings[modality]
        if self._shutter.device:
            self._shutter.select(modality)
        for device, name, value in settings:
            self._core.set_property(device, name, value)
        devices = tuple(dict.fromkeys(device for device, _, _ in settings if device != "Core"))
        self._core.wait_for(devices, self._timeout_s, f"switching to {modality}")
        settle_ms = self._scope.modalities.named(modality).settle_ms
        if settle_ms:
            time.sleep(settle_ms / 1000)
