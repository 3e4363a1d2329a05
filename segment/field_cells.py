"""The cells of one field, and their file in ``work/`` from which ``cells.zarr`` is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from wbcpipe.samples.cell_columns import COLUMNS, RED_FLUORESCENCE, entry_shape
from wbcpipe.samples.cell_store import CellBlock
from wbcpipe.samples.records import Record
from wbcpipe.segment.features.field_quality import FIELD_FIGURES
from wbcpipe.segment.features.morphometry import stack_measures
from wbcpipe.segment.work_files import read_work_file, write_work_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["FieldCells", "StoredField", "load_field", "no_cells", "save_field", "stored_field"]

_COLUMN, _FIGURE = "column_", "figure_"


@dataclass(frozen=True)
class FieldCells:
    """The cells found in one field.

    Attributes:
        index: of the field.
        centre_um: (y, x) of the field on the stage.
        block: its cells.
        figures: of the field's quality, see `segment.features.field_quality`; none of a damaged
            field.
        damage: why the field could not be read; empty where it could.
        input_digest: checksums of its files, see `samples.fields`.
    """

    index: int
    centre_um: tuple[float, float]
    block: CellBlock
    figures: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    damage: str = ""
    input_digest: str = ""

    def __len__(self) -> int:
        return len(self.block)


class _FieldRecord(Record):
    """The stored part of a field's result that is no array."""

    basis_sha256: str
    input_digest: str
    field_index: int
    centre_y_um: float
    centre_x_um: float


def no_cells(modalities: tuple[str, ...], side_px: int) -> CellBlock:
    """Return a block of 0 cells."""
    count = len(modalities)
    return CellBlock(
        images=np.zeros((0, count, side_px, side_px), np.uint16),
        masks=np.zeros((0, side_px, side_px), np.uint8),
        columns={
            name: np.zeros((0, *entry_shape(column, count)), column.dtype)
            for name, column in COLUMNS.items()
        }
        | stack_measures([], count, red=RED_FLUORESCENCE in modalities),
        label=[],
    )


def save_field(path: Path, cells: FieldCells, basis_sha256: str) -> None:
    """Write a field's cells, atomically.

    Args:
        path: the file.
        cells: of the field.
        basis_sha256: digest of everything, apart from the field's own frames, on which the result
            depends.

    Raises:
        DiskFullError: no space left.
    """
    y_um, x_um = cells.centre_um
    record = _FieldRecord(
        basis_sha256=basis_sha256,
        input_digest=cells.input_digest,
        field_index=cells.index,
        centre_y_um=y_um,
        centre_x_um=x_um,
    )
    columns = {_COLUMN + name: values for name, values in cells.block.columns.items()}
    figures = {_FIGURE + name: values for name, values in cells.figures.items()}
    write_work_file(
        path,
        record,
        {"images": cells.block.images, "masks": cells.block.masks, **columns, **figures},
    )


class StoredField(NamedTuple):
    """The field whose cells a file holds, and the checksums of the frames from which they were
    cut.
    """

    field_index: int
    input_digest: str


def stored_field(path: Path) -> StoredField | None:
    """Return the field whose cells a file holds; ``None`` where it is absent or damaged."""
    found = read_work_file(path, _FieldRecord)
    return None if found is None else StoredField(found[0].field_index, found[0].input_digest)


def load_field(path: Path, index: int, basis_sha256: str, input_digest: str) -> FieldCells | None:
    """Read a field's cells.

    Return ``None`` where there is no file, or one of another field, basis or frames.

    Args:
        path: the file.
        index: of the field.
        basis_sha256: as for `save_field`.
        input_digest: of the field's files as they are now; empty if they cannot be read, so that a
            result is kept.
    """
    found = read_work_file(path, _FieldRecord)
    if found is None:
        return None
    record, arrays = found
    if (record.field_index, record.basis_sha256) != (index, basis_sha256):
        return None
    if input_digest and record.input_digest != input_digest:
        return None
    columns = {
        name.removeprefix(_COLUMN): values
        for name, values in arrays.items()
        if name.startswith(_COLUMN)
    }
    block = CellBlock(arrays["images"], arrays["masks"], columns, [""] * len(arrays["images"]))
    figures = {name: arrays[_FIGURE + name] for name in FIELD_FIGURES}
    return FieldCells(
        record.field_index,
        (record.centre_y_um, record.centre_x_um),
        block,
        figures,
        "",
        record.input_digest,
    )
