"""``wbcpipe process``: one run with real worker processes, and what is refused before."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest
from click.testing import CliRunner

from wbcpipe.cli.commands import cli
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ([], 2, "one of the three"),
        (["S1", "--all"], 2, "one of the three"),
        (["S1", "--scheduler", "tcp://a:1", "--workers", "2"], 2, "brings its own"),
        (["--where", "state=finished"], 21, "there is no state 'finished'"),
        (["--where", "state=reported"], 21, "no sample meets the conditions"),
        (["../S1"], 10, "is refused"),
        (["S9"], 11, "no sample 'S9'"),
        (["S1", "--bundle", "nonesuch"], 40, "no bundle 'nonesuch'"),
        (["S1", "--changes", "table.xlsx"], 21, "must end in .csv or .json"),
        (["S1", "--data", "ftp://host/data"], 21, "its scheme is not known"),
        (["S1", "--scheduler", "tls://127.0.0.1:9"], 21, "add --tls"),
        (["S1", "--scheduler", "tcp://127.0.0.1:9"], 77, "no dask scheduler answers"),
        (["S1", "--lab", "lab.toml"], 21, "--lab is for samples in a bucket"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_work_is_refused_before(
    words: list[str],
    code: int,
    text: str,
    tmp_path: Path,
    add_sample: Callable[[Path, str], Sample],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add_sample(tmp_path, "S1")
    monkeypatch.setenv("WBCPIPE_DATA", str(tmp_path))
    monkeypatch.setattr("wbcpipe.cluster.connect._CONNECT_S", 1.0)
    before = sorted(path for path in tmp_path.rglob("*") if path.suffix not in (".lock", ".holder"))
    found = CliRunner().invoke(cli, ["process", *words], standalone_mode=False)
    error = found.exception
    assert error is not None
    assert getattr(error, "exit_code", None) == code, error
    assert text in str(error)
    assert "FAILED" not in found.output, "the error ends the command, which prints it"
    after = sorted(path for path in tmp_path.rglob("*") if path.suffix not in (".lock", ".holder"))
    assert after == before


def living(group: int) -> list[str]:
    """Command lines of a group's processes, those that have ended left out."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
    return found


@pytest.mark.skipif(sys.platform == "win32", reason="a signal to all processes of a terminal")
def test_a_stop_while_workers_start_is_one_line(
    tmp_path: Path, plant: Callable[[Path, str], Sample]
) -> None:
    """Ctrl-C reaches the workers too, before they can ignore it."""
    plant(tmp_path, "S1")
    words = [sys.executable, "-m", "wbcpipe", "process", "S1", "--data", str(tmp_path)]
    command = subprocess.Popen(
        [*words, "--workers", "1"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # In the background of a shell SIGINT is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    with command:
        assert command.stderr is not None
        for line in command.stderr:
            if "starting workers" in line:
                break
        time.sleep(0.4)
        os.killpg(command.pid, signal.SIGINT)
        shown = command.stderr.read()
    assert command.returncode == 130
    assert [line for line in shown.splitlines() if line] == [
        "wbcpipe: stopping; a second Ctrl-C ends it at once.",
        "wbcpipe: stopped by the operator; run the same command again to resume.",
    ]
    # Python's process that removes semaphores ends a moment after the one it belongs to.
    until_s = time.monotonic() + 10
    while living(command.pid) and time.monotonic() < until_s:
        time.sleep(0.05)
    assert living(command.pid) == []


def test_worker_processes_process_samples(
    tmp_path: Path, add_sample: Callable[[Path, str], Sample], second_bundle: object
) -> None:
    """One worker of its own process; a second bundle gives a table of changes."""
    for name in ("S1", "S2"):
        add_sample(tmp_path, name)
    words = [sys.executable, "-m", "wbcpipe", "process", "--all", "--data", str(tmp_path)]
    words += ["--workers", "1", "--json"]
    first = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert first.returncode == 0, first.stderr
    samples = {one["sample"]: one for one in json.loads(first.stdout)["samples"]}
    assert {name: one["state"] for name, one in samples.items()} == {"S1": "done", "S2": "done"}
    assert samples["S1"]["counts"] == samples["S2"]["counts"]
    assert json.loads(first.stdout)["changes"] is None
    assert (Sample.open(tmp_path, "S1").path / "report.html").is_file()

    from wbcpipe.classify.models.bundle import Bundle

    assert isinstance(second_bundle, Bundle)
    table = tmp_path / "changes.csv"
    words += ["--bundle", str(second_bundle.path), "--changes", str(table)]
    second = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert second.returncode == 0, second.stderr
    changes = json.loads(second.stdout)["changes"]
    assert (changes["samples"], changes["later"]) == (2, ["strict"])
    assert table.read_text(encoding="utf-8").startswith("sample,class,earlier,later")
