"""Hardware sequences.

The frames of a field in one sequence that the hardware times, where the devices can.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from wbcpipe.acquire.hardware.protocols import Exposure
from wbcpipe.errors import DroppedFrameError, HardwareError
from wbcpipe.samples.fields import MODALITIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.events import CaptureEvent
    from wbcpipe.acquire.hardware.camera import CoreCamera
    from wbcpipe.acquire.hardware.device_sequences import DeviceSequences

__all__ = ["CoreSequencing"]


class CoreSequencing:
    """Fulfils `protocols.Sequencing`: checks what the devices can, uploads the values to step
    through, and exposes.

    Raises:
        HardwareError: ``light.sequencing`` is ``on`` and the devices cannot; the text names those
            that cannot.
    """

    def __init__(self, scope: Scope, sequences: DeviceSequences, camera: CoreCamera) -> None:
        self._scope, self._sequences, self._camera = scope, sequences, camera
        self._illumination, self._stage, self._focus = (
            camera.illumination,
            camera.stage,
            camera.focus,
        )
        self._obstacles: dict[tuple[tuple[str, float], ...], list[str]] = {}
        self._loaded: tuple[tuple[str, float], ...] = ()
        self._actual_ms: tuple[float, ...] = ()
        self._disabled = False
        if scope.light.sequencing == "on":
            wanted = {name: scope.modalities.named(name).exposure_ms for name in MODALITIES}
            if found := self.obstacles(wanted):
                raise HardwareError(
                    f"{scope.path}: 'light.sequencing' is \"on\", but "
                    + "; ".join(found)
                    + ". Correct this, or set "
                    'it to "auto" or "off": then the light is switched by command.'
                )

    def obstacles(self, wanted: Mapping[str, float]) -> list[str]:
        """Return why the hardware cannot take some modalities in one sequence; empty if it can.

        Args:
            wanted: modality to its exposure (ms), in the order of taking.
        """
        modalities = {name: self._scope.modalities.named(name) for name in wanted}
        found = []
        for (device, name), values in self._values(tuple(wanted)).items():
            if None in values:
                without = ", ".join(
                    light for light, value in zip(wanted, values, strict=True) if value is None
                )
                found.append(
                    f"{device}-{name} is not set by {without}, so that its value there is open"
                )
            elif len(set(values)) > 1:
                steps = self._sequences.max_property_steps(device, name)
                if steps < len(values):
                    what = (
                        f"holds {steps} steps of the {len(values)} needed"
                        if steps
                        else "cannot be sequenced"
                    )
                    found.append(f"{device}-{name} {what}")
        if len(set(wanted.values())) > 1 and (steps := self._sequences.max_exposure_steps()) < len(
            wanted
        ):
            what = (
                f"holds {steps} of the {len(wanted)} exposures"
                if steps
                else "cannot step through different exposures"
            )
            found.append(f"the camera {self._scope.camera.device!r} {what}")
        if len(offsets_um := {modality.z_offset_um for modality in modalities.values()}) > 1:
            shown = ", ".join(f"{offset_um:g}" for offset_um in sorted(offsets_um))
            found.append(f"the modalities' 'z_offset_um' differ ({shown})")
        if len(shutters := {self._illumination.shutter_of(light) for light in modalities}) > 1:
            found.append(f"the modalities' shutters differ ({', '.join(sorted(shutters))})")
        for light, modality in modalities.items():
            if modality.settle_ms:
                found.append(
                    f"'modalities.{light}.settle_ms' is {modality.settle_ms:g} and a sequence "
                    f"does not wait"
                )
        return found

    def can_sequence(self, events: Sequence[CaptureEvent]) -> bool:
        """See `protocols.Sequencing.can_sequence`; a single frame needs no sequence."""
        if (
            self._disabled
            or self._scope.light.sequencing == "off"
            or len(events) < 2
            or len({event.z_um for event in events}) > 1
        ):
            return False
        key = _key(events)
        if key not in self._obstacles:
            self._obstacles[key] = self.obstacles(dict(key))
        return not self._obstacles[key]

    def disable_sequencing(self) -> None:
        """See `protocols.Sequencing.disable_sequencing`."""
        self._disabled = True

    def forget(self) -> None:
        """Upload anew the next time."""
        self._loaded, self._actual_ms = (), ()

    def prepare(self, events: Sequence[CaptureEvent]) -> None:
        """See `protocols.Sequencing.prepare`."""
        if self.can_sequence(events):
            self._load(events)
        self._camera.set_exposure(events[0].exposure_ms)
        self._illumination.switch_light(events[0].modality)

    def expose_sequence(
        self,
        events: Sequence[CaptureEvent],
        out: NDArray[np.uint16],
        next_position_um: tuple[float, float] | None = None,
        on_frame_complete: Callable[[int], None] = lambda _: None,
    ) -> list[Exposure]:
        """See `protocols.Sequencing.expose_sequence`."""
        camera, timeout_s = self._camera, self._scope.reliability.camera_timeout_s
        actual_ms = self._load(events)
        camera.set_exposure(events[0].exposure_ms)
        if lit_ms := sum(
            ms
            for event, ms in zip(events, actual_ms, strict=True)
            if event.modality == "fluorescence"
        ):
            waits_lit = events[0].modality == "fluorescence"
            self._illumination.on_fluorescence(
                lit_ms + (self._illumination.settle_ms if waits_lit else 0.0)
            )
        try:
            with self._running(events[0].modality):
                with self._illumination.lit_sequence():
                    camera.start_sequence(len(events), timeout_s)
                    exposures, observed = self._collect(
                        actual_ms, out, timeout_s, on_frame_complete
                    )
                if (
                    self._scope.light.shutter_device
                ):  # the slide is dark: the stage moves while the devices stop
                    self._stage.start_next_move(next_position_um)
            self._stage.start_next_move(next_position_um)
            last = len(events) - 1
            exposures[-1] = self._take(
                exposures[-1], out[last], observed, partial(on_frame_complete, last)
            )
            camera.copier.release()
            camera.stop_sequence(timeout_s)
        except BaseException:
            camera.copier.drop_held()
            self.forget()
            with contextlib.suppress(HardwareError):
                camera.stop_sequence(self._scope.reliability.switch_timeout_s)
            raise
        finally:
            camera.forget_exposure()  # which step the sequence leaves it at is not known
        return exposures

    def _load(self, events: Sequence[CaptureEvent]) -> tuple[float, ...]:
        """Upload the values to step through, if they are not there yet.

        Return the camera's own exposures (ms).

        Raises:
            HardwareError: a device refused.
        """
        key = _key(events)
        if key == self._loaded:
            return self._actual_ms
        self.forget()
        self._sequences.clear()
        actual_ms = tuple(self._camera.send_exposure(exposure_ms) for _, exposure_ms in key)
        for (device, name), values in self._values(tuple(light for light, _ in key)).items():
            known = tuple(value for value in values if value is not None)
            if len(set(known)) > 1:
                self._sequences.load_property(device, name, known)
        # Also where all exposures are equal: DemoCamera steps through what was uploaded last,
        # started or not.
        if self._sequences.max_exposure_steps() >= len(key):
            self._sequences.load_exposures(tuple(exposure_ms for _, exposure_ms in key))
        self._camera.prepare_buffer(len(key))
        self._loaded, self._actual_ms = key, actual_ms
        return actual_ms

    @contextlib.contextmanager
    def _running(self, first: str) -> Iterator[None]:
        """Have the devices step at each exposure; on every way out they obey single commands again.

        Args:
            first: modality of the first frame. It is set by command, so that it does not matter
                whether a device takes its first step at the start or at the first exposure.
        """
        with self._illumination.stepping(first):
            try:
                self._sequences.start()
                yield
            except BaseException:
                with contextlib.suppress(HardwareError):  # the first error is the one to show
                    self._sequences.stop()
                raise
            self._sequences.stop()

    def _values(self, lights: tuple[str, ...]) -> dict[tuple[str, str], list[str | None]]:
        """Return (device, property) to its value in each of ``lights``, ``None`` where one does not
        set it.
        """
        table: dict[tuple[str, str], list[str | None]] = {}
        for index, light in enumerate(lights):
            for device, name, value in self._illumination.settings[light]:
                table.setdefault((device, name), [None] * len(lights))[index] = value
        return table

    def _collect(
        self,
        actual_ms: Sequence[float],
        out: NDArray[np.uint16],
        timeout_s: float,
        on_frame_complete: Callable[[int], None],
    ) -> tuple[list[Exposure], object]:
        """Wait for each exposure and take all frames but the last.

        Return what the source observed at that one.
        """
        exposures: list[Exposure] = []
        observed: object = None
        started_s = time.monotonic()
        deadline_s = started_s + timeout_s + sum(actual_ms) / 1000
        for channel, exposure_ms in enumerate(actual_ms):
            if not self._camera.wait_frame(deadline_s):
                raise DroppedFrameError(
                    f"the camera gave {channel} of the {len(actual_ms)} frames of a sequence; "
                    f"check its trigger and its link, or set 'light.sequencing' to \"off\"."
                )
            observed = self._camera.frames.observe(channel)
            started_s = max(started_s, time.monotonic() - exposure_ms / 1000)
            exposures.append(Exposure(exposure_ms, self._focus.z_um(), started_s))
            started_s += (
                exposure_ms / 1000
            )  # the next exposure starts after this one, however late it is seen
            if channel < len(actual_ms) - 1:
                exposures[-1] = self._take(
                    exposures[-1], out[channel], observed, partial(on_frame_complete, channel)
                )
        return exposures, observed

    def _take(
        self,
        exposure: Exposure,
        out: NDArray[np.uint16],
        observed: object,
        on_complete: Callable[[], None],
    ) -> Exposure:
        """Take the oldest frame of a sequence into ``out``.

        Return its exposure as the camera notes it, if it does.

        A thread copies it while the sequence goes on: that costs no time, and the core's memory is
        used again.
        """
        camera = self._camera
        pixels, noted_ms = camera.next_frame()
        if noted_ms is not None:
            exposure = replace(exposure, exposure_ms=noted_ms)

        def copy() -> None:
            camera.frames.fill(pixels, exposure.exposure_ms, out, observed)
            on_complete()

        # A slow source would take the processor from the sequence, and the shutter would stay open
        # longer.
        (camera.copier.hold if camera.frames.slow else camera.copier.run)(copy)
        return exposure


def _key(events: Sequence[CaptureEvent]) -> tuple[tuple[str, float], ...]:
    return tuple((event.modality, event.exposure_ms) for event in events)
