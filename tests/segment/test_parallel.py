"""Fields segmented by several processes: the same cells, whatever becomes of the processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import threadpoolctl

from wbcpipe.segment import segment_field as process
from wbcpipe.segment.detection.detect import detect_cells
from wbcpipe.segment.parallel import available_cores, default_jobs, segment_fields_ahead
from wbcpipe.segment.run import segment_sample
from wbcpipe.segment.stage import SampleSegmenter
from wbcpipe.system.blas_threads import single_threaded_blas

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.samples.cell_store import CellStore
    from wbcpipe.samples.sample import Sample

ROOT = Path(__file__).parents[2]


def same(one: CellStore, other: CellStore) -> bool:
    return (
        one.attributes == other.attributes
        and np.array_equal(one.images()[:], other.images()[:])
        and all(
            np.array_equal(one.column(name), other.column(name))
            for name in ("y_um", "qc_flags", "sharpness")
        )
    )


def test_two_processes_give_the_same_cells(
    copy_run: Callable[[str], Sample], unbroken: CellStore
) -> None:
    sample = copy_run("two")
    seen = []
    store = segment_sample(sample, pixel_um=0.1, progress=lambda *args: seen.append(args), jobs=2)
    assert same(store, unbroken)
    assert [done for done in seen if done[0] == "fields segmented"] == [
        ("fields segmented", k, 6) for k in range(1, 7)
    ]


def test_processes_that_die_are_done_without(
    copy_run: Callable[[str], Sample], unbroken: CellStore
) -> None:
    sample = copy_run("killed")

    def kill(task: str, done: int, _total: int) -> None:
        if (task, done) == ("fields segmented", 2):
            for process in multiprocessing.active_children():
                assert process.pid is not None
                os.kill(process.pid, signal.SIGTERM)

    assert same(segment_sample(sample, pixel_um=0.1, progress=kill, jobs=2), unbroken)


def test_a_damaged_field_is_told_of_once(
    copy_run: Callable[[str], Sample], caplog: pytest.LogCaptureFixture
) -> None:
    sample = copy_run("damaged")
    path = next(iter(sorted(sample.raw_path().glob("field_00004*"))))
    path.write_bytes(path.read_bytes()[:1000])
    store = segment_sample(sample, pixel_um=0.1, jobs=2)
    assert store.attributes.provenance["damaged_fields"] == [4]
    assert caplog.text.count("field 4 is left out") == 1


_PREPARE = """
import sys
from pathlib import Path
from wbcpipe.samples.sample import Sample
from wbcpipe.segment.parallel import segment_fields_ahead

if __name__ == "__main__":
    sample = Sample.open(Path(sys.argv[1]), sys.argv[2])
    for index in segment_fields_ahead(sample, list(range(6)) * 50, pixel_um=0.1, jobs=2):
        print(index, flush=True)
        sys.stdin.readline()
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_no_process_outlives_the_one_that_gathers(
    copy_run: Callable[[str], Sample], tmp_path: Path
) -> None:
    sample = copy_run("orphans")
    SampleSegmenter(sample, pixel_um=0.1).estimate_statistics(range(6))
    script = tmp_path / "gather.py"
    script.write_text(_PREPARE, encoding="utf-8")
    words = [sys.executable, str(script), str(sample.path.parent), sample.name]
    with subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT.parent,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        session = _of_session(process.pid)
        assert len(session) >= 3
        process.kill()
    deadline = time.monotonic() + 120
    while _of_session(process.pid):
        assert time.monotonic() < deadline, "processes of the session live on"
        time.sleep(0.05)


def _of_session(session: int) -> list[int]:
    """Living processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(words[3]) == session and words[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def test_few_fields_are_not_worth_a_process() -> None:
    assert default_jobs(24) == 1
    assert 1 <= default_jobs(10_000) <= min(8, available_cores())


def test_one_job_does_nothing_ahead(copy_run: Callable[[str], Sample]) -> None:
    sample = copy_run("one")
    assert list(segment_fields_ahead(sample, [3, 1], pixel_um=0.1, jobs=1)) == [3, 1]
    assert not (sample.work_path / "fields").exists()


def blas_threads() -> set[int]:
    return {
        library["num_threads"]
        for library in threadpoolctl.threadpool_info()
        if library["user_api"] == "blas"
    }


def test_within_a_field_one_core_is_used(
    copy_run: Callable[[str], Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[int]] = []
    detect = detect_cells

    def look(*arguments: Any, **options: Any) -> Any:
        seen.append(blas_threads())
        return detect(*arguments, **options)

    monkeypatch.setattr(process, "detect_cells", look)
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        SampleSegmenter(copy_run("threads")).segment_field(0)
        assert seen == [{1}]
        assert blas_threads() == {2}


def test_the_other_cores_are_given_back_at_the_end() -> None:
    @single_threaded_blas()
    def fail() -> None:
        assert blas_threads() == {1}
        raise ValueError("planted")

    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        with pytest.raises(ValueError, match="planted"):
            fail()
        assert blas_threads() == {2}
        with single_threaded_blas():
            with pytest.raises(ValueError, match="planted"):
                fail()
            assert blas_threads() == {1}
        assert blas_threads() == {2}
