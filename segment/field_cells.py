"""The cells of one field, and how they lie on the disk until the sample is finished."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from wbcpipe.samples.cell_columns import COLUMNS, entry_shape
from wbcpipe.samples.cell_store import CellBlock
from wbcpipe.segment.features.field_quality import FIELD_FIGURES
from wbcpipe.segment.features.morphometry import stack_measures
from wbcpipe.system.files import disk_errors, write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["FieldCells", "load_field", "no_cells", "save_field"]


@dataclass(frozen=True)
class FieldCells:
    """What segmentation found in one field.

    Attributes:
        index: of the field.
        centre_um: (y, x) of the field on the stage.
        block: its cells.
        figures: of the field's quality, see `segment.features.field_quality`; none of a damaged field.
        damaged: why the field could not be read; empty where it could.
    """

    index: int
    centre_um: tuple[float, float]
    block: CellBlock
    figures: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    damaged: str = ""

    def __len__(self) -> int:
        return len(self.block)


def no_cells(modalities: int, side_px: int, *, red: bool = False) -> CellBlock:
    """A block of 0 cells; ``red`` where one modality is a second fluorescence."""
    return CellBlock(
        images=np.zeros((0, modalities, side_px, side_px), np.uint16),
        masks=np.zeros((0, side_px, side_px), np.uint8),
        columns={
            name: np.zeros((0, *entry_shape(column, modalities)), column.dtype) for name, column in COLUMNS.items()
        }
        | stack_measures([], modalities, red=red),
        label=[],
    )


def save_field(path: Path, cells: FieldCells, basis: str) -> None:
    """Write a field's cells, atomically.

    Args:
        path: the file.
        cells: of the field.
        basis: digest of everything the result rests on besides the field's own frames.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {
        "basis": np.array(basis),
        "index": np.array(cells.index),
        "centre_um": np.array(cells.centre_um),
        "images": cells.block.images,
        "masks": cells.block.masks,
        **{f"column_{name}": values for name, values in cells.block.columns.items()},
        **{f"figure_{name}": values for name, values in cells.figures.items()},
    }
    with write_atomic(path) as handle:
        np.savez(handle, allow_pickle=False, **arrays)


def load_field(path: Path, basis: str) -> FieldCells | None:
    """Read a field's cells; ``None`` where there is no such file, or one that rests on something else."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            if str(archive["basis"]) != basis:
                return None
            block = CellBlock(
                images=archive["images"],
                masks=archive["masks"],
                columns={
                    name.removeprefix("column_"): archive[name] for name in archive.files if name.startswith("column_")
                },
                label=[""] * len(archive["images"]),
            )
            y_um, x_um = archive["centre_um"].tolist()
            figures = {name: archive[f"figure_{name}"] for name in FIELD_FIGURES}
            return FieldCells(int(archive["index"]), (y_um, x_um), block, figures)
    except (FileNotFoundError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None
