from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import ndimage

from wbcpipe.imaging.robust_surface import fit_surface
from wbcpipe.samples.fields import fields_on_disk, read_field
from wbcpipe.segment.registration.edges import coarse_frame, edge_map
from wbcpipe.segment.registration.register import align, identity
from wbcpipe.segment.registration.slide_alignment import estimate_slide_alignment

if TYPE_CHECKING:
    from numpy.typing import NDArray

PIXEL_UM = 0.1
REFERENCE = 3
SHAPE = (1024, 1024)
GRID = np.stack(np.meshgrid(*[np.linspace(60, 960, 7)] * 2, indexing="ij"), -1).reshape(-1, 2)


def edge_maps(frames: NDArray[np.uint16]) -> list[NDArray[np.float32]]:
    """With the illumination taken from each frame itself."""
    maps = []
    for frame in frames:
        coarse = coarse_frame(frame, PIXEL_UM)
        surface = fit_surface(np.log(coarse[::4, ::4]), 2, outlier_ratio=1.5).values
        maps.append(edge_map(coarse, np.exp(surface).astype(np.float32)))
    return maps


@pytest.fixture(scope="module")
def fields(film) -> list[list[NDArray[np.float32]]]:  # type: ignore[no-untyped-def]
    return [
        edge_maps(read_field(path)[0]) for path in fields_on_disk(film.sample.raw_path()).values()
    ]


def test_every_field_and_modality_of_the_virtual_scope(film, fields) -> None:  # type: ignore[no-untyped-def]
    usual = estimate_slide_alignment(fields[:8], SHAPE, PIXEL_UM, reference=REFERENCE)
    errors = []
    for index, structs in enumerate(fields):
        found = align(structs, usual, PIXEL_UM, reference=REFERENCE)
        assert found.trusted.all()
        errors += [found.to_modality(k, GRID) - film.to_modality(index, k, GRID) for k in range(3)]
    assert np.sqrt(np.mean(np.square(errors))) <= 0.3
    scale = np.linalg.det(usual.linear) ** 0.5
    assert scale[:3] == pytest.approx([1 / 1.002, 1.0008 / 1.002, 0.999 / 1.002], abs=3e-4)


@pytest.mark.parametrize(
    ("shift_px", "degrees"),
    [((38.3, -27.6), 0.9), ((-40.0, 12.25), -1.0), ((3.5, 39.7), 0.4)],
    ids=str,
)
def test_a_planted_shift_and_rotation_between_passes(  # type: ignore[no-untyped-def]
    wide, shift_px: tuple[float, float], degrees: float
) -> None:
    """The bright-field pass is turned and shifted against the fluorescence pass, as after
    staining.
    """
    frames, _ = read_field(fields_on_disk(wide.sample.raw_path())[0])
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = (np.array(frames.shape[1:]) - 1) / 2
    offset = centre - turn.T @ (centre + shift_px)
    moved = [
        ndimage.affine_transform(frame.astype(np.float32), turn.T, offset, order=1, mode="nearest")
        for frame in frames[:3]
    ]
    stacked = np.stack([*moved, frames[3]]).clip(0, 65535).astype(np.uint16)
    usual = estimate_slide_alignment(
        [edge_maps(stacked)], frames.shape[1:], PIXEL_UM, reference=REFERENCE
    )
    found = align(edge_maps(stacked), usual, PIXEL_UM, reference=REFERENCE)
    points = 2 * GRID
    errors = [
        found.to_modality(k, points)
        - ((wide.to_modality(0, k, points) - centre) @ turn.T + centre + shift_px)
        for k in range(3)
    ]
    assert np.sqrt(np.mean(np.square(errors))) <= 0.3


def blobs(seed: int, shape: tuple[int, int] = (512, 512)) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    picture = np.zeros(shape)
    picture[tuple(rng.integers(20, 492, (2, 60)))] = rng.uniform(0.5, 1.5, 60)
    return ndimage.gaussian_filter(
        np.minimum(
            ndimage.grey_dilation(picture, footprint=np.hypot(*np.mgrid[-18:19, -18:19]) < 18), 1
        ),
        3,
    )


@pytest.mark.parametrize("contrast", [1.0, -1.0], ids=["same", "inverted"])
@pytest.mark.parametrize("shift", [(0.0, 0.0), (2.3, -1.6), (-7.75, 5.5)], ids=str)
def test_contrast_may_turn_over(shift: tuple[float, float], contrast: float) -> None:
    picture = blobs(3)
    rng = np.random.default_rng(0)
    reference = 2000 + 9000 * picture + rng.normal(0, 30, picture.shape)
    moving = (
        20000 + contrast * 6000 * ndimage.shift(picture, shift) + rng.normal(0, 60, picture.shape)
    )
    pair = np.stack([moving, reference]).astype(np.uint16)
    structs = edge_maps(pair)
    usual = estimate_slide_alignment([structs], pair.shape[1:], PIXEL_UM, reference=1)
    found = align(structs, usual, PIXEL_UM, reference=1)
    assert found.shift_px[0] == pytest.approx(shift, abs=0.3)


def test_without_anything_in_common_the_usual_shift_is_kept() -> None:
    rng = np.random.default_rng(0)
    frames = (5000 + rng.normal(0, 50, (2, 512, 512))).astype(np.uint16)
    structs = edge_maps(frames)
    usual = identity(2, (512, 512))
    usual.shift_px[0] = (11.0, -6.0)
    found = align(structs, usual, PIXEL_UM, reference=1)
    assert found.trusted.tolist() == [False, True]
    assert found.shift_px[0] == pytest.approx((11.0, -6.0), abs=1e-9)
