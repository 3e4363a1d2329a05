from __future__ import annotations

import numpy as np
import pytest

from wbcpipe.imaging.peaks import (
    fit_log_parabola,
    gaussian_vertex,
    interpolate_peak,
    parabola_vertex,
    subpixel_peaks,
)


@pytest.mark.parametrize("peak", [-0.5, -0.2, 0.0, 0.37])
def test_the_vertex_of_a_parabola_and_of_a_gaussian(peak: float) -> None:
    parabola = [5 - 2 * (step - peak) ** 2 for step in (-1, 0, 1)]
    assert parabola_vertex(*parabola) == pytest.approx(peak)
    assert gaussian_vertex(*(float(np.exp(value)) for value in parabola)) == pytest.approx(peak)


def test_samples_without_a_peak() -> None:
    assert parabola_vertex(3.0, 1.0, 3.0) == 0.0
    assert gaussian_vertex(1.0, 2.0, 0.0) is None
    assert interpolate_peak([3.0, 2.0, 1.0], 0) == 0.0
    assert interpolate_peak([1.0, 3.0, 2.0], 1) == pytest.approx(1 / 6)


def test_the_peak_of_a_curve_and_its_error() -> None:
    z_um = np.arange(-4.5, 4.6, 0.75)
    found = fit_log_parabola(z_um, np.exp(-((z_um - 0.83) ** 2) / 8), 0.6)
    assert found is not None
    assert found[0] == pytest.approx(0.83, abs=1e-6)
    assert fit_log_parabola(z_um, np.exp(z_um / 3), 0.6) is None
    assert fit_log_parabola(z_um, np.zeros(len(z_um)), 0.6) is None


def test_the_peak_of_a_surface() -> None:
    y, x = np.mgrid[-8:9, -8:9]
    surface = np.exp(-((y - 2.3) ** 2 + (x + 1.4) ** 2) / 18).astype(np.float32)
    border = np.exp(-((y - 8.0) ** 2 + x**2) / 18).astype(np.float32)
    shifts, heights, prominences = subpixel_peaks(np.stack([surface, border]))
    assert shifts[0] == pytest.approx([2.3, -1.4], abs=0.05)
    assert heights == pytest.approx([0.98, 1.0], abs=0.02)
    assert 0 < prominences[0] < 1
    assert np.isnan(shifts[1]).all()
