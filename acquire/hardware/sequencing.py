"""A field's frames in one burst that the hardware times: whether the devices can, and what they were told."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from wbcpipe.errors import HardwareError
from wbcpipe.samples.fields import MODALITIES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.events import CaptureEvent
    from wbcpipe.acquire.hardware.core_link import CoreLink
    from wbcpipe.acquire.hardware.illumination import Illumination

__all__ = ["Sequencer"]


class Sequencer:
    """Decides whether frames can be taken in one burst, uploads what that needs, and has the devices play it.

    Raises:
        HardwareError: ``light.sequencing`` is ``on`` and the devices cannot; the text names those that cannot.
    """

    def __init__(self, scope: Scope, link: CoreLink, illumination: Illumination) -> None:
        self._scope, self._link, self._illumination = scope, link, illumination
        self._obstacles: dict[tuple[tuple[str, float], ...], list[str]] = {}
        self._loaded: tuple[tuple[str, float], ...] = ()
        self._real_ms: tuple[float, ...] = ()
        self._refused = False
        if scope.light.sequencing == "on":
            wanted = {name: scope.modalities.named(name).exposure_ms for name in MODALITIES}
            if found := self.obstacles(wanted):
                raise HardwareError(
                    f"{scope.path}: 'light.sequencing' is \"on\", but " + "; ".join(found) + ". Correct this, or set "
                    'it to "auto" or "off": then the light is switched by command.'
                )

    def obstacles(self, wanted: Mapping[str, float]) -> list[str]:
        """What keeps the hardware from taking some modalities in one burst, in words; empty where nothing does.

        Args:
            wanted: modality to its exposure (ms), in the order of taking.
        """
        modalities = {name: self._scope.modalities.named(name) for name in wanted}
        found = []
        for (device, name), values in self._values(tuple(wanted)).items():
            if None in values:
                without = ", ".join(light for light, value in zip(wanted, values, strict=True) if value is None)
                found.append(f"{device}-{name} is not set by {without}, so that its value there is open")
            elif len(set(values)) > 1:
                room = self._link.property_sequence_length(device, name)
                if room < len(values):
                    what = f"holds {room} steps of the {len(values)} needed" if room else "cannot be sequenced"
                    found.append(f"{device}-{name} {what}")
        if len(set(wanted.values())) > 1 and (room := self._link.exposure_sequence_length()) < len(wanted):
            what = f"holds {room} of the {len(wanted)} exposures" if room else "cannot step through different exposures"
            found.append(f"the camera {self._scope.camera.device!r} {what}")
        if len(offsets_um := {modality.z_offset_um for modality in modalities.values()}) > 1:
            shown = ", ".join(f"{offset_um:g}" for offset_um in sorted(offsets_um))
            found.append(f"the modalities' 'z_offset_um' differ ({shown})")
        for light, modality in modalities.items():
            if modality.settle_ms:
                found.append(f"'modalities.{light}.settle_ms' is {modality.settle_ms:g} and a burst does not wait")
        return found

    def _values(self, lights: tuple[str, ...]) -> dict[tuple[str, str], list[str | None]]:
        """(device, property) to its value in each of ``lights``, ``None`` where one does not set it."""
        table: dict[tuple[str, str], list[str | None]] = {}
        for index, light in enumerate(lights):
            for device, name, value in self._illumination.settings(light):
                table.setdefault((device, name), [None] * len(lights))[index] = value
        return table

    def can(self, events: Sequence[CaptureEvent]) -> bool:
        """Whether the frames of a field shall be taken in one burst; a single frame needs none."""
        if (
            self._refused
            or self._scope.light.sequencing == "off"
            or len(events) < 2
            or len({event.z_um for event in events}) > 1
        ):
            return False
        key = _key(events)
        if key not in self._obstacles:
            self._obstacles[key] = self.obstacles(dict(key))
        return not self._obstacles[key]

    def prepare(self, events: Sequence[CaptureEvent]) -> tuple[float, ...]:
        """Upload what the devices shall step through, if it is not there yet; gives the camera's own exposures (ms).

        Raises:
            HardwareError: a device refused.
        """
        key = _key(events)
        if key == self._loaded:
            return self._real_ms
        self.forget()
        link = self._link
        link.sequences.clear()
        real_ms = tuple(link.set_exposure(exposure_ms) for _, exposure_ms in key)
        for (device, name), values in self._values(tuple(light for light, _ in key)).items():
            told = tuple(value for value in values if value is not None)
            if len(set(told)) > 1:
                link.load_property_sequence(device, name, told)
        # Also where all exposures are equal: DemoCamera plays what was uploaded last, started or not.
        if link.exposure_sequence_length() >= len(key):
            link.load_exposure_sequence(tuple(exposure_ms for _, exposure_ms in key))
        link.prepare_buffer(len(key))
        self._loaded, self._real_ms = key, real_ms
        return real_ms

    @contextlib.contextmanager
    def playing(self, first: str) -> Iterator[None]:
        """Have the devices step at each exposure; on every way out they obey single commands again.

        Args:
            first: the modality of the first frame, set by command, so that nothing hangs on whether a device takes
                its first step at the start or at the first exposure.
        """
        with self._illumination.stepping(first):
            try:
                self._link.start_device_sequences()
                yield
            except BaseException:
                with contextlib.suppress(HardwareError):  # the first error is the one to show
                    self._link.stop_device_sequences()
                raise
            self._link.stop_device_sequences()

    def refuse(self) -> None:
        """Take no more bursts, whatever the devices say that they can."""
        self._refused = True

    def forget(self) -> None:
        """Upload anew the next time, whatever the devices were told before."""
        self._loaded, self._real_ms = (), ()


def _key(events: Sequence[CaptureEvent]) -> tuple[tuple[str, float], ...]:
    return tuple((event.modality, event.exposure_ms) for event in events)
