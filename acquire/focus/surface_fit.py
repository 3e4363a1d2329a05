"""Surfaces through focused points.

A robust polynomial over a slot, and a smooth local surface by Kriging.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wbcpipe.errors import HardwareError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from wbcpipe.samples.records import FocusPoint

__all__ = ["OUTLIER_UM", "fit_drift", "fit_local", "fit_surface"]

#: A point this far from the plane of the others was focused on dirt or on the wrong side of the
#: glass.
OUTLIER_UM: Final = 4.0
#: The same, from the prediction of the neighbours within a spacing or two.
_LOCAL_OUTLIER_UM: Final = 0.75
#: Number of planes tried in the search for the one that most points agree on.
_MAX_PLANES: Final = 2000
#: Correlation length of a slide's height in spacings, and the error of a focus relative to the
#: height's variation.
_LENGTH: Final = 1.25
_NOISE: Final = 0.05
#: Largest distance of a point from the plane of a drift, and the smallest number of points: a plane
#: has three terms.
_DRIFT_UM: Final = 0.15
_DRIFT_POINTS: Final = 5
#: Variance of the plane under the local surface, relative to the surface's: nearly free.
_PLANE: Final = 25.0


def fit_surface(points: Iterable[FocusPoint]) -> Callable[[float, float], float]:
    """Fit a robust surface to focused points: quadratic from 7 good ones, plane from 3, else their
    median.

    From 5 points on, those more than 4 um off the plane that most points agree on are left out.

    Raises:
        HardwareError: no point has a focus.
    """
    good = _measured(points)
    if not len(good):
        raise HardwareError(
            "no focus at any point of the slot: is there a slide, is the light on, is "
            "'focus.range_um' wide enough? Or set 'focus.method' to \"fixed\"."
        )
    centre = good[:, :2].mean(axis=0)
    scale = max(float(np.abs(good[:, :2] - centre).max()), 1.0)

    def terms(xy: NDArray[np.float64], order: int) -> NDArray[np.float64]:
        u, v = ((xy - centre) / scale).T
        columns = [np.ones_like(u), u, v, u * u, u * v, v * v]
        return np.column_stack(columns[: (1, 3, 6)[order]])

    data = good[_agreeing(terms(good[:, :2], 1), good[:, 2])] if len(good) >= 5 else good
    order = 2 if len(data) >= 7 else 1 if len(data) >= 3 else 0
    while order and np.linalg.matrix_rank(terms(data[:, :2], order), tol=1e-6) < (1, 3, 6)[order]:
        order -= 1
    if order:
        weights = np.linalg.lstsq(terms(data[:, :2], order), data[:, 2], rcond=None)[0]
    else:
        weights = np.array([np.median(data[:, 2])])
    return lambda x_um, y_um: float(terms(np.array([[x_um, y_um]]), order)[0] @ weights)


def _agreeing(terms: NDArray[np.float64], z_um: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Find the points (N,) near the plane of smallest median distance: nearly half of them may be
    wrong.

    Args:
        terms: (N, 3) of the plane.
        z_um: (N,).
    """
    count = len(z_um)
    if math.comb(count, 3) <= _MAX_PLANES:
        triples = np.array(list(itertools.combinations(range(count), 3)))
    else:
        rng = np.random.default_rng(0)  # the same triples for the same points, always
        triples = np.array([rng.choice(count, 3, replace=False) for _ in range(_MAX_PLANES)])
    corners = terms[triples]  # (P, 3, 3)
    usable = np.abs(np.linalg.det(corners)) > 1e-3
    if not usable.any():
        return np.ones(count, np.bool_)
    planes = np.linalg.solve(corners[usable], z_um[triples[usable]][..., None])[..., 0]  # (P, 3)
    off_um = np.abs(terms @ planes.T - z_um[:, None])  # (N, P)
    best_um = off_um[:, np.median(off_um, axis=0).argmin()]
    # The plane of three points is only as good as these: one fitted to all that are near it
    # decides.
    near = best_um <= OUTLIER_UM
    plane = np.linalg.lstsq(terms[near], z_um[near], rcond=None)[0]
    return np.asarray(np.abs(terms @ plane - z_um) <= OUTLIER_UM)


def fit_local(
    points: Sequence[FocusPoint], spacing_um: float
) -> Callable[[float, float], float] | None:
    """Fit a smooth surface to neighbouring points (Kriging over a plane), without outliers.

    Each point is predicted from the others (Rasmussen and Williams, Gaussian Processes for Machine
    Learning, 2006, eq. 5.12); while the largest error exceeds 0.75 um, that point is removed, but
    at most a third of them.

    Args:
        points: of a neighbourhood a few spacings wide.
        spacing_um: typical distance of neighbours.

    Returns:
        Function of (x_um, y_um) that returns Z in um; ``None`` with fewer than 3 points.
    """
    data = _measured(points)
    min_points = max(math.ceil(len(data) * 2 / 3), 4)
    while len(data) >= 3:
        middle = data.mean(axis=0)
        where = (data[:, :2] - middle[:2]) / spacing_um
        inverse = np.linalg.inv(_covariance(where, where) + _NOISE**2 * np.eye(len(where)))
        weights = inverse @ (data[:, 2] - middle[2])
        off_um = np.abs(weights / np.diag(inverse))
        if len(data) <= min_points or off_um.max() <= _LOCAL_OUTLIER_UM:
            break
        data = np.delete(data, int(off_um.argmax()), axis=0)
    else:
        return None

    def predict(x_um: float, y_um: float) -> float:
        here = (np.array([[x_um, y_um]]) - middle[:2]) / spacing_um
        return float(middle[2] + (_covariance(here, where) @ weights)[0])

    return predict


def fit_drift(
    points: Sequence[FocusPoint], centre_um: tuple[float, float]
) -> tuple[float, float, float] | None:
    """Fit a plane to drifts measured at some points, without outliers: at most a quarter of them.

    Args:
        points: positions with their drift as ``z_um``.
        centre_um: position (x, y) at which the level is given.

    Returns: Level in um and slopes along x and y in um per mm; ``None`` where no plane is within
        0.15 um of the points, or where they are too few or on a line.
    """
    data = _measured(points)
    min_points = max(math.ceil(len(data) * 3 / 4), _DRIFT_POINTS)
    while len(data) >= _DRIFT_POINTS:
        terms = np.column_stack([np.ones(len(data)), (data[:, :2] - centre_um) / 1000])  # (N, 3)
        plane, _, rank, _ = np.linalg.lstsq(terms, data[:, 2], rcond=1e-6)
        off_um = np.abs(terms @ plane - data[:, 2])
        if rank < 3:
            return None
        if off_um.max() <= _DRIFT_UM:
            return float(plane[0]), float(plane[1]), float(plane[2])
        if len(data) <= min_points:
            return None
        data = np.delete(data, int(off_um.argmax()), axis=0)
    return None


def _covariance(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the covariance (N, M) of the heights at positions (N, 2) and (M, 2), in spacings."""
    square = np.square(one[:, None, :] - other[None, :, :]).sum(axis=-1)
    covariance: NDArray[np.float64] = np.exp(-square / (2 * _LENGTH**2)) + _PLANE * (
        1 + one @ other.T
    )
    return covariance


def _measured(points: Iterable[FocusPoint]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the points that have a focus: (N, 3) as x, y, z."""
    return np.array(
        [(point.x_um, point.y_um, point.z_um) for point in points if point.z_um is not None]
    ).reshape(-1, 3)
