from __future__ import annotations

import functools
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from numcodecs.checksum32 import CRC32C
from zarr.codecs import BloscCodec

from wbcpipe.errors import NoCellsError, SampleStateError
from wbcpipe.imaging.arrays import bin_2x2
from wbcpipe.samples import shards
from wbcpipe.samples.cell_columns import COLUMNS, entry_shape
from wbcpipe.samples.cell_store import CELLS_PER_SHARD, CellBlock, CellStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

MODALITIES = ("a", "b", "c")
ATTRIBUTES = {"pixel_um": 0.1, "provenance": {"software": "test"}, "classes": ["NEU"]}


def block(cells: int, seed: int, side: int = 16) -> CellBlock:
    rng = np.random.default_rng(seed)
    columns = {
        name: rng.integers(0, 100, (cells, *entry_shape(column, 3))).astype(column.dtype)
        for name, column in COLUMNS.items()
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
        store.predicted_classes()
    store.write_predictions(
        np.zeros((2, 3, 1), np.float32),
        ["NEU", "unidentified"],
        np.ones(2, np.float32),
        np.zeros(2, np.float32),
        classified={"bundle": "b"},
    )
    assert CellStore(store.path).predicted_classes() == ["NEU", "unidentified"]


def averaged(images: NDArray[np.uint16]) -> NDArray[np.uint16]:
    count, channels, side, _ = images.shape
    blocks = images.reshape(count, channels, side // 2, 2, side // 2, 2).astype(np.uint64)
    means: NDArray[np.uint16] = ((blocks.sum(axis=(3, 5)) + 2) // 4).astype(np.uint16)
    return means


@pytest.mark.parametrize("order", ["rows", "columns", "turned"])
def test_half_the_side_is_the_mean_of_four_pixels(order: str) -> None:
    images = np.random.default_rng(0).integers(0, 65536, (3, 2, 12, 12)).astype(np.uint16)
    images[0] = 65535  # sums of four must not run over
    images[1, 0, :2, :2] = [[0, 0], [1, 1]]  # a half is rounded up
    given = {"rows": images, "columns": np.asfortranarray(images), "turned": images[:, ::-1, ::-1, ::-1]}[order]
    found = bin_2x2(given)
    assert np.array_equal(found, averaged(given))
    assert found[0].min() == 65535
    assert found.max(axis=(1, 2, 3))[1] <= 65535


@pytest.fixture(params=["runs", "zarr"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "zarr":
        monkeypatch.setattr(shards, "_unpacking", lambda array: None)
    return str(request.param)


@pytest.fixture
def left_to_zarr(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What is read by zarr in place of `CropReader`."""
    seen: list[object] = []
    usual = zarr.Array.get_basic_selection

    def noted(self: zarr.Array[Any], *args: Any, **kwargs: Any) -> Any:
        seen.append(args[0])
        return usual(self, *args, **kwargs)

    monkeypatch.setattr(zarr.Array, "get_basic_selection", noted)
    return seen


def test_crops_are_kept_at_half_their_side_too(tmp_path: Path, reader: str, left_to_zarr: list[object]) -> None:
    blocks = [block(200, seed) for seed in range(3)]
    store = CellStore.create(tmp_path / "cells.zarr", blocks, modalities=MODALITIES, attributes=ATTRIBUTES)
    images = np.concatenate([part.images for part in blocks])
    assert store.sides_px == (16, 8)
    for side_px, expected in ((None, images), (16, images), (8, averaged(images))):
        left_to_zarr.clear()
        assert np.array_equal(store.images(side_px=side_px), expected)
        room = np.full((70, *expected.shape[1:]), 7, np.uint16)
        assert store.images(200, 270, side_px=side_px, out=room) is room  # over the border of two shards
        assert np.array_equal(room, expected[200:270])
        assert store.images(590, 999, side_px=side_px).shape[0] == 10
        assert len(store.images(20, 10, side_px=side_px)) == 0
        assert bool(left_to_zarr) == (reader == "zarr")
    assert np.array_equal(store.masks(250, 260), np.concatenate([part.masks for part in blocks])[250:260])


def test_zarr_reads_what_is_written(tmp_path: Path) -> None:
    blocks = [block(200, seed) for seed in range(2)]
    store = CellStore.create(tmp_path / "cells.zarr", blocks, modalities=MODALITIES, attributes=ATTRIBUTES)
    images = np.concatenate([part.images for part in blocks])
    group = zarr.open_group(str(store.path), mode="r")
    whole, half = (group[name] for name in ("images", shards.HALF))
    assert isinstance(whole, zarr.Array)
    assert isinstance(half, zarr.Array)
    assert np.array_equal(np.asarray(whole[:]), images)
    assert np.array_equal(np.asarray(half[:]), averaged(images))
    assert whole.shards is not None
    assert (whole.chunks[0], whole.shards[0]) == (1, CELLS_PER_SHARD)


@pytest.mark.parametrize("unusual", ["codec", "order", "shards", "index", "empty cell"])
def test_what_is_unusual_is_left_to_zarr(tmp_path: Path, left_to_zarr: list[object], unusual: str) -> None:
    part = block(5, 0)
    part.images[2] = 0  # zarr writes no chunk for it
    store = CellStore.create(tmp_path / "cells.zarr", [part], modalities=MODALITIES, attributes=ATTRIBUTES)
    one = (1, *part.images.shape[1:])
    choices: dict[str, dict[str, Any]] = {
        "codec": {"compressors": zarr.codecs.GzipCodec(), "shards": (256, *one[1:])},
        "order": {"serializer": zarr.codecs.BytesCodec(endian="big"), "shards": (256, *one[1:])},
        "shards": {"shards": None},
        "index": {"shards": {"shape": (256, *one[1:]), "index_location": "start"}},
        "empty cell": {"shards": (256, *one[1:])},
    }
    settings = choices[unusual]
    group = zarr.open_group(str(store.path), mode="r+")
    array = group.create_array("images", shape=(5, *one[1:]), dtype="uint16", chunks=one, overwrite=True, **settings)
    array[...] = part.images
    again = CellStore(store.path)
    left_to_zarr.clear()
    assert np.array_equal(again.images(1, 4), part.images[1:4])
    assert left_to_zarr


def test_crops_of_an_odd_side_are_kept_as_they_are(tmp_path: Path) -> None:
    store = CellStore.create(tmp_path / "c.zarr", [block(2, 0, side=15)], modalities=MODALITIES, attributes=ATTRIBUTES)
    assert store.sides_px == (15,)
    assert np.array_equal(store.images(), block(2, 0, side=15).images)


@pytest.mark.parametrize("packing", ["auto", BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"), None], ids=str)
def test_stores_of_older_versions_are_read(
    tmp_path: Path, reader: str, left_to_zarr: list[object], packing: Any
) -> None:
    part = block(5, 0)
    part.images[4] = 0  # zarr writes no chunk for it
    store = CellStore.create(tmp_path / "cells.zarr", [part], modalities=MODALITIES, attributes=ATTRIBUTES)
    group = zarr.open_group(str(store.path), mode="r+")
    del group[shards.HALF]
    shape = part.images.shape[1:]
    settings = {"chunks": (1, *shape), "shards": (256, *shape), "compressors": packing, "overwrite": True}
    old = group.create_array("images", shape=(5, *shape), dtype="uint16", **settings)
    old[...] = part.images
    assert zarr.codecs.Crc32cCodec() not in old.compressors
    again = CellStore(store.path)
    assert again.sides_px == (16,)
    left_to_zarr.clear()
    assert np.array_equal(again.images(1, 4), part.images[1:4])
    assert bool(left_to_zarr) == (reader == "zarr")
    assert np.array_equal(again.images(4, 5), part.images[4:])
    assert np.array_equal(again.images(3, 5), part.images[3:])


def test_crops_are_packed_where_that_saves_half(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    smooth = np.cumsum(rng.integers(-3, 4, (20, 3, 32, 32)), axis=-1) + 128
    eight_bit = smooth.clip(0, 255).astype(np.uint16) * 257
    camera = (smooth * 100 + rng.normal(0, 50, smooth.shape)).clip(0, 65535).astype(np.uint16)
    checked = zarr.codecs.Crc32cCodec()
    for images, packs in ((camera, []), (eight_bit, ["zstd"])):
        part = block(20, 0, side=32)
        part.images = images
        store = CellStore.create(tmp_path / "cells.zarr", [part], modalities=MODALITIES, attributes=ATTRIBUTES)
        *packing, last = store._array("images").compressors
        assert last == checked
        assert [str(codec.cname.value) for codec in packing if isinstance(codec, BloscCodec)] == packs
        assert len(packing) == len(packs)
        assert np.array_equal(store.images(), images)
        assert store._array(shards.HALF).compressors == (checked,)


@pytest.mark.parametrize("kept", ["images", "packed", "images_half", "masks"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "index", "cell", "length"])
def test_a_damaged_shard_is_told(
    tmp_path: Path, reader: str, left_to_zarr: list[object], kept: str, damage: str
) -> None:
    part = block(5, 0)
    if kept == "packed":
        part.images[:] = part.images // 4096 * 4096
    store = CellStore.create(tmp_path / "cells.zarr", [part], modalities=MODALITIES, attributes=ATTRIBUTES)
    kept = {"packed": "images"}.get(kept, kept)
    shard = next(path for path in (store.path / kept / "c").rglob("*") if path.is_file())
    content = bytearray(shard.read_bytes())
    index = 16 * CELLS_PER_SHARD + 4
    if damage in ("index", "cell"):
        content[-index + 20 if damage == "index" else 40] ^= 1
    elif damage == "length":  # a shard whose index is whole, of cells of another size
        places = np.frombuffer(bytes(content[-index:-4]), "<u8").reshape(-1, 2).copy()
        places[0, 1] -= 8
        places[1] = places[1, 0] - 8, places[1, 1] + 8
        content[-index:] = bytes(CRC32C(location="end").encode(places.tobytes()))
    shard.write_bytes({"truncated": bytes(content[:-50]), "empty": b""}.get(damage, bytes(content)))
    again = CellStore(store.path)
    reads: dict[str, Callable[[int, int], NDArray[Any]]] = {
        "images": again.images,
        "images_half": functools.partial(again.images, side_px=8),
        "masks": again.masks,
    }
    with pytest.raises(SampleStateError, match=rf"{kept}: damaged \(.+\); segment or import the sample again"):
        reads[kept](0, 2)
    assert bool(left_to_zarr) == (reader == "zarr")


@pytest.mark.parametrize("kept", ["images", "images_half", "masks"])
def test_a_shard_that_is_gone_is_told(tmp_path: Path, kept: str) -> None:
    store = CellStore.create(tmp_path / "cells.zarr", [block(5, 0)], modalities=MODALITIES, attributes=ATTRIBUTES)
    next(path for path in (store.path / kept / "c").rglob("*") if path.is_file()).unlink()
    with pytest.raises(SampleStateError, match=rf"{kept}: damaged \(file {kept}/c/0/0/0(/0)? is gone\)"):
        store.masks(0, 2) if kept == "masks" else store.images(0, 2, side_px=8 if kept == "images_half" else None)


@pytest.mark.parametrize("side_px", [None, 8])
def test_crops_are_read_into_memory_of_any_order(tmp_path: Path, side_px: int | None) -> None:
    store = CellStore.create(tmp_path / "cells.zarr", [block(5, 0)], modalities=MODALITIES, attributes=ATTRIBUTES)
    expected = store.images(1, 5, side_px=side_px)
    room = np.zeros((*expected.shape[:3], 2 * expected.shape[3]), np.uint16)[..., ::2]
    assert np.array_equal(store.images(1, 5, side_px=side_px, out=room), expected)
    assert np.array_equal(room, expected)


def test_columns_of_two_types_lose_nothing(tmp_path: Path) -> None:
    parts = [block(300, 0), block(300, 1)]
    extra: list[NDArray[Any]] = [np.arange(300, dtype=np.uint8), np.linspace(0, 1, 300)]
    for part, values in zip(parts, extra, strict=True):
        part.columns["extra"] = values
    store = CellStore.create(tmp_path / "cells.zarr", parts, modalities=MODALITIES, attributes=ATTRIBUTES)
    assert np.array_equal(store.column("extra"), np.concatenate([part.columns["extra"] for part in parts]))
    assert np.array_equal(store.column("y_um"), np.concatenate([part.columns["y_um"] for part in parts]))


def test_memory_is_that_of_few_cells(tmp_path: Path) -> None:
    shard_bytes = CELLS_PER_SHARD * 3 * 48 * 48 * 2
    parts = (block(8, seed, side=48) for seed in range(CELLS_PER_SHARD // 8 + 4))
    tracemalloc.start()
    store = CellStore.create(tmp_path / "cells.zarr", parts, modalities=MODALITIES, attributes=ATTRIBUTES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(store) == CELLS_PER_SHARD + 32
    assert peak < shard_bytes / 3, peak / shard_bytes
