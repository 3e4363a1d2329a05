from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree

from wbcpipe.errors import FrameFileError, NoCellsError, SampleStateError
from wbcpipe.samples.cell_columns import COLUMNS, QcFlag, morphometry_columns
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.field_status import write_missing, write_skipped
from wbcpipe.samples.fields import field_path, fields_on_disk, read_field, write_field
from wbcpipe.samples.records import SampleRecord
from wbcpipe.samples.sample import Sample
from wbcpipe.segment import stage as stage_module
from wbcpipe.segment.field_cells import save_field
from wbcpipe.segment.importers.fields import import_fields
from wbcpipe.segment.importers.inputs import FieldImport
from wbcpipe.segment.run import segment_sample
from wbcpipe.segment.segment_field import process_field
from wbcpipe.segment.stage import SampleSegmenter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def run(sample: Sample) -> CellStore:
    return segment_sample(sample, pixel_um=0.1)


def content(store: CellStore) -> dict[str, Any]:
    return {
        "images": store.images().tobytes(),
        "masks": store.masks().tobytes(),
        "label": store.labels(),
        **{
            name: store.column(name).tobytes()
            for name in [*COLUMNS, *morphometry_columns(4, red=False)]
        },
        "attributes": store.attributes,
    }


def test_every_cell_once_with_its_true_class(rendered, unbroken: CellStore) -> None:  # type: ignore[no-untyped-def]
    places = np.array(rendered.fields)[:, 1:]
    low, high = (places.min(0) - 51).tolist(), (places.max(0) + 51).tolist()
    cells = [item for item in rendered.scope.specimen.objects_in(*low, *high) if item.label]
    inside = [item for item in cells if min(item.x_um - low[0], item.y_um - low[1]) > 8]
    inside = [item for item in inside if min(high[0] - item.x_um, high[1] - item.y_um) > 8]
    counted = (unbroken.column("qc_flags") & (QcFlag.BORDER | QcFlag.DEBRIS)) == 0
    ours = np.stack([unbroken.column("x_um"), unbroken.column("y_um")], -1)
    truth = np.array([(item.x_um, item.y_um) for item in cells])
    distance, nearest = map(np.asarray, cKDTree(truth).query(ours[counted]))
    assert len(inside) > 12
    assert np.mean(distance < 3) >= 0.98
    assert len(set(nearest)) == counted.sum()
    assert np.median(distance) < 0.5
    found = np.asarray(
        cKDTree(ours).query(np.array([(item.x_um, item.y_um) for item in inside]))[0]
    )
    assert np.mean(found < 3) >= 0.98
    labels = np.array(unbroken.labels())[counted]
    assert [cells[k].label for k in nearest] == labels.tolist()


def test_columns_make_sense(unbroken: CellStore) -> None:
    assert unbroken.attributes.classes == ("NEU", "LYM", "EOS", "MO", "BAS")
    assert unbroken.pixel_um == 0.1
    assert unbroken.column("shift_px").shape == (len(unbroken), 3, 2)
    assert np.median(unbroken.column("shift_px")[:, 0], axis=0) == pytest.approx(
        [6.0, -11.0], abs=2.5
    )
    assert unbroken.column("shift_residual_px").max() < 0.5
    whole = (unbroken.column("qc_flags") & QcFlag.BORDER) == 0
    area, nucleus = unbroken.column("area_um2")[whole], unbroken.column("nucleus_area_um2")[whole]
    assert np.all(area > nucleus)
    assert 60 < np.median(area) < 250
    provenance: Any = unbroken.attributes.provenance
    assert provenance["fields"] == list(range(6))
    assert provenance["damaged_fields"] == []
    background = np.median(unbroken.images()[:, :3][..., :10, :10])
    assert background == pytest.approx(40000, rel=0.05)


def test_every_field_has_figures_of_its_quality(unbroken: CellStore) -> None:
    figures: Any = unbroken.attributes.field_quality
    assert figures["field_index"] == unbroken.attributes.provenance["fields"]
    with_cells = [
        row
        for row, index in enumerate(figures["field_index"])
        if np.any(unbroken.column("field_index") == index)
    ]
    assert with_cells
    assert all(0.2 < figures["blur_um"][row] < 0.6 for row in with_cells)
    assert all(figures["nucleus_cytoplasm_contrast_ratio"][row] > 2 for row in with_cells)
    assert all(10 < share < 70 for share in figures["red_cover_percent"])
    background = np.array(figures["background_percent"], float)[:, :3]
    assert np.ptp(background, axis=0).max() < 1


@pytest.mark.parametrize("step", ["statistics", "process 3", "process 5", "storing"])
def test_killed_and_resumed_ends_in_the_same_cells(
    copy_run: Callable[[str], Sample],
    unbroken: CellStore,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    sample = copy_run("broken")
    calls = 0

    def die_at(count: int, function: Callable[..., Any]) -> Callable[..., Any]:
        def dying(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > count:
                raise KeyboardInterrupt
            return function(*arguments, **options)

        return dying

    match step.split():
        case ["statistics"]:
            monkeypatch.setattr(stage_module, "process_field", die_at(0, process_field))
        case ["process", number]:
            monkeypatch.setattr(stage_module, "save_field", die_at(int(number), save_field))
        case _:
            monkeypatch.setattr(CellStore, "create", die_at(0, CellStore.create))
    with pytest.raises(KeyboardInterrupt):
        run(sample)
    assert not sample.cells_path.exists()
    monkeypatch.undo()
    assert content(run(sample)) == content(unbroken)


def test_the_order_of_processing_does_not_matter(
    copy_run: Callable[[str], Sample], unbroken: CellStore
) -> None:
    sample = copy_run("reversed")
    stage = SampleSegmenter(sample)
    stage.estimate_statistics(list(range(6)))
    for index in reversed(range(6)):
        stage.segment_field(index)
    # What would be written is known beforehand, flags that only the whole sample tells included.
    cells = stage.current_cells()
    np.testing.assert_array_equal(cells.field_index, unbroken.column("field_index"))
    np.testing.assert_array_equal(cells.qc_flags, unbroken.column("qc_flags"))
    assert content(stage.write_store(range(6))) == content(unbroken)


def test_the_second_run_does_nothing(unbroken: CellStore, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = Sample("virtual", unbroken.path.parent)
    before = {path: path.stat().st_mtime_ns for path in unbroken.path.rglob("*")}
    monkeypatch.setattr(stage_module, "read_passes", None)
    run(sample)
    assert {path: path.stat().st_mtime_ns for path in unbroken.path.rglob("*")} == before


def test_more_fields_add_to_the_cells(
    copy_run: Callable[[str], Sample], unbroken: CellStore
) -> None:
    sample = copy_run("growing")
    stage = SampleSegmenter(sample)
    stage.estimate_statistics(list(range(6)))
    few = len(stage.write_store(range(3)))
    assert len(SampleSegmenter(sample).write_store(range(6))) == len(unbroken) > few
    assert content(CellStore(sample.cells_path)) == content(unbroken)


def test_a_damaged_field_is_left_out_and_recorded(
    copy_run: Callable[[str], Sample], caplog: pytest.LogCaptureFixture
) -> None:
    sample = copy_run("damaged")
    path = field_path(sample.raw_path(), 4)
    path.write_bytes(path.read_bytes()[:3_000_000])
    store = run(sample)
    assert store.attributes.provenance["damaged_fields"] == [4]
    assert 4 not in store.column("field_index")
    said = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert len(said) == 1
    assert said[0].startswith("field 4 is left out: ")
    assert '"field_damaged"' in (sample.path / "log.jsonl").read_text()
    assert path.stat().st_size == 3_000_000


def test_segmenting_loads_no_torch(copy_run: Callable[[str], Sample]) -> None:
    sample = copy_run("light")
    program = (
        "import sys\nfrom pathlib import Path\nfrom wbcpipe.samples.sample import Sample\n"
        "from wbcpipe.segment.stage import SampleSegmenter\n"
        f"print(len(SampleSegmenter(Sample.open(Path({str(sample.path.parent)!r}), "
        f"'light')).segment_field(0)))\n"
        "assert 'torch' not in sys.modules, 'torch was loaded'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_no_readable_field(copy_run: Callable[[str], Sample]) -> None:
    sample = copy_run("wreck")
    for path in fields_on_disk(sample.raw_path()).values():
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(FrameFileError, match="no field can be read"):
        run(sample)


def test_a_sample_without_fields(tmp_path: Path) -> None:
    with pytest.raises(SampleStateError, match="no sample 'S'"):
        run(Sample.open(tmp_path, "S"))
    sample = Sample.open(tmp_path, "T")
    sample.write(SampleRecord(sample="T"))
    with pytest.raises(FrameFileError, match="no field there"):
        run(sample)
    sample.raw_path().mkdir(parents=True)
    write_skipped(sample.raw_path(), {0: 0.6, 1: 0.2})
    with pytest.raises(NoCellsError, match=r"any of the 2 fields .*at most 0\.6 um2"):
        run(sample)
    with pytest.raises(NoCellsError, match=r"any of the 2 fields"):
        SampleSegmenter(sample).write_store([])
    write_missing(sample.raw_path(), {2: "the camera gave no image."})
    with pytest.raises(FrameFileError, match="1 are missing, the first one since the camera gave"):
        run(sample)


def test_a_missing_modality_is_flagged(copy_run: Callable[[str], Sample]) -> None:
    sample = copy_run("gap")
    path = field_path(sample.raw_path(), 2)
    frames, info = read_field(path)
    frames[1] = 0
    write_field(path, frames, info)
    store = run(sample)
    flagged = (store.column("qc_flags") & QcFlag.MISSING_MODALITY) > 0
    assert set(store.column("field_index")[flagged]) <= {2}
    here = store.column("field_index") == 2
    assert np.all(flagged[here])
    # Color2 cannot be registered; color1 and color3 can, and keep their registration.
    assert np.all((store.column("qc_flags")[here] & QcFlag.UNREGISTERED) > 0)


@pytest.mark.parametrize("glow", [5200, 15000])
def test_dirt_that_shines_is_not_counted(
    copy_run: Callable[[str], Sample], unbroken: CellStore, glow: int
) -> None:
    sample = copy_run(f"dirty-{glow}")
    path = field_path(sample.raw_path(), 0)
    frames, info = read_field(path)
    # As far from all that shines as it goes, a disc that stops half of all light.
    dark = np.asarray(
        ndimage.distance_transform_edt(ndimage.gaussian_filter(frames[3].astype(float), 3) < 1500)
    )
    dark[:80] = dark[-80:] = dark[:, :80] = dark[:, -80:] = 0
    y, x = np.unravel_index(int(np.argmax(dark)), dark.shape)
    rows, columns = np.ogrid[: frames.shape[1], : frames.shape[2]]
    blob = np.clip(28 - np.hypot(rows - y, columns - x), 0, 1)
    frames = np.concatenate([frames[:3] * (1 - 0.5 * blob), frames[3:] + glow * blob]).astype(
        np.uint16
    )
    path.unlink()
    write_field(path, frames, info)
    store = run(sample)
    there = np.hypot(store.column("y_px") - y, store.column("x_px") - x) < 20
    (row,) = np.flatnonzero(there & (store.column("field_index") == 0))
    debris = (store.column("qc_flags") & QcFlag.DEBRIS) != 0
    assert debris[row] == (glow < 10000), "what shines as nuclei do is one, dirt on it or not"
    np.testing.assert_array_equal(
        np.delete(debris, row), (unbroken.column("qc_flags") & QcFlag.DEBRIS) != 0
    )


def test_imported_fields_are_segmented(shared_data: Path, tmp_path: Path) -> None:
    sample = Sample.open(tmp_path, "smear")
    pictures = sorted((shared_data / "bccd" / "JPEGImages").glob("*.jpg"))[:6]
    import_fields(pictures, sample, FieldImport("stained-rgb", 0.075))
    store = run(sample)
    assert 5 <= len(store) <= 9
    assert store.attributes.derived == ("fluorescence",)
    assert not (store.column("qc_flags") & QcFlag.UNREGISTERED).any()
    row = int(np.flatnonzero(store.column("qc_flags") == 0)[0])
    rgb = np.asarray(Image.open(pictures[int(store.column("field_index")[row])]))
    y, x = int(store.column("y_px")[row]), int(store.column("x_px")[row])
    assert store.images()[row, :3, 112, 112] / 257 == pytest.approx(
        rgb[y - 2 : y + 3, x - 2 : x + 3].mean((0, 1)), abs=25
    )


def test_flags_do_not_follow_from_what_most_objects_are(shared_data: Path, tmp_path: Path) -> None:
    """A sharp cell among blurred ones is not flagged, and each blurred one is, though they are the
    majority.
    """
    names = ("B-53_0104", "E-12_0565", "L-10_0030", "E-14_0467")
    (tmp_path / "in").mkdir()
    for k, name in enumerate(names):
        rgb = np.asarray(
            Image.open(shared_data / "chula" / "fields" / f"{name}.jpg").convert("RGB"), float
        )
        seen = ndimage.gaussian_filter(rgb, (13, 13, 0)) if k else rgb
        Image.fromarray(np.round(seen).astype(np.uint8)).save(tmp_path / "in" / f"{k}.png")
    sample = Sample.open(tmp_path, "blurred")
    import_fields([tmp_path / "in"], sample, FieldImport("stained-rgb", 0.1))
    store = run(sample)
    blurred = (store.column("qc_flags") & QcFlag.BLURRED) > 0
    field = store.column("field_index")
    assert set(field.tolist()) == {0, 1, 2, 3}
    assert not blurred[field == 0].any()
    assert all(blurred[field == k].any() for k in (1, 2, 3))


def test_pictures_without_cells(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    blank = np.random.default_rng(0).normal(220, 3, (200, 200, 3)).astype(np.uint8)
    Image.fromarray(blank).save(tmp_path / "in" / "blank.png")
    sample = Sample.open(tmp_path, "blank")
    import_fields([tmp_path / "in"], sample, FieldImport("stained-rgb", 0.1))
    with pytest.raises(NoCellsError, match="no white cell in 1 fields"):
        run(sample)
