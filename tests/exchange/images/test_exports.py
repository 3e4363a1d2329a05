"""Fields and cells for other programs, read back by the libraries that those use."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pytest
import yaozarrs
import zarr
from click.testing import CliRunner
from ome_types import from_xml

from wbcpipe.errors import StorageError
from wbcpipe.exchange.export_cli import export
from wbcpipe.report.rows import read_rows
from wbcpipe.samples.cell_attributes import CellAttributes
from wbcpipe.samples.cell_store import CellBlock, CellStore
from wbcpipe.samples.classification_record import Classification
from wbcpipe.samples.fields import FieldInfo, FrameInfo, field_path, write_field
from wbcpipe.samples.records import SampleRecord
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = ("NEU", "LYM", "EOS", "MO", "BAS")
MODALITIES = ("color1", "color2", "color3", "fluorescence")
SIDE, CROP, PIXEL_UM = 540, 64, 0.2
CENTRES = ((100, 120), (250, 400), (430, 90), (400, 420))
RADIUS_PX = 20


def disc(side: int, centre: tuple[float, float], radius: float) -> np.ndarray:
    y, x = np.ogrid[:side, :side]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    """One field with four drawn cells, called NEU, LYM, EOS, BAS."""
    found = Sample.open(tmp_path / "data", "S1")
    found.write(
        SampleRecord(sample="S1", kind="stained-rgb", modalities=MODALITIES, pixel_um=PIXEL_UM)
    )
    rng = np.random.default_rng(3)
    frames = rng.normal(50_000, 300, (4, SIDE, SIDE))
    frames[3] = rng.normal(500, 30, (SIDE, SIDE))
    for centre in CENTRES:
        frames[:3, disc(SIDE, centre, RADIUS_PX)] -= 15_000
        frames[3, disc(SIDE, centre, 10)] += 20_000
    info = FieldInfo(
        index=7,
        x_um=1000.0,
        y_um=-500.0,
        pixel_um=PIXEL_UM,
        frames=tuple(
            FrameInfo(modality=name, wavelength_nm=None, exposure_ms=1.0, z_um=0.0)
            for name in MODALITIES
        ),
        kind="stained-rgb",
    )
    raw = found.raw_path()
    raw.mkdir(parents=True)
    write_field(field_path(raw, 7), np.clip(frames, 0, 65535).astype(np.uint16), info)
    number = len(CENTRES)
    y_px, x_px = np.array(CENTRES, float).T
    mask = disc(CROP, ((CROP - 1) / 2,) * 2, RADIUS_PX).astype(np.uint8)
    columns = {
        "field_index": np.full(number, 7),
        "y_px": y_px,
        "x_px": x_px,
        "y_um": -500 + (y_px - (SIDE - 1) / 2) * PIXEL_UM,
        "x_um": 1000 + (x_px - (SIDE - 1) / 2) * PIXEL_UM,
        "area_um2": np.full(number, mask.sum() * PIXEL_UM**2),
        "nucleus_area_um2": np.full(number, 12.0),
        "sharpness": np.array([1.0, 2.0, np.nan, 4.0]),
        "shift_px": np.zeros((number, 3, 2)),
        "shift_residual_px": np.zeros((number, 3)),
        "qc_flags": np.array([0, 0, 1, 0], np.uint16),
    }
    images = np.zeros((number, 4, CROP, CROP), np.uint16)
    attributes = CellAttributes(
        modalities=MODALITIES, pixel_um=PIXEL_UM, classes=CLASSES, kind="stained-rgb"
    )
    store = CellStore.create(
        found.cells_path,
        [CellBlock(images, np.stack([mask] * number), columns, ["", "LYM", "", ""])],
        attributes,
    )
    probability = np.random.default_rng(1).dirichlet(np.ones(5), (number, 4)).astype(np.float32)
    store.write_predictions(
        probability,
        ["NEU", "LYM", "EOS", "BAS"],
        np.full(number, 0.9, np.float32),
        np.zeros(number, np.float32),
        classification=Classification(
            bundle="planted", sha256="c" * 64, classes=CLASSES, heads=MODALITIES, threshold=0.5
        ),
    )
    return found


def call(sample: Sample, kind: str, out: Path) -> None:
    arguments = [kind, "--sample", "S1", "--data", str(sample.path.parent), "--out", str(out)]
    done = CliRunner().invoke(export, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output


def test_fields_as_ome_zarr(sample: Sample, tmp_path: Path) -> None:
    out = tmp_path / "S1.ome.zarr"
    call(sample, "ome-zarr", out)
    for group in (".", "7", "7/labels", "7/labels/cells"):
        yaozarrs.validate_zarr_store(str(out / group))
    root: Any = zarr.open_group(
        out, mode="r"
    )  # zarr types what lies in a group as one of all kinds
    assert root["OME"].attrs["ome"]["series"] == ["7"]
    metadata = (out / "OME" / "METADATA.ome.xml").read_text(encoding="utf-8")
    (described,) = from_xml(metadata, validate=True).images
    assert described.id == "Image:7"
    assert (described.name, described.pixels.size_x) == ("field 7", 540)
    assert [channel.name for channel in described.pixels.channels] == list(MODALITIES)
    image = root["7"]
    assert [image[str(level)].shape for level in range(2)] == [(4, 540, 540), (4, 270, 270)]
    assert "2" not in image
    labels = image["labels/cells"]
    for row, centre in enumerate(CENTRES):
        assert labels["0"][centre] == row + 1
        assert labels["1"][centre[0] // 2, centre[1] // 2] == row + 1
        area_um2 = (labels["0"][...] == row + 1).sum() * PIXEL_UM**2
        assert area_um2 == pytest.approx(np.pi * (RADIUS_PX * PIXEL_UM) ** 2, rel=0.05)
        # The cell is dark where its label is.
        assert image["0"][0][centre] < image["0"][0][5, 5] - 5000
    first, second = image.attrs["ome"]["multiscales"][0]["datasets"]
    assert first["coordinateTransformations"][0]["scale"] == [1.0, 0.2, 0.2]
    y_um, x_um = first["coordinateTransformations"][1]["translation"][1:]
    assert (y_um + CENTRES[0][0] * 0.2, x_um + CENTRES[0][1] * 0.2) == pytest.approx(
        tuple(CellStore(sample.cells_path).column(name)[0] for name in ("y_um", "x_um"))
    )
    assert second["coordinateTransformations"][0]["scale"] == [1.0, 0.4, 0.4]
    assert second["coordinateTransformations"][1]["translation"][1] == pytest.approx(y_um + 0.1)


def test_an_existing_folder_is_kept(sample: Sample, tmp_path: Path) -> None:
    out = tmp_path / "there"
    out.mkdir()
    with pytest.raises(StorageError, match="is there already"):
        call(sample, "ome-zarr", out)
    assert list(out.iterdir()) == []


def test_cells_as_anndata(sample: Sample, tmp_path: Path) -> None:
    out = tmp_path / "S1.h5ad"
    call(sample, "anndata", out)
    table, rows = anndata.read_h5ad(out), read_rows(CellStore(sample.cells_path))
    assert table.n_obs == 4
    assert list(table.obs["predicted_class"]) == ["NEU", "LYM", "EOS", "BAS"]
    assert list(table.obs["label"]) == ["", "LYM", "", ""]
    assert list(table.obs["counted"]) == [True, True, False, True]
    assert list(table.obs["exclusion_reason"]) == ["", "", "border", ""]
    np.testing.assert_array_equal(table.obsm["probability_color2"], rows.probability[:, 1])
    np.testing.assert_array_equal(
        table[:, "area_um2"].X[:, 0], rows.columns["area_um2"].astype(np.float32)
    )
    assert {"shift_px_color1_y", "shift_px_color3_x", "sharpness"} <= set(table.var_names)
    assert table.var.loc["area_um2", "unit"] == "um2"
    np.testing.assert_array_equal(table.obsm["spatial"][:, 1], rows.columns["y_um"])
    assert list(table.uns["classes"]) == list(CLASSES)
    assert json.loads(table.uns["classification"])["bundle"] == "planted"
    assert json.loads(table.uns["sample"])["sample"] == "S1"


def test_cells_as_geojson(sample: Sample, tmp_path: Path) -> None:
    out = tmp_path / "cells"
    call(sample, "qupath", out)
    found = json.loads((out / "field_00007.geojson").read_text())
    assert [feature["properties"]["classification"]["name"] for feature in found["features"]] == [
        "NEU",
        "LYM",
        "EOS",
        "BAS",
    ]
    for feature, centre in zip(found["features"], CENTRES, strict=True):
        (ring,) = feature["geometry"]["coordinates"]
        assert ring[0] == ring[-1]
        assert np.mean(ring[:-1], axis=0) == pytest.approx((centre[1], centre[0]), abs=0.6)
    assert len({feature["id"] for feature in found["features"]}) == 4
    measured = found["features"][2]["properties"]["measurements"]
    assert "sharpness" not in measured, "NaN is no number of JSON"
    assert measured["probability BAS"] > 0
