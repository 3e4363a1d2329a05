from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from wbcpipe.errors import NoCellsError, SampleStateError
from wbcpipe.segment.cells import CELLS_PER_SHARD, COLUMNS, CellBlock, CellStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODALITIES = ("a", "b", "c")
ATTRIBUTES = {"pixel_um": 0.1, "provenance": {"software": "test"}, "classes": ["NEU"]}


def block(cells: int, seed: int, side: int = 16) -> CellBlock:
    rng = np.random.default_rng(seed)
    columns = {
        name: rng.integers(0, 100, (cells, *(2 if size == "M-1" else int(size) for size in shape))).astype(dtype)
        for name, (dtype, shape) in COLUMNS.items()
    }
    images = rng.integers(0, 65535, (cells, 3, side, side)).astype(np.uint16)
    masks = rng.integers(0, 3, (cells, side, side)).astype(np.uint8)
    return CellBlock(images, masks, columns, [f"class {seed}"] * cells)


@pytest.mark.parametrize("sizes", [[1], [3, 0, 5], [CELLS_PER_SHARD], [200, 200, 200]], ids=str)
def test_what_is_written_is_read(tmp_path: Path, sizes: list[int]) -> None:
    blocks = [block(size, seed) for seed, size in enumerate(sizes)]
    store = CellStore.create(tmp_path / "cells.zarr", blocks, modalities=MODALITIES, attributes=ATTRIBUTES)
    assert len(store) == sum(sizes)
    assert np.array_equal(store.images(), np.concatenate([part.images for part in blocks]))
    assert np.array_equal(store.masks(), np.concatenate([part.masks for part in blocks]))
    for name in COLUMNS:
        assert np.array_equal(store.column(name), np.concatenate([part.columns[name] for part in blocks]))
    assert store.labels() == [label for part in blocks for label in part.label]
    assert store.modalities == MODALITIES
    assert store.pixel_um == 0.1
    assert sum(len(images) for _, images in store.blocks(100)) == len(store)


def test_a_store_stands_only_when_whole(tmp_path: Path) -> None:
    def broken() -> Iterator[CellBlock]:
        yield block(2, 0)
        raise KeyboardInterrupt

    path = tmp_path / "cells.zarr"
    with pytest.raises(KeyboardInterrupt):
        CellStore.create(path, broken(), modalities=MODALITIES, attributes=ATTRIBUTES)
    assert not path.exists()
    CellStore.create(path, [block(3, 1)], modalities=MODALITIES, attributes=ATTRIBUTES)
    with pytest.raises(KeyboardInterrupt):
        CellStore.create(path, broken(), modalities=MODALITIES, attributes=ATTRIBUTES)
    assert len(CellStore(path)) == 3


def test_nothing_to_store(tmp_path: Path) -> None:
    with pytest.raises(NoCellsError, match="no cell to store"):
        CellStore.create(tmp_path / "cells.zarr", [block(0, 0)], modalities=MODALITIES, attributes=ATTRIBUTES)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SampleStateError, match="no cells there"):
        CellStore(tmp_path / "cells.zarr")


def test_calls_are_read_back(tmp_path: Path) -> None:
    store = CellStore.create(tmp_path / "cells.zarr", [block(2, 0)], modalities=MODALITIES, attributes=ATTRIBUTES)
    with pytest.raises(SampleStateError, match="not classified yet"):
        store.calls()
    store.write_calls(
        np.zeros((2, 3, 1), np.float32),
        ["NEU", "unidentified"],
        np.ones(2, np.float32),
        np.zeros(2, np.float32),
        classified={"bundle": "b"},
    )
    assert CellStore(store.path).calls() == ["NEU", "unidentified"]
