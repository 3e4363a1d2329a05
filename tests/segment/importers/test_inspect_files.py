from __future__ import annotations

import io
import os
import struct
import tracemalloc
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from wbcpipe.errors import ImportDataError
from wbcpipe.samples.sample import Sample
from wbcpipe.segment.importers.cells import import_cells
from wbcpipe.segment.importers.fields import import_fields
from wbcpipe.segment.importers.inputs import CellImport, FieldImport

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def make(tmp_path: Path, name: str = "S") -> Sample:
    return Sample.open(tmp_path / "data", name)


def truncated(folder: Path) -> None:
    path = folder / "neutrophil" / "a.jpg"
    path.write_bytes(path.read_bytes()[:2000])


def grey(folder: Path) -> None:
    Image.fromarray(np.zeros((50, 50), np.uint8)).save(folder / "neutrophil" / "a.jpg")


def grey_in_three_planes(folder: Path) -> None:
    shades = np.arange(2500, dtype=np.uint16).reshape(50, 50).astype(np.uint8)
    Image.fromarray(np.repeat(shades[..., None], 3, 2)).save(folder / "neutrophil" / "a.jpg")


def not_a_picture(folder: Path) -> None:
    (folder / "neutrophil" / "a.jpg").write_text("hello")


def tiny(folder: Path) -> None:
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / "blast" / "d.jpg")


def listed_but_absent(folder: Path) -> None:
    (folder / "manifest.csv").write_text("file,label\nneutrophil/a.jpg,NEU\ngone.jpg,NEU\n")


def manifest_without_columns(folder: Path) -> None:
    (folder / "manifest.csv").write_text("name,kind\na,b\n")


def emptied(folder: Path) -> None:
    for path in folder.rglob("*.*"):
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (truncated, "a.jpg: not readable as an image .*truncated"),
        (grey, "a.jpg: a grey image"),
        (grey_in_three_planes, "a.jpg: a grey image, its three planes are the same"),
        (not_a_picture, "a.jpg: not readable as an image"),
        (tiny, "d.jpg: 4 x 4 pixels; at least 16 x 16"),
        (emptied, "nothing to import as stained-rgb"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize(
    ("importer", "options"),
    [
        (import_cells, CellImport("stained-rgb", 0.1)),
        (import_fields, FieldImport("stained-rgb", 0.1)),
    ],
)
def test_bad_input_writes_nothing(
    folder: Path,
    tmp_path: Path,
    damage: Callable[[Path], None],
    text: str,
    importer: Callable[..., Any],
    options: FieldImport,
) -> None:
    damage(folder)
    sample = make(tmp_path)
    with pytest.raises(ImportDataError, match=text) as caught:
        importer([folder], sample, options)
    assert "\n" not in str(caught.value)
    assert not sample.path.exists()


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (listed_but_absent, "lists 1 files that are not there, first 'gone.jpg'"),
        (manifest_without_columns, "'file' and 'label' are needed"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    folder: Path, tmp_path: Path, damage: Callable[[Path], None], text: str
) -> None:
    damage(folder)
    sample = make(tmp_path)
    with pytest.raises(ImportDataError, match=text):
        import_cells([folder], sample, CellImport("stained-rgb", 0.1))
    assert not sample.path.exists()


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"pictures": np.zeros((2, 3, 20, 20), np.uint16)}, "one named 'images' is needed"),
        ({"images": np.zeros((2, 20), np.uint16)}, r"shape \(2, 20\)"),
        (
            {"images": np.full((2, 3, 20, 20), -1.0)},
            "float64 values from -1 to -1; .* 8 or 16 bits was expected",
        ),
        ({"images": np.array([{}, {}], object)}, "not readable"),
    ],
    ids=["no images", "shape", "type", "pickled"],
)
def test_unfit_stacks_are_refused(tmp_path: Path, arrays: dict[str, Any], text: str) -> None:
    np.savez(tmp_path / "stack.npz", **arrays)
    with pytest.raises(ImportDataError, match=text):
        import_cells([tmp_path / "stack.npz"], make(tmp_path), CellImport("stack", 0.1))


def png(width: int, height: int) -> bytes:
    """A PNG that declares a size and has no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def small_tiff(width: int, height: int, compression: int = 1) -> bytes:
    """A TIFF of 300 bytes that declares a size."""
    entries = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, compression), (262, 3, 2)]
    entries += [(273, 4, 200), (277, 3, 3), (278, 4, height), (279, 4, 100)]
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return (b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4)).ljust(300, b"\0")


def npy(shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<u2", "fortran_order": False, "shape": shape}
    )
    return header.getvalue() + bytes(100)


def npz(shape: tuple[int, ...]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", npy(shape))
    return content.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        (
            "a.tif",
            small_tiff(65_535, 65_535),
            "65535 x 65535 pixels are 4295 megapixels; at most 67",
        ),
        ("a.tif", small_tiff(65_535, 65_535, compression=5), "4295 megapixels"),
        ("a.tif", small_tiff(8000, 8000), "truncated: 300 bytes"),
        ("a.tif", small_tiff(0, 0), "pixel|not readable"),
        (
            "a.png",
            png(9_400, 9_400),
            "9400 x 9400 pixels are 88 megapixels; at most 67 are allowed: cut",
        ),
        ("a.png", png(30_000, 30_000), "too large to be a field of view"),
        ("a.png", png(0, 0), "pixel|not readable"),
        ("a.npy", npy((10**9, 4, 70, 70)), "declares 1000000000 images"),
        ("a.npy", npy((10**6, 4, 700, 700)), "declares 3920 GB of images"),
        ("a.npy", npy((4, 10**5, 10**5)), "10000 megapixels"),
        ("a.npy", npy((5, 4, 70, 70)), "truncated: it declares an array"),
        ("a.npy", npy((0, 4, 0, 0)), "shape"),
        ("a.npz", npz((10**6, 4, 700, 700)), "declares 3920 GB of images"),
        ("a.npz", npz((5, 4, 70, 70)), "truncated"),
    ],
)
def test_what_is_declared_is_checked_before_it_is_allocated(
    name: str, content: bytes, text: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    kind = "stack" if name.startswith("a.np") else "stained-rgb"
    tracemalloc.start()
    try:
        with pytest.raises(ImportDataError, match=text) as caught:
            import_fields([tmp_path / name], make(tmp_path), FieldImport(kind, 0.1))  # type: ignore[arg-type] # a str
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", ["pipe", "device", "none"])
def test_what_is_no_regular_file_is_refused(given: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    if given == "pipe":
        os.mkfifo(path)
    elif given == "device":
        path.symlink_to("/dev/zero")
    with pytest.raises(ImportDataError, match=r"which may have no end|there is no such file"):
        import_fields([path], make(tmp_path), FieldImport("stained-rgb", 0.1))


def test_all_bad_files_are_named_and_can_be_skipped(folder: Path, tmp_path: Path) -> None:
    (folder / "blast" / "e.jpg").write_text("hello")
    (folder / "neutrophil" / "f.tif").write_bytes(small_tiff(65_535, 65_535))
    tiny(folder)
    options = CellImport("stained-rgb", 0.1)
    with pytest.raises(
        ImportDataError,
        match=r"3 of 6 files.*d\.jpg.*e\.jpg.*f\.tif.*--skip-bad imports the others",
    ):
        import_cells([folder], make(tmp_path), options)
    assert not make(tmp_path).path.exists()
    said: list[str] = []
    skipping = CellImport("stained-rgb", 0.1, skip_bad=True)
    store = import_cells([folder], make(tmp_path), skipping, say=said.append)
    assert store.labels() == ["LYM", "NEU", "NEU"]
    assert [line.split("/")[-1][:5] for line in said if line.startswith("left out: ")] == [
        "d.jpg",
        "e.jpg",
        "f.tif",
    ]
    assert "f.tif" in (make(tmp_path).path / "log.jsonl").read_text()
    again = import_cells([folder], make(tmp_path), skipping)
    assert len(again) == 3


def test_nothing_is_imported_where_every_file_is_bad(folder: Path, tmp_path: Path) -> None:
    for path in folder.rglob("*.*"):
        path.write_text("hello")
    with pytest.raises(ImportDataError, match=r"4 of 4 files cannot be used"):
        import_cells([folder], make(tmp_path), CellImport("stained-rgb", 0.1, skip_bad=True))


def with_pixel_size(path: Path, pixel_um: float, unit: str = "µm") -> None:
    metadata = {
        "axes": "CYX",
        "PhysicalSizeX": pixel_um,
        "PhysicalSizeXUnit": unit,
        "PhysicalSizeY": pixel_um,
        "PhysicalSizeYUnit": unit,
    }
    y, x = np.mgrid[:64, :64] - 32
    planes = np.stack([900 - 300 * (np.hypot(y, x) < 20), 200 + 3000 * (np.hypot(y, x) < 10)])
    tifffile.imwrite(
        path, planes.astype(np.uint16), photometric="minisblack", metadata=metadata, ome=True
    )


def imagej_pixel_size(path: Path) -> None:
    planes = np.full((2, 64, 64), 500, np.uint16)
    tifffile.imwrite(
        path,
        planes,
        imagej=True,
        resolution=(1 / 0.21, 1 / 0.21),
        metadata={"axes": "CYX", "unit": "micron"},
    )


@pytest.mark.parametrize(
    ("write", "pixel_um"),
    [
        (lambda path: with_pixel_size(path, 0.108), 0.108),
        (lambda path: with_pixel_size(path, 108, "nm"), 0.108),
        (imagej_pixel_size, 0.21),
    ],
    ids=["OME", "OME in nm", "ImageJ"],
)
def test_the_pixel_size_of_the_files_is_taken(
    write: Callable[[Path], None], pixel_um: float, tmp_path: Path
) -> None:
    write(tmp_path / "a.ome.tif")
    said: list[str] = []
    import_fields(
        [tmp_path / "a.ome.tif"], make(tmp_path), FieldImport("stack", None), say=said.append
    )
    assert make(tmp_path).record().pixel_um == pytest.approx(pixel_um)
    assert f"the files give a pixel size of {pixel_um:.4g} um (1 of them); it is used" in said


@pytest.mark.parametrize("given", [0.0541, 0.2, 1.08])
def test_another_pixel_size_than_that_of_the_files_is_told(given: float, tmp_path: Path) -> None:
    with_pixel_size(tmp_path / "a.ome.tif", 0.108)
    said: list[str] = []
    import_fields(
        [tmp_path / "a.ome.tif"], make(tmp_path), FieldImport("stack", given), say=said.append
    )
    assert [
        line
        for line in said
        if line.startswith("warning: a.ome.tif gives a pixel size of 0.108 um")
    ]
    assert make(tmp_path).record().pixel_um == given


def test_the_same_pixel_size_is_not_told(tmp_path: Path) -> None:
    with_pixel_size(tmp_path / "a.ome.tif", 0.108)
    said: list[str] = []
    import_fields(
        [tmp_path / "a.ome.tif"], make(tmp_path), FieldImport("stack", 0.108), say=said.append
    )
    assert said == []


def test_pixel_sizes_that_are_not_known_or_differ(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ImportDataError, match="give --pixel-um"):
        import_fields([folder], make(tmp_path), FieldImport("stained-rgb", None))
    with_pixel_size(tmp_path / "a.ome.tif", 0.108)
    with_pixel_size(tmp_path / "b.ome.tif", 0.2)
    with pytest.raises(
        ImportDataError, match=r"a\.ome\.tif gives .* 0\.108 um, b\.ome\.tif one of 0\.2 um"
    ):
        import_fields(sorted(tmp_path.glob("*.tif")), make(tmp_path), FieldImport("stack", None))
