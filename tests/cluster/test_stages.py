"""The stages as a worker runs them, without dask."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from wbcpipe.cluster import stages
from wbcpipe.cluster.records import StageRecord
from wbcpipe.cluster.stages import run_stage
from wbcpipe.errors import ClusterError, RemoteStorageError, StorageError
from wbcpipe.samples.results import MARKER, check_result, completed_results
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.classify.models.bundle import Bundle
    from wbcpipe.cluster.records import SampleTask

    RunAll = Callable[[SampleTask], str]
    TaskOf = Callable[..., SampleTask]

#: Of a document: when it was written, and the digest over that.
TIMES = ("created", "sha256", "time")


def contents(folder: Path) -> dict[str, bytes | object]:
    """Every file of a result, the times of documents left out."""
    found: dict[str, bytes | object] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or name.startswith(("raw/", "work/", ".", "results/")):
            continue
        if name in ("log.jsonl", "sample.json", MARKER):
            continue
        if name == "differential.json":
            content = json.loads(path.read_bytes())
            found[name] = {key: value for key, value in content.items() if key not in TIMES}
        elif name == "report.html":
            continue  # it shows the time of differential.json, and is made from it
        else:
            found[name] = path.read_bytes()
    return found


def test_the_first_result_is_that_of_a_local_run(
    reported: Path,
    tmp_path: Path,
    add_sample: Callable[[Path, str], Sample],
    task_of: TaskOf,
    run_all: RunAll,
) -> None:
    sample = add_sample(tmp_path, "S1")
    record = StageRecord.model_validate_json(run_all(task_of(sample)))
    assert (record.state, record.result, record.error) == ("done", "current", "")
    assert record.cells
    assert contents(sample.path) == contents(reported / "S1")
    again = StageRecord.model_validate_json(run_all(task_of(sample)))
    assert (again.state, again.stage, again.counts) == ("already", "segment", record.counts)


@pytest.fixture
def root(reported: Path, tmp_path: Path) -> Path:
    shutil.copytree(reported, tmp_path / "data")
    return tmp_path / "data"


def test_another_bundle_gives_a_result_beside(
    root: Path, task_of: TaskOf, run_all: RunAll, second_bundle: Bundle
) -> None:
    sample = Sample.open(root, "S1")
    before = contents(sample.path)
    record = StageRecord.model_validate_json(run_all(task_of(sample, second_bundle)))
    assert record.state == "done", record.reason
    assert contents(sample.path) == before
    (result,) = completed_results(sample)
    folder = sample.path / "results" / record.result
    check_result(folder, result)
    assert result.basis.bundle == "strict"
    assert result.result_id == record.result == folder.name
    names = {path.name for path in folder.iterdir()}
    assert {"cells.zarr", "differential.json", "cells.csv", "report.html", MARKER} <= names
    assert not names & {"raw", "work"}
    assert (sample.path / "raw" / "single" / "field_00000.ome.tif").is_file()
    assert [path.name for path in (sample.path / "results").iterdir()] == [record.result]
    again = StageRecord.model_validate_json(run_all(task_of(sample, second_bundle)))
    assert (again.state, again.result) == ("already", record.result)


def test_a_stage_on_another_worker_does_what_is_missing(
    root: Path, task_of: TaskOf, second_bundle: Bundle
) -> None:
    sample = Sample.open(root, "S1")
    task = task_of(sample, second_bundle)
    before = StageRecord(sample="S1", stage="classify", state="done").model_dump_json()
    record = StageRecord.model_validate_json(run_stage("report", task, before))
    assert record.state == "done", record.reason
    assert len(completed_results(sample)) == 1


def test_a_result_whose_worker_died_before_its_name_is_published(
    root: Path, task_of: TaskOf, run_all: RunAll, second_bundle: Bundle
) -> None:
    sample = Sample.open(root, "S1")
    task = task_of(sample, second_bundle)
    record = StageRecord.model_validate_json(run_all(task))
    folder = sample.path / "results" / record.result
    folder.rename(folder.with_name(f".{record.result}.partial"))
    assert completed_results(sample) == []
    again = StageRecord.model_validate_json(run_stage("segment", task))
    assert (again.state, again.result) == ("already", record.result)
    assert len(completed_results(sample)) == 1


def test_an_error_of_the_data_is_a_record(
    tmp_path: Path, add_sample: Callable[[Path, str], Sample], task_of: TaskOf, run_all: RunAll
) -> None:
    sample = add_sample(tmp_path, "S1")
    shutil.rmtree(sample.path / "raw")
    record = StageRecord.model_validate_json(run_all(task_of(sample)))
    assert (record.state, record.stage, record.error) == ("failed", "segment", "FrameFileError")
    assert record.exit_code == 30
    assert "no field" in record.reason


def test_a_busy_sample_is_left_alone(
    tmp_path: Path,
    plant: Callable[[Path, str], Sample],
    fake_task: TaskOf,
    run_all: RunAll,
) -> None:
    sample = plant(tmp_path, "S1")
    with sample.lock("review"):
        record = StageRecord.model_validate_json(run_all(fake_task(sample)))
    assert (record.state, record.error) == ("failed", "SampleBusyError")
    assert record.exit_code == 12


def test_another_version_refuses_the_task(root: Path, task_of: TaskOf) -> None:
    task = replace(task_of(Sample.open(root, "S1")), software="wbcpipe 0.0.9")
    with pytest.raises(ClusterError, match=r"runs wbcpipe .*, and the command wbcpipe 0\.0\.9"):
        run_stage("segment", task)


def test_another_bundle_of_the_same_name_refuses_the_task(
    root: Path, task_of: TaskOf, second_bundle: Bundle
) -> None:
    task = task_of(Sample.open(root, "S1"), second_bundle)
    other = replace(task, bundle=replace(task.bundle, sha256="0" * 64))
    with pytest.raises(ClusterError, match="not the one of the command"):
        run_stage("classify", other)


@pytest.mark.parametrize("kind", [StorageError, RemoteStorageError, ConnectionResetError])
def test_a_fault_of_the_machine_is_raised(
    kind: type[Exception], root: Path, task_of: TaskOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_args: object, **_options: object) -> None:
        raise kind("the share is gone")

    monkeypatch.setitem(stages.STEPS, "report", fault)
    sample = Sample.open(root, "S1")
    (sample.path / "differential.json").unlink()
    with pytest.raises(kind, match="the share is gone"):
        run_stage("report", task_of(sample))


def test_a_failure_before_is_passed_on(root: Path, task_of: TaskOf) -> None:
    failed = StageRecord(sample="S1", stage="segment", state="failed", error="NoCellsError")
    passed = run_stage("classify", task_of(Sample.open(root, "S1")), failed.model_dump_json())
    assert StageRecord.model_validate_json(passed) == failed
