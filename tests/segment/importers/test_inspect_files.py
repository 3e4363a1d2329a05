from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
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
    [(import_cells, CellImport("stained-rgb", 0.1)), (import_fields, FieldImport("stained-rgb", 0.1))],
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
        ({"images": np.full((2, 3, 20, 20), -1.0)}, "float64 values from -1 to -1; .* 8 or 16 bits was expected"),
        ({"images": np.array([{}, {}], object)}, "not readable"),
    ],
    ids=["no images", "shape", "type", "pickled"],
)
def test_unfit_stacks_are_refused(tmp_path: Path, arrays: dict[str, Any], text: str) -> None:
    np.savez(tmp_path / "stack.npz", **arrays)
    with pytest.raises(ImportDataError, match=text):
        import_cells([tmp_path / "stack.npz"], make(tmp_path), CellImport("stack", 0.1))
