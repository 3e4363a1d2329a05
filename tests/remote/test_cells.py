from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from wbcpipe.errors import CorruptObjectError, RemoteStorageError, SampleStateError
from wbcpipe.remote.cells import PublishedCells
from wbcpipe.remote.object_store import ObjectStore, RetryPolicy
from wbcpipe.remote.results import publish_result, result_record
from wbcpipe.samples.cell_attributes import CellAttributes, LabelImport
from wbcpipe.samples.cell_columns import COLUMNS, entry_shape
from wbcpipe.samples.cell_store import CellBlock, CellStore

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.tests.remote.conftest import FakeS3

CELLS = 40


@pytest.fixture
def local(tmp_path: Path) -> CellStore:
    noise = np.random.default_rng(1)
    block = CellBlock(
        noise.integers(0, 65535, (CELLS, 2, 8, 8)).astype(np.uint16),
        noise.integers(0, 3, (CELLS, 8, 8)).astype(np.uint8),
        {
            name: noise.integers(0, 100, (CELLS, *entry_shape(column, 2))).astype(column.dtype)
            for name, column in COLUMNS.items()
        },
        ["NEU"] * CELLS,
    )
    attributes = CellAttributes(
        modalities=("a", "b"), pixel_um=0.1, provenance={}, classes=("NEU",)
    )
    return CellStore.create(tmp_path / "result" / "cells.zarr", [block], attributes)


@pytest.fixture
def published(store: ObjectStore, local: CellStore) -> PublishedCells:
    publish_result(store, "S1", "abc", local.path.parent)
    record = result_record(store, "S1", "abc")
    assert record is not None
    return PublishedCells(store, record)


def _chunk(s3: FakeS3) -> str:
    return next(key for key in s3.objects if "/images/c.1." in key)


def test_cells_of_a_bucket_are_read_as_local_ones(
    published: PublishedCells, local: CellStore, s3: FakeS3
) -> None:
    s3.requests.clear()
    assert np.array_equal(published.images(32, 40), local.images(32, 40))
    assert [key for _, key in s3.requests if "/c." in key] == [_chunk(s3)], "one chunk of all"
    assert np.array_equal(published.images(), local.images())
    assert published.labels() == local.labels()
    for name, values in published.table().items():
        assert np.array_equal(values, local.table()[name])
    published.check("masks")


@pytest.mark.parametrize("damage", ["changed", "cut short", "missing"])
def test_a_damaged_chunk_is_never_used(published: PublishedCells, s3: FakeS3, damage: str) -> None:
    key = _chunk(s3)
    content = s3.objects.pop(key)
    if damage != "missing":
        s3.objects[key] = content[:-1] + (b"?" if damage == "changed" else b"")
    assert published.images(0, 32).any()
    with pytest.raises(CorruptObjectError, match=r"images/c\.1"):
        published.images()


def test_a_store_that_does_not_answer_is_no_damage(
    published: PublishedCells, store: ObjectStore, s3: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = result_record(store, "S1", "abc")
    assert record is not None
    assert len(published) == CELLS
    monkeypatch.setattr("wbcpipe.remote.connect.MAX_RETRIES", 0)
    cells = PublishedCells(ObjectStore(store.location, retry=RetryPolicy(attempts=1)), record)
    s3.fault = lambda _method, _key: "503"
    with pytest.raises(RemoteStorageError, match="HTTP 503"):
        cells.images()


def test_a_published_result_is_not_changed(published: PublishedCells) -> None:
    record = LabelImport(source="file", sha256="0" * 64, cells=CELLS, date="")
    with pytest.raises(SampleStateError, match="is not changed"):
        published.write_labels(["NEU"] * CELLS, ("NEU",), record)
