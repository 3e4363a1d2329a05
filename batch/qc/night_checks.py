"""The check of a night before its first slide and between slides.

Files, devices, disk, and a short measurement.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wbcpipe.acquire.calibration.night_check import NightMeasurement, run_measurement
from wbcpipe.acquire.doctor import check_live, check_offline
from wbcpipe.batch.qc.drift import compare_with_limits, find_reference, flat_figures
from wbcpipe.batch.qc.records import CheckFinding, CheckResult, QcEntry
from wbcpipe.batch.qc.series import broken_rules, build_series, checks_of_period
from wbcpipe.batch.qc.store import QcStore, now, versions_of
from wbcpipe.batch.qc.westgard import WARNING
from wbcpipe.batch.state.estimate import estimate_batch
from wbcpipe.errors import BatchCheckError, ConfigError, HardwareError, StageLimitError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from wbcpipe.acquire.calibration.night_check import NightFigures
    from wbcpipe.acquire.config.policies import NightCheck
    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.doctor import Check
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
    from wbcpipe.batch.qc.records import BrokenRule, FindingStatus
    from wbcpipe.batch.records import WorklistRow

__all__ = ["CHECK_FILE", "NightCheckRequest", "run_night_check"]

#: Name of the result in a batch's folder.
CHECK_FILE: Final = "check.json"
#: Space that stays free for logs and the system.
_SPARE_BYTES: Final = 500 * 2**20
_REMEDY: Final = (
    "The next slide was not scanned. Correct it and give the same command again, or leave the "
    "check out with --no-check; 'night_check.on_drift = \"tell\"' in the scope file goes on with a "
    "warning."
)


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
        stained: the slide is stained with Acridine Orange already: its fluorescence can be
            compared.
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


def run_night_check(
    request: NightCheckRequest,
    progress: Callable[[str, int, int], None] = lambda _task, _done, _total: None,
) -> CheckResult:
    """Check the microscope.

    Write ``check.json``, and append the figures to the scope's control charts.

    The microscope must be free: the check opens it in a child process, and closes it.

    Args:
        request: see `NightCheckRequest`.
        progress: called with a task, its steps done and its steps in all.

    Raises:
        BatchCheckError: the batch must not go on: the files, the devices or the disk do not allow a
            scan, or the microscope has drifted and the scope file says ``on_drift = "stop"``.
            ``check.json`` is written before.
        InterruptedRunError: a stop signal.
    """
    started_s = time.monotonic()
    findings = list(_preconditions(request)) if request.first else []
    failed = [finding.name for finding in findings if finding.status == "fail"]
    measured: NightFigures | None = None
    broken: tuple[BrokenRule, ...] = ()
    figures: dict[str, float] = {}
    if failed:
        stop_reason = f"{', '.join(failed)} failed"
    else:
        measured, stop_reason = _measure(request, findings, progress)
    if measured is not None:
        figures, broken = _judge(request, measured, findings)
        stop_reason = _stop_reason(request.scope.night_check, findings, broken)
    result = CheckResult(
        time=now(),
        scope=request.scope.name,
        slot=request.slot,
        passed=not any(found.status in ("fail", "drift") for found in findings)
        and not any(rule.rule != WARNING for rule in broken),
        stop_reason=stop_reason,
        findings=tuple(findings),
        figures=figures,
        broken_rules=broken,
        seconds=round(time.monotonic() - started_s, 1),
        frames=measured.frames if measured else 0,
        fluorescence_frames=measured.fluorescence_frames if measured else 0,
    )
    result.write(request.result_path)
    if stop_reason:
        raise BatchCheckError(
            f"scope {request.scope.name!r}, slot {request.slot}: {stop_reason}. {_REMEDY}"
        )
    return result


def _measure(
    request: NightCheckRequest,
    findings: list[CheckFinding],
    progress: Callable[[str, int, int], None],
) -> tuple[NightFigures | None, str]:
    """Measure in a child process.

    Return the figures, or ``None`` and why the batch must stop, if it must.
    """
    scope = request.scope
    measurement = NightMeasurement(
        scope, request.slot, scope.night_check.fluorescence and request.stained, request.specimen
    )
    try:
        return run_measurement(measurement, progress), ""
    except (HardwareError, StageLimitError, ConfigError) as error:
        findings.append(CheckFinding(name="measurement", status="fail", detail=str(error)))
        return (
            None,
            f"the measurement failed: {error}" if scope.night_check.on_drift == "stop" else "",
        )


def _judge(
    request: NightCheckRequest, measured: NightFigures, findings: list[CheckFinding]
) -> tuple[dict[str, float], tuple[BrokenRule, ...]]:
    """Compare the figures with the limits, append them to the control charts, and apply the control
    rules.
    """
    store = QcStore.of_scope(request.data, request.scope.name)
    versions = versions_of(request.scope, request.data)
    entries = store.entries()
    checks = checks_of_period(entries, versions)
    reference = find_reference(request.scope, request.data, checks)
    figures = measured.figures | flat_figures(measured, reference)
    findings += compare_with_limits(request.scope, figures, reference)
    findings += [
        CheckFinding(name="measurement", status="warn", detail=note) for note in measured.notes
    ]
    entry = QcEntry(
        time=now(),
        kind="night_check",
        batch=request.batch,
        slot=request.slot,
        figures=figures,
        shading=measured.shading,
        versions=versions,
    )
    store.append(entry)
    broken = broken_rules(build_series([*entries, entry]), since=entry.time)
    return figures, tuple(rule for rule in broken if rule.kind == "night_check")


def _stop_reason(
    policy: NightCheck, findings: Sequence[CheckFinding], broken: Sequence[BrokenRule]
) -> str:
    """Return why the batch must not go on, empty where it may."""
    drifted = [f"{found.name}: {found.detail}" for found in findings if found.status == "drift"]
    rules = [rule.text for rule in broken if rule.rule != WARNING]
    reasons = (drifted if policy.on_drift == "stop" else []) + (
        rules if policy.control_rules == "stop" else []
    )
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return f"the microscope has drifted: {reasons[0]}{more}" if reasons else ""


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
    """Compare the free space with the whole list.

    A list that does not fit is told, a slide that does not fit fails.
    """
    estimate = estimate_batch(
        request.rows, {row.scope: request.scope for row in request.rows}, request.data
    )
    needed, free = estimate.disk_bytes + _SPARE_BYTES, estimate.disk_free_bytes
    next_slide = (estimate.rows[0].disk_bytes if estimate.rows else 0) + _SPARE_BYTES
    detail = (
        f"{needed / 1e9:.1f} GB for {len(request.rows)} slides, {free / 1e9:.1f} GB free at "
        f"{request.data}"
    )
    status: FindingStatus = "ok"
    if free < next_slide:
        status = "fail"
        detail += "; not even the next slide fits: free space, or give another disk with --data"
    elif free < needed:
        status = "warn"
        detail += "; the list does not fit: free space before the morning"
    return CheckFinding(
        name="disk for the list",
        status=status,
        figure=round(free / 1e9, 2),
        limit=round(needed / 1e9, 2),
        detail=detail,
    )
