"""Figures of a field: an edge's width is what it was made with, light and cover what was put in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from wbcpipe.segment.detection.masks import NUCLEUS
from wbcpipe.segment.features.field_quality import (
    FIELD_FIGURES,
    edge_blur_um,
    field_figures,
    stack_figures,
    with_counts,
)

PIXEL_UM = 0.1


def disc(blur_um: float, *, height: float, noise: float = 0.0) -> tuple[Any, Any]:
    y, x = np.indices((224, 224)) - 111.5
    inside = np.hypot(y, x) < 38
    image = 8000 + height * ndimage.gaussian_filter(inside.astype(float), blur_um / PIXEL_UM)
    image += np.random.default_rng(5).normal(0, noise, image.shape)
    return image.astype(np.uint16), np.where(inside, NUCLEUS, 0).astype(np.uint8)


@pytest.mark.parametrize("blur_um", [0.2, 0.4, 0.6, 0.9])
@pytest.mark.parametrize("height", [2_000.0, 30_000.0])
def test_the_width_of_an_edge_is_told_whatever_its_contrast(blur_um: float, height: float) -> None:
    assert edge_blur_um(*disc(blur_um, height=height), PIXEL_UM) == pytest.approx(blur_um, rel=0.1)
    noisy = edge_blur_um(*disc(blur_um, height=height, noise=height / 50), PIXEL_UM)
    assert noisy == pytest.approx(blur_um, rel=0.15)


def test_a_blur_wider_than_can_be_told_and_a_crop_without_a_nucleus() -> None:
    image, mask = disc(4.0, height=5_000.0)
    assert edge_blur_um(image, mask, PIXEL_UM) > 1.0
    assert np.isnan(edge_blur_um(image, np.zeros_like(mask), PIXEL_UM))


def frames(*, light: float = 30_000.0, cover: float = 0.0, saturated: float = 0.0) -> Any:
    rng = np.random.default_rng(1)
    field = rng.normal(light, 100, (3, 400, 400))
    field[:, : round(400 * cover)] *= 0.7
    field[2] = 200.0
    field[1, :, : round(400 * saturated)] = 65535
    return field.astype(np.uint16)


def figures(field: Any, *, camera: bool = True) -> dict[str, Any]:
    shading = np.ones((3, 5, 5), np.float32)
    return field_figures(field, reference=2, shading=shading, full_range=65535, camera=camera)


@pytest.mark.parametrize(
    ("white_cells", "side_um", "cover", "per_mm2", "per_100_red"),
    [
        (3, 200.0, 0.4, 50.0, 0.5682),
        (61, 200.0, 0.4, 1500.0, 25.6),
        (2, 36.0, 0.4, 771.605, np.nan),
    ],
    ids=["a film", "every fourth cell white", "a field with few red cells"],
)
def test_white_cells_are_compared_with_field_and_red_cells(
    white_cells: int, side_um: float, cover: float, per_mm2: float, per_100_red: float
) -> None:
    found = with_counts(
        figures(frames(cover=cover)),
        white_cells=white_cells,
        white_um2=90.0 * white_cells,
        field_um2=side_um**2,
        unassigned_um2=0.01 * side_um**2,
    )
    assert found["cells_per_mm2"] == pytest.approx(per_mm2, rel=1e-3)
    assert found["white_per_100_red"] == pytest.approx(per_100_red, rel=0.06, nan_ok=True)
    assert found["unassigned_fluorescence_percent"] == pytest.approx(1.0)


def test_light_cover_and_overexposure_of_a_field() -> None:
    usual = figures(frames(cover=0.4))
    assert set(usual) == set(FIELD_FIGURES)
    assert usual["red_cover_percent"] == pytest.approx(40, abs=1)
    assert usual["background_percent"][:2] == pytest.approx(100 * 30_000 / 65535, rel=0.01)
    assert np.isnan(usual["background_percent"][2])
    assert usual["saturated_percent"].tolist() == [0, 0, 0]
    dim = figures(frames(light=24_000, cover=0.4))
    assert dim["background_percent"][0] / usual["background_percent"][0] == pytest.approx(
        0.8, rel=0.01
    )
    assert figures(frames(saturated=0.25))["saturated_percent"] == pytest.approx([0, 25, 0], abs=1)


def test_imported_pictures_have_no_camera_to_judge() -> None:
    field = figures(frames(saturated=1.0), camera=False)
    assert np.isnan(field["background_percent"]).all()
    assert np.isnan(field["saturated_percent"]).all()


def test_vignetting_is_neither_cover_nor_drift() -> None:
    y, x = np.indices((400, 400)) / 399 - 0.5
    shade = 1 - 0.8 * (y**2 + x**2)
    field = frames()
    field[:2] = (field[:2] * shade).astype(np.uint16)
    shading = np.stack([shade[::8, ::8]] * 3).astype(np.float32)
    told = field_figures(field, reference=2, shading=shading, full_range=65535, camera=True)
    assert told["red_cover_percent"] < 2


def test_figures_of_fields_become_a_table_fit_for_json() -> None:
    table = stack_figures([(3, figures(frames())), (7, figures(frames(), camera=False))])
    assert table["field_index"] == [3, 7]
    assert table["blur_um"] == [None, None]
    assert table["background_percent"][1] == [None, None, None]
    assert table["saturated_percent"][0] == [0, 0, 0]
