from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from wbcpipe.errors import ImportDataError, SampleBusyError, SampleStateError
from wbcpipe.samples.fields import fields_on_disk, read_field, read_info
from wbcpipe.samples.sample import Sample
from wbcpipe.segment.importers import cells as imports
from wbcpipe.segment.importers.cells import import_cells
from wbcpipe.segment.importers.fields import import_fields

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.samples.cell_store import CellStore


def write_picture(path: Path, seed: int, side: int = 260) -> None:
    """A stained cell in the middle of a pale field."""
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:side, :side] - side / 2
    rgb = np.full((side, side, 3), (245, 230, 210), float)
    rgb[np.hypot(y, x) < 55] = (215, 190, 200)
    rgb[np.hypot(y - 8, x) < 32 + seed % 5] = (95, 55, 140)
    rgb += np.random.default_rng(seed).normal(0, 2, rgb.shape)
    Image.fromarray(rgb.clip(0, 255).astype(np.uint8)).save(path, quality=92)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    for k, name in enumerate(["neutrophil/a.jpg", "neutrophil/b.jpg", "Lymphocytes/c.png", "blast/d.jpg"]):
        write_picture(root / name, k)
    return root


def make(tmp_path: Path, name: str = "S") -> Sample:
    return Sample.open(tmp_path / "data", name)


def stamp(path: Path) -> dict[str, tuple[int, bytes]]:
    return {str(file): (file.stat().st_mtime_ns, file.read_bytes()) for file in path.rglob("*") if file.is_file()}


def content(store: CellStore) -> dict[str, bytes]:
    names = ("field_index", "area_um2", "nucleus_area_um2", "sharpness")
    return {
        "images": store.images().tobytes(),
        "masks": store.masks().tobytes(),
        **{name: store.column(name).tobytes() for name in names},
    }


def test_labels_come_from_folder_names(folder: Path, tmp_path: Path) -> None:
    store = import_cells([folder], make(tmp_path), 0.1, "stained-rgb")
    assert store.labels() == ["LYM", "blast", "NEU", "NEU"]  # files in order of their names
    assert store.attributes["classes"] == ["NEU", "LYM", "blast"]
    assert store.attributes["derived"] == ["fluorescence"]
    assert store.modalities == ("color1", "color2", "color3", "fluorescence")
    assert store.images().shape == (4, 4, 224, 224)


def test_the_crop_is_the_middle_of_the_picture_untouched(folder: Path, tmp_path: Path) -> None:
    store = import_cells([folder / "Lymphocytes" / "c.png"], make(tmp_path), 0.1, "stained-rgb")
    pixels = np.asarray(Image.open(folder / "Lymphocytes" / "c.png"))[18:242, 18:242]
    assert np.array_equal(store.images()[0, :3], np.moveaxis(pixels, -1, 0).astype(np.uint16) * 257)
    mask = store.masks()[0]
    assert mask[120, 112] == 2
    assert mask[112 - 45, 112] == 1
    assert mask[5, 5] == 0
    assert store.column("nucleus_area_um2")[0] == pytest.approx(np.pi * 3.4**2, rel=0.1)
    assert store.column("area_um2")[0] == pytest.approx(np.pi * 5.5**2, rel=0.1)


def test_a_manifest_goes_before_folder_names(folder: Path, tmp_path: Path) -> None:
    rows = ["neutrophil/a.jpg,basophil", "neutrophil/b.jpg,EO", "Lymphocytes/c.png,", "blast/d.jpg,mono"]
    (folder / "manifest.csv").write_text("\n".join(["file,label", *rows]) + "\n")
    store = import_cells([folder], make(tmp_path), 0.1, "stained-rgb")
    assert store.labels() == ["", "MO", "BAS", "EOS"]
    assert store.attributes["classes"] == ["EOS", "MO", "BAS"]


def test_no_labels(folder: Path, tmp_path: Path) -> None:
    store = import_cells([folder], make(tmp_path), 0.1, "stained-rgb", labels=False)
    assert store.labels() == [""] * 4
    assert store.attributes["classes"] == []


def test_the_second_import_does_nothing(folder: Path, tmp_path: Path) -> None:
    sample = make(tmp_path)
    import_cells([folder], sample, 0.1, "stained-rgb")
    before = stamp(sample.cells_path), sample.record()
    import_cells([folder], sample, 0.1, "stained-rgb")
    assert (stamp(sample.cells_path), sample.record()) == before


def test_other_pictures_into_the_same_sample_are_refused(folder: Path, tmp_path: Path) -> None:
    sample = make(tmp_path)
    import_cells([folder], sample, 0.1, "stained-rgb")
    with pytest.raises(SampleStateError, match="already holds other data"):
        import_cells([folder], sample, 0.2, "stained-rgb")
    with pytest.raises(SampleStateError, match="already holds other data"):
        import_fields([folder], sample, 0.1, "stained-rgb")


def test_a_broken_import_goes_on_to_the_same_cells(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = import_cells([folder], make(tmp_path, "whole"), 0.1, "stained-rgb")
    broken = make(tmp_path, "broken")
    block = imports._block

    def fail_at_second(*arguments: Any) -> Any:
        if arguments[2] == 1:
            raise KeyboardInterrupt
        return block(*arguments)

    monkeypatch.setattr(imports, "_block", fail_at_second)
    with pytest.raises(KeyboardInterrupt):
        import_cells([folder], broken, 0.1, "stained-rgb")
    assert not broken.cells_path.exists()
    monkeypatch.undo()
    assert content(import_cells([folder], broken, 0.1, "stained-rgb")) == content(whole)


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
    ("spoil", "text"),
    [
        (truncated, "a.jpg: not readable as a picture .*truncated"),
        (grey, "a.jpg: a grey picture"),
        (grey_in_three_planes, "a.jpg: a grey picture, its three planes are the same"),
        (not_a_picture, "a.jpg: not readable as a picture"),
        (tiny, "d.jpg: 4 x 4 pixels; at least 16 x 16"),
        (emptied, "nothing to import as stained-rgb"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("importer", [import_cells, import_fields])
def test_bad_input_writes_nothing(
    folder: Path, tmp_path: Path, spoil: Callable[[Path], None], text: str, importer: Callable[..., Any]
) -> None:
    spoil(folder)
    sample = make(tmp_path)
    with pytest.raises(ImportDataError, match=text) as caught:
        importer([folder], sample, 0.1, "stained-rgb")
    assert "\n" not in str(caught.value)
    assert not sample.path.exists()


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (listed_but_absent, "lists 1 files that are not there, first 'gone.jpg'"),
        (manifest_without_columns, "'file' and 'label' are needed"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    folder: Path, tmp_path: Path, spoil: Callable[[Path], None], text: str
) -> None:
    spoil(folder)
    sample = make(tmp_path)
    with pytest.raises(ImportDataError, match=text):
        import_cells([folder], sample, 0.1, "stained-rgb")
    assert not sample.path.exists()


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"pictures": np.zeros((2, 3, 20, 20), np.uint16)}, "one named 'images' is needed"),
        ({"images": np.zeros((2, 20), np.uint16)}, r"shape \(2, 20\)"),
        ({"images": np.zeros((2, 3, 20, 20), np.float64)}, "float64; .* 8 or 16 bits was expected"),
        ({"images": np.array([{}, {}], object)}, "not readable"),
    ],
    ids=["no images", "shape", "type", "pickled"],
)
def test_unfit_stacks_are_refused(tmp_path: Path, arrays: dict[str, Any], text: str) -> None:
    np.savez(tmp_path / "stack.npz", **arrays)
    with pytest.raises(ImportDataError, match=text):
        import_cells([tmp_path / "stack.npz"], make(tmp_path), 0.1, "stack")


def stack(cells: int = 3, modalities: int = 3, side: int = 40) -> np.ndarray:
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    nucleus = 200 + 3000 * (np.hypot(y, x) < 8)
    planes = [900 - 300 * (np.hypot(y, x) < 12) + k for k in range(modalities - 1)]
    return np.array([[*planes, nucleus]] * cells, np.uint16)


def test_stacks_of_any_number_of_modalities(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", images=stack(), phase=np.array(["G1", "S", "neutrophil"]))
    store = import_cells([tmp_path / "s.npz"], make(tmp_path), 0.5, "stack", 0.5, side_px=48)
    assert store.modalities == ("color1", "color2", "fluorescence")
    assert store.attributes["classes"] == ["NEU", "G1", "S"]
    assert store.labels() == ["G1", "S", "NEU"]
    assert np.array_equal(store.images()[0, :, 4:44, 4:44], stack()[0])
    assert store.column("nucleus_area_um2")[0] == pytest.approx(np.pi * 4**2, rel=0.15)


def test_modality_names_are_checked(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", stack())
    store = import_cells([tmp_path / "s.npy"], make(tmp_path), 0.5, "stack", modalities=["bf", "df", "dna"])
    assert store.modalities == ("bf", "df", "dna")
    with pytest.raises(ImportDataError, match="3 different names are needed"):
        import_cells([tmp_path / "s.npy"], make(tmp_path, "T"), 0.5, "stack", modalities=["bf", "bf", "dna"])


def test_a_coarser_picture_is_enlarged_about_its_middle(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", stack())
    store = import_cells([tmp_path / "s.npy"], make(tmp_path), 0.4, "stack", 0.1)
    nucleus = store.images()[0, 2] > 1700
    assert np.count_nonzero(nucleus) * 0.01 == pytest.approx(np.count_nonzero(stack()[0, 2] > 1700) * 0.16, rel=0.05)
    assert np.array(np.nonzero(nucleus)).mean(1) == pytest.approx([111.5, 111.5], abs=0.6)


@pytest.mark.parametrize(("pixel_um", "kind", "text"), [(50, "stack", "pixel-um"), (0.1, "grey", "kind 'grey'")])
def test_options_are_checked(tmp_path: Path, pixel_um: float, kind: str, text: str) -> None:
    with pytest.raises(ImportDataError, match=text):
        import_cells([tmp_path], make(tmp_path), pixel_um, kind)  # type: ignore[arg-type] # refused


def test_a_second_process_is_refused(folder: Path, tmp_path: Path) -> None:
    sample = make(tmp_path)
    with sample.lock("another import"), pytest.raises(SampleBusyError, match="another import"):
        import_cells([folder], sample, 0.1, "stained-rgb")


def test_fields_become_ome_tiffs_that_do_not_overlap(folder: Path, tmp_path: Path) -> None:
    sample = make(tmp_path)
    assert import_fields([folder], sample, 0.1, "stained-rgb") == 4
    infos = [read_info(path) for path in fields_on_disk(sample.raw_path()).values()]
    assert [info.source for info in infos] == [
        "Lymphocytes/c.png",
        "blast/d.jpg",
        "neutrophil/a.jpg",
        "neutrophil/b.jpg",
    ]
    assert all(info.kind == "stained-rgb" and info.frames[3].derived for info in infos)
    places = np.array([(info.y_um, info.x_um) for info in infos])
    apart = np.abs(places[:, None] - places).max(-1)[~np.eye(4, dtype=bool)]
    assert apart.min() > 26.0
    frames, _ = read_field(fields_on_disk(sample.raw_path())[0])
    pixels = np.asarray(Image.open(folder / "Lymphocytes" / "c.png"))
    assert np.array_equal(frames[:3], np.moveaxis(pixels, -1, 0).astype(np.uint16) * 257)


def test_a_broken_import_of_fields_goes_on(folder: Path, tmp_path: Path) -> None:
    sample = make(tmp_path)
    import_fields([folder], sample, 0.1, "stained-rgb")
    before = stamp(sample.raw_path())
    paths = fields_on_disk(sample.raw_path())
    first = paths[0].read_bytes()
    paths[0].unlink()
    import_fields([folder], sample, 0.1, "stained-rgb")
    after = stamp(sample.raw_path())
    assert [after[str(paths[k])] for k in (1, 2, 3)] == [before[str(paths[k])] for k in (1, 2, 3)]
    assert len(paths[0].read_bytes()) == len(first)
    assert np.array_equal(read_field(paths[0])[0][0], read_field(paths[0])[0][0])


def test_sample_json_says_what_it_is(folder: Path, tmp_path: Path) -> None:
    sample = make(tmp_path)
    import_cells([folder], sample, 0.1, "stained-rgb")
    info = json.loads(sample.info_path.read_text())
    wanted = {"format_version", "sample", "created", "software", "kind", "modalities", "pixel_um", "derived", "source"}
    assert wanted <= set(info)
    assert info["kind"] == "stained-rgb"
    assert info["derived"] == ["fluorescence"]


def test_real_cells_get_sensible_masks(shared_data: Path, tmp_path: Path) -> None:
    paths = sorted((shared_data / "pbc5").glob("*/*.jpg"))[::60]
    store = import_cells(paths, make(tmp_path), 0.1, "stained-rgb")
    assert store.attributes["classes"] == ["NEU", "LYM", "EOS", "MO", "BAS"]
    nucleus, area = store.column("nucleus_area_um2"), store.column("area_um2")
    assert np.all(nucleus > 15)
    assert np.median(area) == pytest.approx(120, rel=0.4)
    assert np.mean((area > nucleus) & (area < 330)) > 0.95
    assert np.mean([mask[102:122, 102:122].any() for mask in store.masks()]) == 1.0
