"""Filters by matrix products and shifts against those of scipy and numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from skimage.filters import threshold_otsu

from wbcpipe.imaging.arrays import (
    block_mean,
    bounding_box,
    enlarge_grid,
    median,
    otsu_threshold,
    percentiles,
    row_percentiles,
)
from wbcpipe.imaging.filters import (
    diamond,
    dilation,
    disk,
    erosion,
    gaussian,
    gradient_magnitude,
    opening,
)
from wbcpipe.imaging.holes import fill_holes

#: Smaller than the filter, odd, one block, several blocks and a remainder.
SHAPES = [(3, 5), (1, 40), (96, 97), (130, 224), (301, 150)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sigma_px", [0.3, 1.0, 2.5, 10.0])
def test_gaussians(shape: tuple[int, int], sigma_px: float) -> None:
    values = np.random.default_rng(0).random(shape).astype(np.float32)
    mirrored, alone = gaussian(values, sigma_px), gaussian(values, sigma_px, 3.0, mirror=False)
    assert mirrored == pytest.approx(ndimage.gaussian_filter(values, sigma_px), abs=3e-6)
    assert alone == pytest.approx(
        ndimage.gaussian_filter(values, sigma_px, mode="constant", truncate=3.0), abs=3e-6
    )
    assert gradient_magnitude(values, sigma_px) == pytest.approx(
        ndimage.gaussian_gradient_magnitude(values, sigma_px), abs=3e-6
    )


def test_gaussians_of_a_stack_and_of_a_window() -> None:
    stack = np.random.default_rng(1).integers(0, 65535, (3, 120, 140)).astype(np.uint16)
    assert gaussian(stack, 2.0) == pytest.approx(
        ndimage.gaussian_filter(stack.astype(float), (0, 2, 2)), rel=1e-5
    )
    window = stack[0].astype(np.float32)[5:110, 7:135]
    assert gaussian(window, 2.0) == pytest.approx(ndimage.gaussian_filter(window, 2.0), rel=1e-5)


@pytest.mark.parametrize("radius_px", [1.0, 1.5, 3.0, 12.5])
def test_what_lies_within_a_radius(radius_px: float) -> None:
    mask = np.random.default_rng(2).random((50, 61)) < 0.03
    away = np.asarray(ndimage.distance_transform_edt(~mask))
    assert np.array_equal(dilation(mask, disk(radius_px)), away <= radius_px)
    # A hole of one pixel, far from the border.
    solid = np.ones((60, 60), bool)
    solid[30, 25] = False
    inner = np.asarray(ndimage.distance_transform_edt(solid)) > radius_px
    assert np.array_equal(erosion(solid, disk(radius_px), border_value=True), inner)


@pytest.mark.parametrize(
    ("shape", "border"), [(disk(2.0), 0), (disk(2.0), 1), (diamond(3), 0), (diamond(3), 1)]
)
def test_openings(shape: tuple[int, ...], border: int) -> None:
    mask = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(70, 80)), 2) > -0.05
    reach = len(shape) - 1
    element = np.zeros((2 * reach + 1, 2 * reach + 1), bool)
    for row in range(-reach, reach + 1):
        element[row + reach, reach - shape[abs(row)] : reach + shape[abs(row)] + 1] = True
    eroded = ndimage.binary_erosion(mask, element, border_value=border)
    assert 0 < eroded.sum() < mask.sum()
    assert np.array_equal(
        opening(mask, shape, border_value=bool(border)), ndimage.binary_dilation(eroded, element)
    )


def test_holes_and_their_size() -> None:
    mask = ndimage.gaussian_filter(np.random.default_rng(4).normal(size=(60, 60)), 1) > -0.2
    filled = ndimage.binary_fill_holes(mask)
    assert np.array_equal(fill_holes(mask), filled)
    labels, count = ndimage.label(filled & ~mask)
    small = [k for k in range(1, count + 1) if (labels == k).sum() <= 4]
    assert 0 < len(small) < count
    assert np.array_equal(fill_holes(mask, 4), mask | np.isin(labels, small))


@pytest.mark.parametrize("number", [1, 2, 1000, 40_001])
def test_percentiles(number: int) -> None:
    values = np.random.default_rng(5).normal(size=number).astype(np.float32)
    wanted = (75.0, 0.0, 50.0, 99.9, 100.0)
    assert percentiles(values, *wanted) == pytest.approx(
        np.percentile(values, wanted).tolist(), rel=1e-5, abs=1e-6
    )


@pytest.mark.parametrize("kind", ["spread", "few values", "ordered", "counts", "constant"])
def test_percentiles_of_many_values_are_exact(kind: str) -> None:
    rng = np.random.default_rng(8)
    drawn = rng.normal(size=30_011).astype(np.float32)
    values = {
        "spread": drawn,
        "few values": np.rint(drawn),
        "ordered": np.sort(drawn),
        "counts": rng.integers(0, 65536, 30_011).astype(np.uint16),
        "constant": np.ones(30_011, np.float32),
    }[kind]
    ordered = np.sort(values)
    for rank in (0, 1, 700, 15_005, 29_999, 30_010):  # a rank is an exact percentile
        assert percentiles(values, 100 * rank / 30_010)[0] == pytest.approx(
            float(ordered[rank]), rel=1e-6
        )
    for some in (values, values[1:], values[:7], values[:8]):
        assert median(some) == np.median(some)


@pytest.mark.parametrize("number", [1, 2, 7, 64])
def test_percentiles_of_rows(number: int) -> None:
    values = np.random.default_rng(9).normal(size=(5, 6, number)).astype(np.float32)
    for percentage in (0.0, 33.3, 85.0, 100.0):
        expected = np.percentile(values, percentage, axis=-1)  # other versions round otherwise
        np.testing.assert_allclose(row_percentiles(values, percentage), expected, 1e-6, 1e-6)


def test_thresholds() -> None:
    rng = np.random.default_rng(6)
    for apart in (
        3.0,
        4.0,
        5.0,
    ):  # further apart there is a gap; scikit-image takes its lower end, we its middle
        values = np.concatenate([rng.normal(0, 1, 4000), rng.normal(apart, 1, 900)])
        assert otsu_threshold(values) == pytest.approx(float(threshold_otsu(values)), abs=0.1)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("factor", [1, 2, 3, 5])
def test_block_means(factor: int) -> None:
    image = np.random.default_rng(7).integers(0, 65535, (2, 31, 44)).astype(np.uint16)
    short = [(0, -side % factor) for side in image.shape[1:]]
    padded = np.pad(image, [(0, 0), *short], mode="edge").astype(float)
    rows, columns = (side // factor for side in padded.shape[1:])
    wanted = padded.reshape(2, rows, factor, columns, factor).mean((2, 4))
    assert block_mean(image, factor) == pytest.approx(wanted, rel=1e-5)
    assert block_mean(image[0], factor) == pytest.approx(wanted[0], rel=1e-5)


def test_a_grid_between_its_nodes() -> None:
    grid = np.random.default_rng(8).random((4, 7)).astype(np.float32)
    nodes = [
        (np.arange(n) + 0.5) * side / n - 0.5 for n, side in zip(grid.shape, (50, 91), strict=True)
    ]
    across = np.array([np.interp(np.arange(91), nodes[1], row) for row in grid])
    wanted = np.array([np.interp(np.arange(50), nodes[0], column) for column in across.T]).T
    assert enlarge_grid(grid, (50, 91)) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("place", [(0, 0), (40, 90), (99, 119)])
def test_boxes_hold_the_mask_its_margin_and_are_of_few_sizes(place: tuple[int, int]) -> None:
    mask = np.zeros((100, 120), bool)
    mask[place] = True
    box: Any = bounding_box(mask, 9)
    assert mask[box].sum() == 1
    assert [side % 16 for side in mask[box].shape] == [0, 0]
    assert max(mask[box].shape) <= 32
    for at, side, length in zip(place, box, mask.shape, strict=True):
        assert side.start <= max(0, at - 9)
        assert side.stop >= min(length, at + 10)
