"""`verify` finds every damaged file of a sample, names it, and says what makes it anew."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner

from wbcpipe.cli.commands import cli
from wbcpipe.errors import DamagedDataError
from wbcpipe.samples.belonging import place_of
from wbcpipe.samples.cell_attributes import CellAttributes
from wbcpipe.samples.cell_columns import COLUMNS, entry_shape
from wbcpipe.samples.cell_store import CellBlock, CellStore
from wbcpipe.samples.field_status import write_missing
from wbcpipe.samples.fields import FieldInfo, FrameInfo, field_path, passes_digest, write_field
from wbcpipe.samples.light_record import light_path
from wbcpipe.samples.records import FieldPredictions, LightExposure, SampleRecord
from wbcpipe.samples.sample import Sample
from wbcpipe.samples.scan_outcome import ScanOutcome
from wbcpipe.samples.segment_settings.settings import SegmentSettings
from wbcpipe.segment.field_cells import FieldCells, save_field
from wbcpipe.segment.flatfield import no_flatfield
from wbcpipe.segment.registration.register import identity
from wbcpipe.segment.slide_statistics import SlideStatistics, save_slide_statistics
from wbcpipe.system.files import json_line
from wbcpipe.verify.check_sample import verify_sample

if TYPE_CHECKING:
    from pathlib import Path

MODALITIES = ("color1", "color2", "color3")


def cells(count: int) -> CellBlock:
    columns = {
        name: np.ones((count, *entry_shape(column, 3)), column.dtype)
        for name, column in COLUMNS.items()
    }
    return CellBlock(
        np.ones((count, 3, 8, 8), np.uint16),
        np.ones((count, 8, 8), np.uint8),
        columns,
        [""] * count,
    )


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    """A segmented sample of two fields, with every kind of file before the report."""
    sample = Sample.open(tmp_path, "S1")
    sample.write(SampleRecord(sample="S1", kind="stained-rgb", modalities=MODALITIES, pixel_um=0.1))
    raw = sample.raw_path()
    raw.mkdir(parents=True)
    frames = tuple(FrameInfo(name) for name in MODALITIES)
    for index in range(2):
        info = FieldInfo(index, 0.0, 0.0, 0.1, frames, kind="stained-rgb")
        write_field(field_path(raw, index), np.full((3, 16, 16), index + 7, np.uint16), info)
        found = FieldCells(
            index, (0.0, 0.0), cells(2), input_digest=passes_digest(sample.path / "raw", index)
        )
        save_field(sample.work_path / "fields" / f"field_{index:05d}.npz", found, "b")
        folder = sample.work_path / "predictions"
        folder.mkdir(exist_ok=True)
        record = FieldPredictions(field_index=index, identity="i", predicted_classes=("NEU", "LYM"))
        record.write(folder / f"field_{index:05d}.json")
    digests = tuple(passes_digest(sample.path / "raw", index) for index in range(2))
    flat, alignment = no_flatfield(3), identity(3, (16, 16))
    statistics = SlideStatistics(
        (0, 1),
        "stained-rgb",
        MODALITIES,
        0.1,
        flat,
        alignment,
        0.0,
        SegmentSettings().statistics_digest(),
        digests,
    )
    save_slide_statistics(sample.work_path, statistics)
    write_missing(raw, {2: "no light"})
    sample.log("segmented", cells=4)
    attributes = CellAttributes(modalities=MODALITIES, pixel_um=0.1, provenance={"fields": [0, 1]})
    CellStore.create(sample.cells_path, [cells(4)], attributes)
    return sample


FILES = [
    "sample.json",
    "raw/single/field_00001.ome.tif",
    "raw/single/missing.json",
    "work/slide_statistics.npz",
    "work/fields/field_00000.npz",
    "work/predictions/field_00001.json",
    "cells.zarr/zarr.json",
    "cells.zarr/y_um/zarr.json",
    "cells.zarr/images/c.0.0.0.0",
    "cells.zarr/label/c.0",
    "log.jsonl",
]


def test_a_sound_sample_is_sound(sample: Sample) -> None:
    check = verify_sample(sample)
    assert check.damages == ()
    assert check.sound
    assert check.files > len(FILES)


@pytest.mark.parametrize("damage", ["bit", "truncated", "emptied"])
@pytest.mark.parametrize("file", FILES)
def test_each_damaged_file_is_found(sample: Sample, file: str, damage: str) -> None:
    path = sample.path / file
    content = path.read_bytes()
    middle = len(content) // 2
    changed = {
        "bit": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "emptied": b"",
    }
    path.write_bytes(changed.get(damage, content[: 2 * middle // 3]))
    found = verify_sample(sample).damages
    assert any(one.file in file or file in one.file for one in found), found
    assert all(one.remedy and one.problem for one in found)


@pytest.mark.parametrize(
    "file", [name for name in FILES if "missing.json" not in name and name != "log.jsonl"]
)
def test_each_deleted_file_is_found(sample: Sample, file: str) -> None:
    (sample.path / file).unlink()
    found = [one.file for one in verify_sample(sample).damages]
    assert any(
        name in file or file in name or ("field 1" in name and "raw/" in file) for name in found
    ), found


def test_a_lost_reason_for_the_end_of_the_scan_is_found(sample: Sample) -> None:
    ScanOutcome(reason="fields", fields_done=3, fields_wanted=3).save(sample)
    assert verify_sample(sample).sound
    (sample.path / "scan.json").unlink()
    assert [damage.file for damage in verify_sample(sample).damages] == ["scan.json"]


def test_a_gap_in_the_fields_is_found_without_cells(sample: Sample) -> None:
    shutil.rmtree(sample.cells_path)
    shutil.rmtree(sample.work_path)
    field_path(sample.raw_path(), 0).unlink()
    assert [damage.file for damage in verify_sample(sample).damages] == [
        "raw/single/field_00000.ome.tif"
    ]


def test_a_copy_over_its_neighbour_is_found(sample: Sample) -> None:
    for folder, suffix in (
        ("raw/single", "ome.tif"),
        ("work/fields", "npz"),
        ("work/predictions", "json"),
    ):
        one, other = (sample.path / folder / f"field_{index:05d}.{suffix}" for index in (0, 1))
        content = other.read_bytes()
        other.write_bytes(one.read_bytes())
        assert [damage.file for damage in verify_sample(sample).damages] == [
            f"{folder}/{other.name}"
        ]
        other.write_bytes(content)


def test_a_log_of_another_sample_is_found(sample: Sample) -> None:
    other = Sample.open(sample.path.parent, "S2")
    for one in (sample, other):
        one.write(
            SampleRecord(
                sample=one.name,
                created="2026-11-30T20:00:00Z",
                kind="stained-rgb",
                modalities=MODALITIES,
                pixel_um=0.1,
            )
        )
        one.log("reported")
    assert "log.jsonl" not in {damage.file for damage in verify_sample(sample).damages}
    shutil.copyfile(other.path / "log.jsonl", sample.path / "log.jsonl")
    problems = {damage.file: damage.problem for damage in verify_sample(sample).damages}
    assert "belongs to another sample" in problems["log.jsonl"]
    assert "S2" in problems["log.jsonl"]


def test_the_light_of_the_sample_itself_belongs_to_it(sample: Sample) -> None:
    sample.write(SampleRecord(sample=sample.name, created="2026-11-30T20:00:00Z"))
    path = light_path(sample.raw_path())

    def problem(place: str) -> str:
        line = LightExposure(belongs_to=place, field=0, x_um=0, y_um=0, exposure_ms=5)
        path.write_bytes(json_line(line.model_dump()))
        found = {damage.file: damage.problem for damage in verify_sample(sample).damages}
        return found["raw/single/light.jsonl"]

    assert place_of(path)
    assert problem(place_of(path)) == "no exposure of fields 1"
    assert "belongs to another sample" in problem("sample S9 of 2026, raw/single/light.jsonl")


def test_results_of_other_frames_are_found(sample: Sample) -> None:
    raw = sample.raw_path()
    frames = tuple(FrameInfo(name) for name in MODALITIES)
    info = FieldInfo(1, 0.0, 0.0, 0.1, frames, kind="stained-rgb")
    write_field(field_path(raw, 1), np.full((3, 16, 16), 99, np.uint16), info)
    check = verify_sample(sample)
    assert [damage.file for damage in check.damages] == [
        "work/slide_statistics.npz",
        "work/fields/field_00001.npz",
    ]
    assert all(damage.problem == "of other frames than those in raw/" for damage in check.damages)


def test_quick_reads_no_pixels(sample: Sample) -> None:
    path = sample.path / "raw/single/field_00001.ome.tif"
    content = bytearray(path.read_bytes())
    content[content.index(bytes([8, 0] * 64)) + 20] ^= 1
    path.write_bytes(content)
    assert verify_sample(sample, quick=True).sound
    (damage,) = verify_sample(sample).damages
    assert "pixels are damaged" in damage.problem
    assert not damage.can_be_made_anew
    assert "takes the field again" in damage.remedy


def test_the_command_prints_what_to_do_and_ends_with_its_code(sample: Sample) -> None:
    data = str(sample.path.parent)
    result = CliRunner().invoke(cli, ["verify", "--all", "--data", data])
    assert (result.exit_code, result.exception) == (0, None), result.output
    assert "S1: sound" in result.output
    (sample.work_path / "slide_statistics.npz").write_bytes(b"")
    result = CliRunner().invoke(cli, ["verify", "--sample", "S1", "--data", data])
    assert isinstance(result.exception, DamagedDataError)
    assert result.exception.exit_code == 14
    assert "`wbcpipe segment --sample S1` makes it anew" in result.output
    result = CliRunner().invoke(cli, ["verify", "--sample", "S1", "--data", data, "--json"])
    (found,) = json.loads(result.stdout)["samples"]
    assert [damage["file"] for damage in found["damages"]] == ["work/slide_statistics.npz"]
