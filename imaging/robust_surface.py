"""Fit a polynomial surface through the values of a grid, robust against outliers such as tiles full
of cells.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from wbcpipe.imaging.arrays import median

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SurfaceFit", "fit_surface"]


class SurfaceFit(NamedTuple):
    """A polynomial surface and the grid that it was fitted to.

    Attributes:
        values: (rows, columns) float64, the surface at the nodes of the grid.
        weights: (rows, columns) float64, the weight of each node, from 1 down to 0 for an outlier.
        coefficients: (degree + 1, degree + 1) float64, of ``y**i * x**j``.
    """

    values: NDArray[np.float64]
    weights: NDArray[np.float64]
    coefficients: NDArray[np.float64]

    def at(self, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Evaluate the surface at the coordinates y (n,) and x (m,): (n, m) float64."""
        size = len(self.coefficients)
        rows, columns = (np.vander(axis, size, increasing=True) for axis in (y, x))
        return np.asarray(rows @ self.coefficients @ columns.T)


def fit_surface(
    values: NDArray[np.floating],
    degree: int,
    *,
    axes: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
    outlier_ratio: float = 2.0,
    iterations: int = 10,
) -> SurfaceFit:
    """Fit a polynomial by iteratively reweighted least squares with Cauchy weights.

    P. W. Holland, R. E. Welsch, Commun. Stat. 6 (1977) 813, doi:10.1080/03610927708827533.

    Args:
        values: (rows, columns) floating.
        degree: total degree of the polynomial.
        axes: coordinates y (rows,) and x (columns,) of the nodes; by default from -1 to 1.
        outlier_ratio: residual, as a multiple of the median residual, at which a node has half its
            weight.
        iterations: 1 for ordinary least squares.

    >>> fit_surface(np.array([[0.0, 1.0, 2.0], [1.0, 2.0, 3.0]]), 1).values.round(6).tolist()
    [[0.0, 1.0, 2.0], [1.0, 2.0, 3.0]]
    """
    design, powers = (
        _regular_design(values.shape, degree) if axes is None else _design(axes, degree)
    )
    damping = 1e-9 * np.eye(len(powers))
    observed = values.ravel().astype(float)
    weights = np.ones_like(observed)
    for _ in range(iterations):
        weighted = (design * weights[:, None]).T
        solution = np.linalg.solve(weighted @ design + damping, weighted @ observed)
        fitted = design @ solution
        residual = np.abs(observed - fitted)
        weights = 1 / (1 + (residual / (outlier_ratio * median(residual) + 1e-9)) ** 2)
    coefficients = np.zeros((degree + 1, degree + 1))
    coefficients[tuple(np.transpose(powers))] = solution
    return SurfaceFit(fitted.reshape(values.shape), weights.reshape(values.shape), coefficients)


@lru_cache(maxsize=8)
def _regular_design(
    shape: tuple[int, ...], degree: int
) -> tuple[NDArray[np.float64], list[tuple[int, int]]]:
    """Return `_design` for nodes from -1 to 1 along both axes."""
    return _design(tuple(np.linspace(-1, 1, side) for side in shape), degree)


def _design(
    axes: tuple[NDArray[np.float64], ...], degree: int
) -> tuple[NDArray[np.float64], list[tuple[int, int]]]:
    """Return the terms of a polynomial at the nodes, (rows * columns, terms), and the powers (of y,
    of x) of each.
    """
    y, x = axes
    powers = [
        (i, j) for i in range(min(degree + 1, len(y))) for j in range(min(degree + 1 - i, len(x)))
    ]
    return np.stack([np.outer(y**i, x**j).ravel() for i, j in powers], -1), powers
