"""Colour images as other laboratories' programs write them: the same picture in every format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage import color

from wbcpipe.errors import ImportDataError
from wbcpipe.samples.fields import fields_on_disk, read_field
from wbcpipe.samples.sample import Sample
from wbcpipe.segment.importers.cells import import_cells
from wbcpipe.segment.importers.fields import import_fields
from wbcpipe.segment.importers.inputs import CellImport, FieldImport

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray


def picture(seed: int = 0, side: int = 96) -> NDArray[np.uint8]:
    """A stained cell (side, side, 3) on a pale background."""
    y, x = np.mgrid[:side, :side] - side / 2
    rgb = np.full((side, side, 3), (240, 228, 212), float)
    rgb[np.hypot(y, x) < 30] = (215, 190, 200)
    rgb[np.hypot(y - 5, x) < 16 + seed] = (95, 55, 140)
    return (rgb + np.random.default_rng(seed).normal(0, 2, rgb.shape)).clip(0, 255).astype(np.uint8)


RGB = picture()
WIDE = RGB.astype(np.uint16)


def tiff(**options: Any) -> Callable[[Path], object]:
    return lambda path: tifffile.imwrite(
        path.with_suffix(".tif"), RGB, photometric="rgb", **options
    )


def cmyk(path: Path) -> None:
    Image.fromarray(RGB).convert("CMYK").save(path.with_suffix(".tif"), compression="tiff_lzw")


def cmyk_16(path: Path) -> None:
    ink = 65535 - WIDE * 257
    black = ink.min(-1)
    light = (65535 - black).astype(float)
    planes = [*((ink[..., k] - black) / light * 65535 for k in range(3)), black]
    tifffile.imwrite(
        path.with_suffix(".tif"), np.stack(planes, -1).astype(np.uint16), photometric="separated"
    )


def lab(path: Path) -> None:
    values = color.rgb2lab(RGB)
    stored = np.stack([values[..., 0] * 2.55, *np.moveaxis(values[..., 1:].round(), -1, 0)], -1)
    stored = stored.round().astype(np.int16).astype(np.uint8)  # a* and b* are signed
    tifffile.imwrite(path.with_suffix(".tif"), stored, photometric="cielab")


def icc_lab(path: Path) -> None:
    values = color.rgb2lab(RGB)
    stored = np.stack([values[..., 0] * 2.55, values[..., 1] + 128, values[..., 2] + 128], -1)
    tifffile.imwrite(
        path.with_suffix(".tif"), stored.round().astype(np.uint8), photometric="icclab"
    )


def palette(path: Path) -> None:
    Image.fromarray(RGB).quantize(256, dither=Image.Dither.NONE).save(path.with_suffix(".tif"))


def palette_png(path: Path) -> None:
    Image.fromarray(RGB).quantize(256, dither=Image.Dither.NONE).save(path.with_suffix(".png"))


def floating(scale: float) -> Callable[[Path], object]:
    return lambda path: tifffile.imwrite(
        path.with_suffix(".tif"), (RGB * np.float32(scale)).astype(np.float32), photometric="rgb"
    )


def bits(count: int) -> Callable[[Path], object]:
    values = (WIDE * ((2**count - 1) / 255)).round().astype(np.uint16)
    return lambda path: tifffile.imwrite(path.with_suffix(".tif"), values, photometric="rgb")


def png_of_12_bits(path: Path) -> None:
    import imagecodecs

    values = (WIDE * (4095 / 255)).round().astype(np.uint16)
    path.with_suffix(".png").write_bytes(imagecodecs.png_encode(values))


def webp(path: Path) -> None:
    Image.fromarray(RGB).save(path.with_suffix(".webp"), lossless=True)


def planes(path: Path) -> None:
    tifffile.imwrite(path.with_suffix(".tif"), np.moveaxis(RGB, -1, 0), photometric="minisblack")


FORMATS = {
    "LZW": (tiff(compression="lzw"), 0),
    "LZW, predictor": (tiff(compression="lzw", predictor=True), 0),
    "deflate, planar": (
        lambda path: tifffile.imwrite(
            path.with_suffix(".tif"),
            np.moveaxis(RGB, -1, 0),
            photometric="rgb",
            planarconfig="separate",
            compression="deflate",
        ),
        0,
    ),
    "tiles": (tiff(tile=(32, 32), compression="zstd"), 0),
    "JPEG": (tiff(compression="jpeg", compressionargs={"level": 98}), 10),
    "JPEG 2000": (tiff(compression="jpeg2000"), 2),
    "CMYK": (cmyk, 1),
    "CMYK, 16 bits": (cmyk_16, 1),
    "CIELab": (lab, 8),
    "ICC Lab": (icc_lab, 8),
    "palette TIFF": (palette, 12),
    "palette PNG": (palette_png, 12),
    "float, 0 to 1": (floating(1 / 255), 1),
    "float, 0 to 255": (floating(1), 1),
    "float, 0 to 65535": (floating(257), 1),
    "8 bits in 16": (bits(8), 1),
    "10 bits in 16": (bits(10), 1),
    "12 bits in 16": (bits(12), 1),
    "14 bits in 16": (bits(14), 1),
    "16 bits": (bits(16), 1),
    "PNG of 12 bits in 16": (png_of_12_bits, 1),
    "WebP": (webp, 0),
    "grey planes": (planes, 0),
}


@pytest.mark.parametrize(("write", "tolerance"), FORMATS.values(), ids=FORMATS)
def test_every_format_gives_the_same_picture(
    write: Callable[[Path], object], tolerance: int, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    write(folder / "image")
    sample = Sample.open(tmp_path / "data", "S")
    assert import_fields([folder], sample, FieldImport("stained-rgb", 0.1)) == 1
    found = read_field(fields_on_disk(sample.raw_path())[0])[0][:3]
    difference = np.abs(found / 257 - np.moveaxis(RGB, -1, 0))
    assert np.percentile(difference, 99) <= tolerance
    assert difference.mean() <= tolerance / 2


@pytest.mark.parametrize(
    "write",
    [
        lambda path: tifffile.imwrite(
            path, np.stack([picture(k) for k in range(5)]), photometric="rgb"
        ),
        lambda path: Image.fromarray(picture(0)).save(
            path, save_all=True, append_images=[Image.fromarray(picture(k)) for k in range(1, 5)]
        ),
        lambda path: Image.fromarray(picture(0)).save(
            path.with_suffix(".webp"),
            save_all=True,
            append_images=[Image.fromarray(picture(k)) for k in range(1, 5)],
            lossless=True,
        ),
    ],
    ids=["one series", "single pages", "WebP"],
)
def test_every_page_is_imported_and_told(write: Callable[[Path], object], tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    write(folder / "pages.tif")
    said: list[str] = []
    sample = Sample.open(tmp_path / "data", "S")
    assert import_fields([folder], sample, FieldImport("stained-rgb", 0.1), say=said.append) == 5
    assert "holds 5 colour images; each is imported (1 file)" in said
    for index, path in fields_on_disk(sample.raw_path()).items():
        frames, info = read_field(path)
        assert np.array_equal(
            frames[:3], np.moveaxis(picture(index), -1, 0).astype(np.uint16) * 257
        )
        assert info.source.endswith(f", image {index + 1}") == (index > 0)


def test_pages_of_several_sizes_are_imported_and_copies_left_out(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "pages.tif") as file:
        file.write(picture(0, 96), photometric="rgb", metadata=None)
        file.write(
            picture(0, 48), photometric="rgb", metadata=None, subfiletype=1
        )  # a reduced copy
        file.write(picture(1, 64), photometric="rgb", metadata=None)
    store = import_cells(
        [tmp_path / "pages.tif"],
        Sample.open(tmp_path / "data", "S"),
        CellImport("stained-rgb", 0.1, side_px=64),
    )
    assert len(store) == 2


def test_all_files_of_an_import_are_scaled_alike(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    bright = (WIDE * 16).astype(np.uint16)
    for name, values in (
        ("a.tif", bright),
        ("b.tif", bright // 5),
    ):  # a dim field of the same camera
        tifffile.imwrite(folder / name, values, photometric="rgb")
    said: list[str] = []
    sample = Sample.open(tmp_path / "data", "S")
    import_fields([folder], sample, FieldImport("stained-rgb", 0.1), say=said.append)
    assert any("use 4095 as white" in line for line in said)
    first, second = (
        read_field(path)[0][:3].astype(float) for path in fields_on_disk(sample.raw_path()).values()
    )
    assert first.mean() / second.mean() == pytest.approx(5, rel=0.02)


def glow(colours: tuple[tuple[int, int, int], ...], noise: float = 3) -> NDArray[np.uint8]:
    """Fluorescent cells on a dark background."""
    y, x = np.mgrid[:200, :300]
    rgb = np.full((200, 300, 3), 12.0)
    for k, colour in enumerate(colours):
        rgb[np.hypot(y - 100, x - 60 - 80 * k) < 25] = colour
    return (
        (rgb + np.random.default_rng(0).normal(0, noise, rgb.shape)).clip(0, 255).astype(np.uint8)
    )


@pytest.mark.parametrize(
    "rgb",
    [
        glow(((40, 220, 40), (60, 180, 30))),
        glow(((30, 40, 250),)),
        glow(((250, 60, 20), (90, 255, 60), (200, 120, 30)), noise=8),
        np.zeros((50, 60, 3), np.uint8),
    ],
    ids=["AO", "DAPI", "AO, red and green", "black"],
)
def test_a_dark_background_is_refused(rgb: NDArray[np.uint8], tmp_path: Path) -> None:
    Image.fromarray(rgb).save(tmp_path / "ao.png")
    sample = Sample.open(tmp_path / "data", "S")
    with pytest.raises(ImportDataError, match=r"dark background.*--kind stack|a black image"):
        import_fields([tmp_path / "ao.png"], sample, FieldImport("stained-rgb", 0.1))
    assert not sample.path.exists()


@pytest.mark.parametrize("gain", [0.15, 0.4, 1.0])
def test_a_smear_is_no_fluorescence_however_dim(gain: float, tmp_path: Path) -> None:
    smear = np.tile(RGB, (3, 3, 1)) * gain
    smear[:40], smear[:, :60] = 0, 0  # a field stop
    smear[-12:-6, -60:-8] = 255  # a scale bar
    Image.fromarray(smear.astype(np.uint8)).save(tmp_path / "dim.png")
    assert (
        import_fields(
            [tmp_path / "dim.png"], Sample.open(tmp_path, "S"), FieldImport("stained-rgb", 0.1)
        )
        == 1
    )


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (
            lambda path: tifffile.imwrite(path, RGB[..., 0], photometric="minisblack"),
            "a grey image",
        ),
        (
            lambda path: tifffile.imwrite(
                path, np.full(RGB.shape, np.nan, np.float32), photometric="rgb"
            ),
            "nan",
        ),
        (
            lambda path: tifffile.imwrite(path, WIDE.astype(np.int32) - 300, photometric="rgb"),
            "from -",
        ),
        (
            lambda path: tifffile.imwrite(path, WIDE.astype(np.uint32) * 70000, photometric="rgb"),
            "0 to 65535",
        ),
        (lambda path: tifffile.imwrite(path, RGB[..., 0], photometric="logl"), "colour model"),
    ],
    ids=["grey", "NaN", "negative", "32 bits", "LogL"],
)
def test_other_tiffs_are_refused_in_words(
    write: Callable[[Path], object], text: str, tmp_path: Path
) -> None:
    write(tmp_path / "image.tif")
    with pytest.raises(ImportDataError, match=text):
        import_fields(
            [tmp_path / "image.tif"], Sample.open(tmp_path, "S"), FieldImport("stained-rgb", 0.1)
        )
