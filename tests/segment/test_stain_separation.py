from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from wbcpipe.segment.stain_separation import (
    background_colour,
    density_channel,
    nuclear_density,
    nuclear_stain,
    scale_16bit,
)

if TYPE_CHECKING:
    from pathlib import Path

BACKGROUND, RED_CELL, NUCLEUS, EOSIN = (
    (250, 230, 205),
    (200, 160, 150),
    (90, 50, 135),
    (185, 105, 115),
)


def picture() -> np.ndarray:
    rgb = np.empty((120, 160, 3), np.uint8)
    rgb[...] = BACKGROUND
    rgb[10:60, 10:60] = RED_CELL
    rgb[70:110, 20:60] = NUCLEUS
    rgb[70:110, 80:120] = EOSIN
    return rgb


def test_nuclei_stand_out_from_red_cells_and_granules() -> None:
    density = nuclear_density(scale_16bit(picture()))
    nucleus, others = density[90, 40], [density[30, 30], density[90, 100], density[5, 150]]
    assert nucleus > 0.5
    assert max(others) < 0.25 * nucleus


@pytest.mark.parametrize(
    "gains", [(0.5, 0.5, 0.5), (1.0, 0.8, 0.6), (0.6, 0.9, 1.1)], ids=["dark", "yellow", "blue"]
)
def test_white_balance_and_exposure_change_little(gains: tuple[float, float, float]) -> None:
    plain = nuclear_density(scale_16bit(picture()))
    changed = nuclear_density(
        scale_16bit(np.clip(picture() * np.array(gains), 0, 255).astype(np.uint8))
    )
    assert np.abs(changed - plain).max() < 0.08


def test_uneven_light_takes_nothing_from_a_nucleus_on_the_bright_side() -> None:
    side = 400
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    rgb = np.tile(np.array(BACKGROUND, float), (side, side, 1))
    # Most of what is empty lies on the dim side.
    rgb[(x > 0) & (np.sin(60 * y) > -0.7)] = RED_CELL
    inside = np.hypot(y, x - 0.7) < 0.15
    rgb[inside] = np.array([125, 95, 190])
    noise = np.random.default_rng(0).normal(0, 2, rgb.shape)
    even, uneven = (
        nuclear_density(
            scale_16bit(np.clip(rgb * light[..., None] + noise, 0, 255).astype(np.uint8))
        )
        for light in (np.full_like(x, 0.75), 0.75 + 0.25 * x)
    )
    assert np.median(uneven[inside]) > 0.9 * np.median(even[inside])


def test_background_is_the_brightest_mode_even_when_cells_fill_most() -> None:
    crowded = picture()
    crowded[:, :128] = RED_CELL
    assert background_colour(scale_16bit(crowded)) == pytest.approx(
        np.array(BACKGROUND) / 255, abs=0.01
    )


def test_sixteen_bits_are_kept() -> None:
    deep = picture().astype(np.uint16) * 257
    assert np.array_equal(
        density_channel(scale_16bit(deep)), density_channel(scale_16bit(picture()))
    )


def test_real_nuclei_are_bright_on_dark(shared_data: Path) -> None:
    for path in sorted((shared_data / "pbc5").glob("*/*.jpg"))[::150]:
        density = density_channel(scale_16bit(np.asarray(Image.open(path))))
        middle = density[150:210, 150:210]
        assert np.percentile(middle, 75) > 10 * max(float(np.median(density)), 500), path.name


@pytest.mark.parametrize(
    "factors", [(1, 1, 1), (1, 1, 2.5), (1, 0.4, 1), (1, 1, 0.4), (0.3, 0.3, 0.3)]
)
def test_nuclei_are_told_from_red_cells_whatever_the_stain_and_camera_make_of_a_colour(
    factors: tuple[float, float, float],
) -> None:
    white = np.array(BACKGROUND, float)
    seen = np.round(white * (picture() / white) ** np.array(factors)).clip(0, 255).astype(np.uint8)
    planes = scale_16bit(seen)
    channel = nuclear_stain(planes).channel(planes).astype(float)
    nuclei, red = ((picture() == np.array(colour)).all(-1) for colour in (NUCLEUS, RED_CELL))
    assert np.median(channel[nuclei]) > 3000
    assert np.median(channel[nuclei]) > 4 * np.median(channel[red])


def test_red_cells_on_each_other_are_not_taken_for_nuclei() -> None:
    white = np.array(BACKGROUND, float)
    folded = picture()
    # Twice the density, but less than twice in blue, as a camera whose colours overlap has it.
    folded[10:35, 10:60] = np.round(
        white * (np.array(RED_CELL) / white) ** np.array([2.4, 2.4, 1.3])
    )
    planes = scale_16bit(folded)
    stain = nuclear_stain(planes)
    found = stain.detection_channel(planes).astype(float)
    nuclei = np.median(found[70:110, 20:60])
    assert nuclei > 20_000
    # A nucleus must answer with 0.45 of the level of nuclei.
    assert np.median(found[10:35, 10:60]) < 0.45 * nuclei
    assert np.median(found[36:60, 10:60]) < 0.1 * nuclei


def test_a_cameras_black_is_not_more_stain() -> None:
    black = picture()
    inside = (black == np.array(NUCLEUS)).all(-1)
    half = inside & (np.indices(inside.shape).sum(0) % 2 == 0)
    black[inside] = (60, 12, 120)
    black[half] = (60, 0, 120)
    planes = scale_16bit(black)
    channel = nuclear_stain(planes).channel(planes).astype(float)
    assert np.median(channel[half]) < 1.2 * np.median(channel[inside & ~half])


def test_a_picture_of_one_colour_keeps_the_usual_share() -> None:
    planes = scale_16bit(np.tile(np.array(BACKGROUND, np.uint8), (64, 64, 1)))
    planes[:, 20:40, 20:40] = scale_16bit(np.array([[NUCLEUS]], np.uint8))
    assert np.array_equal(nuclear_stain(planes).channel(planes), density_channel(planes))
