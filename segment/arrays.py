"""Small array helpers that several steps share: block means, a threshold, a typed door to scikit-image's watershed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from skimage import segmentation

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["enlarge_grid", "flood", "otsu_threshold", "shrink"]


def box_around(part: NDArray[np.bool_], margin: int) -> tuple[slice, slice]:
    """The rows and columns that hold a mask (Y, X), not empty, and ``margin`` pixels around, as far as there are."""
    rows, columns = (np.flatnonzero(part.any(axis)) for axis in (1, 0))
    return (
        slice(max(0, rows[0] - margin), rows[-1] + margin + 1),
        slice(max(0, columns[0] - margin), columns[-1] + margin + 1),
    )


def shrink(image: NDArray[Any], factor: int) -> NDArray[np.float32]:
    """Mean over ``factor`` x ``factor`` blocks; a short last block is filled up with its edge.

    Args:
        image: (Y, X), any numeric or bool type.
        factor: whole number, at least 1.

    Returns:
        (ceil(Y / factor), ceil(X / factor)) float32.

    >>> shrink(np.arange(6).reshape(2, 3), 2).tolist()
    [[2.0, 3.5]]
    """
    short = tuple((0, -side % factor) for side in image.shape)
    padded = np.pad(image, short, mode="edge") if any(after for _, after in short) else image
    # Adding strided views is several times faster than a mean over two reshaped axes.
    total = np.zeros((padded.shape[0] // factor, padded.shape[1] // factor), np.float32)
    for row in range(factor):
        for column in range(factor):
            total += padded[row::factor, column::factor]
    return np.asarray(total / np.float32(factor**2), np.float32)


def enlarge_grid(grid: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Interpolate a coarse grid, whose nodes are the centres of equal tiles, to ``shape``.

    Args:
        grid: (rows, columns) float32.
        shape: (Y, X) to fill.

    Returns:
        (Y, X) float32, bilinear inside and constant beyond the outermost centres.

    >>> enlarge_grid(np.array([[0, 4]], np.float32), (1, 4)).tolist()
    [[0.0, 1.0, 3.0, 4.0]]
    """
    (row, down), (column, right) = (_between(n, length) for n, length in zip(grid.shape, shape, strict=True))
    across = grid[:, column] * (1 - right) + grid[:, np.minimum(column + 1, grid.shape[1] - 1)] * right
    down = down[:, None]
    return np.asarray(across[row] * (1 - down) + across[np.minimum(row + 1, grid.shape[0] - 1)] * down, np.float32)


def _between(nodes: int, length: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """For each of ``length`` places the node before it and how far (0 to 1) it lies towards the next."""
    at = np.clip((np.arange(length) + 0.5) * nodes / length - 0.5, 0, nodes - 1)
    whole = np.floor(at).astype(np.intp)
    return whole, (at - whole).astype(np.float32)


def otsu_threshold(values: NDArray[Any]) -> float:
    """Threshold that best parts ``values`` (any shape) into two classes; 256 bins.

    N. Otsu, IEEE Trans. SMC 9 (1979) 62, doi:10.1109/TSMC.1979.4310076, equation 12.

    >>> 1 < otsu_threshold(np.array([0.0, 1, 9, 10])) < 9
    True
    """
    counts, edges = np.histogram(values, 256)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    weighted = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = below * above * (weighted / below - (weighted[-1] - weighted) / above) ** 2
    best = np.flatnonzero(np.nan_to_num(variance) >= np.nanmax(variance[:-1]) * (1 - 1e-9))
    return float(centres[best].mean())


def flood(height: NDArray[Any], markers: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> NDArray[np.int32]:
    """Watershed of ``height`` (Y, X) from ``markers`` (Y, X) int, 0 where unmarked; (Y, X) int32."""
    return np.asarray(segmentation.watershed(height, markers, mask=mask), np.int32)  # type: ignore[no-untyped-call]
