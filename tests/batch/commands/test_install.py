"""The files that start a batch: what systemd and the Task Scheduler read in them."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from wbcpipe.batch.commands.install import install
from wbcpipe.batch.install.units import NightStart, start_files
from wbcpipe.errors import ConfigError

_TASK = "{http://schemas.microsoft.com/windows/2004/02/mit/task}"
_WORDS = (
    "/opt/w b c/python",
    "-m",
    "wbcpipe",
    "batch",
    "run",
    "/data/50 % & <pr\u00e4p>.csv",
    "--name",
    '$HOME "x"',
)


def _start(words: tuple[str, ...] = _WORDS, title: str = "50 % & <night>.csv") -> NightStart:
    at = datetime(2026, 11, 29, 19, 30)
    return NightStart("wbcpipe-night", words, Path("/data/50 % folder"), at, title)


def test_the_task_of_windows_has_the_settings_of_a_night() -> None:
    (file,) = start_files(_start(), "windows")
    content = file.content()
    assert content[:2] in (b"\xff\xfe", b"\xfe\xff")
    task = ElementTree.fromstring(content)
    settings = {
        element.tag.removeprefix(_TASK): element.text
        for element in task.findall(f"{_TASK}Settings/*")
        if element.text
    }
    assert settings["ExecutionTimeLimit"] == "PT0S"
    assert settings["DisallowStartIfOnBatteries"] == settings["StopIfGoingOnBatteries"] == "false"
    assert settings["WakeToRun"] == "true"
    assert settings["MultipleInstancesPolicy"] == "IgnoreNew"
    # The order of the elements is part of the schema that schtasks checks.
    assert [element.tag.removeprefix(_TASK) for element in task] == [
        "RegistrationInfo",
        "Triggers",
        "Principals",
        "Settings",
        "Actions",
    ]
    exec_ = task.find(f"{_TASK}Actions/{_TASK}Exec")
    assert exec_ is not None
    assert [element.text for element in exec_] == [
        "/opt/w b c/python",
        '-m wbcpipe batch run "/data/50 % & <pr\u00e4p>.csv" --name "$HOME \\"x\\""',
        str(Path("/data/50 % folder")),
    ]
    start = task.find(f"{_TASK}Triggers/{_TASK}CalendarTrigger/{_TASK}StartBoundary")
    assert start is not None
    assert start.text == "2026-11-29T19:30:00"


def test_the_service_runs_the_same_words() -> None:
    service, timer = start_files(_start(), "linux")
    unit = configparser.ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(service.content().decode())
    words = shlex.split(unit["Service"]["ExecStart"])
    assert tuple(word.replace("%%", "%").replace("$$", "$") for word in words) == _WORDS
    assert unit["Service"]["WorkingDirectory"] == "/data/50 %% folder"
    assert unit["Service"]["KillSignal"] == "SIGTERM"
    assert {"130", "143", "51"} <= set(unit["Service"]["RestartPreventExitStatus"].split())
    assert "OnCalendar=*-*-* 19:30:00" in timer.text


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not there")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    words = (sys.executable, *_WORDS[1:])
    for file in start_files(
        NightStart("wbcpipe-night", words, tmp_path, _start().at, "50 %"), "linux"
    ):
        (tmp_path / file.name).write_bytes(file.content())
    names = [str(path) for path in sorted(tmp_path.glob("wbcpipe-night.*"))]
    run = subprocess.run(
        ["systemd-analyze", "verify", *names], capture_output=True, text=True, check=False
    )
    complaints = [line for line in run.stderr.splitlines() if "wbcpipe-night" in line]
    assert complaints == []


def test_a_name_with_a_line_break_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be printed"):
        start_files(_start(("python", "a\nExecStartPre=b")), "linux")


def test_the_command_prints_or_writes_and_checks_the_options(tmp_path: Path) -> None:
    runner = CliRunner()
    words = [str(tmp_path / "NIGHT.csv"), "--at", "7:05", "--data", str(tmp_path)]
    printed = runner.invoke(install, [*words, "--for", "linux", "--", "--memory-limit", "6GB"])
    assert printed.exit_code == 0
    assert re.search(
        r"ExecStart=\S+ -m wbcpipe batch run \S+NIGHT.csv --data \S+ --memory-limit 6GB\n",
        printed.stdout,
    )
    assert "OnCalendar=*-*-* 07:05:00" in printed.stdout
    assert "enable-linger" in printed.stderr
    written = runner.invoke(install, [*words, "--for", "windows", "--out", str(tmp_path / "task")])
    assert written.exit_code == 0
    assert [path.name for path in (tmp_path / "task").iterdir()] == ["wbcpipe-night.xml"]
    wrong = runner.invoke(install, [*words, "--", "--memory-limit", "much"])
    assert wrong.exit_code == 2
    assert "not a size of memory" in wrong.stderr
    assert runner.invoke(install, [*words[:1], "--at", "90m"]).exit_code == 2
