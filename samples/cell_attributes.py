"""Attributes of ``cells.zarr``: what holds for all its cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, TypeAlias

from pydantic import Field, JsonValue

from wbcpipe.errors import SampleStateError
from wbcpipe.samples.cell_columns import QcFlag
from wbcpipe.samples.records import Count, Part, Positive, Record, SampleKind, json_digest

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CellAttributes", "FieldFigures", "LabelImport"]

#: Name to one entry per field: a number, or one per modality; ``None`` where it was not measured.
FieldFigures: TypeAlias = dict[str, list[int | float | list[float | None] | None]]


class LabelImport(Part):
    """Labels that a person gave.

    Attributes:
        source: name of the folder or file that they came from.
        sha256: of the labels and their places.
        cells: whose label changed.
        date: UTC, ISO 8601.
    """

    source: str
    sha256: str
    cells: Count
    date: str


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
        labelled: imports of labels, the last one last.
        label_digests: SHA-256 of the labels as they may be: before the last import and after it;
            written by the store.
        arrays: name of each array to the SHA-256 of its metadata; written by the store.
        chunks: name of each array to the SHA-256 of the checksums of its chunks, but of ``label``,
            which people change.
        classified: how the cells were classified, see `Classification`; ``None`` until they are.
        sha256: of all of the above; written by the store.
    """

    remedy: ClassVar[str] = "segment or import the sample again"

    modalities: tuple[str, ...]
    pixel_um: Positive
    kind: SampleKind = "scope"
    classes: tuple[str, ...] = ()
    derived: tuple[str, ...] = ()
    qc_flags: dict[str, int] = Field(
        default_factory=lambda: {str(flag.name): flag.value for flag in QcFlag}
    )
    field_quality: FieldFigures = Field(default_factory=dict)
    provenance: dict[str, JsonValue] = Field(default_factory=dict)
    labelled: tuple[LabelImport, ...] = ()
    label_digests: tuple[str, ...] = ()
    arrays: dict[str, str] = Field(default_factory=dict)
    chunks: dict[str, str] = Field(default_factory=dict)
    classified: dict[str, JsonValue] | None = None
    sha256: str = ""

    def with_digest(self) -> CellAttributes:
        """Return the attributes with the digest that `check_digest` compares."""
        return self.model_copy(update={"sha256": self._digest()})

    def check_digest(self, path: Path) -> None:
        """Check that the attributes are those that were written.

        Raises:
            SampleStateError: they are not; the text names ``path``.
        """
        if self.sha256 != self._digest():
            raise SampleStateError(
                f"{path}: changed since it was written (key 'sha256' is not that of the "
                f"attributes); {self.remedy}."
            )

    def _digest(self) -> str:
        return json_digest(self.model_dump(mode="json", exclude={"sha256"}))
