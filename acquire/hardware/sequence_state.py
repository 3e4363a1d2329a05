"""The values that were uploaded to the devices for hardware sequences."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["SequenceState"]


@dataclass
class SequenceState:
    """What was uploaded to the devices: the core itself cannot be asked for it again.

    Attributes:
        properties: (device, property) to the values it steps through, one an exposure.
        exposures_ms: that the camera steps through; empty where it was told none.
        playing: the devices step through them at each exposure.
    """

    properties: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    exposures_ms: tuple[float, ...] = ()
    playing: bool = False

    def clear(self) -> None:
        """Forget all: something else is uploaded now."""
        self.properties.clear()
        self.exposures_ms = ()
        self.playing = False

    def value(self, device: str, name: str, frame: int | None) -> str | None:
        """What a property steps to at exposure ``frame`` of a burst; ``None`` where it obeys single commands."""
        values = self.properties.get((device, name))
        if frame is None or values is None or not self.playing:
            return None
        return values[frame % len(values)]

    def exposure_ms(self, frame: int | None) -> float | None:
        """What the camera steps to at exposure ``frame`` of a burst; ``None`` where it obeys single commands."""
        if frame is None or not self.exposures_ms or not self.playing:
            return None
        return self.exposures_ms[frame % len(self.exposures_ms)]
