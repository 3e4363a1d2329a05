"""Frames that are believed and frames that are not.

No false alarm on the virtual slide, every planted fault seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from wbcpipe.acquire.capture.frame_checks import FrameValidator, is_noise, subsample
from wbcpipe.acquire.config.policies import FrameChecks
from wbcpipe.acquire.simulation.optics.light_path import OpticalState
from wbcpipe.acquire.simulation.optics.microscope import VirtualMicroscope
from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
from wbcpipe.acquire.simulation.specimen.slide import Specimen
from wbcpipe.errors import HardwareError
from wbcpipe.samples.fields import MODALITIES

if TYPE_CHECKING:
    from numpy.typing import NDArray

LIMITS = FrameChecks(camera_offset=100.0)
EXPOSURES_MS = (5.0, 5.0, 5.0, 20.0)


def rendered(seed: int, side_px: int, places_um: NDArray[np.float64]) -> list[NDArray[np.uint16]]:
    """Fields (4, Y, X) in focus at places (N, 2)."""
    specimen = Specimen(SpecimenPlan(seed))
    microscope = VirtualMicroscope(specimen, sensor_px=(side_px, side_px), pixel_um=0.1)
    return [
        np.stack(
            [
                microscope.expose(
                    OpticalState(x_um, y_um, specimen.focus_um(x_um, y_um), name, exposure_ms)
                )
                for name, exposure_ms in zip(MODALITIES, EXPOSURES_MS, strict=True)
            ]
        )
        for x_um, y_um in places_um.tolist()
    ]


def on_black(number: int, *, cells: bool = True, offset: float = 100.0) -> NDArray[np.uint16]:
    """Fluorescence (512, 512) that is black but for four nuclei."""
    rng = np.random.default_rng(number)
    frame = rng.normal(offset, 4.0, (512, 512))
    for y, x in rng.integers(60, 450, (4 if cells else 0, 2)):
        frame[y - 30 : y + 30, x - 30 : x + 30] += 8000.0
    return np.clip(frame, 0, 65535).astype(np.uint16)


def bright_field(*, cells: bool = True) -> NDArray[np.uint16]:
    """Bright field (512, 512) with four cells, or bare glass."""
    rng = np.random.default_rng(3)
    frame = rng.normal(40_000.0, 200.0, (512, 512))
    for y, x in rng.integers(60, 450, (4 if cells else 0, 2)):
        frame[y - 30 : y + 30, x - 30 : x + 30] *= 0.8
    return frame.astype(np.uint16)


@pytest.mark.parametrize("camera_offset", [0.0, 100.0, 105.0])
def test_cells_on_a_black_ground_are_believed_however_many_there_are(camera_offset: float) -> None:
    validator = FrameValidator(FrameChecks(camera_offset=camera_offset), 65535)
    for number in range(12):
        validator.validate(("fluorescence",), on_black(number)[None], bright_field)


@pytest.mark.parametrize("camera_offset", [0.0, 100.0])
@pytest.mark.parametrize("before", [0, 4])
def test_a_fluorescence_lamp_that_is_dark_is_seen_from_the_first_field_on(
    camera_offset: float, before: int
) -> None:
    validator = FrameValidator(FrameChecks(camera_offset=camera_offset), 65535, "LED Shutter")
    for number in range(before):
        validator.validate(("fluorescence",), on_black(number)[None], bright_field)
    for number in range(4, 6):
        with pytest.raises(
            HardwareError,
            match=r"nothing but the camera's noise where .* shows cells.*'LED Shutter'",
        ):
            validator.validate(("fluorescence",), on_black(number, cells=False)[None], bright_field)
        both = np.stack([bright_field(), on_black(number, cells=False)])
        with pytest.raises(HardwareError, match="nothing but the camera's noise"):
            FrameValidator(FrameChecks(camera_offset=camera_offset), 65535).validate(
                ("color1", "fluorescence"), both
            )
    validator.validate(
        ("fluorescence",), on_black(6, cells=False)[None], lambda: bright_field(cells=False)
    )
    validator.validate(("fluorescence",), on_black(7, cells=False)[None])


@pytest.mark.parametrize("shows", ["a faint glow", "one small nucleus"])
def test_little_light_is_light(shows: str) -> None:
    y, x = np.mgrid[:512, :512]
    faint = (
        4.0 * np.cos(x / 60.0)
        if shows == "a faint glow"
        else 60.0 * (np.hypot(y - 200, x - 250) < 9)
    )
    frame = np.clip(on_black(1, cells=False) + faint, 0, 65535).astype(np.uint16)
    assert not is_noise(subsample(frame))
    assert is_noise(subsample(on_black(1, cells=False)))


@pytest.mark.parametrize(("seed", "side_px"), [(7, 256), (11, 96)])
def test_no_field_of_the_virtual_slide_is_turned_away(seed: int, side_px: int) -> None:
    # Far places fall into bare islands, into crowds and beside the film alike.
    places_um = np.random.default_rng(seed).uniform(-4000.0, 4000.0, (60, 2))
    fields = rendered(seed, side_px, places_um)
    glow = np.array([np.percentile(field[3], 99.0) for field in fields])
    assert glow.min() < 1500 < 10_000 < glow.max(), (
        "the places shall hold empty fields and fields full of cells"
    )
    validator = FrameValidator(LIMITS, 65535)
    for field in fields:
        validator.validate(MODALITIES, field)


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
            r"color1: the frame is dark: its level is \d+ above .* at least 1311 is expected\. "
            r".*'LED Shutter'",
        ),
        (3, "dark", r"fluorescence: the level fell to -?\d+ above .* it was \d+: the light fails"),
        (
            1,
            0.3,
            r"color2: the level fell to 1\d{4} above the camera's offset; in the fields before it "
            r"was 39\d{3}",
        ),
        (3, 30.0, r"fluorescence: the level rose to \d+ .* another lamp that stayed on"),
        (
            2,
            2.0,
            r"color3: 100% of the pixels are saturated, at most 10% are allowed: too much light",
        ),
        (2, "constant", r"color3: every pixel is 30000, which a working camera never gives"),
        (2, "frozen", r"color3: the frame is identical to that of the field before"),
    ],
)
def test_what_cannot_be_is_named_with_its_figures(
    channel: int, value: float | str, words: str
) -> None:
    validator = FrameValidator(LIMITS, 65535, "LED Shutter")
    for number in range(4):
        validator.validate(MODALITIES, sound(number))
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
            validator.validate(MODALITIES, field)
    validator.validate(MODALITIES, sound(5))


def test_levels_are_learnt_from_fields_on_disk_without_a_verdict() -> None:
    validator = FrameValidator(LIMITS, 65535)
    for number in range(3):
        validator.learn(MODALITIES, sound(number))
    weak = sound(3)
    weak[0] = weak[0] * 0.3
    with pytest.raises(HardwareError, match="color1: the level fell"):
        validator.validate(MODALITIES, weak)
    FrameValidator(LIMITS, 65535).validate(MODALITIES, weak)


def test_a_buffer_that_is_used_again_is_not_taken_for_a_frozen_camera() -> None:
    validator, buffer = FrameValidator(LIMITS, 65535), np.empty((4, 64, 64), np.uint16)
    for number in range(3):
        buffer[:] = sound(number)
        validator.validate(MODALITIES, buffer)
    assert subsample(buffer[0]).base is None


def test_the_check_can_be_switched_off() -> None:
    validator = FrameValidator(FrameChecks(enabled=False), 65535)
    for _ in range(2):
        validator.validate(MODALITIES, np.zeros((4, 64, 64), np.uint16))


@pytest.mark.parametrize("side_px", [96, 2048, 4096])
def test_a_frame_of_any_size_is_checked_on_as_many_pixels(side_px: int) -> None:
    frame = np.zeros((side_px, side_px), np.uint16)
    assert 96**2 <= subsample(frame).size <= 2 * 96**2
