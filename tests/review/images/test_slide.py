"""The field of a cell with its neighbours outlined, and the map of the slide."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from wbcpipe.report.cell_thumbnails import Contrast
from wbcpipe.review.images.field_images import COMPOSITE, FieldImages
from wbcpipe.review.images.slide_map import slide_map
from wbcpipe.samples.cell_attributes import CellAttributes
from wbcpipe.samples.cell_store import CellBlock, CellStore
from wbcpipe.samples.field_status import write_missing, write_skipped
from wbcpipe.samples.fields import FieldInfo, FrameInfo, field_path, write_field
from wbcpipe.samples.records import FocusPoint, FocusRecord, PlanRecord, SampleRecord, ScanArea
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from pathlib import Path

MODALITIES = ("color1", "color2", "color3", "fluorescence")
SIDE, CROP, PIXEL_UM = 256, 64, 0.2
#: Of the cells of each field, row and column in pixels.
CENTRES = ((70.0, 80.0), (170.0, 150.0))
DISC_PX = 25
#: Three of six planned fields were taken.
TAKEN, EMPTY, MISSING = (0, 1, 4), (2,), (3,)


def _frames() -> np.ndarray[Any, np.dtype[np.uint16]]:
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:SIDE, :SIDE]
    inside = np.zeros((SIDE, SIDE), bool)
    for row, column in CENTRES:
        inside |= np.hypot(y - row, x - column) < DISC_PX
    bright = np.stack([40000 - step * inside for step in (9000, 14000, 6000)])
    images = np.concatenate([bright, (2000 + 30000 * inside)[None]]) + rng.normal(
        0, 150, (4, SIDE, SIDE)
    )
    return images.clip(0, 65535).astype(np.uint16)


@pytest.fixture
def scanned(tmp_path: Path) -> Sample:
    """A sample with a plan of 2 x 3 fields, of which three are on disk with two cells each."""
    sample = Sample.open(tmp_path / "data", "S1")
    side_um = SIDE * PIXEL_UM
    plan = PlanRecord(
        slot="A",
        field_width_um=side_um,
        field_height_um=side_um,
        overlap=0,
        x_um=(0, 3 * side_um),
        y_um=(0, 2 * side_um),
    )
    record = SampleRecord(
        sample="S1", kind="stained-rgb", modalities=MODALITIES, plan=plan, pixel_um=PIXEL_UM
    )
    sample.write(record)
    raw, images = sample.raw_path(), _frames()
    raw.mkdir(parents=True)
    frames = tuple(FrameInfo(name) for name in MODALITIES)
    # Rows are taken back and forth: field 4 is the middle one of the second row.
    at = {0: (0.5, 0.5), 1: (0.5, 1.5), 4: (1.5, 1.5)}
    for index in TAKEN:
        y_um, x_um = (side_um * part for part in at[index])
        info = FieldInfo(index, x_um, y_um, PIXEL_UM, frames, kind="stained-rgb")
        write_field(field_path(raw, index), images, info)
    write_skipped(raw, dict.fromkeys(EMPTY, 1.0))
    write_missing(raw, dict.fromkeys(MISSING, "the stage was stuck"))
    points = (FocusPoint(1, 2, 3.5), FocusPoint(4, 5, None))
    area = ScanArea(x_um=plan.x_um, y_um=plan.y_um)
    FocusRecord(policy={}, area=area, coarse=points).write(raw / "focus.json")
    _write_cells(sample, at, side_um)
    return sample


def _write_cells(sample: Sample, at: dict[int, tuple[float, float]], side_um: float) -> None:
    number = len(TAKEN) * len(CENTRES)
    y, x = np.mgrid[:CROP, :CROP] - (CROP - 1) / 2
    mask = np.where(np.hypot(y, x) < DISC_PX, 2, 0).astype(np.uint8)
    centres = np.array([centre for _ in TAKEN for centre in CENTRES])
    fields = np.repeat(TAKEN, len(CENTRES))
    corner = np.array([[at[index][0] - 0.5, at[index][1] - 0.5] for index in fields]) * side_um
    zeros = np.zeros(number)
    columns = {
        "field_index": fields,
        "y_px": centres[:, 0],
        "x_px": centres[:, 1],
        "y_um": corner[:, 0] + PIXEL_UM * centres[:, 0],
        "x_um": corner[:, 1] + PIXEL_UM * centres[:, 1],
        "area_um2": zeros + 100,
        "nucleus_area_um2": zeros + 50,
        "sharpness": zeros,
        "shift_px": np.zeros((number, 3, 2)),
        "shift_residual_px": np.zeros((number, 3)),
        "qc_flags": zeros.astype(np.uint16),
    }
    images = np.zeros((number, 4, CROP, CROP), np.uint16)
    masks = np.repeat(mask[None], number, axis=0)
    masks[-1] = 0  # a cell without a mask
    attributes = CellAttributes(modalities=MODALITIES, pixel_um=PIXEL_UM, kind="stained-rgb")
    CellStore.create(
        sample.cells_path, [CellBlock(images, masks, columns, [""] * number)], attributes
    )


@pytest.fixture
def fields(scanned: Sample) -> FieldImages:
    contrast = Contrast(np.zeros(4), np.full(4, 50000.0), fluorescent=(3,), composite=(0, 1, 2))
    return FieldImages(scanned, CellStore(scanned.cells_path), contrast)


def test_a_field_is_shown_in_each_modality(fields: FieldImages) -> None:
    assert fields.choices == (*MODALITIES, COMPOSITE)
    for modality in fields.choices:
        image = np.asarray(Image.open(io.BytesIO(fields.image(0, modality))))
        assert image.shape == (SIDE, SIDE, 3)
        inside, outside = image[70, 80].astype(int), image[5, 5].astype(int)
        assert (inside[1] > outside[1]) == (modality == "fluorescence")
    with pytest.raises(ValueError, match="not in"):
        fields.image(0, "color9")


def test_cells_are_outlined_where_they_lie(fields: FieldImages) -> None:
    found = fields.describe(1)
    assert (found["width"], found["height"], found["pixel_um"]) == (SIDE, SIDE, PIXEL_UM)
    assert [cell["row"] for cell in found["cells"]] == [2, 3]
    for cell, centre in zip(found["cells"], CENTRES, strict=True):
        distance = np.hypot(*(np.asarray(cell["outline"]) - centre).T)
        assert abs(distance - DISC_PX).max() < 2
    square = np.asarray(fields.describe(4)["cells"][1]["outline"])
    assert abs(np.ptp(square, axis=0) - 12 / PIXEL_UM).max() <= 2  # around a cell without a mask


def test_fields_without_frames_are_known(fields: FieldImages) -> None:
    assert [fields.has(index) for index in range(6)] == [True, True, False, False, True, False]


def test_the_map_shows_every_field_that_was_tried(scanned: Sample) -> None:
    found = slide_map(scanned, CellStore(scanned.cells_path))
    assert {field["index"]: field["state"] for field in found["fields"]} == {
        0: "complete",
        1: "complete",
        2: "empty",
        3: "missing",
        4: "complete",
    }
    side_um = SIDE * PIXEL_UM
    places = {
        field["index"]: (field["y_um"] / side_um, field["x_um"] / side_um)
        for field in found["fields"]
    }
    assert places[2] == pytest.approx((0.5, 2.5), abs=1e-3)
    assert places[3] == pytest.approx((1.5, 2.5), abs=1e-3)
    assert all(field["width_um"] == pytest.approx(side_um, abs=1e-3) for field in found["fields"])
    assert found["focus"] == [{"x_um": 1.0, "y_um": 2.0, "z_um": 3.5}]
    assert len(found["cells"]["x_um"]) == 6


def test_a_damaged_field_is_missing_on_the_map(scanned: Sample) -> None:
    path = field_path(scanned.raw_path(), 1)
    path.write_bytes(path.read_bytes()[:1000])
    states = {
        field["index"]: field["state"]
        for field in slide_map(scanned, CellStore(scanned.cells_path))["fields"]
    }
    assert states[1] == "missing"
