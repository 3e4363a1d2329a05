from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from wbcpipe.imaging.robust_surface import fit_surface

if TYPE_CHECKING:
    from numpy.typing import NDArray


def planted(y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(100 + 8 * y[:, None] - 5 * x + 3 * y[:, None] * x - 2 * x**2)


@pytest.mark.parametrize("degree", [2, 4])
def test_a_planted_surface_is_found_through_outliers(degree: int) -> None:
    y, x = np.linspace(-1, 1, 16), np.linspace(-1, 1, 12)
    truth = planted(y, x)
    values = truth + np.random.default_rng(0).normal(0, 0.01, truth.shape)
    values[3:6, 4:8] += 40
    fit = fit_surface(values, degree)
    assert fit.values == pytest.approx(truth, abs=0.05)
    assert fit.weights[3:6, 4:8].max() < 0.01
    fine = np.linspace(-1, 1, 50)
    assert fit.at(fine, fine) == pytest.approx(planted(fine, fine), abs=0.05)


def test_one_iteration_is_ordinary_least_squares() -> None:
    values = np.random.default_rng(1).normal(size=(9, 7))
    y, x = np.linspace(2, 5, 9), np.linspace(0, 1, 7)
    design = np.stack([np.outer(a, b).ravel() for a, b in ((y**0, x**0), (y**0, x), (y, x**0))], -1)
    wanted = design @ np.linalg.lstsq(design, values.ravel(), rcond=None)[0]
    assert fit_surface(values, 1, axes=(y, x), iterations=1).values.ravel() == pytest.approx(
        wanted, abs=1e-6
    )


def test_a_grid_of_one_row_has_no_slope_across_it() -> None:
    values = np.arange(12.0)[None]
    assert fit_surface(values, 2).values == pytest.approx(values, abs=1e-6)
