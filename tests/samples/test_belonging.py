"""Files that were copied from another sample, or to another place of their own sample."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest

from wbcpipe.acquire.capture.light_dose import DoseLedger
from wbcpipe.errors import FrameFileError, SampleStateError
from wbcpipe.samples.field_status import read_missing, read_skipped, write_missing, write_skipped
from wbcpipe.samples.fields import (
    FieldInfo,
    FrameInfo,
    field_path,
    read_field,
    read_info,
    write_field,
)
from wbcpipe.samples.light_record import read_exposures
from wbcpipe.samples.records import (
    FieldPredictions,
    FocusPoint,
    FocusRecord,
    SampleRecord,
    ScanArea,
    SlideTransformRecord,
    StainingRecord,
)
from wbcpipe.samples.sample import Sample
from wbcpipe.samples.scan_outcome import ScanOutcome, load_scan_outcome
from wbcpipe.samples.staining_record import read_staining, write_staining

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

READERS: dict[str, Callable[[Sample], object]] = {
    "raw/single/focus.json": lambda sample: FocusRecord.read(sample.raw_path() / "focus.json"),
    "raw/single/missing.json": lambda sample: read_missing(sample.raw_path()),
    "raw/single/skipped_fields.json": lambda sample: read_skipped(sample.raw_path()),
    "raw/single/light.jsonl": lambda sample: read_exposures(sample.raw_path()),
    "raw/single/field_00000.ome.tif": lambda sample: read_info(field_path(sample.raw_path(), 0)),
    "raw/fluorescence/slide_transforms.json": lambda sample: SlideTransformRecord.read(
        sample.raw_path("fluorescence") / "slide_transforms.json"
    ),
    "raw/staining.json": read_staining,
    "scan.json": load_scan_outcome,
    "work/predictions/field_00000.json": lambda sample: FieldPredictions.read(
        sample.work_path / "predictions" / "field_00000.json"
    ),
}


def make_sample(root: Path, name: str, created: str) -> Sample:
    """Write one file of each kind.

    Samples differ in name and creation alone, as two slides of one slot may.
    """
    sample = Sample.open(root, name)
    sample.write(SampleRecord(sample=name, created=created))
    raw, other = sample.raw_path(), sample.raw_path("fluorescence")
    for folder in (raw, other, sample.work_path / "predictions"):
        folder.mkdir(parents=True)
    area = ScanArea(x_um=(0.0, 500.0), y_um=(0.0, 500.0))
    FocusRecord(policy={}, area=area, coarse=(FocusPoint(0.0, 0.0, 12.5),)).write(
        raw / "focus.json"
    )
    write_missing(raw, {7: "the lamp was dark"})
    write_skipped(raw, {8: 1.5})
    with_light = DoseLedger(raw, (200.0, 200.0))
    with_light.record(0, 10.0, 20.0, 30.0)
    with_light.close()
    frames = np.full((1, 16, 16), 1000, np.uint16)
    write_field(
        field_path(raw, 0), frames, FieldInfo(0, 10.0, 20.0, 0.1, (FrameInfo("color1", 20.0),))
    )
    SlideTransformRecord(transforms=()).write(other / "slide_transforms.json")
    write_staining(sample, StainingRecord(method="operator", done=created))
    ScanOutcome(reason="fields", fields_done=1, fields_wanted=1).save(sample)
    record = FieldPredictions(field_index=0, identity="i", predicted_classes=("NEU",))
    record.write(sample.work_path / "predictions" / "field_00000.json")
    return sample


@pytest.fixture
def samples(tmp_path: Path) -> tuple[Sample, Sample]:
    return (
        make_sample(tmp_path, "S1", "2026-11-29T20:00:00+00:00"),
        make_sample(tmp_path, "S2", "2026-11-29T21:00:00+00:00"),
    )


@pytest.mark.parametrize("name", READERS)
def test_a_file_of_another_sample_is_refused_by_name(
    name: str, samples: tuple[Sample, Sample]
) -> None:
    one, other = samples
    before = READERS[name](one)
    assert before
    shutil.copyfile(other.path / name, one.path / name)
    with pytest.raises((SampleStateError, FrameFileError)) as caught:
        READERS[name](one)
    said = str(caught.value)
    assert said.startswith(str(one.path / name))
    assert "belongs to another sample or place (sample S2 of 2026-11-29T21:00:00+00:00" in said
    assert "\n" not in said
    READERS[name](other)


@pytest.mark.parametrize("name", READERS)
def test_a_sample_of_the_same_name_from_another_day_is_another_sample(
    name: str, samples: tuple[Sample, Sample], tmp_path: Path
) -> None:
    again = make_sample(tmp_path / "other data", "S1", "2026-11-30T20:00:00+00:00")
    shutil.copyfile(again.path / name, samples[0].path / name)
    with pytest.raises((SampleStateError, FrameFileError), match="belongs to another sample"):
        READERS[name](samples[0])


@pytest.mark.parametrize("name", READERS)
def test_a_sample_that_was_copied_or_renamed_as_a_whole_is_read(
    name: str, samples: tuple[Sample, Sample], tmp_path: Path
) -> None:
    before = READERS[name](samples[0])
    shutil.copytree(samples[0].path, tmp_path / "elsewhere" / "renamed")
    assert READERS[name](Sample.open(tmp_path / "elsewhere", "renamed")) == before


def test_a_record_of_another_pass_of_the_sample_is_refused(samples: tuple[Sample, Sample]) -> None:
    raw, other = samples[0].raw_path(), samples[0].raw_path("fluorescence")
    for name, read in (("missing.json", read_missing), ("skipped_fields.json", read_skipped)):
        shutil.copyfile(raw / name, other / name)
        with pytest.raises(
            SampleStateError, match=f"fluorescence/{name}: belongs to another sample or place"
        ):
            read(other)
    shutil.copyfile(raw / "light.jsonl", other / "light.jsonl")
    with pytest.raises(SampleStateError, match=r"fluorescence/light\.jsonl: belongs to another"):
        read_exposures(other)


def test_lines_of_another_sample_among_its_own_are_refused(samples: tuple[Sample, Sample]) -> None:
    one, other = (sample.raw_path() / "light.jsonl" for sample in samples)
    one.write_bytes(one.read_bytes() + other.read_bytes())
    with pytest.raises(SampleStateError, match=r"light\.jsonl: belongs to another sample"):
        read_exposures(samples[0].raw_path())


def test_a_record_written_by_hand_need_not_say_where_it_belongs(
    samples: tuple[Sample, Sample],
) -> None:
    path = samples[0].raw_path() / "missing.json"
    path.write_text(json.dumps({"format_version": 1, "reasons": {"3": "by hand"}}))
    assert read_missing(samples[0].raw_path()) == {3: "by hand"}


def test_the_pixels_of_a_field_of_another_sample_are_not_taken(
    samples: tuple[Sample, Sample],
) -> None:
    one, other = (field_path(sample.raw_path(), 0) for sample in samples)
    shutil.copyfile(other, one)
    with pytest.raises(FrameFileError, match="the field must be taken again"):
        read_field(one)
