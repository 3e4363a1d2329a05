from __future__ import annotations

import functools
import shutil
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec

from wbcpipe.errors import NoCellsError, SampleStateError
from wbcpipe.imaging.arrays import bin_2x2
from wbcpipe.samples.cell_attributes import CellAttributes, LabelImport
from wbcpipe.samples.cell_columns import COLUMNS, entry_shape
from wbcpipe.samples.cell_store import CELLS_PER_CHUNK, HALF, CellBlock, CellStore
from wbcpipe.samples.classification_record import Classification
from wbcpipe.samples.complete_store import group_metadata
from wbcpipe.system.files import write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

MODALITIES = ("a", "b", "c")
CLASSIFICATION = Classification(
    bundle="b", sha256="c" * 64, classes=("NEU",), heads=("a",), threshold=0.5
)
ATTRIBUTES = CellAttributes(
    modalities=MODALITIES, pixel_um=0.1, provenance={"software": "test"}, classes=("NEU",)
)


def block(cells: int, seed: int, side: int = 16) -> CellBlock:
    rng = np.random.default_rng(seed)
    columns = {
        name: rng.integers(0, 100, (cells, *entry_shape(column, 3))).astype(column.dtype)
        for name, column in COLUMNS.items()
    }
    images = rng.integers(0, 65535, (cells, 3, side, side)).astype(np.uint16)
    masks = rng.integers(0, 3, (cells, side, side)).astype(np.uint8)
    return CellBlock(images, masks, columns, [f"class {seed}"] * cells)


@pytest.mark.parametrize("sizes", [[1], [3, 0, 5], [CELLS_PER_CHUNK], [70, 70, 70]], ids=str)
def test_what_is_written_is_read(tmp_path: Path, sizes: list[int]) -> None:
    blocks = [block(size, seed) for seed, size in enumerate(sizes)]
    store = CellStore.create(tmp_path / "cells.zarr", blocks, ATTRIBUTES)
    assert len(store) == sum(sizes)
    assert np.array_equal(store.images(), np.concatenate([part.images for part in blocks]))
    assert np.array_equal(store.masks(), np.concatenate([part.masks for part in blocks]))
    for name in COLUMNS:
        assert np.array_equal(
            store.column(name), np.concatenate([part.columns[name] for part in blocks])
        )
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
        CellStore.create(path, broken(), ATTRIBUTES)
    assert not path.exists()
    CellStore.create(path, [block(3, 1)], ATTRIBUTES)
    with pytest.raises(KeyboardInterrupt):
        CellStore.create(path, broken(), ATTRIBUTES)
    assert len(CellStore(path)) == 3


def test_nothing_to_store(tmp_path: Path) -> None:
    with pytest.raises(NoCellsError, match="no cell to store"):
        CellStore.create(tmp_path / "cells.zarr", [block(0, 0)], ATTRIBUTES)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SampleStateError, match="no cells there"):
        CellStore(tmp_path / "cells.zarr")


def test_calls_are_read_back(tmp_path: Path) -> None:
    store = CellStore.create(tmp_path / "cells.zarr", [block(2, 0)], ATTRIBUTES)
    with pytest.raises(SampleStateError, match="not classified yet"):
        store.predicted_classes()
    store.write_predictions(
        np.zeros((2, 3, 1), np.float32),
        ["NEU", "unidentified"],
        np.ones(2, np.float32),
        np.zeros(2, np.float32),
        classification=CLASSIFICATION,
    )
    again = CellStore(store.path)
    assert again.predicted_classes() == ["NEU", "unidentified"]
    assert again.classification() == CLASSIFICATION


def test_a_damaged_classification_names_the_key(tmp_path: Path) -> None:
    store = CellStore.create(tmp_path / "cells.zarr", [block(2, 0)], ATTRIBUTES)
    damaged = store.attributes.model_copy(update={"classified": {"bundle": "b", "sha": ""}})
    write_json(store.path / "zarr.json", group_metadata(damaged))
    with pytest.raises(
        SampleStateError, match=r"classified: key 'sha256' is missing.*`wbcpipe classify` again"
    ):
        CellStore(store.path).classification()


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
    given = {
        "rows": images,
        "columns": np.asfortranarray(images),
        "turned": images[:, ::-1, ::-1, ::-1],
    }[order]
    found = bin_2x2(given)
    assert np.array_equal(found, averaged(given))
    assert found[0].min() == 65535
    assert found.max(axis=(1, 2, 3))[1] <= 65535


def test_crops_are_kept_at_half_their_side_too(tmp_path: Path) -> None:
    blocks = [block(50, seed) for seed in range(3)]
    store = CellStore.create(tmp_path / "cells.zarr", blocks, ATTRIBUTES)
    images = np.concatenate([part.images for part in blocks])
    assert store.sides_px == (16, 8)
    for side_px, expected in ((None, images), (16, images), (8, averaged(images))):
        assert np.array_equal(store.images(side_px=side_px), expected)
        room = np.full((40, *expected.shape[1:]), 7, np.uint16)
        assert (
            store.images(50, 90, side_px=side_px, out=room) is room
        )  # over the border of two chunks
        assert np.array_equal(room, expected[50:90])
        assert store.images(140, 999, side_px=side_px).shape[0] == 10
        assert len(store.images(20, 10, side_px=side_px)) == 0
    assert np.array_equal(
        store.masks(60, 70), np.concatenate([part.masks for part in blocks])[60:70]
    )
    rows = [149, 3, 64, 5, 3]
    assert np.array_equal(store.images_at(rows), images[rows])


def test_zarr_reads_chunks_of_32_cells(tmp_path: Path) -> None:
    blocks = [block(20, seed) for seed in range(3)]
    store = CellStore.create(tmp_path / "cells.zarr", blocks, ATTRIBUTES)
    images = np.concatenate([part.images for part in blocks])
    group = zarr.open_group(str(store.path), mode="r")
    for name, expected in (("images", images), (HALF, averaged(images))):
        array = group[name]
        assert isinstance(array, zarr.Array)
        assert np.array_equal(np.asarray(array[:]), expected)
        assert array.chunks[0] == CELLS_PER_CHUNK == 32
        assert len(list((store.path / name).glob("c.*"))) == 2


def test_each_chunk_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    usual = zarr.storage.LocalStore.set

    async def noted(self: zarr.storage.LocalStore, key: str, value: Any) -> None:
        written.append(key)
        await usual(self, key, value)

    monkeypatch.setattr(zarr.storage.LocalStore, "set", noted)
    blocks = [block(size, seed) for seed, size in enumerate((7, 30, 1, 40))]
    CellStore.create(tmp_path / "cells.zarr", blocks, ATTRIBUTES)
    chunks = [key for key in written if "/c." in key]
    assert len([key for key in chunks if key.startswith(("images/", f"{HALF}/", "masks/"))]) == 9
    assert len(set(chunks)) == len(chunks)


def test_crops_of_an_odd_side_are_kept_as_they_are(tmp_path: Path) -> None:
    store = CellStore.create(tmp_path / "c.zarr", [block(2, 0, side=15)], ATTRIBUTES)
    assert store.sides_px == (15,)
    assert np.array_equal(store.images(), block(2, 0, side=15).images)


def test_crops_are_packed_where_that_saves_half(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    smooth = np.cumsum(rng.integers(-3, 4, (20, 3, 32, 32)), axis=-1) + 128
    eight_bit = smooth.clip(0, 255).astype(np.uint16) * 257
    camera = (smooth * 100 + rng.normal(0, 50, smooth.shape)).clip(0, 65535).astype(np.uint16)
    checked = zarr.codecs.Crc32cCodec()
    for images, packs in ((camera, []), (eight_bit, ["zstd"])):
        part = block(20, 0, side=32)
        part.images = images
        store = CellStore.create(tmp_path / "cells.zarr", [part], ATTRIBUTES)
        *packing, last = zarr.open_array(str(store.path / "images"), mode="r").compressors
        assert last == checked
        packed: list[Any] = [
            codec.to_dict()["configuration"] for codec in packing if isinstance(codec, BloscCodec)
        ]
        assert [one["cname"] for one in packed] == packs
        assert len(packing) == len(packs)
        assert np.array_equal(store.images(), images)
        assert zarr.open_array(str(store.path / HALF), mode="r").compressors == (checked,)


@pytest.mark.parametrize("kept", ["images", "images_half", "masks", "x_um", "qc_flags"])
def test_a_chunk_of_another_store_is_noticed(tmp_path: Path, kept: str) -> None:
    one, other = (
        CellStore.create(tmp_path / name, [block(40, seed)], ATTRIBUTES)
        for seed, name in enumerate("ab")
    )
    chunk = next(iter(sorted((other.path / kept).glob("c.0*"))))
    assert chunk.read_bytes() != (one.path / kept / chunk.name).read_bytes()
    shutil.copyfile(chunk, one.path / kept / chunk.name)
    with pytest.raises(
        SampleStateError, match=f"{kept}: chunks were copied here from another place"
    ):
        CellStore(one.path).check(kept)


def test_labels_of_another_store_or_an_earlier_import_are_noticed(tmp_path: Path) -> None:
    one, other = (CellStore.create(tmp_path / name, [block(40, 0)], ATTRIBUTES) for name in "ab")
    given = LabelImport(source="x", sha256="", cells=40, date="")
    kept: list[bytes] = []
    for label in ("BAS", "NEU", "LYM"):
        kept.append((one.path / "label" / "c.0").read_bytes())
        CellStore(one.path).write_labels([label] * 40, (label,), given)
    CellStore(other.path).write_labels(["EOS"] * 40, ("EOS",), given)
    chunk = one.path / "label" / "c.0"
    right = chunk.read_bytes()
    for wrong in ((other.path / "label" / "c.0").read_bytes(), kept[1]):
        chunk.write_bytes(wrong)
        with pytest.raises(SampleStateError, match="labels were not given to this sample"):
            CellStore(one.path).labels()
        with pytest.raises(SampleStateError, match="labels were not given to this sample"):
            CellStore(one.path).check("label")
    chunk.write_bytes(right)
    assert CellStore(one.path).labels() == ["LYM"] * 40


def test_a_chunk_copied_over_its_neighbour_is_noticed(tmp_path: Path) -> None:
    store = CellStore.create(tmp_path / "cells.zarr", [block(64, 0)], ATTRIBUTES)
    first, second = sorted((store.path / "masks").glob("c.*"))
    shutil.copyfile(first, second)
    with pytest.raises(SampleStateError, match="masks: chunks were copied here from another place"):
        CellStore(store.path).masks()


@pytest.mark.parametrize("kept", ["images", "packed", "images_half", "masks", "zeros"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "byte", "missing"])
def test_a_damaged_chunk_is_noticed_and_named(tmp_path: Path, kept: str, damage: str) -> None:
    part = block(40, 0)
    if kept == "packed":
        part.images[:] = part.images // 4096 * 4096
    if kept == "zeros":
        part.images[:] = 0
    store = CellStore.create(tmp_path / "cells.zarr", [part], ATTRIBUTES)
    kept = {"packed": "images", "zeros": "images"}.get(kept, kept)
    chunk = next((store.path / kept).glob("c.1.*"))
    content = bytearray(chunk.read_bytes())
    content[40] ^= 1
    if damage == "missing":
        chunk.unlink()
    else:
        chunk.write_bytes(
            {"truncated": bytes(content[:-50]), "empty": b""}.get(damage, bytes(content))
        )
    again = CellStore(store.path)
    reads: dict[str, Callable[[int, int], NDArray[Any]]] = {
        "images": again.images,
        "images_half": functools.partial(again.images, side_px=8),
        "masks": again.masks,
    }
    assert len(reads[kept](0, 32)) == 32
    with pytest.raises(
        SampleStateError,
        match=rf"{kept}/c\.1\.0\.0(\.0)?: .*(damaged \(.+\)|missing); segment or import the sample",
    ):
        reads[kept](30, 35)


@pytest.mark.parametrize("side_px", [None, 8])
def test_crops_are_read_into_memory_of_any_order(tmp_path: Path, side_px: int | None) -> None:
    store = CellStore.create(tmp_path / "cells.zarr", [block(5, 0)], ATTRIBUTES)
    expected = store.images(1, 5, side_px=side_px)
    room = np.zeros((*expected.shape[:3], 2 * expected.shape[3]), np.uint16)[..., ::2]
    assert np.array_equal(store.images(1, 5, side_px=side_px, out=room), expected)
    assert np.array_equal(room, expected)


def test_columns_of_two_types_lose_nothing(tmp_path: Path) -> None:
    parts = [block(300, 0), block(300, 1)]
    extra: list[NDArray[Any]] = [np.arange(300, dtype=np.uint8), np.linspace(0, 1, 300)]
    for part, values in zip(parts, extra, strict=True):
        part.columns["extra"] = values
    store = CellStore.create(tmp_path / "cells.zarr", parts, ATTRIBUTES)
    assert np.array_equal(
        store.column("extra"), np.concatenate([part.columns["extra"] for part in parts])
    )
    assert np.array_equal(
        store.column("y_um"), np.concatenate([part.columns["y_um"] for part in parts])
    )


def test_memory_does_not_grow_with_cells(tmp_path: Path) -> None:
    def peak(cells: int) -> int:
        parts = (block(8, seed, side=48) for seed in range(cells // 8))
        tracemalloc.start()
        store = CellStore.create(tmp_path / "cells.zarr", parts, ATTRIBUTES)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(store) == cells
        return found

    peak(CELLS_PER_CHUNK)  # what is allocated once
    few, many = peak(2 * CELLS_PER_CHUNK), peak(12 * CELLS_PER_CHUNK)
    assert many < 1.2 * few, (few, many)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format_version": 2}, "format_version"),
        ({"pixel_um": 0}, "pixel_um"),
        ({"modalites": []}, "modalites"),
    ],
    ids=str,
)
def test_damaged_attributes_are_refused_with_key_and_remedy(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    store = CellStore.create(tmp_path / "cells.zarr", [block(2, 0)], ATTRIBUTES)
    zarr.open_group(str(store.path), mode="r+").attrs.update(change)
    with pytest.raises(SampleStateError, match=rf"{said}.*; segment or import the sample again"):
        CellStore(store.path)


def test_a_missing_or_changed_column_is_an_error_and_never_zeros(tmp_path: Path) -> None:
    store = CellStore.create(tmp_path / "cells.zarr", [block(5, 0)], ATTRIBUTES)
    chunk = store.path / "qc_flags" / "c.0"
    content = chunk.read_bytes()
    chunk.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(SampleStateError, match=r"qc_flags/c\.0: damaged"):
        CellStore(store.path).column("qc_flags")
    chunk.write_bytes(content)
    opened = CellStore(store.path)
    assert len(opened.column("qc_flags")) == 5
    chunk.unlink()
    with pytest.raises(SampleStateError, match=r"qc_flags/c\.0: the file is missing"):
        opened.column("qc_flags")


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("zarr.json", '"pixel_um": 0.1', '"pixel_um": 0.2', "changed since it was written"),
        ("zarr.json", '"pixel_um": 0.1', '"pixel_um": NaN', "NaN is not a number"),
        ("zarr.json", '"pixel_um": 0.1', '"pixel_um": "small"', "pixel_um"),
        (
            "zarr.json",
            '"node_type": "group"',
            '"node_type": "array"',
            "not the metadata of a Zarr v3 group",
        ),
        ("qc_flags/zarr.json", "5", "4", "SHA-256 differs"),
        ("qc_flags/zarr.json", "{", "", "SHA-256 differs"),
    ],
)
def test_changed_metadata_are_noticed(
    tmp_path: Path, file: str, old: str, new: str, words: str
) -> None:
    store = CellStore.create(tmp_path / "cells.zarr", [block(5, 0)], ATTRIBUTES)
    path = store.path / file
    path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    with pytest.raises(SampleStateError, match=words):
        CellStore(store.path).column("qc_flags")
