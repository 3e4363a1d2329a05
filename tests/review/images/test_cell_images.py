"""Strips are made once and kept; damage, a full disk and other cells make them anew.

Outlines and similar cells.
"""

from __future__ import annotations

import io
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from wbcpipe.report.cell_thumbnails import cell_panels, display_panel
from wbcpipe.review.images import cell_images
from wbcpipe.review.images.cell_images import CellImages, images_digest
from wbcpipe.review.images.image_cache import ImageCache
from wbcpipe.review.images.similar import cell_features, order_by_similarity
from wbcpipe.review.images.strips import TILE_PX, cell_outlines, mask_outlines
from wbcpipe.samples.cell_attributes import LabelImport
from wbcpipe.samples.cell_store import CellStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wbcpipe.samples.sample import Sample

ROOT = Path(__file__).parents[4]


@pytest.fixture
def images(planted: Sample) -> Iterator[CellImages]:
    found = CellImages(planted, CellStore(planted.cells_path))
    yield found
    found.close()


def cache_files(sample: Sample) -> list[Path]:
    return sorted((sample.work_path / "review").glob("*.sqlite"))


def open_again(sample: Sample) -> CellImages:
    return CellImages(sample, CellStore(sample.cells_path))


def test_a_strip_shows_each_modality_and_the_composite(images: CellImages, planted: Sample) -> None:
    strip = np.asarray(Image.open(io.BytesIO(images.full_strip(5))), np.float64)
    crop = CellStore(planted.cells_path).images_at([5])[0]
    panels = np.concatenate(cell_panels(crop, images.contrast), axis=1).astype(np.float64)
    assert strip.shape == panels.shape == (16, 80, 3)
    assert np.corrcoef(strip.ravel(), panels.ravel())[0, 1] > 0.9  # noise of single pixels, lossy
    assert Image.open(io.BytesIO(images.strip(5))).size == (5 * TILE_PX, TILE_PX)


def test_looked_up_colours_are_the_computed_ones(images: CellImages) -> None:
    rng = np.random.default_rng(2)
    plane = rng.integers(0, 65536, (4, 9, 9)).astype(np.uint16)
    low, high = images.contrast.low[1], images.contrast.high[1]
    grey = (np.clip((plane[1] - low) / (high - low), 0, 1) * 255).round()
    np.testing.assert_array_equal(
        display_panel(plane, images.contrast, (1,)), np.stack([grey] * 3, axis=-1)
    )
    assert images.contrast.composite is not None
    colour = display_panel(plane, images.contrast, images.contrast.composite)
    np.testing.assert_array_equal(colour[..., images.contrast.composite.index(1)], grey)


def test_strips_are_made_once(
    images: CellImages, planted: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = [images.strip(row) for row in (0, 7, 119)]
    images.close()
    monkeypatch.setattr(cell_images, "make_strip", None)  # a call would fail
    again = open_again(planted)
    assert [again.strip(row) for row in (0, 7, 119)] == first
    with pytest.raises(TypeError):
        again.strip(1)
    again.close()


def test_all_strips_are_made_ahead(images: CellImages, planted: Sample) -> None:
    images.make_ahead(range(119, -1, -1))
    images.make_ahead(range(120))
    for thread in threading.enumerate():
        if thread.name == "wbcpipe-strips":
            thread.join(120)
    images.close()  # ends what has not ended
    cache = ImageCache(planted.work_path / "review", images.digest)
    assert cache.numbers() == set(range(120))
    cache.close()


def test_other_cells_have_other_strips(
    images: CellImages, planted: Sample, plant_sample: Any
) -> None:
    before = images.strip(0)
    images.close()
    plant_sample(planted.path.parent, calls=["NEU"] * 40, flags=[0] * 40)
    again = open_again(planted)
    assert again.digest != images.digest
    assert again.strip(0) != before
    again.close()
    assert len(cache_files(planted)) == 1  # the others are removed


def test_labels_and_classes_do_not_change_the_strips(planted: Sample, classify_again: Any) -> None:
    store = CellStore(planted.cells_path)
    before = images_digest(store)
    store.write_labels(
        ["NEU"] * 120, ("NEU",), LabelImport(source="x", sha256="0" * 64, cells=120, date="")
    )
    assert images_digest(store) == before
    classify_again(store, ["LYM"] * 120)
    assert images_digest(store) == before


@pytest.mark.parametrize("damage", ["text", "zeros", "cut", "flip", "folder"])
def test_a_damaged_file_is_made_anew(images: CellImages, planted: Sample, damage: str) -> None:
    strips = [images.strip(row) for row in range(40)]
    images.close()
    (path,) = cache_files(planted)
    content = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        place = content.index(strips[3][20:60])
        path.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
    else:
        path.write_bytes(b"no database" * 1000 if damage == "text" else bytes(len(content)))
    again = open_again(planted)
    assert [again.strip(row) for row in range(40)] == strips
    again.close()
    third = open_again(planted)
    assert [third.strip(row) for row in range(40)] == strips
    third.close()


def test_a_file_that_another_process_holds_costs_the_strips_alone(
    images: CellImages, planted: Sample
) -> None:
    first = images.strip(0)
    images.close()
    (path,) = cache_files(planted)
    other = sqlite3.connect(path)
    other.execute("BEGIN EXCLUSIVE")
    again = open_again(planted)
    assert again.strip(0) == first
    other.close()
    again.close()


KILLED = """
import os, sys
from pathlib import Path
from wbcpipe.review.images.image_cache import ImageCache
cache = ImageCache(Path(sys.argv[1]), "d" * 64)
for number in range(10**6):
    cache.put({number: b"%d " % number * 2000})
    if number == 200: print("many", flush=True)
"""


def test_a_kill_leaves_whole_images(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    words = [sys.executable, "-c", KILLED, str(tmp_path)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, env=environment, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == b"many\n"
    process.kill()
    process.communicate()
    cache = ImageCache(tmp_path, "d" * 64)
    numbers = cache.numbers()
    assert len(numbers) > 200
    assert all(cache.get(number) == b"%d " % number * 2000 for number in numbers)
    cache.close()


def test_an_outline_is_the_edge_of_the_mask() -> None:
    y, x = np.mgrid[:64, :64]
    radius = np.hypot(y - 30, x - 33)
    mask = (radius < 20).astype(np.uint8) + (radius < 9)
    found = cell_outlines(mask)
    assert found["side_px"] == 64
    for name, expected in (("cell", 20), ("nucleus", 9)):
        (outline,) = np.asarray(found[name])
        distance = np.hypot(outline[:, 0] - 30.5, outline[:, 1] - 33.5)
        assert abs(distance - expected).max() < 1.2
    whole = mask_outlines(np.ones((8, 8), bool))
    assert len(whole) == 1
    assert (whole[0].min(), whole[0].max()) == (-0.5, 7.5)
    assert mask_outlines(np.zeros((8, 8), bool)) == []


def test_the_most_similar_cells_come_first() -> None:
    features = np.array([[0, 0], [5, 5], [0.1, 0], [5, 5.2], [2, 2]], np.float32)
    assert order_by_similarity(features, [0]) == [0, 2, 4, 1, 3]
    assert order_by_similarity(features, [3, 0]) == [0, 3, 2, 1, 4]


def test_cells_are_compared_by_what_was_measured(planted: Sample) -> None:
    store = CellStore(planted.cells_path)
    features = cell_features(store)
    assert len(features) == 120
    assert np.isfinite(features).all()
    calls = store.predicted_classes()
    assert {calls[row] for row in order_by_similarity(features, [75])[:36]} == {"LYM"}
