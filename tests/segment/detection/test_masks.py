from __future__ import annotations

import numpy as np
import pytest

from wbcpipe.samples.cell_columns import QcFlag
from wbcpipe.segment.detection.masks import CropNuclei, cell_mask
from wbcpipe.segment.features.crop_quality import (
    empty_modality,
    find_debris,
    focus_measure,
    saturated_share,
)

SIDE = 224


def cell(draw, lobes, *, body: float = 55.0, extra=()):  # type: ignore[no-untyped-def]
    """Nuclear channel and one bright-field frame of a cell, with 0.1 um a pixel."""
    rng = np.random.default_rng(0)
    nuclear = 300 + draw(
        (SIDE, SIDE), [(112, 112, body, 1500), *[(*lobe, 15000) for lobe in lobes]]
    )
    bright = 40000 - draw((SIDE, SIDE), [(112, 112, body, 5000), *extra])
    noise = rng.normal(0, 1, (2, SIDE, SIDE))
    return (nuclear + 30 * noise[0]).astype(np.uint16), (bright + 150 * noise[1]).astype(np.uint16)[
        None
    ]


@pytest.mark.parametrize(
    "lobes",
    [
        [(112, 112, 32)],
        [(95, 95, 16), (95, 130, 16), (130, 112, 17)],
        [(112, 85, 24), (112, 140, 24)],
    ],
    ids=["round", "three lobes", "two lobes"],
)
def test_nucleus_and_body(draw, lobes) -> None:  # type: ignore[no-untyped-def]
    nuclear, bright = cell(draw, lobes)
    mask = cell_mask(nuclear, bright, 0.1)
    y, x = np.mgrid[:SIDE, :SIDE]
    body = np.hypot(y - 112, x - 112) < 55
    nucleus = np.any([np.hypot(y - a, x - b) < r for a, b, r in lobes], axis=0)
    for ours, truth in ((mask > 0, body), (mask == 2, nucleus)):
        assert (ours & truth).sum() / (ours | truth).sum() > 0.85


def test_a_red_cell_beside_it_is_not_part_of_it(draw) -> None:  # type: ignore[no-untyped-def]
    nuclear, bright = cell(draw, [(112, 112, 32)], extra=[(112, 205, 37, 18000)])
    mask = cell_mask(nuclear, bright, 0.1)
    assert mask[112, 205] == 0
    assert np.count_nonzero(mask) * 0.01 == pytest.approx(np.pi * 5.5**2, rel=0.15)


def test_lobes_far_apart_are_of_one_nucleus_where_they_were_found_to_be(draw) -> None:  # type: ignore[no-untyped-def]
    lobes = [(112, 82, 15), (112, 144, 14)]
    nuclear, bright = cell(draw, lobes)
    y, x = np.mgrid[:SIDE, :SIDE]
    found = np.any([np.hypot(y - a, x - b) < r for a, b, r in lobes], axis=0)
    mask = cell_mask(nuclear, bright, 0.1, nuclei=CropNuclei(own=found))
    assert mask[112, 82] == mask[112, 144] == 2
    assert cell_mask(nuclear, bright, 0.1)[112, 144] != 2


def test_dense_clumps_do_not_hide_the_rest_of_a_nucleus(draw) -> None:  # type: ignore[no-untyped-def]
    nuclear, bright = cell(draw, [(112, 112, 34), (100, 105, 12), (125, 118, 12)])
    nuclear += (30000 * (draw((SIDE, SIDE), [(100, 105, 12, 1), (125, 118, 12, 1)]))).astype(
        np.uint16
    )
    y, x = np.mgrid[:SIDE, :SIDE]
    nucleus = np.hypot(y - 112, x - 112) < 34
    mask = cell_mask(nuclear, bright, 0.1) == 2
    assert 2 * (mask & nucleus).sum() / (mask.sum() + nucleus.sum()) > 0.93


def test_a_neighbours_nucleus_is_left_to_it(draw) -> None:  # type: ignore[no-untyped-def]
    nuclear, bright = cell(draw, [(112, 112, 28), (112, 185, 28)])
    y, x = np.mgrid[:SIDE, :SIDE]
    mask = cell_mask(
        nuclear, bright, 0.1, nuclei=CropNuclei(others=np.hypot(y - 112, x - 185) < 30)
    )
    assert mask[112, 185] == 0
    assert mask[112, 112] == 2


def test_slivers_of_dense_cytoplasm_are_no_lobes_and_a_ring_stays_open() -> None:
    y, x = np.mgrid[:SIDE, :SIDE]
    from_middle = np.hypot(y - 112, x - 112)
    ring = (from_middle > 14) & (from_middle < 36)
    crescent = (from_middle > 47) & (from_middle < 51) & (x > 112) & (abs(y - 112) < 25)
    noise = np.random.default_rng(0).normal(0, 30, (SIDE, SIDE))
    nuclear = (300 + 1500 * (from_middle < 55) + 15000 * (ring | crescent) + noise).astype(
        np.uint16
    )
    bright = np.where(from_middle < 55, 30000, 40000).astype(np.uint16)[None]
    mask = cell_mask(nuclear, bright, 0.1)
    assert mask[112, 112] == 1
    assert mask[112, 161] == 1
    assert 2 * ((mask == 2) & ring).sum() / ((mask == 2).sum() + ring.sum()) > 0.93


def test_an_empty_crop_has_an_empty_mask() -> None:
    flat = np.full((SIDE, SIDE), 500, np.uint16)
    assert not cell_mask(flat, flat[None], 0.1).any()


def test_focus_falls_with_blur_and_not_with_brightness() -> None:
    from scipy import ndimage

    rough = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(SIDE, SIDE)), 3)
    mask = np.full((SIDE, SIDE), 2, np.uint8)
    values = [
        focus_measure(
            (
                20000 * gain + 3000 * gain * ndimage.gaussian_filter(rough, sigma) / rough.std()
            ).astype(np.uint16),
            mask,
            0.1,
        )
        for gain, sigma in ((1, 0), (0.5, 0), (1, 4), (1, 9))
    ]
    assert values[1] == pytest.approx(values[0], rel=0.02)
    assert values[0] > values[2] > values[3]
    assert focus_measure(np.zeros((SIDE, SIDE), np.uint16), np.zeros_like(mask), 0.1) == 0


def test_saturation_and_empty_modalities() -> None:
    frames = np.random.default_rng(0).integers(100, 200, (2, 128, 128)).astype(np.uint16)
    assert not empty_modality(frames)
    frames[1, 40:50, 40:50] = 4095
    assert saturated_share(frames, 4095, (45.0, 45.0), 20.0) == pytest.approx(
        100 / (np.pi * 400), rel=0.05
    )
    assert saturated_share(frames, 65535, (45.0, 45.0), 20.0) == 0
    frames[0] = 7
    assert empty_modality(frames)


def _sample_of(*odd: tuple[float, float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Absorbance (N, 3) and fluorescence (N,) of 20 usual nuclei and of some odd ones."""
    rng = np.random.default_rng(0)
    usual = np.column_stack([rng.normal(0.025, 0.004, (20, 3)), rng.uniform(9000, 20000, 20)])
    values = np.vstack([usual, np.array(odd).reshape(-1, 4)]).astype(np.float32)
    return values[:, :3], values[:, 3]


@pytest.mark.parametrize(
    ("odd", "told"),
    [
        ((0.38, 0.29, 0.26, 5000), True),  # dust that shines
        ((0.38, 0.29, 0.26, 20000), False),  # dust on a nucleus
        ((0.38, 0.09, 0.04, 5000), False),  # a dim nucleus under a red cell
        ((0.004, 0.005, 0.004, 4000), True),  # a smudge
        ((0.09, 0.03, 0.006, 4000), True),  # a smudge beside a red cell
        ((0.004, 0.005, 0.004, 20000), False),  # measured against too dark a background
        ((0.07, 0.07, 0.07, 4000), False),  # a dim nucleus that is somewhat dense
        ((0.016, 0.016, 0.016, 4000), False),  # or somewhat clear
        ((0.38, 0.29, 0.26, 8500), False),  # too bright for dirt
        ((np.nan, 0.29, 0.26, 5000), True),
        ((0.38, np.nan, np.nan, 5000), False),  # one modality alone may be what a red cell darkens
        ((np.nan, np.nan, np.nan, 5000), False),
        ((0.38, 0.29, 0.26, np.nan), False),
    ],
)
def test_dirt_and_smudges_are_no_nuclei(odd: tuple[float, float, float, float], told: bool) -> None:
    absorbance, fluorescence = _sample_of(odd)
    assert find_debris(absorbance, fluorescence, np.zeros(21, np.uint16)).tolist() == [
        False
    ] * 20 + [told]


def test_what_is_usual_is_told_by_cells_that_are_no_debris() -> None:
    absorbance, fluorescence = _sample_of(*[(0.38, 0.29, 0.26, 5000.0)] * 30)
    found = find_debris(absorbance, fluorescence, np.zeros(50, np.uint16)).tolist()
    assert found == [False] * 20 + [True] * 30, "though most of it is dirt"
    quality = np.repeat([0, int(QcFlag.DEBRIS), 0], [20, 29, 1]).astype(np.uint16)
    assert find_debris(absorbance, fluorescence, quality).tolist() == [False] * 20 + [True] * 30
    quality[-1] = int(QcFlag.DEBRIS)
    for n_usual, told in ((7, False), (8, True)):
        few = slice(20 - n_usual, None)
        assert find_debris(absorbance[few], fluorescence[few], quality[few])[-1] == told


def test_dense_is_what_lies_far_beyond_the_spread_of_nuclei() -> None:
    rng = np.random.default_rng(0)
    absorbance = rng.normal(0.025, 0.012, (200, 3)).astype(np.float32)
    fluorescence = np.full(200, 15000, np.float32)
    fluorescence[:2] = 5000
    absorbance[0], absorbance[1] = 0.085, 0.13
    assert np.flatnonzero(
        find_debris(absorbance, fluorescence, np.zeros(200, np.uint16))
    ).tolist() == [1]


def test_nuclei_that_stop_next_to_no_light_are_not_told_by_it() -> None:
    rng = np.random.default_rng(0)
    absorbance = rng.normal(0.002, 0.004, (2000, 3)).astype(np.float32)
    fluorescence = np.where(rng.random(2000) < 0.2, 4000, 15000).astype(np.float32)
    fluorescence[:2], absorbance[0], absorbance[1] = 4000, 0.1, 0.04
    told = find_debris(absorbance, fluorescence, np.zeros(2000, np.uint16))
    assert told[0]
    assert not told[1], "twenty times next to nothing is next to nothing"
    assert np.count_nonzero(told) <= 20, (
        "one in a hundred at most, of cells that are noise in bright field"
    )


def test_a_modality_that_is_absent_from_all_has_no_say() -> None:
    absorbance, fluorescence = _sample_of((0.38, 0.29, 0.26, 5000))
    absorbance[:, 1] = np.nan
    assert find_debris(absorbance, fluorescence, np.zeros(21, np.uint16)).tolist() == [
        False
    ] * 20 + [True]
    absorbance[:] = np.nan
    assert not find_debris(absorbance, fluorescence, np.zeros(21, np.uint16)).any()
