"""Stacks of channels as other programs write them, and what is not one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

from wbcpipe.errors import ImportDataError
from wbcpipe.samples.fields import fields_on_disk, read_field
from wbcpipe.samples.sample import Sample
from wbcpipe.segment.importers.fields import import_fields
from wbcpipe.segment.importers.inputs import FieldImport

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

SIDE = 80
Y, X = np.mgrid[:SIDE, :SIDE] - SIDE / 2
BRIGHT = (200 - 60 * (np.hypot(Y, X) < 25)).astype(np.uint8)
NUCLEUS = (12 + 200 * (np.hypot(Y, X) < 12)).astype(np.uint8)


def in_colour(red: float, green: float, blue: float, alpha: int | None = None) -> NDArray[np.uint8]:
    """The nucleus as a colour camera sees it."""
    planes = [(NUCLEUS * gain).astype(np.uint8) for gain in (red, green, blue)]
    return np.stack([*planes, *([] if alpha is None else [np.full_like(NUCLEUS, alpha)])], -1)


def write_pages(path: Path, *pages: NDArray[np.uint8]) -> None:
    with tifffile.TiffWriter(path) as file:
        for page in pages:
            file.write(page, photometric="minisblack" if page.ndim == 2 else "rgb", metadata=None)


def imported(
    path: Path, tmp_path: Path, *, say: Callable[[str], None] = lambda _line: None
) -> NDArray[np.uint16]:
    sample = Sample.open(tmp_path / "data", "S")
    import_fields([path], sample, FieldImport("stack", 0.1), say=say)
    return read_field(fields_on_disk(sample.raw_path())[0])[0]


@pytest.mark.parametrize(
    "plane",
    [in_colour(0.3, 1, 0.1), in_colour(0.3, 1, 0.1, alpha=255), in_colour(1, 0.8, 0)],
    ids=["RGB", "RGBA", "yellow"],
)
def test_a_colour_photograph_of_ao_gives_its_green(
    plane: NDArray[np.uint8], tmp_path: Path
) -> None:
    write_pages(tmp_path / "stack.tif", BRIGHT, BRIGHT, BRIGHT, plane)
    said: list[str] = []
    frames = imported(tmp_path / "stack.tif", tmp_path, say=said.append)
    assert frames.shape == (4, SIDE, SIDE)
    assert np.array_equal(frames[3], plane[..., 1].astype(np.uint16) * 257)
    assert "channel 4 is a photograph in colour; its green plane is taken (1 file)" in said


def test_grey_planes_saved_in_colour_are_grey(tmp_path: Path) -> None:
    write_pages(
        tmp_path / "stack.tif", *(np.repeat(plane[..., None], 3, 2) for plane in (BRIGHT, NUCLEUS))
    )
    frames = imported(tmp_path / "stack.tif", tmp_path)
    assert np.array_equal(frames, np.stack([BRIGHT, NUCLEUS]).astype(np.uint16) * 257)


@pytest.mark.parametrize(
    ("pages", "text"),
    [
        (
            (BRIGHT, in_colour(0, 0.1, 1)),
            "channel 2 is a photograph in colour, with most contrast in blue",
        ),
        ((BRIGHT, in_colour(1, 0.1, 0)), "with most contrast in red"),
        ((in_colour(0.2, 1, 0.2), NUCLEUS), "channel 1 is a photograph in colour"),
        ((in_colour(0.2, 1, 0.2),), "a picture in colour and no stack"),
        ((BRIGHT, NUCLEUS[:40]), r"pages of 2 sizes \(80 x 40, 80 x 80 pixels\)|not readable"),
    ],
    ids=["DAPI", "PI", "bright field", "alone", "two sizes"],
)
def test_other_colours_are_refused(
    pages: tuple[NDArray[np.uint8], ...], text: str, tmp_path: Path
) -> None:
    write_pages(tmp_path / "stack.tif", *pages)
    with pytest.raises(ImportDataError, match=text):
        imported(tmp_path / "stack.tif", tmp_path)


def ome(path: Path) -> None:
    tifffile.imwrite(
        path,
        np.stack([BRIGHT, NUCLEUS]),
        photometric="minisblack",
        metadata={"axes": "CYX"},
        ome=True,
    )


def imagej(path: Path) -> None:
    tifffile.imwrite(path, np.stack([BRIGHT, NUCLEUS]), imagej=True, metadata={"axes": "CYX"})


def channels_last(path: Path) -> None:
    values = np.stack([BRIGHT, NUCLEUS], -1)
    tifffile.imwrite(
        path, values, photometric="minisblack", planarconfig="contig", extrasamples=["unspecified"]
    )


def inverted(path: Path) -> None:
    tifffile.imwrite(path, 255 - np.stack([BRIGHT, NUCLEUS]), photometric="miniswhite")


def floating(path: Path) -> None:
    tifffile.imwrite(
        path, np.stack([BRIGHT, NUCLEUS]).astype(np.float32) / 255, photometric="minisblack"
    )


def lzw(path: Path) -> None:
    tifffile.imwrite(path, np.stack([BRIGHT, NUCLEUS]), photometric="minisblack", compression="lzw")


@pytest.mark.parametrize("write", [ome, imagej, channels_last, inverted, floating, lzw])
def test_stacks_of_other_programs(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / "stack.tif")
    frames = imported(tmp_path / "stack.tif", tmp_path)
    assert np.abs(frames / 257 - np.stack([BRIGHT, NUCLEUS])).max() < 0.01


def test_counts_stay_and_the_camera_is_known(tmp_path: Path) -> None:
    stack = np.stack([BRIGHT, NUCLEUS]).astype(np.uint16) * 16
    np.save(tmp_path / "stack.npy", stack)
    assert np.array_equal(imported(tmp_path / "stack.npy", tmp_path), stack)
    info = read_field(fields_on_disk(Sample.open(tmp_path / "data", "S").raw_path())[0])[1]
    assert info.saturation == 4095
