"""Frames that are believed and frames that are not: no false alarm on the virtual slide, every planted fault seen."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from wbcpipe.acquire.config import LightCheck
from wbcpipe.acquire.frames import MODALITIES
from wbcpipe.acquire.plausible import FrameJudge, thinned
from wbcpipe.acquire.specimen import OpticalState, Specimen, SpecimenPlan, VirtualMicroscope
from wbcpipe.errors import HardwareError

if TYPE_CHECKING:
    from numpy.typing import NDArray

LIMITS = LightCheck(camera_offset=100.0)
EXPOSURES_MS = (5.0, 5.0, 5.0, 20.0)


def rendered(seed: int, side_px: int, places_um: NDArray[np.float64]) -> list[NDArray[np.uint16]]:
    """Fields (4, Y, X) in focus at places (N, 2)."""
    specimen = Specimen(SpecimenPlan(seed))
    microscope = VirtualMicroscope(specimen, sensor_px=(side_px, side_px), pixel_um=0.1)
    return [
        np.stack(
            [
                microscope.expose(OpticalState(x_um, y_um, specimen.focus_um(x_um, y_um), name, exposure_ms))
                for name, exposure_ms in zip(MODALITIES, EXPOSURES_MS, strict=True)
            ]
        )
        for x_um, y_um in places_um.tolist()
    ]


@pytest.mark.parametrize(("seed", "side_px"), [(7, 256), (11, 96)])
def test_no_field_of_the_virtual_slide_is_turned_away(seed: int, side_px: int) -> None:
    # Far places fall into bare islands, into crowds and beside the film alike.
    places_um = np.random.default_rng(seed).uniform(-4000.0, 4000.0, (60, 2))
    fields = rendered(seed, side_px, places_um)
    glow = np.array([np.percentile(field[3], 99.0) for field in fields])
    assert glow.min() < 1500 < 10_000 < glow.max(), "the places shall hold empty fields and fields full of cells"
    judge = FrameJudge(LIMITS, 65535)
    for field in fields:
        judge.judge(MODALITIES, field)


def sound(number: int) -> NDArray[np.uint16]:
    """A plain field (4, 64, 64): light where there is light, and noise of its own."""
    rng = np.random.default_rng(number)
    level = np.array([40_000.0, 40_000.0, 40_000.0, 800.0])[:, None, None]
    return (level + rng.normal(0.0, 20.0, (4, 64, 64))).astype(np.uint16)


def dark(field: NDArray[np.uint16], channel: int) -> None:
    field[channel] = np.random.default_rng(1).normal(100.0, 4.0, (64, 64))


@pytest.mark.parametrize(
    ("channel", "value", "words"),
    [
        (
            0,
            "dark",
            r"color1: the frame is dark: its level is \d+ above .* at least 1311 is expected\. .*'LED Shutter'",
        ),
        (3, "dark", r"fluorescence: the level fell to -?\d+ above .* it was \d+: the light fails"),
        (1, 0.3, r"color2: the level fell to 1\d{4} above the camera's offset, in the fields before it was 39\d{3}"),
        (3, 30.0, r"fluorescence: the level rose to \d+ .* another lamp that stayed on"),
        (2, 2.0, r"color3: 100% of the pixels are saturated, 10% may be: too much light"),
        (2, "constant", r"color3: every pixel is 30000: no camera sees that"),
        (2, "frozen", r"color3: the frame is the one of the field before"),
    ],
)
def test_what_cannot_be_is_named_with_its_figures(channel: int, value: float | str, words: str) -> None:
    judge = FrameJudge(LIMITS, 65535, "LED Shutter")
    for number in range(4):
        judge.judge(MODALITIES, sound(number))
    field = sound(4)
    if value == "dark":
        dark(field, channel)
    elif value == "constant":
        field[channel] = 30_000
    elif value == "frozen":
        field[channel] = sound(3)[channel]
    else:
        field[channel] = np.minimum(field[channel] * float(value), 65535)
    for _ in range(2):  # a field that was turned away leaves no trace: the next verdict is the same
        with pytest.raises(HardwareError, match=words):
            judge.judge(MODALITIES, field)
    judge.judge(MODALITIES, sound(5))


def test_levels_are_learnt_from_fields_on_disk_without_a_verdict() -> None:
    judge = FrameJudge(LIMITS, 65535)
    for number in range(3):
        judge.learn(MODALITIES, sound(number))
    weak = sound(3)
    weak[0] = weak[0] * 0.3
    with pytest.raises(HardwareError, match="color1: the level fell"):
        judge.judge(MODALITIES, weak)
    FrameJudge(LIMITS, 65535).judge(MODALITIES, weak)


def test_a_buffer_that_is_used_again_is_not_taken_for_a_frozen_camera() -> None:
    judge, buffer = FrameJudge(LIMITS, 65535), np.empty((4, 64, 64), np.uint16)
    for number in range(3):
        buffer[:] = sound(number)
        judge.judge(MODALITIES, buffer)
    assert thinned(buffer[0]).base is None


def test_the_check_can_be_switched_off() -> None:
    judge = FrameJudge(LightCheck(enabled=False), 65535)
    for _ in range(2):
        judge.judge(MODALITIES, np.zeros((4, 64, 64), np.uint16))


def test_a_frame_of_full_size_costs_less_than_a_millisecond() -> None:
    field = np.random.default_rng(0).integers(20_000, 40_000, (4, 2048, 2048), dtype=np.uint16)
    times_s = []
    for _ in range(9):
        judge = FrameJudge(LIMITS, 65535)
        began_s = time.perf_counter()
        judge.judge(MODALITIES, field)
        times_s.append(time.perf_counter() - began_s)
    assert min(times_s) / 4 < 1e-3
