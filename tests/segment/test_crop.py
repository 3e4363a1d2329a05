from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from wbcpipe.segment.crop import CropGrid, crop_cell, crop_frame, outside_field
from wbcpipe.segment.flatfield import no_flatfield
from wbcpipe.segment.registration.register import identity


def scene(side: int = 300) -> np.ndarray:
    rough = np.random.default_rng(0).normal(size=(side, side))
    smooth = ndimage.gaussian_filter(rough, 3)
    return np.asarray((20000 + 8000 * smooth / smooth.std()).clip(0, 65535), np.uint16)


def test_whole_pixels_are_copied() -> None:
    frame = scene()
    crop = crop_frame(frame, np.array([150.5, 140.5]), np.eye(2), 64)
    assert np.array_equal(crop, frame[119:183, 109:173])


def test_registration_brings_modalities_together() -> None:
    frame = scene()
    moved = (
        ndimage.shift(frame.astype(float), (3.4, -2.7), order=5, mode="nearest")
        .clip(0, 65535)
        .astype(np.uint16)
    )
    frames = np.stack([moved, frame])
    alignment = identity(2, frame.shape)
    alignment.shift_px[0] = (3.4, -2.7)
    crops = crop_cell(
        frames,
        alignment,
        no_flatfield(2),
        np.array([150.5, 150.5]),
        CropGrid(1.0, 100),
        empty=np.zeros(2, np.float32),
    )
    difference = crops[0].astype(float) - crops[1]
    assert np.sqrt(np.mean(difference**2)) < 0.02 * crops[1].std()


def test_turned_and_straight_ways_agree() -> None:
    frame = scene()
    angle = 1e-3  # above the limit by a little: both ways must give nearly the same
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.array([150.2, 149.7])
    turned, straight = (crop_frame(frame, centre, linear, 80) for linear in (turn, np.eye(2)))
    assert np.abs(turned - straight)[35:45, 35:45].max() < 150
    assert np.corrcoef(turned.ravel(), straight.ravel())[0, 1] > 0.999


@pytest.mark.parametrize("ratio", [0.5, 2.0], ids=["finer", "coarser"])
def test_another_pixel_size_keeps_place_and_brightness(ratio: float) -> None:
    frame = scene()
    crop = crop_frame(frame, np.array([150.0, 150.0]), np.eye(2) * ratio, 100)
    steps = 150 + (np.arange(100) - 49.5) * ratio
    wanted = ndimage.map_coordinates(
        frame.astype(float), np.meshgrid(steps, steps, indexing="ij"), order=3
    )
    assert np.corrcoef(crop.ravel(), wanted.ravel())[0, 1] > 0.99
    assert crop.mean() == pytest.approx(wanted.mean(), rel=0.01)


def test_beyond_the_border_nothing_is_made_up() -> None:
    frames = scene()[None]
    empty = np.array([123.0], np.float32)
    crop = crop_cell(
        frames,
        identity(1, frames.shape[1:]),
        no_flatfield(1),
        np.array([10.5, 290.5]),
        CropGrid(1.0, 64),
        empty=empty,
    )[0]
    outside = outside_field(np.array([10.5, 290.5]), 1.0, 64, frames.shape[1:])
    assert outside is not None
    assert outside_field(np.array([150.5, 150.5]), 1.0, 64, frames.shape[1:]) is None
    assert outside.sum() == 64 * 64 - (64 - 21) * (64 - 23)
    assert np.all(crop[outside] == 123)
    assert np.array_equal(crop[21:, :41], frames[0, :43, 259:])


def test_flatfield_is_applied_where_the_pixel_was_taken() -> None:
    side = 256
    y = np.arange(side)[:, None] * np.ones(side)
    light = 0.5 + y / (2 * side)
    frame = (30000 * light).astype(np.uint16)[None]
    nodes = (np.arange(8) + 0.5) * side / 8 - 0.5
    gain = (40000 / (30000 * (0.5 + nodes / (2 * side))))[None, :, None].astype(
        np.float32
    ) * np.ones((1, 1, 8), np.float32)
    flat = replace(no_flatfield(1), gain=gain, dark=np.zeros_like(gain))
    crop = crop_cell(
        frame,
        identity(1, (side, side)),
        flat,
        np.array([128.0, 128.0]),
        CropGrid(1.0, 100),
        empty=np.zeros(1, np.float32),
    )[0]
    assert crop.astype(float) == pytest.approx(np.full((100, 100), 40000.0), rel=0.01)
