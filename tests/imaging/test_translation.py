from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from wbcpipe.imaging.peaks import subpixel_peaks
from wbcpipe.imaging.translation import (
    correlate_pairs,
    measure_translation,
    registered_correlation,
    tile_centres,
)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (3.0, -2.0), (1.4, 0.7)], ids=str)
def test_the_translation_of_an_image(shift: tuple[float, float]) -> None:
    image = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(128, 128)), 2)
    moved = ndimage.shift(image, shift, mode="grid-wrap")
    found = measure_translation(image, moved, upsampling=50)
    assert found == pytest.approx(shift, abs=0.05)
    assert registered_correlation(image, moved, found) > 0.95
    assert registered_correlation(image, moved, (100.0, 60.0)) == 0.0  # too little overlaps
    assert registered_correlation(image, np.ones_like(image), (0.0, 0.0)) == 0.0


def test_correlation_finds_whole_and_broken_displacements() -> None:
    picture = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(128, 128)), 2).astype(
        np.float32
    )
    for shift in [(0, 0), (3, -2), (1.4, 0.7)]:
        moved = ndimage.shift(picture, shift, mode="wrap").astype(np.float32)
        surface, weight = correlate_pairs(
            [picture, moved], tile_centres((128, 128), 32, 8, 24), 32, 8
        )[0, 1]
        place, height, prominence = subpixel_peaks(
            (surface * weight[:, None, None]).sum(0, keepdims=True)
        )
        assert place[0] == pytest.approx(shift, abs=0.1)
        assert height[0] > 0.8
        assert prominence[0] > 0.3


def test_correlation_is_what_its_definition_says() -> None:
    rng = np.random.default_rng(1)
    pictures = [
        ndimage.gaussian_filter(rng.normal(size=(70, 90)), 2).astype(np.float32) for _ in range(3)
    ]
    half, search = 16, 3
    centres = tile_centres((70, 90), half, search, 20)
    side = np.minimum(np.minimum(np.arange(32), np.arange(32)[::-1]) + 0.5, 8) / 8
    window = np.outer(np.sin(side * np.pi / 2) ** 2, np.sin(side * np.pi / 2) ** 2)

    def normalised(one: np.ndarray, other: np.ndarray) -> float:
        """Weighted correlation coefficient."""
        a, b = (values - (window * values).sum() / window.sum() for values in (one, other))
        return float(
            (window * a * b).sum() / np.sqrt((window * a * a).sum() * (window * b * b).sum())
        )

    def cut(picture: np.ndarray, y: int, x: int) -> np.ndarray:
        return picture[y - half : y + half, x - half : x + half].astype(float)

    surfaces = correlate_pairs(pictures, centres, half, search)
    for (i, j), (surface, _) in surfaces.items():
        for k, (y, x) in enumerate(centres):
            for down in range(-search, search + 1):
                here = cut(pictures[j], y + down, x + 2)
                wanted = normalised(cut(pictures[i], y, x), here)
                assert surface[k, down + search, 2 + search] == pytest.approx(wanted, abs=2e-3)
