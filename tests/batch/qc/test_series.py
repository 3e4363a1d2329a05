"""Baselines, periods and targets; the entries of weeks; the charts and the command."""

from __future__ import annotations

import json
import random
import re
import threading
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from wbcpipe.batch.qc.chart import chart_description, qc_chart_svg
from wbcpipe.batch.qc.cli import qc
from wbcpipe.batch.qc.figures import FIGURES, describe
from wbcpipe.batch.qc.night import quality_of_night
from wbcpipe.batch.qc.records import QcEntry, QcTarget
from wbcpipe.batch.qc.series import BASELINE_POINTS, broken_rules, build_series, checks_of_period
from wbcpipe.batch.qc.store import QcStore
from wbcpipe.errors import ConfigError, SampleStateError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from wbcpipe.batch.qc.series import Series

START = datetime(2026, 9, 1, 19, tzinfo=UTC)
#: 20 values with a mean of 100 and a standard deviation of 1.
BASELINE = [100 + (0.9747 if number % 2 else -0.9747) for number in range(BASELINE_POINTS)]


def night(number: int, value: float, figure: str = "focus_um", **more: Any) -> QcEntry:
    entry = {
        "time": START + timedelta(days=number),
        "kind": "night_check",
        "batch": f"night-{number}",
    }
    return QcEntry.model_validate({**entry, "figures": {figure: value}, **more})


def nights(values: Iterable[float], first: int = 0, **more: Any) -> list[QcEntry]:
    return [night(first + number, value, **more) for number, value in enumerate(values)]


def only(entries: list[QcEntry]) -> Series:
    (series,) = build_series(entries)
    return series


def test_rules_apply_after_twenty_values_and_not_to_them() -> None:
    series = only(nights([*BASELINE[:19], 250.0]))
    assert series.periods[0].mean is not None  # the 20th completes it, whatever it is
    assert not any(point.rules for point in series.points)
    series = only(nights([*BASELINE[:19]]))
    assert series.periods[0].mean is None
    assert series.state == "baseline is being collected, 19 of 20"
    series = only(nights([*BASELINE, 103.2]))
    assert series.points[-1].rules == ("1-2s", "1-3s")
    assert series.points[-1].z == pytest.approx(3.2, abs=0.01)
    assert series.state == "baseline of the first 20 values"


def test_rules_look_across_runs_but_not_into_another_period() -> None:
    series = only(nights([*BASELINE, 102.5, 102.5]))
    assert series.points[-1].rules == ("1-2s", "2-2s")
    # The last value of the baseline would make the second of two.
    high = [*BASELINE[:18], 97.7, 102.3]
    assert "2-2s" not in only(nights([*high, 103.0])).points[-1].rules
    note = QcEntry(time=START, kind="note", comment="new lamp", new_baseline=True)
    entries = [*nights([*BASELINE, 102.5]), note, *nights([150.0] * 3, first=22)]
    series = only(entries)
    assert [len(period.points) for period in series.periods] == [21, 3]
    assert series.periods[1].reason == "new lamp"
    assert not any(point.rules for point in series.periods[1].points)


def test_a_new_baseline_of_one_figure_leaves_the_others() -> None:
    note = QcEntry(
        time=START, kind="note", comment="new lamp", new_baseline=True, figure="light.color2"
    )
    entries = []
    for number in range(4):
        entries.append(night(number, 1.0, figures={"light.color1": 5.0, "light.color2": 5.0}))
        entries += [note] if number == 1 else []
    lengths = {
        series.figure: [len(period.points) for period in series.periods]
        for series in build_series(entries)
    }
    assert lengths == {"light.color1": [4], "light.color2": [2, 2]}


@pytest.mark.parametrize(
    ("kind", "key", "starts"),
    [
        ("night_check", "calibration", True),
        ("night_check", "setup", True),
        ("night_check", "bundle", False),
        ("night_check", "wbcpipe", False),
        ("control", "bundle", True),
        ("control", "calibration", True),
        ("control", "cells", False),
    ],
)
def test_what_a_figure_depends_on_begins_a_new_period(kind: str, key: str, starts: bool) -> None:
    before, after = {key: "a"}, {key: "b"}
    entries = [night(n, 1.0, kind=kind, versions=before if n < 3 else after) for n in range(5)]
    assert [len(period.points) for period in only(entries).periods] == ([3, 2] if starts else [5])


def test_a_target_is_used_from_its_first_value_on_until_it_is_removed() -> None:
    def target(value: QcTarget | None) -> QcEntry:
        return QcEntry(time=START, kind="target", figure="focus_um", target=value)

    entries = [
        *nights([50.0] * 3),
        target(QcTarget(mean=50, sd=2)),
        night(3, 56.5),
        target(None),
        night(4, 99.0),
    ]
    first, second, third = only(entries).periods
    assert not first.points[-1].rules
    assert (second.mean, second.sd, second.source) == (50, 2, "target")
    assert second.points[0].rules == ("1-2s", "1-3s")
    assert third.mean is None
    assert only([target(QcTarget(mean=50, sd=2)), night(0, 56.5)]).points[0].rules == (
        "1-2s",
        "1-3s",
    )


def test_control_slides_of_different_blood_are_not_compared() -> None:
    entries = [
        night(n, 60.0 + n, "percent.NEU", kind="control", material=f"LOT-{n % 2}") for n in range(6)
    ]
    assert [(series.material, len(series.points)) for series in build_series(entries)] == [
        ("LOT-0", 3),
        ("LOT-1", 3),
    ]


def test_a_decrease_of_flicker_is_no_fault_and_a_constant_figure_no_trap() -> None:
    steady = [0.2 + 0.05 * (-1) ** n for n in range(BASELINE_POINTS)]
    series = only(nights([*steady, *[0.0] * 12], figure="lamp_sd.color1"))
    assert not any(point.rules for point in series.points)
    assert only(nights([*steady, 0.9], figure="lamp_sd.color1")).points[-1].rules == (
        "1-2s",
        "1-3s",
    )
    series = only(nights([*[49.0] * BASELINE_POINTS, 50.0], figure="hot_pixels.5ms"))
    assert series.points[-1].rules == ()  # one pixel is the smallest difference that counts
    series = only(nights([*[49.0] * BASELINE_POINTS, 54.0], figure="hot_pixels.5ms"))
    assert "1-3s" in series.points[-1].rules


def test_the_gate_of_a_night_is_what_that_night_breaks() -> None:
    series = build_series(nights([*BASELINE, 103.2, 100.0, 102.4]))
    assert [rule.rule for rule in broken_rules(series, batch="night-20")] == ["1-3s"]
    assert broken_rules(series, batch="night-21") == []
    assert [rule.rule for rule in broken_rules(series, batch="night-22")] == ["1-2s"]
    text = broken_rules(series, batch="night-20")[0].text
    assert (
        text == "Height of the slide's surface is 103.20 um (+3.2 SD): more than 3 SD from the mean"
    )


def test_quality_of_a_night_puts_the_broken_figure_first(tmp_path: Path) -> None:
    store = QcStore.of_scope(tmp_path, "mylab")
    for number, value in enumerate([*BASELINE, 104.0]):
        store.append(
            night(
                number,
                0.0,
                figures={"light.color1": 4e4, "dark_level.5ms": 100.0, "focus_um": value},
            )
        )
    quality = quality_of_night(tmp_path, "mylab", "night-20", charts=2)
    assert not quality.passed
    assert [series.figure for series in quality.charts] == ["focus_um", "light.color1"]
    assert quality_of_night(tmp_path, "mylab", "night-3").passed
    assert quality_of_night(tmp_path, "other", "night-3").charts == ()


def test_only_checks_of_the_present_setup_make_a_reference() -> None:
    entries = [night(n, 1.0, versions={"setup": "a" if n < 2 else "b"}) for n in range(5)]
    assert [entry.batch for entry in checks_of_period(entries, {"setup": "b"})] == [
        "night-2",
        "night-3",
        "night-4",
    ]
    note = QcEntry(time=START, kind="note", new_baseline=True)
    assert checks_of_period([*entries, note], {"setup": "b"}) == []


def test_entries_survive_a_cut_line_and_two_writers(tmp_path: Path) -> None:
    store = QcStore.of_scope(tmp_path, "mylab")
    assert store.entries() == []
    store.append(night(0, 1.0))
    with store.path.open("ab") as handle:
        handle.write(b'{"time":"2026-09-02T19:0')  # a crash

    def append(first: int) -> None:
        for number in range(first, first + 10):
            store.append(night(number, 1.0))

    writers = [threading.Thread(target=append, args=(first,)) for first in (1, 11)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(int(entry.batch.removeprefix("night-")) for entry in store.entries()) == list(
        range(21)
    )
    with store.path.open("ab") as handle:
        handle.write(b'{"time":"2026-09-02T19:00:00Z","kind":"guess"}\n')
    with pytest.raises(SampleStateError, match=r"mylab.jsonl, line 23: key 'kind'"):
        store.entries()


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a\\b", ".hidden", "c:x"])
def test_a_name_that_is_no_scope_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="not the name of a scope"):
        QcStore.of_scope(tmp_path, name)


def test_every_figure_has_a_title() -> None:
    for name in FIGURES:
        assert describe(name).title
    assert describe("dark_level.5ms").title == "Dark level at 5 ms"
    assert describe("a_later_figure").title == "a_later_figure"


@pytest.fixture
def weeks(tmp_path: Path) -> Path:
    """A data root with weeks of a scope whose first lamp fails in the end."""
    random.seed(5)
    store = QcStore.of_scope(tmp_path, "mylab")
    for number in range(30):
        power = 1.0 if number < 27 else 0.93
        figures = {
            "light.color1": 43000 * power * random.gauss(1, 0.004),
            "focus_um": random.gauss(3, 0.3),
        }
        store.append(night(number, 0.0, figures=figures))
        interval = {"percent_low.NEU": 55.0, "percent_high.NEU": 68.0}
        control = {"percent.NEU": random.gauss(62, 2), **interval}
        store.append(
            night(
                number, 0.0, kind="control", material="LOT-7", sample=f"C{number}", figures=control
            )
        )
    return tmp_path


def test_a_chart_is_an_image_of_its_own_for_readers_and_screen_readers(weeks: Path) -> None:
    charts = build_series(QcStore.of_scope(weeks, "mylab").entries())
    ids: list[str] = []
    for series in charts:
        svg = qc_chart_svg(series)
        root = ET.fromstring(svg)
        assert root.get("role") == "img"
        assert root.get("aria-label") == chart_description(series)
        assert root[0].text == chart_description(series)
        assert not re.search(r"#0[1-8]0[1-8]0[1-8]|<style|<metadata", svg)
        assert "var(--accent, #" in svg
        ids += re.findall(r'\bid="([^"]+)"', svg)
    assert len(ids) == len(set(ids))
    assert "1-3s" in qc_chart_svg(charts[0])
    assert qc_chart_svg(charts[0]) == qc_chart_svg(charts[0])


def test_the_command_shows_table_page_and_json(weeks: Path) -> None:
    page = weeks / "qc.html"
    result = CliRunner().invoke(
        qc, ["--data", str(weeks), "--html", str(page)], catch_exceptions=False
    )
    assert "Light, color1" in result.output
    assert "1-3s" in result.output
    html = page.read_text(encoding="utf-8")
    assert html.count("<svg role") == 3
    assert "Control rules are broken" in html
    assert not re.search(r'(?:src|href)="(?!https://doi|#)', html)
    result = CliRunner().invoke(
        qc, ["--data", str(weeks), "--figure", "light", "--json"], catch_exceptions=False
    )
    (scope,) = json.loads(result.output)["scopes"]
    assert [series["figure"] for series in scope["series"]] == ["light.color1"]
    assert {rule["rule"] for rule in scope["broken_rules"]} >= {"1-3s", "2-2s"}
    with pytest.raises(
        ConfigError, match=r"no figure 'lamp'; figures: light.color1, focus_um, percent.NEU"
    ):
        CliRunner().invoke(qc, ["--data", str(weeks), "--figure", "lamp"], catch_exceptions=False)
    with pytest.raises(
        ConfigError, match=r"'mine' has no figures in .*; scopes with figures: mylab"
    ):
        CliRunner().invoke(qc, ["--data", str(weeks), "--scope", "mine"], catch_exceptions=False)


def test_since_leaves_out_old_values_but_not_their_baseline(weeks: Path) -> None:
    arguments = ["--data", str(weeks), "--since", "2026-09-25", "--figure", "light", "--json"]
    (series,) = json.loads(CliRunner().invoke(qc, arguments, catch_exceptions=False).output)[
        "scopes"
    ][0]["series"]
    (period,) = series["periods"]
    assert len(period["points"]) == 6
    assert period["mean"] == pytest.approx(43000, rel=0.005)
    assert CliRunner().invoke(qc, ["--since", "soon"]).exit_code == 2


def test_notes_and_targets_are_appended_with_who_gave_them(weeks: Path) -> None:
    def run(*arguments: str) -> str:
        return (
            CliRunner()
            .invoke(qc, [*arguments, "--data", str(weeks)], catch_exceptions=False)
            .output
        )

    known = run(
        "note", "--scope", "mylab", "new <lamp>", "--new-baseline", "--figure", "light.color1"
    )
    assert "no value yet" not in known
    told = run(
        "set-target",
        "--scope",
        "mylab",
        "percent.NEU",
        "--material",
        "LOT-7",
        "--mean",
        "62",
        "--sd",
        "2",
    )
    assert "no value yet" not in told
    another = ("percent.NEU", "--material", "LOT-8", "--mean", "62", "--sd", "2")
    assert (
        "percent.NEU of LOT-8 has no value yet on scope 'other'; those with values: none."
        in run("set-target", "--scope", "other", *another)
    )
    *_, note, target = QcStore.of_scope(weeks, "mylab").entries()
    assert (note.comment, note.new_baseline, note.figure) == ("new <lamp>", True, "light.color1")
    assert "@" in note.by
    assert (target.figure, target.material, target.target) == (
        "percent.NEU",
        "LOT-7",
        QcTarget(mean=62, sd=2),
    )
    run("--html", str(weeks / "qc.html"))
    page = (weeks / "qc.html").read_text(encoding="utf-8")
    assert "new &lt;lamp&gt;" in page
    assert "target of percent.NEU, LOT-7: 62 ± 2" in page
    for wrong in (["--mean", "62"], ["--mean", "62", "--sd", "0"], ["--sd", "nan", "--mean", "1"]):
        with pytest.raises(ConfigError, match="needs --mean and --sd"):
            run("set-target", "--scope", "mylab", "percent.NEU", *wrong)
    with pytest.raises(ConfigError, match=r"no figure 'prcent.NEU'"):
        run("set-target", "--scope", "mylab", "prcent.NEU", "--mean", "62", "--sd", "2")
