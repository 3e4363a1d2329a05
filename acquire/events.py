"""Converts a planned field to capture events, one per frame; nothing moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wbcpipe.errors import StageLimitError
from wbcpipe.samples.fields import MODALITIES

if TYPE_CHECKING:
    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.plan import PlannedField

__all__ = ["CaptureEvent", "field_events"]


@dataclass(frozen=True)
class CaptureEvent:
    """One frame to take.

    Attributes:
        field: Index of the field.
        modality: Name of the light.
        x_um, y_um: Stage position of the image's centre.
        z_um: Position of the focus drive.
        exposure_ms: Exposure of the camera.
        wavelength_nm: Wavelength to record with the frame.
    """

    field: int
    modality: str
    x_um: float
    y_um: float
    z_um: float
    exposure_ms: float
    wavelength_nm: float


def field_events(
    scope: Scope, field: PlannedField, z_um: float, modalities: tuple[str, ...] = MODALITIES
) -> tuple[CaptureEvent, ...]:
    """Return the frames of a field in channel order; fluorescence last, as it bleaches.

    Args:
        scope: Exposures and offsets of the modalities.
        field: Planned field.
        z_um: Z of the focus surface there.
        modalities: Modalities of the pass.

    Raises:
        StageLimitError: A modality's Z offset exceeds the soft limits.
    """
    events = []
    low_um, high_um = scope.stage.z_um
    for name in modalities:
        modality = scope.modalities.named(name)
        frame_z_um = round(z_um + modality.z_offset_um, 3)
        if not low_um <= frame_z_um <= high_um:
            raise StageLimitError(
                f"field {field.index}, {name}: Z of {frame_z_um:g} um is outside the soft limits "
                f"{low_um:g} to {high_um:g} um; check the focus, 'modalities.{name}.z_offset_um' "
                f"and 'stage.z_um'."
            )
        events.append(
            CaptureEvent(
                field.index,
                name,
                field.x_um,
                field.y_um,
                frame_z_um,
                modality.exposure_ms,
                modality.wavelength_nm,
            )
        )
    return tuple(events)
