"""Attributes of ``cells.zarr``: what holds for all its cells."""

from __future__ import annotations

from typing import ClassVar, TypeAlias

from pydantic import Field, JsonValue

from wbcpipe.samples.cell_columns import QcFlag
from wbcpipe.samples.records import Positive, Record, SampleKind

__all__ = ["CellAttributes", "FieldFigures"]

#: Name to one entry per field: a number, or one per modality; ``None`` where it was not measured.
FieldFigures: TypeAlias = dict[str, list[int | float | list[float | None] | None]]


class CellAttributes(Record):
    """The attributes of the group.

    Attributes:
        modalities: M names, in the order of the channels.
        pixel_um: size of a crop's pixel on the specimen.
        kind: origin of the images.
        classes: names of the classes, in order.
        derived: modalities that were computed from the others, not seen by a camera.
        qc_flags: value of each bit of the ``qc_flags`` column.
        field_quality: figures of the fields.
        provenance: software, inputs and options.
        classified: how the cells were classified, see `Classification`; ``None`` until they are.
    """

    remedy: ClassVar[str] = "segment or import the sample again"

    modalities: tuple[str, ...]
    pixel_um: Positive
    kind: SampleKind = "scope"
    classes: tuple[str, ...] = ()
    derived: tuple[str, ...] = ()
    qc_flags: dict[str, int] = Field(default_factory=lambda: {str(flag.name): flag.value for flag in QcFlag})
    field_quality: FieldFigures = Field(default_factory=dict)
    provenance: dict[str, JsonValue] = Field(default_factory=dict)
    classified: dict[str, JsonValue] | None = None
