"""Light: which device properties a modality stands for, set in order and confirmed; the shutter around exposures."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Protocol

from wbcpipe.acquire.config.micromanager_cfg import light_settings, read_config, same_value
from wbcpipe.samples.fields import MODALITIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.sequence_state import SequenceState

__all__ = ["DeviceLink", "Illumination"]


class DeviceLink(Protocol):
    """The part of a core that lights need."""

    sequences: SequenceState

    def set_property(self, device: str, name: str, value: str) -> None:
        """Set a device property."""
        ...

    def get_property(self, device: str, name: str) -> str:
        """Ask a device for a property's value."""
        ...

    def set_shutter(self, *, is_open: bool) -> None:
        """Open or close the shutter."""
        ...

    def shutter_is_open(self) -> bool:
        """Whether light can pass."""
        ...

    def darken(self) -> None:
        """Leave no light on the slide."""
        ...

    def wait_for(self, devices: tuple[str, ...], timeout_s: float, doing: str) -> None:
        """Wait until devices are at rest, or raise `DeviceTimeoutError`."""
        ...


class Illumination:
    """The modalities of a scope on its devices.

    A configuration group is resolved through the .cfg file into its properties, so that a group and a list of
    properties go the same way, and each touched device is waited for by name. Without a shutter the light itself is
    switched on for an exposure and dark after it.
    """

    def __init__(self, scope: Scope, link: DeviceLink) -> None:
        self._link = link
        self._scope = scope
        self._timeout_s = scope.reliability.switch_timeout_s
        self._has_shutter = bool(scope.light.shutter_device)
        config = read_config(scope.config_path)
        self._settings = {name: light_settings(scope, config, modality) for name, modality in scope.modalities.items()}
        self._current = ""

    def settings(self, modality: str) -> tuple[tuple[str, str, str], ...]:
        """The (device, property, value) settings that ``modality`` stands for, in order."""
        return self._settings[modality]

    def switch(self, modality: str) -> None:
        """Set the light of ``modality`` and wait until it stands; nothing is done if it does already."""
        if modality == self._current:
            return
        self._current = ""
        if self._has_shutter:
            self._set(modality)
        self._current = modality

    def _set(self, modality: str) -> None:
        settings = self._settings[modality]
        for device, name, value in settings:
            self._link.set_property(device, name, value)
        devices = tuple(dict.fromkeys(device for device, _, _ in settings if device != "Core"))
        self._link.wait_for(devices, self._timeout_s, f"switching to {modality}")
        settle_ms = self._scope.modalities.named(modality).settle_ms
        if settle_ms:
            time.sleep(settle_ms / 1000)

    @contextlib.contextmanager
    def stepping(self, first: str) -> Iterator[None]:
        """Set the light of ``first``, which devices then step on from by themselves; afterwards nothing is known of it.

        Without a shutter there is light from here on, and none on any way out.
        """
        if self._has_shutter:
            self.switch(first)
            self._current = ""
            yield
            return
        self._current = ""
        try:
            self._set(first)
            yield
        finally:
            self._link.darken()

    @property
    def current(self) -> str:
        """The modality that was switched to, or will be lit; empty where that is not known."""
        return self._current

    def forget(self) -> None:
        """Switch anew the next time, whatever was set before."""
        self._current = ""

    def observed(self, frame: int | None = None) -> str:
        """The modality whose light falls on the slide now, as the devices say; empty for darkness or another.

        Args:
            frame: of a burst under way; devices that step by themselves count as standing where they were told.
        """
        if self._has_shutter and not self._link.shutter_is_open():
            return ""
        values: dict[tuple[str, str], str] = {}
        for modality in MODALITIES:
            for device, name, value in self._settings[modality]:
                if (device, name) not in values:
                    told = self._link.sequences.value(device, name, frame)
                    values[device, name] = self._link.get_property(device, name) if told is None else told
                if not same_value(values[device, name], value):
                    break
            else:
                return modality
        return ""

    @contextlib.contextmanager
    def lit(self) -> Iterator[None]:
        """Let light pass, and none on every way out."""
        try:
            if self._has_shutter:
                self._link.set_shutter(is_open=True)
                self._link.wait_for((self._scope.light.shutter_device,), self._timeout_s, "opening the shutter")
            elif self._current:
                self._set(self._current)
            yield
        finally:
            self._link.darken()

    @contextlib.contextmanager
    def lit_sequence(self) -> Iterator[None]:
        """The same for a burst, whose light stands already: see `stepping`."""
        if not self._has_shutter:
            yield
            return
        with self.lit():
            yield
