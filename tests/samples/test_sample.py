"""The sample directory: names, atomic files, the lock."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from wbcpipe.errors import DiskFullError, SampleBusyError, SampleNameError, SampleStateError
from wbcpipe.samples.records import SampleRecord
from wbcpipe.samples.sample import OTHER_FOLDERS, Sample, check_sample_name
from wbcpipe.system.files import write_atomic, write_json

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", ["S1", "a", "2026-11-22_ward.3", "x" * 64])
def test_good_names_pass(name: str) -> None:
    assert check_sample_name(name) == name


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.one_of(
        st.text(max_size=70),
        st.from_regex(r"[A-Za-z0-9._-]{1,66}", fullmatch=True),
        st.sampled_from(["con", "Aux.x", "LPT9", "..", "a/../b", "c:x", "a\u0301"]),
    )
)
@example("x" * 64)
def test_a_name_is_one_folder_of_the_data_root_or_refused(tmp_path: Path, name: str) -> None:
    try:
        sample = Sample.open(tmp_path, name)
    except SampleNameError:
        with pytest.raises(SampleNameError, match="is refused"):
            check_sample_name(name)
        return
    assert sample.path.parent == tmp_path
    assert sample.path.name == sample.name == name
    assert name.isascii()
    assert 1 <= len(name) <= 64
    assert name.lower() not in OTHER_FOLDERS
    sample.path.mkdir(exist_ok=True)
    assert sample.path in tmp_path.iterdir(), "the file system keeps the name as it is"


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../x", "a/b", "a\\b", "a b", ".hidden", "-rf", "a..b", "end."),
        *("CON", "nul.txt", "Com1", "batches", "QC", "calibration", "x" * 65, "ä", "a\n", "a\0"),
    ],
)
def test_bad_names_are_refused_and_nothing_is_made(name: str, tmp_path: Path) -> None:
    with pytest.raises(SampleNameError, match="refused"):
        Sample.open(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    sys.platform != "linux", reason="a limit of a file's size stands for the room on a disk"
)
def test_an_event_that_does_not_fit_leaves_no_part_of_a_line(tmp_path: Path) -> None:
    sample = Sample.open(tmp_path, "S1")
    sample.write(SampleRecord(sample="S1"))
    sample.log("first", text="a" * 100)
    script = (
        "import resource, signal, sys; from pathlib import Path; from wbcpipe.samples.sample "
        "import Sample\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (250, 250))\n"
        "Sample.open(Path(sys.argv[1]), 'S1').log('second', text='b' * 100)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert "File too large" in ran.stderr
    sample.log("third")
    lines = (sample.path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["first", "third"]


def test_a_failed_write_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"version": 1})

    def write_half() -> None:
        with write_atomic(path) as handle:
            handle.write(b"half of it")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_half()
    assert json.loads(path.read_text()) == {"version": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with pytest.raises(DiskFullError, match="no space left") as caught, write_atomic(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.exit_code == 13
    assert list(tmp_path.iterdir()) == []


def test_missing_and_damaged_sample_files_are_named(tmp_path: Path) -> None:
    sample = Sample.open(tmp_path, "S1")
    with pytest.raises(SampleStateError, match="no sample 'S1'"):
        sample.record()
    sample.write(SampleRecord(sample="S1"))
    assert sample.record() == SampleRecord(sample="S1")
    sample.info_path.write_text("{", encoding="utf-8")
    with pytest.raises(SampleStateError, match="not readable as JSON"):
        sample.record()


HOLD = """
import sys, time
from pathlib import Path
from wbcpipe.samples.records import SampleRecord
from wbcpipe.samples.sample import Sample
with Sample.open(Path(sys.argv[1]), "S1").lock("holding it for a test"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    sample = Sample.open(tmp_path, "S1")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == b"held"
        with (
            pytest.raises(SampleBusyError, match=rf"process {holder.pid}, holding it for a test"),
            sample.lock("b"),
        ):
            pass
        holder.kill()
    with sample.lock("after the crash", wait_s=60):
        pass


@pytest.mark.parametrize("event", ["scan ended", "ScanEnded", "scan-ended", "_scan", ""])
def test_names_of_events_are_in_snake_case(tmp_path: Path, event: str) -> None:
    sample = Sample.open(tmp_path, "S1")
    sample.write(SampleRecord(sample="S1"))
    with pytest.raises(ValueError, match="snake_case"):
        sample.log(event)
    assert not (sample.path / "log.jsonl").exists()
