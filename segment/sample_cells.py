"""The cells of all fields together.

Which of several views of a cell to keep, and the flags that only all cells give.

Debris is judged beside the sample's other cells; so that flag is not stored with a field.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wbcpipe.samples.cell_columns import QcFlag
from wbcpipe.samples.fields import pixels_part
from wbcpipe.samples.segment_settings.settings import SegmentSettings
from wbcpipe.segment.deduplicate import deduplicate
from wbcpipe.segment.features.crop_quality import find_debris

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from wbcpipe.samples.segment_settings.quality import DebrisSettings
    from wbcpipe.segment.field_cells import FieldCells

__all__ = ["CellSelection", "SampleCells"]

#: Columns kept in memory for every field: those that decide which cells are stored, with which
#: flags.
_KEPT: Final = (
    "field_index",
    "y_um",
    "x_um",
    "qc_flags",
    "nucleus_absorbance",
    "nucleus_fluorescence",
)

_DEFAULT: Final = SegmentSettings()


@dataclass(frozen=True)
class CellSelection:
    """The N cells of a sample, each once, in the order of their fields.

    Attributes:
        field_index: (N,) int64.
        row: (N,) int64, number of the cell within its field's block.
        y_um, x_um: (N,) float64, on the stage.
        qc_flags: (N,) uint16, bits of ``QcFlag`` as ``cells.zarr`` holds them.
    """

    field_index: NDArray[np.int64]
    row: NDArray[np.int64]
    y_um: NDArray[np.float64]
    x_um: NDArray[np.float64]
    qc_flags: NDArray[np.uint16]

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True)
class _FieldSummary:
    """A field without its crops, and of its columns only ``_KEPT``."""

    centre_um: tuple[float, float]
    columns: Mapping[str, NDArray[Any]]
    figures: Mapping[str, NDArray[np.float32]]
    damage: str
    input_digest: str


class SampleCells:
    """Collects the fields of a sample as they are segmented, and selects its cells."""

    def __init__(self) -> None:
        self._fields: dict[int, _FieldSummary] = {}

    def __contains__(self, index: int) -> bool:
        return index in self._fields

    def add(self, cells: FieldCells) -> None:
        """Add a field, or replace it."""
        columns = {name: cells.block.columns[name] for name in _KEPT}
        self._fields[cells.index] = _FieldSummary(
            cells.centre_um, columns, cells.figures, cells.damage, cells.input_digest
        )

    def damaged(self, indices: Iterable[int]) -> dict[int, str]:
        """Return those of the fields that could not be read, with the reason."""
        return {
            index: self._fields[index].damage for index in indices if self._fields[index].damage
        }

    def pixel_digests(self, indices: Iterable[int]) -> list[str]:
        """Return the checksums of the pixels of each field.

        Empty for a field that could not be read.
        """
        return [pixels_part(self._fields[index].input_digest) for index in indices]

    def figures(
        self, indices: Iterable[int]
    ) -> list[tuple[int, Mapping[str, NDArray[np.float32]]]]:
        """Return index and quality figures of each field that could be read."""
        return [
            (index, self._fields[index].figures)
            for index in indices
            if not self._fields[index].damage
        ]

    def select(
        self,
        indices: Sequence[int] | None = None,
        *,
        flag_debris: bool,
        settings: SegmentSettings = _DEFAULT,
    ) -> CellSelection:
        """Select the cells of fields: each cell once, in its best view.

        Args:
            indices: the fields, in ascending order; all that were added if ``None``.
            flag_debris: compare the cells' stain with each other; all must be of one slide.
            settings: of debris and duplicates.
        """
        fields = [
            self._fields[index] for index in (sorted(self._fields) if indices is None else indices)
        ]
        if not fields:
            none = np.zeros(0, np.int64)
            return CellSelection(
                none, none, none.astype(float), none.astype(float), none.astype(np.uint16)
            )
        columns = {
            name: np.concatenate([field.columns[name] for field in fields]) for name in _KEPT
        }
        off_centre_um = [
            np.hypot(
                field.columns["y_um"] - field.centre_um[0],
                field.columns["x_um"] - field.centre_um[1],
            )
            for field in fields
        ]
        keep = deduplicate(
            columns["y_um"],
            columns["x_um"],
            columns["field_index"],
            columns["qc_flags"],
            off_centre_um=np.concatenate(off_centre_um),
            settings=settings.duplicates,
        )
        row = np.concatenate([np.arange(len(field.columns["field_index"])) for field in fields])
        kept = {name: values[keep] for name, values in columns.items()}
        return CellSelection(
            field_index=kept["field_index"].astype(np.int64),
            row=row[keep],
            y_um=kept["y_um"],
            x_um=kept["x_um"],
            qc_flags=_sample_flags(kept, settings.debris if flag_debris else None),
        )


def _sample_flags(
    columns: Mapping[str, NDArray[Any]], settings: DebrisSettings | None
) -> NDArray[np.uint16]:
    """Return the quality flags (N,) uint16 of all cells, those that follow from the other cells
    included; not those without ``settings``.
    """
    flags = columns["qc_flags"]
    if settings is None:
        return np.asarray(flags, np.uint16)
    absorbance, fluorescence = columns["nucleus_absorbance"], columns["nucleus_fluorescence"]
    debris = find_debris(absorbance, fluorescence, flags, settings)
    return np.asarray(flags | np.where(debris, np.uint16(QcFlag.DEBRIS), np.uint16(0)), np.uint16)
