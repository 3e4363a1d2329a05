"""Names, types, units, flags and classes of the cell table: the columns of ``cells.zarr``.

This module imports neither zarr nor what measures the cells, so that every reader of a column may
import it.
"""

from __future__ import annotations

from enum import IntFlag
from typing import Final, NamedTuple

__all__ = [
    "CLASSES",
    "COLUMNS",
    "CROP_PIXEL_UM",
    "CROP_SIDE_PX",
    "MORPHOMETRY",
    "RED_FLUORESCENCE",
    "REJECTED",
    "UNIDENTIFIED",
    "Column",
    "QcFlag",
    "entry_shape",
    "flag_names",
    "morphometry_columns",
    "nuclear_index",
]

CROP_SIDE_PX: Final = 224
CROP_PIXEL_UM: Final = 0.1
"""The pixel size of the shipped bundles, in um."""
CLASSES: Final = ("NEU", "LYM", "EOS", "MO", "BAS")
"""The classes of the virtual scope and of the shipped bundles, in order.

Other stores name their own.
"""
UNIDENTIFIED: Final = "unidentified"
"""The ``predicted_class`` of a cell that the model is not sure of."""
RED_FLUORESCENCE: Final = "fluorescence_red"
"""The modality of Acridine Orange's second emission, where a sample has it: RNA and acid granules.
"""


class QcFlag(IntFlag):
    """The bits of the ``qc_flags`` column: why an image of a cell is doubtful."""

    BORDER = 1
    """The cell touches the edge of its field."""
    BLURRED = 2
    """The edges of the nucleus are wider than those of any cell in focus."""
    SATURATED = 4
    """More than 1 % of the cell's pixels are saturated in one modality."""
    DOUBLET = 8
    """The cell touches another white cell, from which it was split."""
    UNREGISTERED = 16
    """The registration of a modality was not trusted; that of the slide was used."""
    MISSING_MODALITY = 32
    """A modality of the field is absent or empty."""
    DEBRIS = 64
    """Size or intensity unlike a white cell: kept for review, left out of the differential."""
    CLUMP = 128
    """Nuclei that could not be parted: several white cells, of unknown number."""


#: Flags that exclude a cell from the differential; of several, the first is its reason. The class
#: of such a cell is not reliable.
REJECTED: Final = (
    QcFlag.DEBRIS,
    QcFlag.BORDER,
    QcFlag.MISSING_MODALITY,
    QcFlag.CLUMP,
    QcFlag.BLURRED,
)


def flag_names(qc_flags: int) -> tuple[str, ...]:
    """Return the names of the flags in one cell's bits, in lower case.

    >>> flag_names(QcFlag.BORDER | QcFlag.DOUBLET)
    ('border', 'doublet')
    """
    return tuple(str(flag.name).lower() for flag in QcFlag if qc_flags & flag.value)


class Column(NamedTuple):
    """One column of the cell table.

    Attributes:
        dtype: of the array.
        shape: of one cell's entry; ``M`` is the number of modalities, ``M-1`` that without the
            nuclear one, in order.
        unit: of the values; empty for plain numbers.
        meaning: for people.
    """

    dtype: str
    shape: tuple[int | str, ...]
    unit: str
    meaning: str


#: The columns that every store has, by name.
COLUMNS: Final[dict[str, Column]] = {
    "field_index": Column("int32", (), "", "index of the field"),
    "y_px": Column("float32", (), "px", "centre in the frame of the nuclear channel"),
    "x_px": Column("float32", (), "px", "centre in the frame of the nuclear channel"),
    "y_um": Column("float64", (), "um", "centre on the stage"),
    "x_um": Column("float64", (), "um", "centre on the stage"),
    "area_um2": Column("float32", (), "um2", "area of the cell's mask"),
    "nucleus_area_um2": Column("float32", (), "um2", "area of its nucleus"),
    "sharpness": Column(
        "float32",
        (),
        "",
        "sharpness of the nucleus: variance between Gaussians of 0.2 and 0.4 um over that between "
        "0.4 and 1 um",
    ),
    "shift_px": Column(
        "float32", ("M-1", 2), "px", "(y, x) displacement of each other modality at this cell"
    ),
    "shift_residual_px": Column("float32", ("M-1",), "px", "estimated error of that displacement"),
    "qc_flags": Column("uint16", (), "bits", "why the image is doubtful, one bit a reason"),
}

#: The columns of shape, stain and texture, by name; NaN where there is nothing to measure.
MORPHOMETRY: Final[dict[str, Column]] = {
    "cytoplasm_area_um2": Column("float32", (), "um2", "area of the cell outside its nucleus"),
    "nucleus_cytoplasm_ratio": Column(
        "float32", (), "", "area of the nucleus over that of the cytoplasm"
    ),
    "lobes": Column("uint8", (), "", "lobes of the nucleus: 1 for a round one, a kidney or a ring"),
    "nucleus_roundness": Column(
        "float32", (), "", "4 pi area / perimeter^2 of the nucleus, all lobes together"
    ),
    "cell_roundness": Column("float32", (), "", "the same of the cell; 1 for a disc"),
    "nucleus_eccentricity": Column(
        "float32", (), "", "of the ellipse of equal second moments; 0 for a disc"
    ),
    "cell_eccentricity": Column("float32", (), "", "the same of the cell"),
    "nucleus_fluorescence": Column(
        "float32", (), "counts", "mean of the nuclear channel above its surroundings"
    ),
    "cytoplasm_fluorescence": Column("float32", (), "counts", "the same in the cytoplasm"),
    "total_fluorescence": Column(
        "float32", (), "counts um2", "integral over the cell, above its surroundings"
    ),
    "nucleus_absorbance": Column(
        "float32", ("M-1",), "OD", "mean optical density (decadic) of the nucleus"
    ),
    "cytoplasm_absorbance": Column("float32", ("M-1",), "OD", "the same of the cytoplasm"),
    "granularity": Column(
        "float32",
        ("M",),
        "OD; of the nuclear channel: share of its mean",
        "fine structure of the cytoplasm, root mean",
    ),
    "red_green_ratio": Column(
        "float32",
        (),
        "",
        f"integral of {RED_FLUORESCENCE} over that of the nuclear channel, if that channel exists",
    ),
}


def entry_shape(column: Column, modalities: int) -> tuple[int, ...]:
    """Return the shape of one cell's entry for a number of modalities.

    >>> entry_shape(COLUMNS["shift_px"], 4)
    (3, 2)
    """
    sizes = {"M": modalities, "M-1": modalities - 1}
    return tuple(sizes[size] if isinstance(size, str) else size for size in column.shape)


def morphometry_columns(modalities: int, *, red: bool) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the name, dtype and shape of an entry of every column of `MORPHOMETRY`.

    Args:
        modalities: number of modalities.
        red: one of them is `RED_FLUORESCENCE`.
    """
    return {
        name: (column.dtype, entry_shape(column, modalities))
        for name, column in MORPHOMETRY.items()
        if red or name != "red_green_ratio"
    }


def nuclear_index(modalities: tuple[str, ...]) -> int:
    """Return which channel shows nuclei bright on dark: ``fluorescence``, else the last."""
    return modalities.index("fluorescence") if "fluorescence" in modalities else len(modalities) - 1
