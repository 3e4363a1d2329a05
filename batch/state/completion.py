"""What is done of a row.

Its content on disk, never the order, the time or the number of its attempts.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from wbcpipe.acquire.capture.sample_record import check_sample
from wbcpipe.acquire.config.scope import load_scope
from wbcpipe.acquire.staining.workflow import remaining_s
from wbcpipe.batch.row_request import row_request
from wbcpipe.classify.models.bundle import find_bundle
from wbcpipe.errors import WbcpipeError
from wbcpipe.report.document import read_document
from wbcpipe.report.status import sample_status
from wbcpipe.samples.field_status import read_missing, read_skipped
from wbcpipe.samples.fields import fields_on_disk
from wbcpipe.samples.sample import Sample
from wbcpipe.samples.scan_outcome import load_scan_outcome
from wbcpipe.samples.staining_record import read_staining, staining_state

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from wbcpipe.batch.records import WorklistRow
    from wbcpipe.samples.scan_outcome import ScanOutcome
    from wbcpipe.scan.request import ScanRequest

__all__ = ["RowContent", "RowStage", "row_content"]

#: ``new``: no field; ``started``: some fields; ``brightfield``: all of the first of two passes;
#: ``stained``: the stain is applied; ``scanned``: the scan is complete; ``finished``: the report is
#: complete too.
RowStage = Literal["new", "started", "brightfield", "stained", "scanned", "finished"]


@dataclass(frozen=True)
class RowContent:
    """What of a row is on disk.

    Attributes:
        stage: see `RowStage`.
        incubated_at_s: of `time.time`: when a stained slide may be taken in fluorescence; 0 where
            nothing incubates.
        stained_at: when the stain was applied.
    """

    stage: RowStage
    incubated_at_s: float = 0.0
    stained_at: datetime | None = None


def row_content(row: WorklistRow, root: Path) -> RowContent:
    """Return what of a row is on disk.

    A sample of other settings, or a damaged one, counts as ``started``: its process says what is
    wrong.
    """
    sample = Sample.open(root, row.sample)
    if not sample.exists():
        return RowContent("new")
    try:
        scope = load_scope(row.scope)
        request = row_request(row, scope, root)
        check_sample(request.acquisition(sample, request.first_pass))
        if _scan_is_complete(sample, row, request):
            return RowContent("finished" if _report_is_complete(sample, row) else "scanned")
        if request.two_pass:
            return _two_pass_content(sample, request)
        return RowContent("started" if fields_on_disk(sample.raw_path("single")) else "new")
    except (WbcpipeError, ValueError):
        return RowContent("started")


def _scan_is_complete(sample: Sample, row: WorklistRow, request: ScanRequest) -> bool:
    outcome = load_scan_outcome(sample)
    return outcome is not None and _is_asked_for(outcome, request) and not _may_go_on(outcome, row)


def _is_asked_for(outcome: ScanOutcome, request: ScanRequest) -> bool:
    """Return whether a scan had the targets of a request."""
    if request.fields is not None:
        fields = max(outcome.fields_wanted, outcome.fields_done)
        return outcome.cells is None and fields >= min(request.fields, request.max_fields)
    targets = [(target.name, target.target_percent) for target in outcome.precision]
    asked = [(target.name, target.half_width_percent) for target in request.precision]
    return outcome.cells is not None and outcome.cells_wanted == request.cells and targets == asked


def _may_go_on(outcome: ScanOutcome, row: WorklistRow) -> bool:
    """Return whether a scan that a deadline ended has a later one now."""
    return (
        outcome.reason == "deadline"
        and row.deadline is not None
        and time.time() < row.deadline.timestamp()
    )


def _report_is_complete(sample: Sample, row: WorklistRow) -> bool:
    """Return whether the report is of the cells on disk and of the row's model."""
    if sample_status(sample).state != "reported":
        return False
    bundle = find_bundle(row.bundle, kind="scope")
    return read_document(sample).provenance.bundle.sha256 == bundle.info.sha256


def _two_pass_content(sample: Sample, request: ScanRequest) -> RowContent:
    raw = sample.raw_path("brightfield")
    state, record = staining_state(sample), read_staining(sample)
    if state in ("incubating", "stained") or fields_on_disk(sample.raw_path("fluorescence")):
        left_s = remaining_s(sample, request.scope.staining)
        applied = _time(record.applied) if record is not None and record.applied else None
        return RowContent("stained", time.time() + left_s if left_s else 0.0, applied)
    known = {*fields_on_disk(raw), *read_skipped(raw), *read_missing(raw)}
    if known.issuperset(range(request.estimated_fields())):
        return RowContent("brightfield")
    return RowContent("started" if known else "new")


def _time(text: str) -> datetime:
    from datetime import datetime

    return datetime.fromisoformat(text)
