"""Crowded and clumped nuclei in fluorescence: found, or flagged and told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import ndimage

from wbcpipe.samples.cell_columns import QcFlag
from wbcpipe.segment.detection.detect import Detections, detect_cells

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

PIXEL_UM = 0.2
BRIGHT = 18000.0


def found_in(picture: NDArray[np.float32], pixel_um: float = PIXEL_UM) -> Detections:
    noise = np.random.default_rng(0).normal(0, 150, picture.shape)
    return detect_cells(
        np.clip(picture + 900 + noise, 0, 65535).astype(np.uint16), pixel_um, "fluorescence"
    )


def lattice(
    pitch_um: float, side_um: float, radius_um: float
) -> list[tuple[float, float, float, float]]:
    steps = np.arange(pitch_um / 2, side_um, pitch_um) / PIXEL_UM
    rng = np.random.default_rng(1)
    return [
        (
            y + rng.normal(0, 2),
            x + rng.normal(0, 2),
            radius_um / PIXEL_UM,
            BRIGHT * rng.uniform(0.6, 1.4),
        )
        for y in steps
        for x in steps
    ]


@pytest.mark.parametrize(("pitch_um", "radius_um"), [(9.0, 3.5), (8.0, 3.2), (12.0, 4.5)])
def test_nuclei_that_cover_a_third_of_the_field_and_more_are_found(
    draw: Callable[..., NDArray[np.float32]], pitch_um: float, radius_um: float
) -> None:
    nuclei = lattice(pitch_um, 60.0, radius_um)
    found = found_in(draw((300, 300), nuclei))
    distance = np.hypot(
        *(np.stack([found.y_px, found.x_px])[:, None] - np.array(nuclei)[:, :2].T[..., None])
    )
    assert np.count_nonzero(distance.min(1) < radius_um / PIXEL_UM) >= 0.9 * len(nuclei)
    assert found.unassigned_um2 < 0.02 * 60.0**2


@pytest.mark.parametrize("count", [9, 12, 19])
def test_a_clump_is_flagged(draw: Callable[..., NDArray[np.float32]], count: int) -> None:
    """Nuclei that overlap by half have no necks between them."""
    rng = np.random.default_rng(count)
    clump = [(150 + rng.normal(0, 20), 150 + rng.normal(0, 20), 18, BRIGHT) for _ in range(count)]
    flat = np.minimum(
        draw((300, 600), [*clump, (60, 450, 18, BRIGHT), (230, 520, 18, BRIGHT)]), BRIGHT
    )
    found = found_in(flat)
    near = np.hypot(found.y_px - 150, found.x_px - 150) < 60
    assert near.sum() < count
    assert ((found.quality[near] & QcFlag.CLUMP) > 0).any()
    assert not (found.quality[~near] & QcFlag.CLUMP).any()


@pytest.mark.parametrize("others", [0, 10], ids=["alone", "beside ten"])
@pytest.mark.parametrize(
    "places",
    [
        [(0, 0), (0, 25), (0, 50)],
        [(0, 0), (10, 23), (33, 27), (50, 10)],
        [(0, 0), (14, 20), (0, 40), (14, 60)],
    ],
    ids=["row", "arc", "zigzag"],
)
def test_a_small_clump_is_parted_or_flagged(
    draw: Callable[..., NDArray[np.float32]], places: list[tuple[int, int]], others: int
) -> None:
    """Nuclei of 3 um radius that overlap so far that there are no narrow necks between them."""
    clump = [(80 + y, 80 + x, 15, BRIGHT) for y, x in places]
    single = [(60 + 60 * (k // 5), 260 + 60 * (k % 5), 15, BRIGHT) for k in range(others)]
    found = found_in(np.minimum(draw((220, 620), clump + single), BRIGHT))
    near = found.x_px < 180
    flagged = (found.quality & QcFlag.CLUMP) > 0
    assert near.sum() == len(places) or flagged[near].any()
    assert not flagged[~near].any()


def test_large_and_segmented_nuclei_are_no_clumps(draw: Callable[..., NDArray[np.float32]]) -> None:
    """Ten lymphocytes, two monocytes three times as large, and a nucleus of three lobes."""
    single = [(50 + 60 * (k // 5), 50 + 60 * (k % 5), 17, BRIGHT) for k in range(10)]
    lobes = [(220, 80, 8, BRIGHT), (222, 98, 8, BRIGHT), (238, 90, 8, BRIGHT)]
    found = found_in(
        np.minimum(
            draw((300, 520), [*single, (80, 420, 29, BRIGHT), (220, 430, 28, BRIGHT), *lobes]),
            BRIGHT,
        )
    )
    assert len(found) >= 13
    assert not (found.quality & QcFlag.CLUMP).any()


def test_nuclei_of_other_people(shared_data: Path) -> None:
    """T cells at 0.377 um, of which none of 24 was found."""
    import tifffile

    folder = shared_data / "crowded_nuclei"
    nuclear, labels = (
        tifffile.imread(folder / "tcells.tif")[2],
        tifffile.imread(folder / "nuclei.tif"),
    )
    found = detect_cells(nuclear, 0.377, "fluorescence")
    hit = labels[np.round(found.y_px).astype(int), np.round(found.x_px).astype(int)]
    true = np.unique(labels[labels > 0])
    sizes = ndimage.sum_labels(labels > 0, labels, true) * 0.377**2
    assert len(np.intersect1d(hit, true)) >= 20
    # Slivers at the border are no cells.
    assert np.isin(true[sizes > 14], hit).mean() >= 0.9
    assert found.unassigned_um2 < 0.02 * nuclear.size * 0.377**2


def test_nuclei_too_dim_or_too_small_for_a_cell_are_told_as_area(
    draw: Callable[..., NDArray[np.float32]],
) -> None:
    small = [(24 + 42 * k, 24 + 42 * j, 6, BRIGHT) for k in range(7) for j in range(7)]
    found = found_in(draw((300, 300), small))
    assert (found.quality & QcFlag.DEBRIS).all()
    assert found.unassigned_um2 > 0.04 * 60.0**2


def test_an_empty_field_has_no_area_unassigned(draw: Callable[..., NDArray[np.float32]]) -> None:
    assert found_in(draw((300, 300), [])).unassigned_um2 < 1
