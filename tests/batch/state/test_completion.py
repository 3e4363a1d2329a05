"""What is done of a row follows from its files alone."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from wbcpipe.acquire.capture.sample_record import create_sample_record
from wbcpipe.acquire.config.scope import load_scope
from wbcpipe.batch.records import WorklistRow
from wbcpipe.batch.row_request import row_request
from wbcpipe.batch.state.completion import row_content
from wbcpipe.samples.field_status import write_missing, write_skipped
from wbcpipe.samples.records import StainingRecord
from wbcpipe.samples.sample import Sample
from wbcpipe.samples.scan_outcome import PrecisionReached, ScanOutcome
from wbcpipe.samples.staining_record import write_staining

if TYPE_CHECKING:
    from pathlib import Path


def row(**values: Any) -> WorklistRow:
    return WorklistRow.model_validate(
        {"sample": "S1", "slide": "S1", "slot": "A", "scope": "demo", **values}
    )


def begin(one: WorklistRow, root: Path, fields: int = 0) -> Sample:
    """Write sample.json as the acquisition does, and fields of the first pass."""
    request, sample = row_request(one, load_scope("demo"), root), Sample.open(root, "S1")
    create_sample_record(request.acquisition(sample, request.first_pass))
    take(sample, request.first_pass, fields)
    return sample


def take(sample: Sample, pass_name: Any, fields: int) -> None:
    raw = sample.raw_path(pass_name)
    raw.mkdir(parents=True, exist_ok=True)
    for index in range(fields):
        (raw / f"field_{index:05d}.ome.tif").touch()


def test_fields_and_a_recorded_end_make_a_scan(tmp_path: Path) -> None:
    one = row(fields=3)
    assert row_content(one, tmp_path).stage == "new"
    sample = begin(one, tmp_path)
    assert row_content(one, tmp_path).stage == "new"
    take(sample, "single", 3)
    assert row_content(one, tmp_path).stage == "started"  # its end is not recorded
    ScanOutcome(reason="fields", fields_done=3, fields_wanted=3).save(sample)
    assert row_content(one, tmp_path).stage == "scanned"
    assert row_content(row(fields=4), tmp_path).stage == "started"
    assert row_content(row(cells=100), tmp_path).stage == "started"


@pytest.mark.parametrize(
    ("asked", "stage"),
    [
        ({"cells": 150, "precision": ("NEU:5%",)}, "scanned"),
        ({"cells": 200, "precision": ("NEU:5%",)}, "started"),
        ({"cells": 150, "precision": ("NEU:4%",)}, "started"),
        ({"cells": 150}, "started"),
        ({"fields": 3}, "started"),
    ],
    ids=str,
)
def test_a_scan_of_other_targets_is_none(tmp_path: Path, asked: dict[str, Any], stage: str) -> None:
    sample = begin(row(), tmp_path, fields=3)
    reached = PrecisionReached("NEU", 64.0, 4.9, 5.0)
    ScanOutcome(
        reason="precision",
        fields_done=3,
        fields_wanted=3,
        cells=151,
        cells_wanted=150,
        precision=(reached,),
    ).save(sample)
    assert row_content(row(**asked), tmp_path).stage == stage


def test_a_scan_that_a_deadline_ended_goes_on_with_a_later_one(tmp_path: Path) -> None:
    sample, now = begin(row(fields=9), tmp_path, fields=3), datetime.now(UTC)
    ScanOutcome(reason="deadline", fields_done=3, fields_wanted=9).save(sample)
    for hours, stage in ((-1, "scanned"), (1, "started")):
        assert (
            row_content(row(fields=9, deadline=now + timedelta(hours=hours)), tmp_path).stage
            == stage
        )


def test_a_damaged_sample_or_one_of_another_slot_counts_as_started(tmp_path: Path) -> None:
    sample = begin(row(fields=3), tmp_path, fields=3)
    ScanOutcome(reason="fields", fields_done=3, fields_wanted=3).save(sample)
    assert row_content(row(fields=3, slot="B"), tmp_path).stage == "started"
    sample.info_path.write_text("{", encoding="utf-8")
    assert row_content(row(fields=3), tmp_path).stage == "started"


def test_the_stages_of_two_passes(tmp_path: Path) -> None:
    one = row(fields=4, protocol="two-pass-list")
    sample = begin(one, tmp_path, fields=2)
    assert row_content(one, tmp_path).stage == "started"
    write_missing(sample.raw_path("brightfield"), {2: "no image"})
    assert row_content(one, tmp_path).stage == "started"
    write_skipped(sample.raw_path("brightfield"), {3: 0.0})
    assert row_content(one, tmp_path).stage == "brightfield"
    applied = datetime.now(UTC)
    write_staining(
        sample,
        StainingRecord(
            method="prompt", started=applied.isoformat(), applied=applied.isoformat(), done=None
        ),
    )
    content = row_content(one, tmp_path)
    assert (content.stage, content.stained_at) == ("stained", applied)
    assert content.incubated_at_s <= time.time()
    ScanOutcome(reason="fields", fields_done=4, fields_wanted=4).save(sample)
    assert row_content(one, tmp_path).stage == "scanned"
