from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from wbcpipe.errors import ImportDataError
from wbcpipe.samples.sample import Sample
from wbcpipe.segment.importers.cells import import_cells
from wbcpipe.segment.importers.find_files import find_image_files
from wbcpipe.segment.importers.inputs import CellImport

if TYPE_CHECKING:
    from pathlib import Path


def test_other_files_are_counted(folder: Path) -> None:
    for name in ("notes.txt", "more.txt", "results.csv", "README", "scan.czi"):
        (folder / name).write_text("x")
    for name in ("._a.jpg", ".DS_Store", "Thumbs.db", "neutrophil/._a.jpg"):
        (folder / name).write_bytes(b"\0\5\x16\7")
    (folder / "__MACOSX").mkdir()
    shutil.copy(folder / "neutrophil" / "a.jpg", folder / "__MACOSX" / "a.jpg")
    found = find_image_files([folder], "stained-rgb", labels=True)
    assert len(found.files) == 4
    note = (
        "passed over 10 other files: 1 .csv, 2 .txt, 1 Zeiss CZI, 5 of the operating system, 1 "
        "without a suffix"
    )
    assert found.note() == note
    said: list[str] = []
    import_cells(
        [folder], Sample.open(folder / "data", "S"), CellImport("stained-rgb", 0.1), say=said.append
    )
    assert said == [note]


def test_a_folder_of_images_alone_has_no_note(folder: Path) -> None:
    assert find_image_files([folder], "stained-rgb", labels=True).note() is None


@pytest.mark.parametrize(
    ("name", "format_name"),
    [("scan.czi", "Zeiss CZI"), ("scan.nd2", "Nikon ND2"), ("scan.LIF", "Leica LIF")],
)
@pytest.mark.parametrize("within", [False, True], ids=["given", "in a folder"])
def test_formats_of_microscopes_are_named_with_the_way(
    name: str, format_name: str, within: bool, tmp_path: Path
) -> None:
    path = tmp_path / "scans" / name
    path.parent.mkdir()
    path.write_bytes(b"x")
    with pytest.raises(ImportDataError, match=f"{format_name} is not read.*Fiji.*bioio.*OME-TIFF"):
        find_image_files([tmp_path / "scans" if within else path], "stained-rgb", labels=False)


def test_names_that_are_not_utf8(folder: Path, tmp_path: Path) -> None:
    odd = folder / os.fsdecode(b"caf\xe9")
    odd.mkdir()
    shutil.copy(folder / "neutrophil" / "a.jpg", odd / os.fsdecode(b"zelle\xff.jpg"))
    store = import_cells(
        [folder], Sample.open(tmp_path / "data", "S"), CellImport("stained-rgb", 0.1)
    )
    assert "caf\\xe9" in store.attributes.classes
    assert "caf\\xe9/zelle\\xff.jpg" in store.attributes.provenance["files"]  # type: ignore[operator] # a list
    with pytest.raises(ImportDataError, match=r"gone\\xe9"):
        find_image_files([folder / os.fsdecode(b"gone\xe9")], "stained-rgb", labels=False)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"], ids=["too long", "NUL"])
def test_names_that_no_file_can_have(name: str, tmp_path: Path) -> None:
    with pytest.raises(ImportDataError, match="cannot be read"):
        find_image_files([tmp_path / name], "stack", labels=False)
