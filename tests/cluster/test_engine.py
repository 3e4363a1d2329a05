"""Many samples on dask: failures, faults of machines, and what is asked of workers."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from distributed import Client, LocalCluster

from wbcpipe.cluster import connect, engine, stages
from wbcpipe.cluster.connect import WorkerFacts, check_workers, needed_bytes, number_of_workers
from wbcpipe.cluster.engine import process_samples
from wbcpipe.errors import ClusterError, ConfigError, StorageError
from wbcpipe.system.version import SOFTWARE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from wbcpipe.cluster.records import SampleTask
    from wbcpipe.samples.sample import Sample

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Two workers in this process."""
    cluster = LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=False,
        dashboard_address=None,
        scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
        protocol="inproc://",
        silence_logs=50,
    )
    with cluster, Client(cluster, set_as_default=False) as client:
        yield client


@pytest.mark.usefixtures("fake_classify")
def test_a_sample_that_fails_does_not_stop_the_others(
    client: Client,
    tmp_path: Path,
    plant: Callable[[Path, str], Sample],
    fake_task: Callable[..., SampleTask],
) -> None:
    samples = [plant(tmp_path, name) for name in ("S1", "S2", "S3")]
    shutil.rmtree(samples[1].cells_path)
    said: list[str] = []
    progress: list[tuple[str, int, int]] = []
    outcomes = process_samples(
        client,
        [fake_task(sample) for sample in samples],
        lambda *step: progress.append(step),
        lambda record: said.append(record.sample),
    )
    assert [one.state for one in outcomes] == ["done", "failed", "done"]
    assert outcomes[1].last.error == "FrameFileError"
    assert said == ["S2"]
    assert ("samples reported", 3, 3) in progress
    assert [stage.stage for stage in outcomes[0].stages] == ["segment", "classify", "report"]
    assert len(outcomes[1].stages) == 1
    assert (samples[2].path / "differential.json").is_file()
    again = process_samples(client, [fake_task(samples[0])])
    assert (again[0].state, len(again[0].stages)) == ("already", 1)


@pytest.mark.usefixtures("fake_classify")
def test_a_fault_of_the_machine_is_tried_again(
    client: Client,
    tmp_path: Path,
    plant: Callable[[Path, str], Sample],
    fake_task: Callable[..., SampleTask],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sample = plant(tmp_path, "S1")
    tries: list[int] = []
    report = stages.STEPS["report"]

    def sometimes(*arguments: Any, **options: Any) -> None:
        tries.append(1)
        if len(tries) <= allowed:
            raise StorageError("the share is gone")
        report(*arguments, **options)

    monkeypatch.setitem(stages.STEPS, "report", sometimes)
    allowed = engine.RETRIES + 1
    (lost,) = process_samples(client, [fake_task(sample)])
    assert (lost.state, lost.last.error, lost.last.exit_code) == ("failed", "StorageError", 15)
    assert "the share is gone (tried 3 times)" in lost.last.reason
    assert len(tries) == 3
    tries.clear()
    allowed = engine.RETRIES
    (found,) = process_samples(client, [fake_task(sample)])
    assert found.state == "done"


@pytest.mark.usefixtures("fake_classify")
def test_after_a_stop_the_same_call_goes_on(
    client: Client,
    tmp_path: Path,
    plant: Callable[[Path, str], Sample],
    fake_task: Callable[..., SampleTask],
) -> None:
    samples = [plant(tmp_path, f"S{number}") for number in range(8)]
    tasks = [replace(fake_task(sample), lock_wait_s=30.0) for sample in samples]

    def stop(_task: str, done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process_samples(client, tasks, stop)
    assert sum((sample.path / "report.html").exists() for sample in samples) < len(samples)
    outcomes = process_samples(client, tasks)
    assert {one.state for one in outcomes} <= {"done", "already"}
    assert all((sample.path / "report.html").is_file() for sample in samples)


def test_workers_of_another_version_are_refused(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(check_workers(client)) == 2
    monkeypatch.setattr(connect, "SOFTWARE", "wbcpipe 0.0.9")
    other = dict.fromkeys(["tcp://10.0.0.1:1"], WorkerFacts("wbcpipe 9.9", "node1", 0))
    monkeypatch.setattr(client, "run", lambda *_args, **_options: other)
    with pytest.raises(
        ClusterError, match=r"node1 runs wbcpipe 9\.9, and this command is of wbcpipe 0\.0\.9"
    ):
        check_workers(client)


@pytest.mark.parametrize(
    ("answers", "needed", "reason"),
    [
        ({}, 0, "no worker is connected"),
        ({"tcp://a:1": ModuleNotFoundError("No module named 'wbcpipe'")}, 0, "cannot run wbcpipe"),
        ({"tcp://a:1": WorkerFacts(SOFTWARE, "a", 2**30)}, 2**31, "may use 1.0 GiB"),
    ],
    ids=["none", "without wbcpipe", "little memory"],
)
def test_workers_that_cannot_do_the_work_are_refused(
    client: Client,
    answers: dict[str, Any],
    needed: int,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "run", lambda *_args, **_options: answers)
    with pytest.raises(ClusterError, match=reason):
        check_workers(client, needed)


def test_the_memory_limit_follows_from_the_frames() -> None:
    # 40 float32 arrays of 3 * 1024 * 1024 pixels more, of which a worker may fill three quarters.
    assert needed_bytes(2048**2) - needed_bytes(1024**2) == pytest.approx(640 * 2**20, abs=2)
    assert number_of_workers(1, 1) == 1
    with pytest.raises(ConfigError, match="do not fit in the"):
        number_of_workers(1024, 2**34)
