"""The morning page.

Every state, hostile text, damaged files, and advice for whatever can go wrong.
"""

from __future__ import annotations

import itertools
import json
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest
from click.testing import CliRunner

import wbcpipe.batch
from wbcpipe import errors
from wbcpipe.batch.alerts.alerts import Alerter
from wbcpipe.batch.morning.advice import (
    ERROR_ADVICE,
    EVENT_ADVICE,
    GATE_ADVICE,
    NO_SAMPLE_ERRORS,
    advice_for,
)
from wbcpipe.batch.morning.page import TEXT_NAME, render_text, write_morning_page
from wbcpipe.batch.morning.summary import summarise
from wbcpipe.batch.night.night import Night
from wbcpipe.batch.qc.night_checks import CHECK_FILE
from wbcpipe.batch.qc.records import CheckFinding, CheckResult, QcEntry
from wbcpipe.batch.qc.store import QcStore
from wbcpipe.batch.records import BatchEvent, RowEvent
from wbcpipe.batch.state.night_times import microscope_use, used_seconds
from wbcpipe.pipeline import cli
from wbcpipe.samples.differential_record import NOTICE, GateName

if TYPE_CHECKING:
    from wbcpipe.batch.state.batch_folder import BatchFolder


class Page(HTMLParser):
    """Elements, their attributes, and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "rect", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(folder: BatchFolder) -> Page:
    return Page(write_morning_page(folder).read_text(encoding="utf-8"))


# Advice.


def test_every_error_that_can_quarantine_has_advice() -> None:
    sources = "".join(
        path.read_text(encoding="utf-8") for path in Path(wbcpipe.batch.__path__[0]).rglob("*.py")
    )
    of_processes = set(re.findall(r'SampleFailed\(\s*"(\w+)"|error="(\w+Error)"', sources))
    named = {name for pair in of_processes for name in pair if name}
    assert {"ProcessHungError", "DeadlineError"} <= named
    assert set(ERROR_ADVICE) | NO_SAMPLE_ERRORS == set(errors.__all__) | named
    assert not set(ERROR_ADVICE) & NO_SAMPLE_ERRORS


def test_every_gate_has_advice_and_events_exist() -> None:
    assert set(GATE_ADVICE) == set(get_args(GateName))
    assert set(EVENT_ADVICE) <= {*get_args(BatchEvent), *get_args(RowEvent)}


@pytest.mark.parametrize("error", [*ERROR_ADVICE, "KeyError"])
def test_advice_names_the_sample_where_it_must(error: str) -> None:
    text = advice_for(error, "S7")
    assert "{" not in text
    assert "batch retry S7" in text or error in ("SampleNameError", "KeyError")


# The page.


def test_equal_advice_is_listed_once(new_night: Any) -> None:
    new_night.row("S001", "A")
    for minutes in (0, 20, 40):
        new_night.entry(minutes, "batch_resumed" if minutes else "batch_started")
        new_night.entry(minutes, "may_sleep", reason="no service keeps this computer awake")
    new_night.entry(50, "may_sleep", reason="the service was stopped")
    folder = new_night.write()
    advice = EVENT_ADVICE["may_sleep"]
    words = re.sub(r"\s+", " ", page_of(folder).words)
    assert words.count(advice) == 1
    text = re.sub(r"\s+", " ", (folder.path / TEXT_NAME).read_text(encoding="utf-8"))
    assert text.count(advice) == 1
    evening = datetime(2026, 11, 27, 19, 0, tzinfo=UTC).astimezone()
    times = ", ".join(f"{evening + timedelta(minutes=m):%H:%M}" for m in (20, 40))
    for shown in (words, text):
        assert f", {times} no service keeps this computer awake" in shown
        assert shown.index("the service was stopped") < shown.index(advice)


def test_the_page_says_what_became_of_every_sample(night: BatchFolder) -> None:
    page = page_of(night)
    words = re.sub(r"\s+", " ", page.words)
    assert "4 of 12 finished, 2 of them to be checked, 2 quarantined, 1 skipped, 5 left" in words
    for number in range(1, 13):
        assert f"S{number:03d}" in words
    assert NOTICE in words
    assert (
        "camera 'Cam <b>1</b>': no image within 5.0 s at field 3 (DeviceTimeoutError, 3 attempts)"
        in words
    )
    assert "then wbcpipe batch retry S004" in words
    assert "the label says 'S013', the worklist 'S005'" in words
    assert "Compare the slide in this slot with the worklist" in words
    assert "Blurred cells: 15 %, limit at most 10 %" in words
    assert "S007: haemolysed by ana@<lab>" in words
    assert "S012: added by ana@lab" in words
    assert "the computer slept for 42 min" in words
    assert "1 missing 2 empty" in words
    assert "NEU 63.1 56.1–69.7" in words


def test_the_page_links_the_reports_relatively(night: BatchFolder) -> None:
    page = page_of(night)
    links = {attributes["href"] for attributes in page.of("a")}
    assert links == {f"../../S00{number}/report.html" for number in (1, 2, 3, 6)}
    assert all((night.path / str(link)).is_file() for link in links)


def test_hostile_text_is_text(night: BatchFolder) -> None:
    path = write_morning_page(night)
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert "<script>alert('note')</script> kcab" in page.words
    assert not page.of("script")
    assert page.of("b") != []
    assert "\u202e" not in html
    assert "\x1b" not in html
    text = path.with_name("morning.txt").read_text(encoding="utf-8")
    assert "\u202e" not in text
    assert "\x1b" not in text


def test_the_page_needs_nothing_but_itself(night: BatchFolder) -> None:
    html = write_morning_page(night).read_text(encoding="utf-8")
    page = Page(html)
    assert not page.open
    names = {name for _, attributes in page.elements for name in attributes}
    assert not {name for name in names if name.startswith("on")} | names & {"style", "srcset"}
    assert not re.search(r"https?:|//[a-z]|@import|url\(", html)
    assert {"script", "link", "iframe", "object"}.isdisjoint(tag for tag, _ in page.elements)
    policy = next(
        a["content"] for a in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'sha256-")


def test_the_page_is_accessible(night: BatchFolder) -> None:
    page = page_of(night)
    assert page.of("html")[0]["lang"] == "en"
    assert all(attributes.get("scope") in ("col", "row") for attributes in page.of("th"))
    assert all(attributes.get("alt") for attributes in page.of("img"))
    assert all(
        attributes.get("aria-label")
        for attributes in page.of("svg")
        if attributes.get("role") == "img"
    )
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_a_damaged_file_is_told_in_its_row(night: BatchFolder) -> None:
    samples = {sample.sample: sample for sample in summarise(night).samples}
    assert "differential.json: not readable as JSON" in samples["S006"].problem
    assert samples["S006"].fields_taken == 20
    assert samples["S001"].problem == ""
    (night.root / "S001" / "sample.json").write_text("[]")
    (night.root / "S002" / "differential.json").unlink()
    night.root.joinpath("S003", "raw", "single", "missing.json").write_bytes(b"\xff\xfe")
    page = page_of(night)
    assert "key 'format_version' is missing" in page.words
    assert "S002/differential.json is not there, although the sample was finished" in page.words


def test_an_empty_batch_and_one_that_has_not_started(new_night: Any) -> None:
    page = page_of(new_night.write())
    assert "no samples" in page.words
    assert "Not started" in page.words
    new_night.row("S1", "A")
    summary = summarise(new_night.write())
    assert summary.headline == "0 of 1 finished, 1 left"
    assert "Nothing." in render_text(summary)
    assert "VIRTUAL MICROSCOPE: demo. It draws its images" in render_text(summary)
    assert "Virtual microscope: demo." in page_of(new_night.folder).words


def test_the_check_of_the_microscope_is_shown(night: BatchFolder) -> None:
    result = CheckResult(
        time=summarise(night).as_of,
        scope="demo",
        slot="A",
        passed=False,
        stop_reason="light of color2 failed",
        findings=(
            CheckFinding(name="disk for the list", status="ok", detail="10 GB"),
            CheckFinding(name="light of color2", status="drift", detail="<i>12 %</i> darker"),
        ),
    )
    result.write(night.path / CHECK_FILE)
    page = page_of(night)
    assert "The check did not pass." in page.words
    assert "<i>12 %</i> darker" in page.words
    (night.path / CHECK_FILE).write_text("{")
    assert "The check cannot be read" in page_of(night).words


def test_a_broken_control_rule_is_drawn_and_said(night: BatchFolder) -> None:
    store = QcStore.of_scope(night.root, "demo")
    start = summarise(night).samples[0].started
    assert start is not None
    for number in range(31):
        value = 50 + number % 5 * 0.2 if number < 30 else 71.0
        time, batch = start - timedelta(days=30 - number), night.name if number == 30 else "earlier"
        store.append(
            QcEntry(time=time, kind="night_check", batch=batch, figures={"light.color1": value})
        )
    page = page_of(night)
    assert "control rules broken on demo" in page.words
    assert "Do not release the results of this scope" in page.words
    drawing = next(attributes for attributes in page.of("svg") if "stroke-linejoin" in attributes)
    assert drawing["role"] == "img"
    assert "break a control rule" in str(drawing["aria-label"])
    assert not any("style" in attributes for _, attributes in page.elements)
    assert "1-3s" in (night.path / "morning.txt").read_text(encoding="utf-8")
    store.path.write_text("{}\n")
    assert "demo.jsonl" in page_of(night).words


def test_the_mail_has_short_lines_and_the_same_content(night: BatchFolder) -> None:
    text = write_morning_page(night).with_name("morning.txt").read_text(encoding="utf-8")
    assert text.startswith("2026-11-27-night: 4 of 12 finished")
    assert max(map(len, text.splitlines())) <= 110
    assert "FAILED Cells counted: 50, limit at least 100" in text
    assert "  NEU    63.1 %  (56.1 - 69.7)" in text
    assert "\n\n\n" not in text
    assert NOTICE[:40] in text


def test_the_page_of_a_running_batch_says_so(night: BatchFolder) -> None:
    with night.lock():
        summary = summarise(night)
    assert summary.running
    assert summary.ended is None


def test_the_last_page_of_a_batch_says_that_it_ended(night: BatchFolder) -> None:
    with night.lock(), Night(Alerter.from_file(None, night), None, check=False).running(night):
        pass
    text = (night.path / "morning.txt").read_text(encoding="utf-8")
    assert "Running" not in text
    assert ", ended 22:10" in text


def test_light_and_time(night: BatchFolder) -> None:
    summary = summarise(night)
    first = summary.samples[0]
    assert first.light is not None
    assert (first.light.exposures, first.light.total_ms, first.light.max_field_ms) == (
        21,
        420.0,
        40.0,
    )
    assert first.scan_s == 14 * 60
    assert first.phases_s["segmenting"] == 12.3
    assert first.memory_bytes == 1_620_000_000
    # Four scans of 14 min, three of 3 min, one of 15, 5 until the last entry before the crash, 9
    # after it.
    assert summary.microscope_s == 60 * (4 * 14 + 3 * 3 + 15 + 5 + 9)
    assert summary.idle_s == pytest.approx(6.2)


def test_a_crash_is_no_use_of_the_microscope(new_night: Any) -> None:
    new_night.entry(0, "batch_started")
    new_night.entry(1, "scan_started", "S1")
    new_night.entry(3, "disk_low")
    new_night.entry(600, "batch_resumed")
    new_night.entry(600, "interrupted", "S1")
    new_night.entry(601, "scan_started", "S1")
    new_night.entry(602, "scan_finished", "S1")
    new_night.entry(602.05, "scan_started", "S2")
    uses = microscope_use(new_night.entries, new_night.entries[-1].time + timedelta(minutes=2))
    assert used_seconds(uses) == 60 * (2 + 1 + 2)


# The command.


def run(*words: str) -> str:
    result = CliRunner().invoke(cli, ["batch", "report", *words], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_the_command_prints_the_text_and_writes_the_page(night: BatchFolder) -> None:
    output = run("--data", str(night.root))
    assert output.startswith("2026-11-27-night: 4 of 12 finished")
    assert output.rstrip().endswith(str(night.path / "morning.html"))
    assert (night.path / "morning.html").is_file()
    content = json.loads(run("--data", str(night.root), "--batch", night.name, "--json"))
    assert [sample["state"] for sample in content["samples"]].count("quarantined") == 2
    assert content["samples"][0]["report"] == "../../S001/report.html"
    assert content["page"] == str(night.path / "morning.html")


def test_the_command_without_a_batch(tmp_path: Any) -> None:
    with pytest.raises(errors.WorklistError, match="no batch in"):
        CliRunner().invoke(
            cli, ["batch", "report", "--data", str(tmp_path)], catch_exceptions=False
        )


def test_the_command_opens_the_page(night: BatchFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("click.launch", opened.append)
    run("--data", str(night.root), "--open")
    assert opened == [str(night.path / "morning.html")]
