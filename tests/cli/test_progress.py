"""Progress as a log or a terminal shows it."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from wbcpipe.cli.progress import Reporter

if TYPE_CHECKING:
    import pytest


def test_a_log_gets_a_line_at_the_start_and_at_the_end_of_a_task(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Reporter() as reporter:
        for done in range(5):
            reporter.update("fields", done, 4)
    assert capsys.readouterr().err.splitlines() == ["fields: 0 of 4", "fields: 4 of 4"]


def test_a_phase_that_reports_nothing_is_named_with_its_duration(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Reporter(line_every_s=0.1) as reporter:
        reporter.say("searching for the slide")
        time.sleep(0.5)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "searching for the slide"
    assert len(lines) >= 3
    assert {line.rsplit(" for ", 1)[0] for line in lines[1:]} == {
        "still running: searching for the slide"
    }
    assert all(re.fullmatch(r"\d+ s", line.rsplit(" for ", 1)[1]) for line in lines[1:])


def test_a_phase_that_has_lasted_before_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter(line_every_s=0.1) as reporter:
        reporter.start_phase("S1: focusing", lasted_s=16.0)
        time.sleep(0.2)
    assert capsys.readouterr().err.splitlines() == ["still running: S1: focusing for 16 s"]


def test_nothing_is_printed_while_a_person_answers(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter(line_every_s=0.1) as reporter, reporter.paused():
        time.sleep(0.4)
    assert capsys.readouterr().err == ""


def test_a_machine_reads_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter(quiet=True, line_every_s=0.05) as reporter:
        reporter.say("searching")
        reporter.update("fields", 1, 2)
        time.sleep(0.2)
    assert capsys.readouterr().err == ""
