"""What is measured of each cell's shape, stain and texture: the columns of ``cells.zarr``, with units.

Names only, so that whoever reads the columns need not load what measures them; see ``segment.features.morphometry``.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["MORPHOMETRY", "RED_FLUORESCENCE", "Measure", "columns_of", "nuclear_index", "spread_names"]

#: Second emission of Acridine Orange, where a set has it: RNA and acid granules.
RED_FLUORESCENCE: Final = "fluorescence_red"


class Measure(NamedTuple):
    """One column.

    Attributes:
        dtype: of the column.
        shape: of a cell's entry; ``M`` is the number of modalities, ``M-1`` that without the nuclear one, in order.
        unit: of the values; empty for plain numbers.
        meaning: for people.
    """

    dtype: str
    shape: tuple[str, ...]
    unit: str
    meaning: str


#: Name to what it is, of every column that `measure_cell` fills. NaN where there is nothing to measure.
MORPHOMETRY: Final[dict[str, Measure]] = {
    "cytoplasm_area_um2": Measure("float32", (), "um2", "area of the cell outside its nucleus"),
    "nucleus_cytoplasm_ratio": Measure("float32", (), "", "area of the nucleus over that of the cytoplasm"),
    "lobes": Measure("uint8", (), "", "lobes of the nucleus: 1 for a round one, a kidney or a ring"),
    "nucleus_roundness": Measure("float32", (), "", "4 pi area / perimeter^2 of the nucleus, all lobes together"),
    "cell_roundness": Measure("float32", (), "", "the same of the whole cell; 1 for a disc"),
    "nucleus_eccentricity": Measure("float32", (), "", "of the ellipse of equal second moments; 0 for a disc"),
    "cell_eccentricity": Measure("float32", (), "", "the same of the whole cell"),
    "nucleus_fluorescence": Measure("float32", (), "counts", "mean of the nuclear channel above its surroundings"),
    "cytoplasm_fluorescence": Measure("float32", (), "counts", "the same in the cytoplasm"),
    "total_fluorescence": Measure("float32", (), "counts um2", "integral over the cell, above its surroundings"),
    "nucleus_absorbance": Measure("float32", ("M-1",), "OD", "mean optical density (decadic) of the nucleus"),
    "cytoplasm_absorbance": Measure("float32", ("M-1",), "OD", "the same of the cytoplasm"),
    "granularity": Measure(
        "float32", ("M",), "OD; of the nuclear channel: share of its mean", "fine structure of the cytoplasm, root mean"
    ),
    "red_green_ratio": Measure(
        "float32", (), "", f"integral of {RED_FLUORESCENCE} over that of the nuclear channel; where there is such"
    ),
}


def columns_of(modalities: int, *, red: bool) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name to (dtype, shape of an entry) for cells of so many modalities; ``red``: one is `RED_FLUORESCENCE`."""
    sizes = {"M": modalities, "M-1": modalities - 1}
    return {
        name: (measure.dtype, tuple(sizes[size] for size in measure.shape))
        for name, measure in MORPHOMETRY.items()
        if red or name != "red_green_ratio"
    }


def nuclear_index(modalities: tuple[str, ...]) -> int:
    """Which channel shows nuclei bright on dark: ``fluorescence``, else the last."""
    return modalities.index("fluorescence") if "fluorescence" in modalities else len(modalities) - 1


def spread_names(name: str, modalities: tuple[str, ...]) -> list[str]:
    """Names of a column's entries, one for each modality it has one of; the name itself for a plain number.

    >>> spread_names("nucleus_absorbance", ("color1", "color2", "fluorescence"))
    ['nucleus_absorbance_color1', 'nucleus_absorbance_color2']
    """
    shape = MORPHOMETRY[name].shape
    if not shape:
        return [name]
    nuclear = nuclear_index(modalities)
    return [f"{name}_{modality}" for k, modality in enumerate(modalities) if shape == ("M",) or k != nuclear]
