from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from wbcpipe.errors import ImportDataError, SampleBusyError, SampleStateError
from wbcpipe.samples.sample import Sample
from wbcpipe.segment.importers import cells as imports
from wbcpipe.segment.importers.cells import import_cells
from wbcpipe.segment.importers.fields import import_fields
from wbcpipe.segment.importers.inputs import CellImport, FieldImport
from wbcpipe.segment.segment_field import measure_block

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.samples.cell_store import CellStore


def make(tmp_path: Path, name: str = "S") -> Sample:
    return Sample.open(tmp_path / "data", name)


def stamp(path: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(file): (file.stat().st_mtime_ns, file.read_bytes())
        for file in path.rglob("*")
        if file.is_file()
    }


def content(store: CellStore) -> dict[str, bytes]:
    names = ("field_index", "area_um2", "nucleus_area_um2", "sharpness")
    return {
        "images": store.images().tobytes(),
        "masks": store.masks().tobytes(),
        **{name: store.column(name).tobytes() for name in names},
    }


def test_labels_come_from_folder_names(folder: Path, tmp_path: Path) -> None:
    store = import_cells([folder], make(tmp_path), CellImport("stained-rgb", 0.1))
    assert store.labels() == ["LYM", "blast", "NEU", "NEU"]  # files in order of their names
    assert store.attributes.classes == ("NEU", "LYM", "blast")
    assert store.attributes.derived == ("fluorescence",)
    assert store.modalities == ("color1", "color2", "color3", "fluorescence")
    assert store.images().shape == (4, 4, 224, 224)


def test_the_crop_is_the_middle_of_the_picture_untouched(folder: Path, tmp_path: Path) -> None:
    store = import_cells(
        [folder / "Lymphocytes" / "c.png"], make(tmp_path), CellImport("stained-rgb", 0.1)
    )
    pixels = np.asarray(Image.open(folder / "Lymphocytes" / "c.png"))[18:242, 18:242]
    assert np.array_equal(store.images()[0, :3], np.moveaxis(pixels, -1, 0).astype(np.uint16) * 257)
    mask = store.masks()[0]
    assert mask[120, 112] == 2
    assert mask[112 - 45, 112] == 1
    assert mask[5, 5] == 0
    assert store.column("nucleus_area_um2")[0] == pytest.approx(np.pi * 3.4**2, rel=0.1)
    assert store.column("area_um2")[0] == pytest.approx(np.pi * 5.5**2, rel=0.1)


def test_a_manifest_goes_before_folder_names(folder: Path, tmp_path: Path) -> None:
    rows = [
        "neutrophil/a.jpg,basophil",
        "neutrophil/b.jpg,EO",
        "Lymphocytes/c.png,",
        "blast/d.jpg,mono",
    ]
    (folder / "manifest.csv").write_text("\n".join(["file,label", *rows]) + "\n")
    store = import_cells([folder], make(tmp_path), CellImport("stained-rgb", 0.1))
    assert store.labels() == ["", "MO", "BAS", "EOS"]
    assert store.attributes.classes == ("EOS", "MO", "BAS")


def test_no_labels(folder: Path, tmp_path: Path) -> None:
    store = import_cells([folder], make(tmp_path), CellImport("stained-rgb", 0.1, labels=False))
    assert store.labels() == [""] * 4
    assert store.attributes.classes == ()


def test_the_second_import_does_nothing(folder: Path, tmp_path: Path) -> None:
    sample = make(tmp_path)
    import_cells([folder], sample, CellImport("stained-rgb", 0.1))
    before = stamp(sample.cells_path), sample.record()
    import_cells([folder], sample, CellImport("stained-rgb", 0.1))
    assert (stamp(sample.cells_path), sample.record()) == before


def test_other_pictures_into_the_same_sample_are_refused(folder: Path, tmp_path: Path) -> None:
    sample = make(tmp_path)
    import_cells([folder], sample, CellImport("stained-rgb", 0.1))
    with pytest.raises(SampleStateError, match="already holds other data"):
        import_cells([folder], sample, CellImport("stained-rgb", 0.2))
    with pytest.raises(SampleStateError, match="already holds other data"):
        import_fields([folder], sample, FieldImport("stained-rgb", 0.1))


def test_a_broken_import_goes_on_to_the_same_cells(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = import_cells([folder], make(tmp_path, "whole"), CellImport("stained-rgb", 0.1))
    broken = make(tmp_path, "broken")
    measure, calls = measure_block, iter(range(1))

    def fail_at_second(*arguments: Any) -> Any:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return measure(*arguments)

    monkeypatch.setattr(imports, "measure_block", fail_at_second)
    with pytest.raises(KeyboardInterrupt):
        import_cells([folder], broken, CellImport("stained-rgb", 0.1))
    assert not broken.cells_path.exists()
    monkeypatch.undo()
    assert content(import_cells([folder], broken, CellImport("stained-rgb", 0.1))) == content(whole)


def stack(cells: int = 3, modalities: int = 3, side: int = 40) -> np.ndarray:
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    nucleus = 200 + 3000 * (np.hypot(y, x) < 8)
    planes = [900 - 300 * (np.hypot(y, x) < 12) + k for k in range(modalities - 1)]
    return np.array([[*planes, nucleus]] * cells, np.uint16)


def test_stacks_of_any_number_of_modalities(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", images=stack(), phase=np.array(["G1", "S", "neutrophil"]))
    store = import_cells(
        [tmp_path / "s.npz"],
        make(tmp_path),
        CellImport("stack", 0.5, crop_pixel_um=0.5, side_px=48),
    )
    assert store.modalities == ("color1", "color2", "fluorescence")
    assert store.attributes.classes == ("NEU", "G1", "S")
    assert store.labels() == ["G1", "S", "NEU"]
    assert np.array_equal(store.images()[0, :, 4:44, 4:44], stack()[0])
    assert store.column("nucleus_area_um2")[0] == pytest.approx(np.pi * 4**2, rel=0.15)


def test_modality_names_are_checked(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", stack())
    store = import_cells(
        [tmp_path / "s.npy"],
        make(tmp_path),
        CellImport("stack", 0.5, modalities=["bf", "df", "dna"]),
    )
    assert store.modalities == ("bf", "df", "dna")
    with pytest.raises(ImportDataError, match="3 different names are needed"):
        import_cells(
            [tmp_path / "s.npy"],
            make(tmp_path, "T"),
            CellImport("stack", 0.5, modalities=["bf", "bf", "dna"]),
        )


def test_a_coarser_picture_is_enlarged_about_its_middle(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", stack())
    store = import_cells(
        [tmp_path / "s.npy"], make(tmp_path), CellImport("stack", 0.4, crop_pixel_um=0.1)
    )
    nucleus = store.images()[0, 2] > 1700
    assert np.count_nonzero(nucleus) * 0.01 == pytest.approx(
        np.count_nonzero(stack()[0, 2] > 1700) * 0.16, rel=0.05
    )
    assert np.array(np.nonzero(nucleus)).mean(1) == pytest.approx([111.5, 111.5], abs=0.6)


@pytest.mark.parametrize(
    ("pixel_um", "kind", "text"), [(50, "stack", "pixel-um"), (0.1, "grey", "kind 'grey'")]
)
def test_options_are_checked(tmp_path: Path, pixel_um: float, kind: str, text: str) -> None:
    with pytest.raises(ImportDataError, match=text):
        import_cells([tmp_path], make(tmp_path), CellImport(kind, pixel_um))  # type: ignore[arg-type] # refused


def test_a_second_process_is_refused(folder: Path, tmp_path: Path) -> None:
    sample = make(tmp_path)
    with sample.lock("another import"), pytest.raises(SampleBusyError, match="another import"):
        import_cells([folder], sample, CellImport("stained-rgb", 0.1))


def test_sample_json_says_what_it_is(folder: Path, tmp_path: Path) -> None:
    sample = make(tmp_path)
    import_cells([folder], sample, CellImport("stained-rgb", 0.1))
    info = json.loads(sample.info_path.read_text())
    wanted = {
        "format_version",
        "sample",
        "created",
        "software",
        "kind",
        "modalities",
        "pixel_um",
        "derived",
        "source",
    }
    assert wanted <= set(info)
    assert info["kind"] == "stained-rgb"
    assert info["derived"] == ["fluorescence"]


def test_real_cells_get_sensible_masks(shared_data: Path, tmp_path: Path) -> None:
    paths = sorted((shared_data / "pbc5").glob("*/*.jpg"))[::60]
    store = import_cells(paths, make(tmp_path), CellImport("stained-rgb", 0.1))
    assert store.attributes.classes == ("NEU", "LYM", "EOS", "MO", "BAS")
    nucleus, area = store.column("nucleus_area_um2"), store.column("area_um2")
    assert np.all(nucleus > 15)
    assert np.median(area) == pytest.approx(120, rel=0.4)
    assert np.mean((area > nucleus) & (area < 330)) > 0.95
    assert np.mean([mask[102:122, 102:122].any() for mask in store.masks()]) == 1.0
