"""Estimates of a batch before it runs: time, disk space, and what is done already.

Nothing moves.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal

from wbcpipe.acquire.capture.sample_record import estimate_seconds
from wbcpipe.acquire.staining.workflow import remaining_s
from wbcpipe.batch.row_request import row_request
from wbcpipe.batch.state.completion import row_content
from wbcpipe.samples.field_status import read_skipped
from wbcpipe.samples.fields import MODALITIES, PASSES, fields_on_disk
from wbcpipe.samples.sample import Sample
from wbcpipe.scan.targets import cells_for_expected_share

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.batch.records import WorklistRow
    from wbcpipe.samples.fields import Pass
    from wbcpipe.scan.request import ScanRequest

__all__ = ["BatchEstimate", "RowEstimate", "estimate_batch"]

#: Measured on one core: segmenting a megapixel of a field's four frames
#: (docs/results/segment-benchmark.md).
_SEGMENT_S_PER_MEGAPIXEL: Final = 0.04
#: Measured: from the last frame to the report, beyond segmenting; and starting a slide's processes.
_REPORT_S: Final = 5.0
#: Measured: the check of a microscope before its first slide.
_CHECK_S: Final = 30.0
#: A cell in cells.zarr before compression: four frames of 224 x 224 pixels of two bytes, and its
#: mask.
_CELL_BYTES: Final = 224 * 224 * (2 * len(MODALITIES) + 1)
#: Log, tables and report of a sample.
_SPARE_BYTES: Final = 16 * 2**20


@dataclass(frozen=True)
class RowEstimate:
    """What a row needs.

    Attributes:
        row: of the worklist.
        scope_name, slot: of the microscope, and of its stage.
        state: of the sample on disk: nothing, some fields, or a report of a scan that reached its
            target.
        fields: expected in all; with a target of cells or precision, their number is known only at
            the end.
        fields_done: on disk.
        seconds: of the microscope, with an automatic stain's incubation.
        disk_bytes: still to be written.
    """

    row: WorklistRow
    scope_name: str
    slot: str
    state: Literal["new", "started", "finished"]
    fields: int
    fields_done: int
    seconds: float
    disk_bytes: int


@dataclass(frozen=True)
class BatchEstimate:
    """What a worklist needs.

    Attributes:
        rows: in the order in which they are scanned.
        starts: when the batch starts.
        disk_bytes, disk_free_bytes: needed, and free at the data root.
        checks_s: seconds of the check of the microscope before a sample, by its name.
    """

    rows: tuple[RowEstimate, ...]
    starts: datetime
    disk_bytes: int
    disk_free_bytes: int
    checks_s: Mapping[str, float]

    @property
    def seconds(self) -> float:
        """Time from the start to the last report."""
        scanning_s = sum(row.seconds for row in self.rows)
        return self.check_seconds + scanning_s + _REPORT_S if scanning_s else 0.0

    @property
    def check_seconds(self) -> float:
        """Time of the checks of the microscopes."""
        return sum(self.checks_s.values())

    @property
    def ends(self) -> datetime:
        """When the last report is written."""
        return self.starts + timedelta(seconds=self.seconds)

    def row_ends(self) -> dict[str, datetime]:
        """Return when the last field of each sample is taken."""
        at, ends = self.starts, {}
        for row in self.rows:
            at += timedelta(seconds=row.seconds + self.checks_s.get(row.row.sample, 0.0))
            ends[row.row.sample] = at
        return ends

    def late(self) -> list[RowEstimate]:
        """Return the rows whose deadline comes before their end."""
        ends = self.row_ends()
        return [
            row
            for row in self.rows
            if row.seconds
            and row.row.deadline is not None
            and row.row.deadline < ends[row.row.sample]
        ]


def estimate_batch(
    rows: Sequence[WorklistRow],
    scopes: Mapping[str, Scope],
    data: Path,
    now: datetime | None = None,
) -> BatchEstimate:
    """Estimate the time and the disk space of the rows.

    Args:
        rows: of a worklist without mistakes.
        scopes: by the rows' names.
        data: data root; samples there are counted as done.
        now: the start; the present time by default.

    Raises:
        WbcpipeError: see `row_request`.
    """
    # Slides follow each other on the microscope; what else is done of a slide overlaps with the
    # next one.
    ordered = sorted(rows, key=lambda row: -row.priority)
    free = shutil.disk_usage(
        next(folder for folder in (data, *data.parents) if folder.exists())
    ).free
    estimates = tuple(_estimate(row, scopes[row.scope], data) for row in ordered)
    needed = sum(row.disk_bytes for row in estimates)
    starts = now or datetime.now().astimezone()
    return BatchEstimate(estimates, starts, needed, free, _checks_s(estimates, scopes))


def _checks_s(rows: Sequence[RowEstimate], scopes: Mapping[str, Scope]) -> dict[str, float]:
    """Return the seconds of the check before each sample that has one."""
    checks_s: dict[str, float] = {}
    slides_since: dict[str, int] = {}
    for row in rows:
        name, scope = row.row.scope, scopes[row.row.scope]
        by_hand = scope.loader_slot and scope.loader.method == "prompt"  # such a slide comes later
        if not row.seconds or by_hand:
            continue
        if scope.night_check.is_due(slides_since.get(name)):
            checks_s[row.row.sample], slides_since[name] = _CHECK_S, 0
        slides_since[name] = slides_since.get(name, 0) + 1
    return checks_s


def _estimate(row: WorklistRow, scope: Scope, data: Path) -> RowEstimate:
    request, sample = row_request(row, scope, data), Sample.open(data, row.sample)
    where = (row, scope.name, request.plan.slot)
    cells = _cells(request)
    fields = _fields(request, cells)
    done = len(_known(sample, request.last_pass)) if sample.path.exists() else 0
    stage = row_content(row, data).stage
    if stage in ("scanned", "finished"):
        return RowEstimate(
            *where, "finished" if stage == "finished" else "started", done, done, 0.0, 0
        )
    seconds, disk_bytes = 0.0, _SPARE_BYTES
    for name in dict.fromkeys((request.first_pass, request.last_pass)):
        to_take = max(0, fields - len(_known(sample, name)))
        seconds += _pass_seconds(request, name, to_take)
        disk_bytes += to_take * scope.field_bytes(PASSES[name])
    if request.two_pass:
        seconds += remaining_s(sample, scope.staining)
    cells = min(cells, int(fields * scope.expected_cells_per_field) + 1)
    state: Literal["new", "started"] = "started" if sample.exists() else "new"
    return RowEstimate(
        *where, state, max(fields, done), done, round(seconds, 1), disk_bytes + cells * _CELL_BYTES
    )


def _cells(request: ScanRequest) -> int:
    """Return the cells that the targets need at most, with any share that is expected of a
    class.
    """
    needed = [
        cells_for_expected_share(target.name, target.half_width_percent)
        for target in request.precision
    ]
    return max([request.cells or 0, *needed])


def _fields(request: ScanRequest, cells: int) -> int:
    if request.fields is not None:
        return request.estimated_fields()
    expected = math.ceil(cells / request.scope.expected_cells_per_field)
    return min(max(request.estimated_fields(), expected), request.max_fields)


def _known(sample: Sample, name: Pass) -> set[int]:
    raw = sample.raw_path(name)
    return {*fields_on_disk(raw), *read_skipped(raw)} if raw.is_dir() else set()


def _pass_seconds(request: ScanRequest, name: Pass, fields: int) -> float:
    """Return the time of a pass; its fields are segmented while the next ones are taken."""
    if not fields:
        return 0.0
    taking_s = estimate_seconds(request.scope, request.plan, fields, pass_name=name)
    height_px, width_px = request.scope.camera.image_px
    segmenting_s = fields * _SEGMENT_S_PER_MEGAPIXEL * height_px * width_px / 1e6
    return max(taking_s, segmenting_s if name == request.last_pass else 0.0)
