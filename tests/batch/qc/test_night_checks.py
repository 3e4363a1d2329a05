"""A night's check on the real core: drift is told, or stops the night before a slide is wasted."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from wbcpipe.acquire.calibration.night_check import NightFigures
from wbcpipe.acquire.config.scope import load_scope
from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
from wbcpipe.batch.qc.night_checks import NightCheckRequest, run_night_check
from wbcpipe.batch.qc.records import CheckResult, QcEntry, QcTarget
from wbcpipe.batch.qc.store import QcStore, now
from wbcpipe.batch.records import WorklistRow
from wbcpipe.errors import BatchCheckError, DeviceCrashError

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.acquire.calibration.night_check import NightMeasurement
    from wbcpipe.acquire.config.scope import Scope


@pytest.fixture
def scope(tmp_path: Path) -> Scope:
    """A scope with a field of 38 um."""
    demo = load_scope("demo")
    toml, cfg = demo.path.read_text(encoding="utf-8"), demo.config_path.read_text(encoding="utf-8")
    (tmp_path / "demo.cfg").write_text(cfg.replace("Size,2048", "Size,384"), encoding="utf-8")
    toml = toml.replace("[2048, 2048]", "[384, 384]").replace(
        "[-2500.0, 2500.0]", "[-300.0, 300.0]"
    )
    (tmp_path / "small.toml").write_text(toml, encoding="utf-8")
    return load_scope(tmp_path / "small.toml")


def changed(scope: Scope, table: str, **values: Any) -> Scope:
    model = getattr(scope, table)
    return scope.model_copy(
        update={table: type(model).model_validate({**model.model_dump(), **values})}
    )


def request(scope: Scope, tmp_path: Path, **more: Any) -> NightCheckRequest:
    row = WorklistRow(sample="S1", slide="S1", slot="A", scope="small", fields=3)
    values: dict[str, Any] = {"first": False, "batch": "night", "specimen": SpecimenPlan(7), **more}
    result = tmp_path / "check.json"
    return NightCheckRequest(
        scope=scope, slot="A", rows=(row,), data=tmp_path, result_path=result, **values
    )


def without_measuring(monkeypatch: pytest.MonkeyPatch, **figures: float) -> list[NightMeasurement]:
    """Answer the next measurements with these figures; return what was asked for."""
    asked: list[NightMeasurement] = []

    def answer(measurement: NightMeasurement, _: object) -> NightFigures:
        asked.append(measurement)
        return NightFigures(figures, {}, (), 0, 0, 0.0)

    monkeypatch.setattr("wbcpipe.batch.qc.night_checks.run_measurement", answer)
    return asked


def test_drift_stops_the_night_where_set(scope: Scope, tmp_path: Path) -> None:
    scope = changed(scope, "night_check", baseline_checks=1, on_drift="stop")
    # The first check looks at files, devices and disk too, and is the reference.
    first = run_night_check(request(scope, tmp_path, first=True))
    assert first.passed
    assert {"disk for the list", "core", "light color2"} <= {found.name for found in first.findings}
    assert first.fluorescence_frames == 1
    assert first == CheckResult.read(tmp_path / "check.json")
    worn = changed(scope, "virtual_condition", lamp_power={"color2": 0.8}, dirt=0.12)
    with pytest.raises(
        BatchCheckError, match=r"has drifted: Light, color2: .*-2\d\.\d % .*The next slide was not"
    ) as caught:
        run_night_check(request(worn, tmp_path))
    assert caught.value.exit_code == 54
    stopped = CheckResult.read(tmp_path / "check.json")
    assert not stopped.passed
    drifted = {found.name for found in stopped.findings if found.status == "drift"}
    shapes = {f"Change of the illumination's shape, color{n}" for n in (1, 2, 3)}
    assert drifted == {"Light, color2", *shapes}
    entries = QcStore.of_scope(tmp_path, "small").entries()
    assert [(entry.kind, entry.batch) for entry in entries] == [("night_check", "night")] * 2
    assert entries[0].figures["light.color1"] == first.figures["light.color1"]


def test_drift_is_told_and_a_slide_without_stain_gets_no_fluorescence(
    scope: Scope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = without_measuring(monkeypatch, stage_return_um=9.0)
    told = run_night_check(request(scope, tmp_path, stained=False))
    assert not told.passed
    assert told.stop_reason == ""
    assert [(item.name, item.status) for item in told.findings] == [
        ("Return of the stage", "drift")
    ]
    run_night_check(request(scope, tmp_path))
    off = changed(scope, "night_check", fluorescence=False)
    run_night_check(request(off, tmp_path))
    assert [item.fluorescence for item in asked] == [False, True, False]


def test_a_broken_control_rule_stops_the_night_where_set(
    scope: Scope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_measuring(monkeypatch, **{"light.color1": 30500.0})
    store = QcStore.of_scope(tmp_path, "small")
    store.append(
        QcEntry(
            time=now(), kind="target", figure="light.color1", target=QcTarget(mean=30000, sd=100)
        )
    )
    strict = changed(scope, "night_check", control_rules="stop")
    with pytest.raises(BatchCheckError, match=re.escape("more than 3 SD from the mean")):
        run_night_check(request(strict, tmp_path))
    result = CheckResult.read(tmp_path / "check.json")
    assert [rule.rule for rule in result.broken_rules] == ["1-3s"]
    assert not result.passed


def test_a_disk_too_small_stops_before_a_device_is_touched(
    scope: Scope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=10_000_000))
    monkeypatch.setattr("wbcpipe.batch.qc.night_checks.run_measurement", None)
    with pytest.raises(BatchCheckError, match="disk for the list failed"):
        run_night_check(request(scope, tmp_path, first=True))
    found = {item.name: item for item in CheckResult.read(tmp_path / "check.json").findings}
    assert "not even the next slide fits" in found["disk for the list"].detail


def test_a_measurement_that_fails_is_told_or_stops(
    scope: Scope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def crash(*_: object) -> None:
        raise DeviceCrashError("the process wbcpipe-night-check died (SIGSEGV).")

    monkeypatch.setattr("wbcpipe.batch.qc.night_checks.run_measurement", crash)
    result = run_night_check(request(scope, tmp_path))
    assert not result.passed
    assert result.findings[-1].status == "fail"
    with pytest.raises(BatchCheckError, match=r"the measurement failed: .*SIGSEGV"):
        run_night_check(request(changed(scope, "night_check", on_drift="stop"), tmp_path))


@pytest.mark.parametrize(
    ("enabled", "between", "since", "due"),
    [
        (True, 0, None, True),
        (True, 0, 5, False),
        (True, 3, 2, False),
        (True, 3, 3, True),
        (False, 3, None, False),
        (False, 3, 9, False),
    ],
)
def test_a_check_is_due_as_configured(
    scope: Scope, enabled: bool, between: int, since: int | None, due: bool
) -> None:
    policy = changed(scope, "night_check", enabled=enabled, between_slides=between).night_check
    assert policy.is_due(since) is due
