"""Order cells by similarity to some chosen ones, from their stored measurements and the heads'
probabilities.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from wbcpipe.samples.cell_columns import MORPHOMETRY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from wbcpipe.samples.cell_store import CellStore

__all__ = ["cell_features", "order_by_similarity"]

_SIZES: Final = ("area_um2", "nucleus_area_um2")
#: Robust standard deviations beyond which a measurement tells no more.
_LIMIT: Final = 4.0
_IQR_OF_NORMAL: Final = 1.349


def cell_features(store: CellStore) -> NDArray[np.float32]:
    """Return what cells are compared by, (N, F) float32: shape, stain and texture, and the heads'
    probabilities.

    Measurements are in robust standard deviations from their median, limited to 4; what was not
    measured is 0. Both groups have the same weight; a store that lacks one is compared by the
    other.
    """
    groups = []
    names = [name for name in (*_SIZES, *MORPHOMETRY) if name in store.names]
    if names:
        measured = np.hstack(
            [store.column(name).reshape(len(store), -1).astype(np.float32) for name in names]
        )
        groups.append(_standardise(measured))
    if store.is_classified():
        # Square roots: Euclidean distances are then Hellinger's, which small probabilities affect
        # as well.
        groups.append(
            np.sqrt(store.column("probability").reshape(len(store), -1).clip(0, 1)).astype(
                np.float32
            )
        )
    scaled = [
        group / max(float(group.std(axis=0).mean()) * np.sqrt(group.shape[1]), 1e-6)
        for group in groups
    ]
    return np.hstack(scaled) if scaled else np.zeros((len(store), 1), np.float32)


def _standardise(values: NDArray[np.float32]) -> NDArray[np.float32]:
    finite = np.isfinite(values)
    measured = finite.any(axis=0)
    values, finite = values[:, measured], finite[:, measured]
    low, middle, high = np.nanpercentile(np.where(finite, values, np.nan), (25, 50, 75), axis=0)
    scale = (high - low) / _IQR_OF_NORMAL
    standard = np.where(finite, (values - middle) / np.where(scale > 0, scale, np.inf), 0)
    return np.clip(standard, -_LIMIT, _LIMIT).astype(np.float32)


def order_by_similarity(features: NDArray[np.float32], rows: Sequence[int]) -> list[int]:
    """Return all rows, the most similar to any of the chosen ones first, which come first
    themselves.

    Args:
        features: (N, F), see `cell_features`.
        rows: the chosen cells, at least one.
    """
    nearest = np.full(len(features), np.inf, np.float32)
    for row in rows:
        np.minimum(nearest, ((features - features[row]) ** 2).sum(axis=1), out=nearest)
    nearest[list(rows)] = -1
    return [int(row) for row in np.argsort(nearest, kind="stable")]
