"""The check of a night before its first slide and between slides: files, devices, disk, and a short measurement."""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from wbcpipe.acquire.doctor import check_live, check_offline
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.batch.qc.records import CheckFinding, CheckResult
from wbcpipe.errors import BatchCheckError, ConfigError, StageLimitError
from wbcpipe.samples.fields import MODALITIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.doctor import Check
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
    from wbcpipe.batch.records import WorklistRow

__all__ = ["CHECK_FILE", "NightCheckRequest", "check_is_due", "needed_bytes", "run_night_check"]

#: Name of the result in a batch's folder.
CHECK_FILE: Final = "check.json"
#: Fields of a row that says neither cells nor fields: as `run` counts 200 cells.
_DEFAULT_CELLS: Final = 200
#: Of a sample beside its raw fields: cells, tables, intermediate results; measured, as a share of the raw fields.
_BESIDE_RAW: Final = 0.35
#: Space that stays free for logs and the system.
_SPARE_BYTES: Final = 500 * 2**20


@dataclass(frozen=True)
class NightCheckRequest:
    """What to check.

    Attributes:
        scope, slot: where; the next slide lies in this slot.
        rows: that are still to be scanned on this scope, the next one first; for the disk.
        data: data root.
        result_path: of ``check.json`` in the batch's folder.
        batch: its name, for the control charts.
        specimen: what lies on the stage of a virtual scope, else ``None``.
        stained: the slide is stained with Acridine Orange already: its fluorescence can be compared.
        first: before the first slide; the files, the devices and the disk are checked too.
    """

    scope: Scope
    slot: str
    rows: tuple[WorklistRow, ...]
    data: Path
    result_path: Path
    batch: str = ""
    specimen: SpecimenPlan | None = None
    stained: bool = True
    first: bool = True


def check_is_due(scope: Scope, slides_since: int | None) -> bool:
    """Return whether a check is due now.

    Args:
        scope: whose ``[night_check]`` decides.
        slides_since: slides scanned since the last check of this batch; ``None`` before the first.
    """
    policy = scope.night_check
    if not policy.enabled:
        return False
    return slides_since is None or (policy.between_slides > 0 and slides_since >= policy.between_slides)


def needed_bytes(scope: Scope, rows: Sequence[WorklistRow]) -> int:
    """Estimate the disk space for the results of some rows of one scope.

    A row without a number of fields or cells counts as one of 200 cells; no row needs more than its slot holds.
    """
    return sum(_row_bytes(scope, row) for row in rows)


def _row_bytes(scope: Scope, row: WorklistRow) -> int:
    fields = row.fields or math.ceil((row.cells or _DEFAULT_CELLS) / scope.expected_cells_per_field)
    try:
        fields = min(fields, len(AcquisitionPlan.from_scope(scope, row.slot).fields()))
    except (ConfigError, StageLimitError):
        pass  # the check of the worklist has told it
    return int((1 + _BESIDE_RAW) * fields * scope.field_bytes(MODALITIES))


def run_night_check(
    request: NightCheckRequest, progress: Callable[[str, int, int], None] = lambda _task, _done, _total: None
) -> CheckResult:
    """Check the microscope; write ``check.json``, and append the figures to the scope's control charts.

    The microscope must be free: the check opens it in a child process, and closes it.

    Args:
        request: see `NightCheckRequest`.
        progress: called with a task, its steps done and its steps in all.

    Raises:
        BatchCheckError: the batch must not go on: the files, the devices or the disk do not allow a scan, or the
            microscope has drifted and the scope file says ``on_drift = "stop"``. ``check.json`` is written before.
        InterruptedRunError: a stop signal.
    """
    started_s = time.monotonic()
    findings = list(_preconditions(request)) if request.first else []
    failed = [finding.name for finding in findings if finding.status == "fail"]
    result = CheckResult(
        time=datetime.now(UTC),
        scope=request.scope.name,
        slot=request.slot,
        passed=not failed,
        stop_reason=f"{', '.join(failed)} failed" if failed else "",
        findings=tuple(findings),
        seconds=round(time.monotonic() - started_s, 1),
    )
    result.write(request.result_path)
    if result.stop_reason:
        raise BatchCheckError(f"scope {request.scope.name!r}: {result.stop_reason}; see {request.result_path}.")
    return result


def _preconditions(request: NightCheckRequest) -> Iterator[CheckFinding]:
    fields = max((row.fields or 1 for row in request.rows), default=1)
    checks = list(check_offline(request.scope, request.slot, fields, request.data))
    yield from map(_finding, checks)
    yield _disk(request)
    if not any(check.status == "fail" for check in checks):
        yield from map(_finding, check_live(request.scope))


def _finding(check: Check) -> CheckFinding:
    return CheckFinding(name=check.name, status=check.status, detail=check.detail)


def _disk(request: NightCheckRequest) -> CheckFinding:
    """Compare the free space with the whole list; a list that does not fit is told, a slide that does not fit fails."""
    needed = needed_bytes(request.scope, request.rows) + _SPARE_BYTES
    next_slide = needed_bytes(request.scope, request.rows[:1]) + _SPARE_BYTES
    folder = next(folder for folder in (request.data, *request.data.parents) if folder.exists())
    free = shutil.disk_usage(folder).free
    detail = f"{needed / 1e9:.1f} GB for {len(request.rows)} slides, {free / 1e9:.1f} GB free at {request.data}"
    if free < next_slide:
        status, advice = "fail", "; not even the next slide fits: free space, or give another disk with --data"
    elif free < needed:
        status, advice = "warn", "; the list does not fit: free space before the morning"
    else:
        status, advice = "ok", ""
    return CheckFinding.model_validate(
        {
            "name": "disk for the list",
            "status": status,
            "figure": round(free / 1e9, 2),
            "limit": round(needed / 1e9, 2),
            "detail": detail + advice,
        }
    )
