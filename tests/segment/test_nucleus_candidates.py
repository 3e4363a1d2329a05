"""Objects that a nuclear filter answers to: which of them are nuclei."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from wbcpipe.segment.nucleus_candidates import MEASURES, find_candidates, nucleus_score
from wbcpipe.segment.stain_filter import density_in_nuclei

if TYPE_CHECKING:
    from numpy.typing import NDArray

UM = 0.3
PINK, BLUE_GREY, NUCLEUS = (0.06, 0.13, 0.16), (0.30, 0.25, 0.16), (0.30, 0.42, 0.10)


def drawn(
    *disks: tuple[float, float, float, tuple[float, float, float]], noise: float = 0.005
) -> NDArray[np.float32]:
    """Densities (3, 200, 300) of disks (y, x, radius) in um, each of a colour, at 0.3 um a
    pixel.
    """
    y, x = np.mgrid[:200, :300] * UM
    density = np.random.default_rng(0).normal(0, noise, (3, 200, 300))
    for cy, cx, radius, colour in disks:
        density += (np.hypot(y - cy, x - cx) < radius) * np.array(colour)[:, None, None]
    return density.astype(np.float32)


def red_cells(
    colour: tuple[float, float, float],
) -> list[tuple[float, float, float, tuple[float, float, float]]]:
    return [
        (8.0 + 9 * i, 8.0 + 9 * j, 3.6, colour)
        for i in range(6)
        for j in range(9)
        if (i, j) != (2, 4)
    ]


def bright(found: NDArray[np.float32], y_um: float, x_um: float) -> float:
    return float(found[round(y_um / UM), round(x_um / UM)])


@pytest.mark.parametrize(
    "red", [PINK, BLUE_GREY, (0.5, 0.35, 0.2)], ids=["pink", "blue-grey", "denser than nuclei"]
)
@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_only_the_nucleus_remains(red: tuple[float, float, float], strength: float) -> None:
    own = tuple(strength * part for part in NUCLEUS)
    found = density_in_nuclei(drawn(*red_cells(red), (26.0, 44.0, 4.2, own)), UM)  # type: ignore[arg-type]
    level = bright(found, 26.0, 44.0)
    assert level > 0.1
    assert max(bright(found, y, x) for y, x, _, _ in red_cells(red)) < 0.45 * level


@pytest.mark.parametrize("red", [PINK, (0.1, 0.2, 0.2), (0.2, 0.19, 0.14)])
def test_nothing_is_left_of_red_cells_alone(red: tuple[float, float, float]) -> None:
    assert not density_in_nuclei(drawn(*red_cells(red)), UM).any()


def test_nothing_is_left_of_glass_and_of_pixels_that_show_no_specimen() -> None:
    assert not density_in_nuclei(drawn(noise=0.0), UM).any()
    cell = drawn(*red_cells(PINK), (26.0, 44.0, 4.2, NUCLEUS))
    assert not density_in_nuclei(cell, UM, np.ones(cell.shape[1:], bool)).any()


def test_lobes_are_one_candidate_and_what_is_measured_is_in_its_range() -> None:
    lobes = ((26.0, 41.5, 2.1, NUCLEUS), (26.0, 47.0, 2.1, NUCLEUS), (30.5, 44.2, 2.1, NUCLEUS))
    density = drawn(*red_cells(PINK), *lobes)
    weights = np.array([1.0, 1.0, -1.4])
    answer = np.tensordot(weights, density, 1).astype(np.float32)
    found = find_candidates(answer, density, density.sum(0) > 0.12, weights, UM)
    assert len(found.peaks) == 1
    low, high = np.array(list(MEASURES.values())).T
    assert np.all((found.measures >= low) & (found.measures <= high))
    assert nucleus_score(found.measures)[0] > 0
