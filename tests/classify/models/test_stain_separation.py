"""One smear as two laboratories stain and photograph it looks alike once its stain is separated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from wbcpipe.classify.models.normalise import fit_normalisation
from wbcpipe.classify.models.stain_separation import (
    BACKGROUND_LEVEL,
    CONTRAST,
    MIN_DENSITY,
    MIN_RESIDUAL,
    separate_stain,
)
from wbcpipe.classify.training.data import CellSet
from wbcpipe.classify.training.recipe import Recipe, with_defaults_for
from wbcpipe.classify.training.train_and_validate import select_modality
from wbcpipe.errors import TrainingDataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 64
NAMES = ("color1", "color2", "color3", "fluorescence")


def smear(
    nucleus: tuple[float, float, float],
    eosin: tuple[float, float, float],
    lamp: tuple[float, float, float] = (50_000, 52_000, 48_000),
) -> NDArray[np.uint16]:
    """A cell (3, side, side): a nucleus of density 1, eosinophilic granules of 2 around it, red
    cells of 1 at the rim.

    Each dye has its optical density in red, green and blue.
    """
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    radius = np.hypot(y, x)
    dye = (radius < 11).astype(float)
    granules = 2.0 * ((radius >= 11) & (radius < 13))
    red_cells = (np.hypot(np.abs(y) - 26, np.abs(x) - 26) < 10).astype(float)
    density = np.multiply.outer(nucleus, dye) + np.multiply.outer(eosin, granules + red_cells)
    light = np.array(lamp)[:, None, None] * np.exp(-density)
    rounded: NDArray[np.uint16] = np.round(light).astype(np.uint16)
    return rounded


VIOLET = smear((1.2, 1.5, 0.6), (0.0, 0.3, 0.9))
BLUE = smear((0.5, 0.7, 0.02), (0.0, 0.4, 0.9), lamp=(30_000, 20_000, 26_000))


def test_two_stains_look_alike() -> None:
    one, other = separate_stain(np.stack([VIOLET, BLUE])).astype(float)
    assert np.abs(VIOLET.astype(float) - BLUE).max() > 20_000
    np.testing.assert_allclose(one[[0, 2]], other[[0, 2]], atol=60)
    middle = slice(SIDE // 2 - 3, SIDE // 2 + 3)
    for cell in (one, other):
        np.testing.assert_allclose(
            cell[:2, middle, middle], BACKGROUND_LEVEL * np.exp(-CONTRAST), rtol=2e-3
        )
        np.testing.assert_allclose(cell[2, middle, middle], BACKGROUND_LEVEL, rtol=2e-3)
        np.testing.assert_allclose(cell[:, SIDE // 2, 0], BACKGROUND_LEVEL, rtol=1e-3)
        # Red cells have half the density of a nucleus, granules twice that of red cells.
        np.testing.assert_allclose(
            cell[2, 6, 6], BACKGROUND_LEVEL * np.exp(-CONTRAST / 2), rtol=2e-3
        )
        np.testing.assert_allclose(
            cell[2, SIDE // 2, SIDE // 2 + 12], BACKGROUND_LEVEL * np.exp(-CONTRAST), rtol=2e-3
        )


def test_pale_red_cells_are_not_amplified() -> None:
    """Without red cells, faint granules would become those of an eosinophil."""
    (found,) = separate_stain(smear((1.2, 1.2, 0.6), (0.0, 0.1, 0.3))[None])
    expected = np.exp(-CONTRAST * 0.3 / (2 * MIN_RESIDUAL * 1.2))
    np.testing.assert_allclose(found[2, 6, 6], BACKGROUND_LEVEL * expected, rtol=2e-3)


def test_levels_may_be_measured_on_a_coarse_grid() -> None:
    images = np.stack([VIOLET, BLUE])
    exact, coarse = (separate_stain(images, step).astype(float) for step in (1, 2))
    np.testing.assert_allclose(exact, coarse, atol=60)


@pytest.mark.parametrize("level", [0, 1, 40_000, 65_535])
def test_an_empty_crop_stays_quiet(level: int) -> None:
    found = separate_stain(np.full((2, 3, SIDE, SIDE), level, np.uint16))
    assert (found == BACKGROUND_LEVEL).all()


def test_noise_without_a_nucleus_is_not_amplified() -> None:
    noise = np.random.default_rng(0).normal(40_000, 200, (1, 3, SIDE, SIDE)).astype(np.uint16)
    found = separate_stain(noise)[:, :2].astype(float)
    assert found.std() < 1.25 * CONTRAST / MIN_DENSITY * 200


def cells(images: NDArray[np.uint16]) -> CellSet:
    return CellSet(
        images=images,
        labels=np.arange(len(images)) % 2,
        groups=np.arange(len(images)),
        classes=("NEU", "LYM"),
        modalities=NAMES,
        planes=1,
        pixel_um=0.1,
        source="stained-rgb",
        derived=("fluorescence",),
    )


def stained() -> CellSet:
    dark = 60_000 - VIOLET[:1]
    return cells(
        np.stack([np.concatenate([one, dark]) for one in (VIOLET, BLUE) for _ in range(10)])
    )


def test_the_normalisation_separates_red_green_and_blue() -> None:
    some = stained()
    normalisation = fit_normalisation(some.images, "separate")
    assert normalisation.polarity == ("separated", "separated", "separated", "dark")
    values = normalisation.apply(some.images)
    np.testing.assert_allclose(values.mean(axis=(0, 2, 3)), 0, atol=1e-3)
    np.testing.assert_allclose(values.std(axis=(0, 2, 3)), 1, atol=1e-3)
    np.testing.assert_allclose(values[0, [0, 2]], values[-1, [0, 2]], atol=0.02)
    np.testing.assert_array_equal(normalisation.separate(some.images)[:, 3], some.images[:, 3])


def test_a_network_of_one_modality_sees_what_its_student_sees() -> None:
    some = stained()
    normalisation = fit_normalisation(some.images, "separate")
    expected = normalisation.apply(some.images)
    for index, name in enumerate(NAMES):
        recipe = Recipe(method="single", modality=name, normalise="separate")
        part = select_modality(some, recipe, normalisation)
        own = normalisation.modality(index, 1)
        np.testing.assert_array_equal(own.apply(part.images), expected[:, index : index + 1])


def test_one_plane_alone_cannot_be_separated() -> None:
    with pytest.raises(TrainingDataError, match="needs 3 light planes, red, green and blue"):
        fit_normalisation(stained().images[:, :1], "separate")
    for method, expected in (("mm-mimo", "separate"), ("single", "stain")):
        assert with_defaults_for({"method": method}, "stained-rgb", 5000)["normalise"] == expected
    assert with_defaults_for({"method": "mm-mimo"}, "scope", 5000)["normalise"] == "cell"
