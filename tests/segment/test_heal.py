"""A damaged store or intermediate result is made anew by `segment`, with the same cells."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
import pytest

from wbcpipe.samples.cell_columns import COLUMNS, morphometry_columns
from wbcpipe.samples.field_status import write_missing, write_skipped
from wbcpipe.samples.fields import field_path
from wbcpipe.samples.sample import Sample
from wbcpipe.segment.run import segment_sample

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.samples.cell_store import CellStore

CHUNK = "c.*"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def delete(path: Path) -> None:
    path.unlink()


def swap(path: Path) -> None:
    """Copy the next file of the folder over this one."""
    names = sorted(other for other in path.parent.iterdir() if other.suffix == path.suffix)
    shutil.copyfile(names[(names.index(path) + 1) % len(names)], path)


def exchange(path: Path) -> None:
    """Write the values in another order: a chunk that is sound in itself, as one of another store
    is.
    """
    values = np.frombuffer(path.read_bytes()[:-4], np.uint16)[::-1].tobytes()
    path.write_bytes(values + google_crc32c.value(values).to_bytes(4, "little"))


def content(store: CellStore) -> dict[str, Any]:
    names = [*COLUMNS, *morphometry_columns(4, red=False)]
    return {
        "images": store.images().tobytes(),
        "masks": store.masks().tobytes(),
        "label": store.labels(),
        **{name: store.column(name).tobytes() for name in names},
        "attributes": store.attributes,
    }


@pytest.fixture
def segmented(unbroken: CellStore, tmp_path: Path) -> Sample:
    """A copy of the segmented sample."""
    sample = Sample.open(tmp_path, "virtual")
    shutil.copytree(unbroken.path.parent, sample.path)
    return sample


@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        (f"cells.zarr/qc_flags/{CHUNK}", flip),
        (f"cells.zarr/qc_flags/{CHUNK}", delete),
        (f"cells.zarr/images/{CHUNK}", flip),
        (f"cells.zarr/x_um/{CHUNK}", cut),
        ("cells.zarr/label/zarr.json", flip),
        ("cells.zarr/area_um2/zarr.json", delete),
        ("cells.zarr/qc_flags/c.0", exchange),
        ("cells.zarr/zarr.json", flip),
        ("cells.zarr/zarr.json", delete),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_damaged_store_is_written_anew(
    segmented: Sample, unbroken: CellStore, pattern: str, damage: Callable[[Path], None]
) -> None:
    damage(sorted(segmented.path.glob(pattern))[0])
    assert content(segment_sample(segmented, pixel_um=0.1, jobs=1)) == content(unbroken)


@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        ("work/fields/field_00002.npz", flip),
        ("work/fields/field_00000.npz", cut),
        ("work/fields/field_00003.npz", swap),
        ("work/fields/field_00001.npz", delete),
        ("work/slide_statistics.npz", empty),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_damaged_result_of_a_field_is_computed_anew(
    segmented: Sample, unbroken: CellStore, pattern: str, damage: Callable[[Path], None]
) -> None:
    damage(sorted(segmented.path.glob(pattern))[0])
    shutil.rmtree(segmented.cells_path)
    assert content(segment_sample(segmented, pixel_um=0.1, jobs=1)) == content(unbroken)


@pytest.mark.parametrize("kept", [True, False], ids=["with its result", "without"])
@pytest.mark.parametrize("index", [0, 3], ids=["a gap", "the last"])
def test_a_field_whose_file_is_gone_is_named(
    segmented: Sample,
    unbroken: CellStore,
    caplog: pytest.LogCaptureFixture,
    index: int,
    kept: bool,
) -> None:
    path = field_path(segmented.raw_path(), index)
    path.unlink()
    if not kept:
        (segmented.work_path / "fields" / f"field_{index:05d}.npz").unlink()
        (segmented.cells_path / "y_um" / "zarr.json").unlink()  # so that it is written anew
    store = segment_sample(segmented, pixel_um=0.1, jobs=1)
    assert f"field {index}: {path} is missing, and no record says why" in caplog.text
    cells = np.count_nonzero(unbroken.column("field_index") != index)
    assert len(store) == (len(unbroken) if kept else cells)
    assert store.attributes.provenance["damaged_fields"] == ([] if kept else [index])


def test_a_field_that_could_not_be_taken_is_not_lost(
    copy_run: Callable[[str], Sample], caplog: pytest.LogCaptureFixture
) -> None:
    sample = copy_run("missing")
    field_path(sample.raw_path(), 1).unlink()
    field_path(sample.raw_path(), 2).unlink()
    write_missing(sample.raw_path(), {1: "the stage did not move"})
    write_skipped(sample.raw_path(), {2: 0.5})
    segment_sample(sample, pixel_um=0.1, jobs=1)
    assert "no record says why" not in caplog.text
