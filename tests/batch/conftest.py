"""A batch with a sample in every state, made of files alone."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from wbcpipe.batch.records import BatchRecord, JournalEntry, WorklistRow
from wbcpipe.batch.state.batch_folder import BatchFolder
from wbcpipe.report.differential import ADULT, Differential, count_cells
from wbcpipe.report.gates import LIMITS
from wbcpipe.samples.differential_record import DifferentialRecord
from wbcpipe.samples.field_status import write_missing, write_skipped
from wbcpipe.samples.records import SampleRecord
from wbcpipe.samples.sample import Sample
from wbcpipe.system.files import json_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

CLASSES = ("NEU", "LYM", "EOS", "MO", "BAS")
EVENING = datetime(2026, 11, 27, 19, 0, tzinfo=UTC)


def _document(name: str, counts: Sequence[int], failed: Sequence[str]) -> DifferentialRecord:
    """Return the differential of some cells; the gates ``failed`` fail, the others pass."""
    calls = [
        call
        for call, number in zip((*CLASSES, "unidentified"), counts, strict=True)
        for _ in range(number)
    ]
    differential = Differential.from_tally(
        count_cells(calls, np.zeros(len(calls), dtype=np.uint16), CLASSES), reference=ADULT
    )
    tally = differential.tally
    gates = [
        {
            "name": key,
            "title": limit.title,
            "figure": limit.limit * (0.5 if (limit.comparison == ">=") == (key in failed) else 1.5),
            "comparison": limit.comparison,
            "limit": limit.limit,
            "unit": limit.unit,
            "passed": key not in failed,
        }
        for key, limit in LIMITS.items()
    ]
    return DifferentialRecord.model_validate(
        {
            "created": "2026-11-28T01:00:00+00:00",
            "sample": name,
            "kind": "scope",
            "cells": {
                "found": len(calls),
                "counted": tally.identified,
                "unidentified": {
                    "count": tally.unidentified,
                    "percent": differential.unidentified_percent,
                    "interval_percent": differential.unidentified_interval_percent,
                },
                "rejected": {
                    "debris": 0,
                    "border": 0,
                    "missing_modality": 0,
                    "clump": 0,
                    "blurred": 0,
                },
                "counted_with_warning": {"doublet": 0, "saturated": 0, "unregistered": 0},
            },
            "classes": [
                {**asdict(line), "corrected_percent": None, "corrected_interval_percent": None}
                for line in differential.classes
            ],
            "reference_source": "test",
            "wbc_1e9_per_l": None,
            "fields": {"planned": 40, "wanted": 20, "taken": 20, "missing": [], "empty": []},
            "scan": None,
            "quality": {"passed": not failed, "gates": gates, "failed_fields": []},
            "heads": [
                {
                    "name": "color1",
                    "agreement_percent": 99.0,
                    "class_agreement_percent": {},
                    "mean_probability": 0.9,
                }
            ],
            "model_checks": {},
            "provenance": {
                "report_software": {},
                "sample_software": {},
                "scope": None,
                "slot": "A",
                "specimen": None,
                "plan_sha256": None,
                "modalities": [{"name": "color1", "derived": False}],
                "pixel_um": 0.1,
                "cells": {"sha256": "a" * 64, "provenance": {}},
                "bundle": {
                    "name": "b",
                    "sha256": None,
                    "classes": CLASSES,
                    "heads": ["color1"],
                    "threshold": 0.5,
                },
            },
        }
    )


@pytest.fixture
def write_sample() -> Callable[..., Sample]:
    """Write sample.json, fields, light and, given ``counts`` of the classes, differential.json and
    a report.
    """

    def write(
        root: Path,
        name: str,
        *,
        fields: int = 0,
        counts: Sequence[int] = (),
        failed: Sequence[str] = (),
    ) -> Sample:
        sample = Sample.open(root, name)
        sample.write(SampleRecord(sample=name))
        raw = sample.raw_path()
        raw.mkdir(parents=True)
        for index in range(fields):
            (raw / f"field_{index:05d}.ome.tif").touch()
        exposure = {"x_um": 0.0, "y_um": 0.0, "exposure_ms": 20.0}
        lines = [json_line({"field": index, **exposure}) for index in [*range(fields), 0]]
        (raw / "light.jsonl").write_bytes(b"".join(lines) + b'{"cut')
        if counts:
            (sample.path / "report.html").write_text("<p>report</p>")
            _document(name, counts, failed).write(sample.path / "differential.json")
        return sample

    return write


class Night:
    """Writes a batch: rows, and a journal whose entries are so many minutes after the evening."""

    def __init__(self, root: Path, write_sample: Callable[..., Sample]) -> None:
        self.root, self.rows, self.entries = root, list[WorklistRow](), list[JournalEntry]()
        self.write_sample = write_sample
        self.folder = BatchFolder.open(root, "2026-11-27-night")

    def row(self, sample: str, slot: str, **values: Any) -> None:
        self.rows.append(
            WorklistRow(
                **{"sample": sample, "slide": sample, "slot": slot, "scope": "demo", **values}
            )
        )

    def entry(self, minutes: float, event: Any, sample: str = "", **values: Any) -> None:
        time = EVENING + timedelta(minutes=minutes)
        self.entries.append(JournalEntry(time=time, event=event, sample=sample, **values))

    def write(self) -> BatchFolder:
        record = BatchRecord(
            name=self.folder.name, created=EVENING, worklist_sha256="0" * 64, rows=tuple(self.rows)
        )
        self.folder.write(record)
        for entry in self.entries:
            self.folder.append(entry)
        return self.folder

    def finish(self, minutes: float, sample: str, **values: Any) -> None:
        self.entry(minutes, "scan_started", sample, attempt=1)
        self.entry(
            minutes + 14,
            "scan_finished",
            sample,
            figures={"scanning_s": 790.0, "focusing_s": 41.5, "idle_s": minutes / 10},
        )
        self.entry(minutes + 14, "processing_started", sample)
        figures = {
            "segmenting_s": 12.3,
            "classifying_s": 4.1,
            "reporting_s": 1.3,
            "memory_bytes": 1.62e9,
        }
        self.entry(minutes + 14.5, "finished", sample, figures=figures)
        self.write_sample(
            self.root, sample, **{"fields": 20, "counts": (130, 60, 6, 9, 1, 5), **values}
        )


@pytest.fixture
def new_night(tmp_path: Path, write_sample: Callable[..., Sample]) -> Night:
    """An empty batch to be filled; ``write`` writes it."""
    return Night(tmp_path / "data", write_sample)


@pytest.fixture
def night(new_night: Night) -> BatchFolder:
    """A batch of twelve rows, in every state, with hostile text and a damaged file."""
    it = new_night
    it.entry(0, "batch_started")
    it.row("S001", "A", notes="ward 3")
    it.finish(1, "S001")
    it.row("S002", "B", control=True, slide="CTRL-7")
    it.finish(16, "S002", counts=(90, 99, 16, 4, 4, 0))
    it.row("S003", "C", notes="<script>alert('note')</script> \u202ekcab\n\x1b[31m")
    it.finish(32, "S003", counts=(40, 20, 3, 4, 0, 31), failed=("cells_counted", "blurred_percent"))
    write_missing(it.root.joinpath("S003", "raw", "single"), {20: "camera: no image"})
    write_skipped(it.root.joinpath("S003", "raw", "single"), {21: 0.0, 22: 1.0})
    it.row("S004", "D")
    for attempt, minutes in enumerate((48, 52, 56), 1):
        it.entry(minutes, "scan_started", "S004", attempt=attempt)
        reason = "camera 'Cam <b>1</b>': no image within 5.0 s at field 3"
        it.entry(
            minutes + 3,
            "attempt_failed",
            "S004",
            attempt=attempt,
            error="DeviceTimeoutError",
            reason=reason,
        )
    it.entry(59, "quarantined", "S004", error="DeviceTimeoutError", reason=reason)
    it.write_sample(it.root, "S004", fields=3)
    it.row("S005", "E")
    it.entry(
        60,
        "quarantined",
        "S005",
        error="IdentityError",
        reason="the label says 'S013', the worklist 'S005'",
    )
    it.row("S006", "F")
    it.finish(62, "S006")
    (it.root / "S006" / "differential.json").write_text(
        '{"format_version": 1, "sample": "<img src=x>"'
    )
    it.row("S007", "G")
    it.entry(70, "skipped", "S007", by="ana@<lab>", reason="haemolysed")
    it.row("S008", "H")
    it.entry(71, "held", "S008", by="ana@lab", reason="held by the operator")
    it.row("S009", "J")
    it.entry(80, "scan_started", "S009", attempt=1)
    it.entry(95, "scan_finished", "S009")
    it.row("S010", "K")
    it.entry(96, "scan_started", "S010", attempt=1)
    it.entry(
        99,
        "scanning_stopped",
        reason="three samples in a row with DeviceTimeoutError: camera 'Cam <b>1</b>'",
    )
    it.row("S011", "L")
    it.row("S012", "M", notes="last of the rack", priority=-1)
    it.entry(100, "row_added", "S012", by="ana@lab")
    it.entry(101, "computer_slept", reason="the computer slept for 42 min")
    it.entry(180, "batch_resumed")
    it.entry(181, "scan_started", "S011", attempt=1)
    it.entry(
        190,
        "attempt_failed",
        "S011",
        attempt=1,
        error="OutOfMemoryError",
        reason="the system ran out of memory",
    )
    return it.write()
