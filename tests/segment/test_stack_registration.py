"""Imported stacks are registered as fields of a scope are."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from wbcpipe.errors import ImportDataError
from wbcpipe.samples.cell_columns import QcFlag
from wbcpipe.samples.fields import fields_on_disk, read_field
from wbcpipe.samples.sample import Sample
from wbcpipe.segment.importers.cells import import_cells
from wbcpipe.segment.importers.channel_shift import check_channel_shifts, measure_channel_shifts
from wbcpipe.segment.importers.fields import import_fields
from wbcpipe.segment.importers.inputs import CellImport, FieldImport
from wbcpipe.segment.run import segment_sample
from wbcpipe.segment.stain_separation import density_channel, scale_16bit

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.samples.cell_store import CellStore

PIXEL_UM = 0.1
CENTRE = np.array([[511.5, 511.5]])


def segmented(folder: Path, stacks: list[np.ndarray]) -> CellStore:
    """Import stacks (C, Y, X) as fields and segment them."""
    folder.mkdir()
    for index, stack in enumerate(stacks):
        np.save(folder / f"{index}.npy", stack)
    sample = Sample.open(folder / "data", "stack")
    import_fields([folder], sample, FieldImport("stack", PIXEL_UM))
    return segment_sample(sample, pixel_um=PIXEL_UM)


@pytest.mark.parametrize(
    "moves",
    [((0, 20), (0, 0), (0, 0)), ((-20, 9), (12, -16), (5, 5)), ((0, 0), (0, 0), (-17, -17))],
    ids=str,
)
def test_channels_that_lie_apart_are_registered(
    moves: tuple[Any, ...], rendered: Any, tmp_path: Path
) -> None:
    stacks = []
    for path in list(fields_on_disk(rendered.sample.raw_path()).values())[:2]:
        frames = read_field(path)[0].copy()
        for k, move in enumerate(moves):
            frames[k] = np.roll(frames[k], move, (0, 1))
        stacks.append(frames)
    store = segmented(tmp_path / "stacks", stacks)
    assert not (store.column("qc_flags") & QcFlag.UNREGISTERED.value).any()
    # The virtual scope displaces its channels, too.
    truth = np.concatenate(
        [rendered.to_modality(0, k, CENTRE) - CENTRE for k in range(3)]
    ) + np.array(moves)
    assert np.median(store.column("shift_px"), axis=0) == pytest.approx(truth, abs=0.6)
    assert np.median(store.column("shift_residual_px")) < 0.2
    assert store.attributes.field_quality["residual_px"][0] is not None


def test_a_registered_stack_stays_as_it_is(rendered: Any, tmp_path: Path) -> None:
    frames = read_field(next(iter(fields_on_disk(rendered.sample.raw_path()).values())))[0]
    green = frames[1]
    blurred = ndimage.gaussian_filter(green, 1.0)
    store = segmented(tmp_path / "stacks", [np.stack([green, blurred, green.max() - green])])
    assert len(store)
    assert np.abs(store.column("shift_px")).max() < 1e-6
    images = store.images()
    y, x = (int(np.floor(store.column(name)[0])) + 1 - 112 for name in ("y_px", "x_px"))
    inside = (
        slice(max(0, -y), 224 - max(0, y + 224 - 1024)),
        slice(max(0, -x), 224 - max(0, x + 224 - 1024)),
    )
    there = green[max(y, 0) : y + 224, max(x, 0) : x + 224]
    assert np.array_equal(images[0, 0][inside], there)


def test_channels_with_nothing_in_common_are_flagged(rendered: Any, tmp_path: Path) -> None:
    frames = read_field(next(iter(fields_on_disk(rendered.sample.raw_path()).values())))[0].copy()
    frames[0] = np.random.default_rng(1).normal(20000, 300, frames[0].shape)
    store = segmented(tmp_path / "stacks", [frames])
    assert (store.column("qc_flags") & QcFlag.UNREGISTERED.value).all()


def cell(move: tuple[int, int], seed: int, side: int = 64) -> np.ndarray:
    """A stack (2, side, side): a cell in bright field, moved, and its nucleus."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    body = 900 - 300 * (np.hypot(y - move[0], x - move[1]) < 15 + random.integers(4))
    nucleus = 200 + 3000 * (np.hypot(y - random.normal(0, 1.5), x - random.normal(0, 1.5)) < 9)
    return (np.stack([body, nucleus]) + random.normal(0, 10, (2, side, side))).astype(np.uint16)


@pytest.mark.parametrize("move", [(0, 20), (-14, 6), (9, -12)], ids=str)
def test_cells_whose_channels_lie_apart_are_refused(move: tuple[int, int], tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", np.stack([cell(move, seed) for seed in range(12)]))
    sample = Sample.open(tmp_path / "data", "S")
    with pytest.raises(
        ImportDataError, match=r"color1 .* px right.*correlation 0\.[4-9]\d\).*Register"
    ) as caught:
        import_cells([tmp_path / "s.npy"], sample, CellImport("stack", 0.33))
    told = re.search(r"color1 (\S+) px right, (\S+) px down", str(caught.value))
    assert told is not None
    assert (float(told[2]), float(told[1])) == pytest.approx(move, abs=1.0)
    assert not sample.path.exists()


def jurkat(shared_data: Path, count: int) -> list[np.ndarray]:
    """Bright field, dark field and DNA of imaging flow cytometry, 0.5 um a pixel."""
    with np.load(shared_data / "mlcp_jurkat" / "experiment_1.npz") as archive:
        return list(archive["images"][:: 3400 // count][:count].astype(float))


def smear(shared_data: Path, count: int) -> list[np.ndarray]:
    """The planes of photographs of a smear, the nuclei bright as in fluorescence, 0.1 um a
    pixel.
    """
    files = sorted((shared_data / "pbc5").glob("*/*.jpg"))[:: 1500 // count][:count]
    cells = []
    for file in files:
        with Image.open(file) as picture:
            planes = scale_16bit(np.asarray(picture.convert("RGB"))[:360, :360])
        cells.append(np.stack([*planes, density_channel(planes)]).astype(float))
    return cells


@pytest.mark.parametrize(
    ("cells", "count", "pixel_um", "moves"),
    [
        *((jurkat, count, 0.5, ((10, 0), (-9, 12), (12, 6))) for count in (8, 16, 32)),
        *((smear, count, 0.1, ((6, -4), (0, 10), (0, 20), (-20, 5))) for count in (1, 3, 20)),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_real_cells_are_taken_as_they_are_and_refused_when_a_channel_is_moved(
    cells: Any, count: int, pixel_um: float, moves: tuple[tuple[int, int], ...], shared_data: Path
) -> None:
    given = cells(shared_data, count)
    names = [f"c{k}" for k in range(len(given[0]) - 1)] + ["fluorescence"]
    told = check_channel_shifts(given, names, len(names) - 1, pixel_um)
    assert told is not None
    assert told.count("correlation 0.") == len(names) - 1
    for move in moves:
        moved = [
            np.stack([ndimage.shift(one[0], move, order=1, mode="nearest"), *one[1:]])
            for one in given
        ]
        with pytest.raises(
            ImportDataError, match=r"c0 .* px down \(correlation 0\.\d\d\); at most"
        ):
            check_channel_shifts(moved, names, len(names) - 1, pixel_um)


def test_cells_in_register_are_taken_and_told(shared_data: Path, tmp_path: Path) -> None:
    with np.load(shared_data / "mlcp_jurkat" / "experiment_1.npz") as archive:
        np.save(tmp_path / "s.npy", archive["images"][:16])
    said: list[str] = []
    options = CellImport("stack", 0.33, crop_pixel_um=0.33, side_px=64)
    import_cells(
        [tmp_path / "s.npy"], Sample.open(tmp_path / "data", "S"), options, say=said.append
    )
    (line,) = [text for text in said if text.startswith("channels against fluorescence")]
    assert "color1" in line
    assert "px right" in line


def test_a_shift_is_measured_below_a_pixel() -> None:
    (found,) = measure_channel_shifts([cell((3, -2), seed) for seed in range(40)], -1)
    assert (found.y_px, found.x_px) == pytest.approx((3, -2), abs=0.7)
