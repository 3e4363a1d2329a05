"""A field's file tells when and how it was taken, and a damaged one is named with the right
figures.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import ome_types
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ome_types.model import Channel_ContrastMethod, Channel_IlluminationType

from wbcpipe.errors import FrameFileError
from wbcpipe.samples.fields import (
    MODALITIES,
    FieldInfo,
    FieldTransform,
    FrameInfo,
    field_digest,
    field_path,
    read_field,
    read_info,
    read_passes_info,
    write_field,
)

if TYPE_CHECKING:
    from pathlib import Path

FRAMES = tuple(FrameInfo(f"light{number}", 5.0, 500.0, 1.0, 0.01 * number) for number in range(4))
INFO = FieldInfo(3, 1.0, 2.0, 0.1, FRAMES, acquired="2026-11-24T22:31:05.123+00:00")
PIXELS = np.random.default_rng(0).integers(0, 65536, (4, 96, 96), np.uint16)
FRAME_BYTES = 2 * 96 * 96


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9], ids=["in frame 1", "in frame 2", "in the last"])
def test_a_truncated_file_is_told_with_what_a_whole_one_would_have(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: float
) -> None:
    path = field_path(tmp_path, 3)
    write_field(path, PIXELS, INFO)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    words = (
        rf"truncated: 1 of 4 frames in {int(kept * len(content))} bytes, more than (\d+) were "
        rf"expected"
    )
    with caplog.at_level(logging.DEBUG), pytest.raises(FrameFileError, match=words) as caught:
        read_field(path)
    expected = int(str(caught.value).split("more than ")[1].split()[0])
    assert 4 * FRAME_BYTES < expected <= len(content)
    assert caplog.records == [], "tifffile's own warning says the same in other words"
    assert not logging.getLogger("tifffile").filters


#: Of a stage, an exposure or a wavelength: files hold all digits of a number.
numbers = st.floats(-1e6, 1e6).map(lambda value: value + 0.0)  # without a negative zero
lengths = st.floats(1e-3, 1e6)
words = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=12
)


@st.composite
def fields(draw: st.DrawFn) -> FieldInfo:
    frames = [
        FrameInfo(
            name,
            draw(lengths),
            draw(st.one_of(st.none(), lengths)),
            draw(numbers),
            draw(st.floats(0, 1e4).map(lambda time_s: round(time_s, 6))),
            draw(st.booleans()),
        )
        for name in draw(st.lists(words, min_size=1, max_size=4, unique=True))
    ]
    transform = st.builds(FieldTransform, numbers, numbers, st.floats(-180, 180))
    return FieldInfo(
        draw(st.integers(0, 99_999)),
        draw(numbers),
        draw(numbers),
        draw(lengths),
        tuple(frames),
        saturation=draw(st.integers(1, 65535)),
        source=draw(st.one_of(st.just(""), words)),
        dose_ms=draw(st.floats(0, 1e6)),
        faded=draw(st.one_of(st.none(), st.floats(0, 1))),
        slide_transform=draw(st.one_of(st.none(), transform)),
    )


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(info=fields(), shape=st.tuples(*[st.integers(1, 40)] * 2), seed=st.integers(0, 2**16))
def test_every_field_is_read_as_it_was_written(
    tmp_path: Path, info: FieldInfo, shape: tuple[int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 65536, (len(info.frames), *shape), np.uint16)
    path = field_path(tmp_path, info.index)
    write_field(path, pixels, info)
    read, read_as = read_field(path)
    assert np.array_equal(read, pixels)
    assert read_as == read_info(path) == info
    assert read_as.shape_px == shape
    with tifffile.TiffFile(path) as tiff:
        assert tiff.ome_metadata is not None
        (image,) = ome_types.from_xml(tiff.ome_metadata).images
    assert (image.pixels.size_c, image.pixels.size_y, image.pixels.size_x) == pixels.shape


def test_when_it_was_taken_stands_in_the_file(tmp_path: Path) -> None:
    path = field_path(tmp_path, 3)
    write_field(path, PIXELS, INFO)
    assert read_info(path) == INFO
    with tifffile.TiffFile(path) as tiff:
        assert "<AcquisitionDate>2026-11-24T22:31:05.123+00:00</AcquisitionDate>" in (
            tiff.ome_metadata or ""
        )
    write_field(path, PIXELS, replace(INFO, acquired=""))
    assert read_info(path).acquired == ""


def test_times_of_a_second_pass_are_counted_from_the_first(tmp_path: Path) -> None:
    for name, frames, acquired in (
        ("brightfield", FRAMES[:3], INFO.acquired),
        ("fluorescence", FRAMES[:1], "2026-11-24T23:31:05.623+00:00"),
    ):
        (tmp_path / name).mkdir()
        info = replace(INFO, frames=frames, acquired=acquired)
        write_field(field_path(tmp_path / name, 3), PIXELS[: len(frames)], info)
    assert [frame.time_s for frame in read_passes_info(tmp_path, 3).frames] == [
        0.0,
        0.01,
        0.02,
        3600.5,
    ]


def test_fading_that_is_not_known_is_not_told_as_none(tmp_path: Path) -> None:
    path = field_path(tmp_path, 3)
    for faded in (None, 0.0, 0.03):
        write_field(path, PIXELS, replace(INFO, faded=faded))
        assert read_info(path).faded == faded
        with tifffile.TiffFile(path) as tiff:
            assert ('K="faded"' in (tiff.ome_metadata or "")) == (faded is not None)


def test_the_ome_xml_is_valid_and_tells_transmitted_from_emitted_light(tmp_path: Path) -> None:
    frames = tuple(
        FrameInfo(name, 5.0, 415.0 + 30 * k, 1.0, 0.01 * k) for k, name in enumerate(MODALITIES)
    )
    transform = FieldTransform(1.5, -2.5, 0.25)
    info = replace(
        INFO,
        frames=frames,
        source="a & b <c>.tif",
        dose_ms=20.5,
        faded=0.03,
        slide_transform=transform,
    )
    path = field_path(tmp_path, 3)
    write_field(path, PIXELS, info)
    assert read_info(path) == info
    with tifffile.TiffFile(path) as tiff:
        assert tiff.ome_metadata is not None
        image = ome_types.from_xml(tiff.ome_metadata, validate=True).images[0]
    *transmitted, fluorescence = image.pixels.channels
    for number, channel in enumerate(transmitted):
        assert channel.illumination_type is Channel_IlluminationType.TRANSMITTED
        assert channel.contrast_method is Channel_ContrastMethod.BRIGHTFIELD
        assert (channel.excitation_wavelength, channel.emission_wavelength) == (
            415 + 30 * number,
            None,
        )
    assert fluorescence.illumination_type is Channel_IlluminationType.EPIFLUORESCENCE
    assert fluorescence.contrast_method is Channel_ContrastMethod.FLUORESCENCE
    assert (fluorescence.excitation_wavelength, fluorescence.emission_wavelength) == (None, 505)


def test_imported_frames_state_no_illumination(tmp_path: Path) -> None:
    frames = (
        *(FrameInfo(name) for name in MODALITIES[:3]),
        FrameInfo("fluorescence", derived=True),
    )
    info = replace(INFO, frames=frames, kind="stained-rgb", acquired="")
    path = field_path(tmp_path, 3)
    write_field(path, PIXELS, info)
    assert read_info(path) == info
    with tifffile.TiffFile(path) as tiff:
        assert tiff.ome_metadata is not None
        channels = ome_types.from_xml(tiff.ome_metadata, validate=True).images[0].pixels.channels
    assert {channel.illumination_type for channel in channels} == {None}


def test_every_damaged_byte_of_a_file_is_noticed(tmp_path: Path) -> None:
    path = field_path(tmp_path, 3)
    write_field(path, PIXELS[:, :8, :8], INFO)
    content = path.read_bytes()
    rng = np.random.default_rng(1)
    for at in (0, 5, 30, len(content) - 1, *rng.integers(0, len(content), 60)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        with pytest.raises(FrameFileError, match=r"field_00003\.ome\.tif"):
            read_field(path)
    path.write_bytes(content)
    assert np.array_equal(read_field(path)[0], PIXELS[:, :8, :8])


def test_a_copy_over_a_neighbour_is_noticed(tmp_path: Path) -> None:
    path = field_path(tmp_path, 3)
    write_field(path, PIXELS, INFO)
    path.rename(field_path(tmp_path, 4))
    with pytest.raises(FrameFileError, match="holds field 3, as a copy"):
        read_info(field_path(tmp_path, 4))
    assert field_digest(field_path(tmp_path, 4)) == field_digest(field_path(tmp_path, 4)) != ""
    assert field_digest(path) == ""


def test_a_long_description_is_checked_too(tmp_path: Path) -> None:
    path = field_path(tmp_path, 3)
    write_field(path, PIXELS, replace(INFO, source="x" * 5000))
    assert read_info(path).source == "x" * 5000
