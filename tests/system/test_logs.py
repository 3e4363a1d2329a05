"""What a command shows of the log."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from wbcpipe.system.logs import show_log

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Leave the logger of wbcpipe as it was."""
    logger = logging.getLogger("wbcpipe")
    level, handlers = logger.level, list(logger.handlers)
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers


def test_warnings_are_bare_lines_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    show_log()
    show_log()  # of a second command in the same process: each line is shown once
    log = logging.getLogger("wbcpipe.segment.stage")
    log.warning("field %d is left out", 4)
    log.info("not shown")
    assert capsys.readouterr() == ("", "field 4 is left out\n")


def test_below_warnings_a_line_has_time_level_and_module(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_log(logging.INFO)
    logging.getLogger("wbcpipe.segment.stage").info("24 fields")
    logging.getLogger("wbcpipe.segment.stage").debug("not shown")
    shown = capsys.readouterr().err
    assert shown.endswith(" INFO wbcpipe.segment.stage: 24 fields\n")
    assert shown.count("\n") == 1


def test_a_program_that_configures_no_logging_sees_nothing() -> None:
    script = "import logging, wbcpipe; logging.getLogger('wbcpipe.x').error('seen')"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, cwd=ROOT.parent
    )
    assert (done.stdout, done.stderr) == (b"", b"")


@pytest.mark.parametrize(
    ("words", "environment", "level"),
    [
        ([], "", logging.WARNING),
        (["-v"], "", logging.INFO),
        (["-vv"], "", logging.DEBUG),
        (["-vvvv"], "", logging.DEBUG),
        (["--log-level", "INFO"], "", logging.INFO),
        (["-v", "--log-level", "error"], "", logging.INFO),
        ([], "debug", logging.DEBUG),
        (["--log-level", "error"], "debug", logging.ERROR),
    ],
    ids=lambda value: str(value),
)
def test_the_command_line_sets_the_level(
    words: list[str], environment: str, level: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from click.testing import CliRunner

    from wbcpipe.cli.commands import cli

    monkeypatch.setenv("WBCPIPE_LOG_LEVEL", environment)
    result = CliRunner().invoke(cli, [*words, "status", "--data", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert logging.getLogger("wbcpipe").level == level
