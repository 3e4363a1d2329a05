"""Calling cells without one of the modalities: its lamp was dead, or the microscope does not have it.

A network of several inputs must be given something in the place of what is missing. Zeros, a grey square, are unlike
anything it learned from; so is another modality's picture. A *typical* plane, the mean of the training cells by
distance from the middle, is unremarkable: on smears (`benchmarks/beyond.py`) it keeps most of what zeros lose. It takes
17 numbers a plane. A bundle is calibrated for each single modality that may be missing, with the typical plane in its
place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from wbcpipe.classify.uncertainty.probability_calibration import ProbabilityCalibration, without_heads
from wbcpipe.errors import BundleError
from wbcpipe.samples.cell_columns import QcFlag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from wbcpipe.classify.models.bundle import BundleInfo
    from wbcpipe.classify.models.normalise import Normalisation
    from wbcpipe.samples.cell_store import CellStore

__all__ = [
    "blank",
    "calibration_without",
    "dead_modalities",
    "evenly_spaced_rows",
    "modality_rows",
    "typical_images",
    "typical_profiles",
    "typical_profiles_of",
]

RINGS: Final = 16
FLAT_RANGE: Final = 1
"""A plane whose grey levels differ by no more shows nothing; segment flags its field by the same measure."""
CHECKED_CELLS: Final = 64
"""Cells whose pictures are looked at to tell which modality is missing."""


def typical_profiles(images: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean (C, 17) of normalised planes (N, C, side, side) in rings around the middle, and in the corners beyond."""
    ring = _rings(images.shape[-1])
    mean = images.mean(axis=0, dtype=np.float64).reshape(images.shape[1], -1)
    count = np.bincount(ring, minlength=RINGS + 1)
    sums = np.stack([np.bincount(ring, weights=plane, minlength=RINGS + 1) for plane in mean])
    result: NDArray[np.float64] = sums / np.maximum(count, 1)
    return result


def typical_profiles_of(images: NDArray[np.uint16], normalisation: Normalisation) -> NDArray[np.float64]:
    """`typical_profiles` (C, 17) of up to 1,024 raw pictures (N, C, side, side)."""
    return typical_profiles(normalisation.apply(images[evenly_spaced_rows(len(images), 1024)]))


def evenly_spaced_rows(count: int, most: int) -> NDArray[np.int64]:
    """Up to ``most`` of ``count`` rows, evenly spread: stores often hold class after class, sample after sample."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def _rings(side: int) -> NDArray[np.intp]:
    """Ring (side * side,) of each pixel: 0 the middle, ``RINGS`` beyond the inscribed circle."""
    return np.minimum((_radius(side) * RINGS).astype(np.intp), RINGS).ravel()


def _radius(side: int) -> NDArray[np.float64]:
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return np.asarray(np.hypot(y, x) / (side / 2), np.float64)


def blank(
    images: NDArray[np.float32], missing: Sequence[int], planes: int, typical: Sequence[Sequence[float]]
) -> NDArray[np.float32]:
    """A copy of normalised planes (N, M * planes, side, side) in which missing modalities look typical.

    Args:
        images: the input.
        missing: indices of the modalities.
        planes: of each modality.
        typical: (M * planes, 17) from `typical_profiles`; empty, the planes are zeros.
    """
    filled = images.copy()
    rows = modality_rows(missing, planes)
    filled[:, rows] = typical_images([typical[row] for row in rows], images.shape[-1]) if len(typical) else 0.0
    return filled


def typical_images(typical: Sequence[Sequence[float]], side: int) -> NDArray[np.float32]:
    """Pictures (C, side, side) of `typical_profiles` (C, 17)."""
    middles = (np.arange(RINGS + 1) + 0.5) / RINGS
    radius = _radius(side)
    return np.stack([np.interp(radius, middles, plane).astype(np.float32) for plane in typical])


def modality_rows(modalities: Sequence[int], planes: int) -> list[int]:
    """The planes of some modalities."""
    return [index * planes + plane for index in modalities for plane in range(planes)]


def calibration_without(info: BundleInfo, missing: Sequence[str]) -> ProbabilityCalibration:
    """The calibration that holds when some modalities are missing.

    The one fitted for it if one modality is missing and the bundle has it; else that of the remaining heads.

    Raises:
        BundleError: a name that is no modality of the bundle, or nothing remains.
    """
    if unknown := [name for name in missing if name not in info.modalities]:
        raise BundleError(
            f"modality {unknown[0]!r} cannot be left out: bundle {info.name!r} reads {', '.join(info.modalities)}."
        )
    if len(set(missing)) == len(info.modalities):
        raise BundleError(f"all modalities of bundle {info.name!r} are left out; at least one must remain.")
    if not missing:
        return info.calibration
    if len(set(missing)) == 1 and missing[0] in info.missing_modality:
        return info.missing_modality[missing[0]]
    heads = len(info.calibration.temperatures)
    silent = [info.modalities.index(name) for name in missing] if heads == len(info.modalities) else []
    return without_heads(info.calibration, silent)


def dead_modalities(store: CellStore, modalities: Sequence[str], planes: Sequence[int]) -> tuple[str, ...]:
    """The modalities that show nothing in most cells of a sample.

    Only cells that segment has flagged are looked at, so that a sample without such a flag costs nothing.

    Args:
        store: the sample's cells.
        modalities: the bundle's, in its order.
        planes: the store's channel of each of the bundle's planes.

    Returns:
        Their names; none where all are dead, which no network can help.
    """
    flagged = np.flatnonzero(store.column("qc_flags") & QcFlag.MISSING_MODALITY.value)
    if 2 * len(flagged) <= len(store):
        return ()
    chosen = flagged[np.linspace(0, len(flagged) - 1, min(CHECKED_CELLS, len(flagged))).astype(np.intp)]
    crops = store.images_at(chosen.tolist())[:, list(planes)]
    low, high = np.quantile(crops, (0.02, 0.98), axis=(2, 3))
    flat = (high - low <= FLAT_RANGE).reshape(len(crops), len(modalities), -1).all(axis=2)
    dead = flat.mean(axis=0) > 0.5
    names = tuple(name for name, is_dead in zip(modalities, dead, strict=True) if is_dead)
    return () if len(names) == len(modalities) else names
