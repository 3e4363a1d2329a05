"""The measured columns of a sample's cells as one matrix."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from wbcpipe.samples.cell_columns import COLUMNS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wbcpipe.samples.cell_store import CellStore

__all__ = ["Measurements", "read_measurements"]

#: Columns that say where a cell is, or how it was judged, not what it looks like.
_OTHERS = ("field_index", "y_px", "x_px", "y_um", "x_um", "qc_flags")


class Measurements(NamedTuple):
    """Measurements of N cells.

    Attributes:
        names: of F figures; of one per modality, with the modality's name, such as
            ``nucleus_absorbance_color1``.
        units: of each; empty for plain numbers.
        meanings: of each, for people.
        values: (N, F) float32; NaN where a cell has no such figure.
    """

    names: list[str]
    units: list[str]
    meanings: list[str]
    values: NDArray[np.float32]


def read_measurements(store: CellStore) -> Measurements:
    """Read all measured columns of a store.

    Raises:
        SampleStateError: an array is damaged.
    """
    names, units, meanings, parts = [], [], [], []
    others = store.modalities[:-1]
    axes = {"M": store.modalities, "M-1": others}
    for column, kind in COLUMNS.items():
        if column in _OTHERS or column not in store.names:
            continue
        values = store.column(column)
        words = [axes.get(str(size)) or ("y", "x")[: int(size)] for size in kind.shape]
        names += ["_".join((column, *place)) for place in product(*words)]
        parts.append(values.reshape(len(values), -1).astype(np.float32))
        units += [kind.unit] * parts[-1].shape[1]
        meanings += [kind.meaning] * parts[-1].shape[1]
    return Measurements(names, units, meanings, np.concatenate(parts, axis=1))
