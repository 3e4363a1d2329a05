"""Classification without one of the modalities.

Its lamp failed, or the microscope does not have it.

A network with several inputs needs something in place of a missing modality. Zeros, a grey square,
are unlike all training images, and so is another modality. A *typical* plane, the mean of the
training cells by distance from the centre, is unremarkable: on smears (``benchmarks/beyond.py``) it
keeps most of the accuracy that zeros lose. Its profile takes 17 numbers per plane. A bundle is
calibrated for each single missing modality, with the typical plane in its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from wbcpipe.classify.uncertainty.probability_calibration import (
    ProbabilityCalibration,
    without_heads,
)
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
    "typical_images",
    "typical_profiles",
    "typical_profiles_of",
]

RINGS: Final = 16
FLAT_RANGE: Final = 1
"""A plane with a smaller range of grey levels shows nothing.

Segment flags its field by the same limit.
"""
CHECKED_CELLS: Final = 64
"""Number of cells whose images decide which modality is missing."""


def typical_profiles(images: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the mean (C, 17) of normalised planes (N, C, side, side) in 16 rings and in the
    corners.
    """
    ring = _rings(images.shape[-1])
    mean = images.mean(axis=0, dtype=np.float64).reshape(images.shape[1], -1)
    count = np.bincount(ring, minlength=RINGS + 1)
    sums = np.stack([np.bincount(ring, weights=plane, minlength=RINGS + 1) for plane in mean])
    result: NDArray[np.float64] = sums / np.maximum(count, 1)
    return result


def typical_profiles_of(
    images: NDArray[np.uint16], normalisation: Normalisation
) -> NDArray[np.float64]:
    """Return the `typical_profiles` (C, 17) of up to 1,024 raw images (N, C, side, side)."""
    return typical_profiles(normalisation.apply(images[evenly_spaced_rows(len(images), 1024)]))


def evenly_spaced_rows(count: int, max_rows: int) -> NDArray[np.int64]:
    """Return up to ``max_rows`` of ``count`` rows, evenly spaced: many stores are sorted by class
    and sample.
    """
    return np.unique(np.linspace(0, count - 1, min(count, max_rows)).round().astype(np.int64))


def _rings(side: int) -> NDArray[np.intp]:
    """Return the ring (side * side,) of each pixel: 0 at the centre, ``RINGS`` outside the
    inscribed circle.
    """
    return np.minimum((_radius(side) * RINGS).astype(np.intp), RINGS).ravel()


def _radius(side: int) -> NDArray[np.float64]:
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return np.asarray(np.hypot(y, x) / (side / 2), np.float64)


def blank(
    images: NDArray[np.float32],
    missing: Sequence[int],
    planes: int,
    typical: Sequence[Sequence[float]],
) -> NDArray[np.float32]:
    """Return a copy of normalised planes (N, M * planes, side, side) in which missing modalities
    are typical.

    Args:
        images: the input.
        missing: indices of the modalities.
        planes: of each modality.
        typical: (M * planes, 17) from `typical_profiles`; if it is empty, the planes are zeros.
    """
    filled = images.copy()
    rows = [index * planes + plane for index in missing for plane in range(planes)]
    filled[:, rows] = (
        typical_images([typical[row] for row in rows], images.shape[-1]) if len(typical) else 0.0
    )
    return filled


def typical_images(typical: Sequence[Sequence[float]], side: int) -> NDArray[np.float32]:
    """Return the images (C, side, side) of `typical_profiles` (C, 17)."""
    centres = (np.arange(RINGS + 1) + 0.5) / RINGS
    radius = _radius(side)
    return np.stack([np.interp(radius, centres, plane).astype(np.float32) for plane in typical])


def calibration_without(info: BundleInfo, missing: Sequence[str]) -> ProbabilityCalibration:
    """Return the calibration for some missing modalities.

    For one missing modality it is the one fitted for it, if the bundle has one; else that of the
    remaining heads.

    Raises:
        BundleError: a name is no modality of the bundle, or no modality remains.
    """
    if unknown := [name for name in missing if name not in info.modalities]:
        raise BundleError(
            f"modality {unknown[0]!r} cannot be excluded: bundle {info.name!r} reads "
            f"{', '.join(info.modalities)}."
        )
    if len(set(missing)) == len(info.modalities):
        raise BundleError(
            f"all modalities of bundle {info.name!r} are excluded; at least one must remain."
        )
    if not missing:
        return info.calibration
    if len(set(missing)) == 1 and missing[0] in info.missing_modality:
        return info.missing_modality[missing[0]]
    heads = len(info.calibration.temperatures)
    silent = (
        [info.modalities.index(name) for name in missing] if heads == len(info.modalities) else []
    )
    return without_heads(info.calibration, silent)


def dead_modalities(
    store: CellStore, modalities: Sequence[str], planes: Sequence[int]
) -> tuple[str, ...]:
    """Return the modalities that show nothing in most cells of a sample.

    Only cells that segment has flagged are read, so that a sample without the flag costs nothing.

    Args:
        store: the sample's cells.
        modalities: the bundle's, in its order.
        planes: the store's channel of each of the bundle's planes.

    Returns:
        Their names; none if all are dead, because no network can classify such cells.
    """
    flagged = np.flatnonzero(store.column("qc_flags") & QcFlag.MISSING_MODALITY.value)
    if 2 * len(flagged) <= len(store):
        return ()
    chosen = flagged[
        np.linspace(0, len(flagged) - 1, min(CHECKED_CELLS, len(flagged))).astype(np.intp)
    ]
    crops = store.images_at(chosen.tolist())[:, list(planes)]
    low, high = np.quantile(crops, (0.02, 0.98), axis=(2, 3))
    flat = (high - low <= FLAT_RANGE).reshape(len(crops), len(modalities), -1).all(axis=2)
    dead = flat.mean(axis=0) > 0.5
    names = tuple(name for name, is_dead in zip(modalities, dead, strict=True) if is_dead)
    return () if len(names) == len(modalities) else names
