from __future__ import annotations

import numpy as np
import pytest

from wbcpipe.segment.detection.mask_exclusions import above_background, background_and_red_cell_mask
from wbcpipe.segment.detection.masks import cell_mask

SIDE = 224
#: Optical density of a stained smear in red, green and blue.
NUCLEUS, CYTOPLASM, RED_CELL = (0.55, 0.6, 0.1), (0.05, 0.1, 0.03), (0.05, 0.16, 0.2)


def disc(row: float, column: float, radius: float) -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE]
    return np.asarray(np.hypot(y - row, x - column) < radius)


def smear(
    cytoplasm: tuple[float, float, float] = CYTOPLASM,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nuclear density, colour planes and body of a cell with 0.1 um a pixel.

    A red cell lies broadly against it.
    """
    rng = np.random.default_rng(0)
    body, nucleus = disc(112, 112, 60), disc(112, 112, 32)
    density = np.zeros((3, SIDE, SIDE))
    for where, colour in (
        (disc(112, 178, 38) | disc(20, 30, 36) | disc(200, 190, 36) | disc(205, 20, 36), RED_CELL),
        (body, cytoplasm),
        (nucleus, NUCLEUS),
    ):
        density[:, where] = np.array(colour)[:, None]
    planes = 52000 * 10**-density * (1 + 0.01 * rng.normal(size=density.shape))
    nuclear = (
        32767 * np.maximum(density[0] + density[1] - 2 * density[2], 0)
        + 60 * rng.normal(size=body.shape)
        + 300
    )
    return nuclear.clip(0).astype(np.uint16), planes.astype(np.uint16), body


def test_a_red_cell_that_clings_broadly_is_left_out() -> None:
    nuclear, planes, body = smear()
    mask = cell_mask(nuclear, planes, 0.1, empty=np.full(3, 52000.0)) > 0
    assert (mask & body).sum() / (mask | body).sum() > 0.93
    assert not mask[112, 185:].any()


def test_the_background_need_not_be_told() -> None:
    nuclear, planes, body = smear()
    for empty in (None, np.full(3, np.nan)):
        mask = cell_mask(nuclear, planes, 0.1, empty=empty) > 0
        assert (mask & body).sum() / (mask | body).sum() > 0.93


def test_granules_of_another_colour_are_not_foreign() -> None:
    density = np.zeros((3, 112, 112), np.float32)
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:112, :112]
    from_middle_um = np.hypot(y - 55.5, x - 55.5) * 0.2
    density[:, (y < 20) | (y > 95)] = np.array(RED_CELL, np.float32)[:, None]
    density[:, from_middle_um < 6] = np.array(CYTOPLASM, np.float32)[:, None]
    granules = (np.hypot(y - 55.5, x - 78) < 7) & (from_middle_um < 6)
    density[:, granules] = np.array((0.02, 0.45, 0.25), np.float32)[:, None]
    density += 0.005 * rng.normal(size=density.shape).astype(np.float32)
    distance_um = np.maximum(from_middle_um - 3, 0)
    found = background_and_red_cell_mask(density, distance_um, 0.2)
    assert not found[granules].any()
    assert found[(y < 14) & (from_middle_um > 7)].mean() > 0.95


@pytest.mark.parametrize("planes", [0, 1], ids=["no bright field", "nothing but a cell"])
def test_nothing_is_told_without_anything_to_learn_from(planes: int) -> None:
    distance_um = np.zeros((64, 64))
    assert not background_and_red_cell_mask(
        np.full((planes, 64, 64), 0.1, np.float32), distance_um, 0.2
    ).any()
    assert not above_background(
        np.ones((64, 64), np.float32),
        np.zeros((planes, 64, 64), np.float32),
        distance_um,
        0.2,
        distance_um > 1,
    ).any()


def test_faint_cytoplasm_glows_above_the_dye_between_red_cells() -> None:
    y, x = np.mgrid[:112, :112]
    from_middle_um = np.hypot(y - 55.5, x - 55.5) * 0.2
    rng = np.random.default_rng(2)
    nuclear = 500 + 200.0 * (from_middle_um < 6) - 250.0 * ((y < 20) & (from_middle_um > 7))
    nuclear += 20 * rng.normal(size=nuclear.shape)
    density = np.where((y < 20) & (from_middle_um > 7), 0.3, 0.0)[None].astype(np.float32)
    found = above_background(
        nuclear.astype(np.float32),
        density,
        np.maximum(from_middle_um - 3, 0),
        0.2,
        np.zeros((112, 112), bool),
    )
    assert found[from_middle_um < 5.5].all()
    assert not found[from_middle_um > 7].any()
