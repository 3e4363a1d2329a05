"""Samples in a bucket's layout, staged, processed and published; what cannot be used is refused."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from wbcpipe.cli.commands import cli
from wbcpipe.cluster.fetch import fetch_results
from wbcpipe.cluster.object_storage import ObjectStorage
from wbcpipe.cluster.plan import Selection, TaskOptions, choose_samples, plan_tasks
from wbcpipe.cluster.promote import promote_result
from wbcpipe.cluster.records import StageRecord
from wbcpipe.cluster.selection import parse_where
from wbcpipe.cluster.stages import run_stage
from wbcpipe.errors import BucketNotFoundError, WbcpipeError
from wbcpipe.remote.locations import ObjectLocation, parse_location
from wbcpipe.remote.object_store import open_store
from wbcpipe.remote.push import push_sample
from wbcpipe.remote.results import completed_results, fetch_result
from wbcpipe.samples.scan_outcome import ScanOutcome

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.cluster.records import SampleTask
    from wbcpipe.remote.object_store import ObjectStore
    from wbcpipe.samples.sample import Sample


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    (tmp_path / "bucket").mkdir()
    location = parse_location((tmp_path / "bucket").as_uri())
    assert isinstance(location, ObjectLocation)
    return open_store(location)


@pytest.fixture
def uploaded(
    store: ObjectStore, tmp_path: Path, add_sample: Callable[[Path, str], Sample]
) -> Sample:
    sample = add_sample(tmp_path / "data", "S1")
    ScanOutcome(reason="fields", fields_done=3, fields_wanted=3).save(sample)
    push_sample(store, sample)
    return sample


@pytest.fixture
def task(
    uploaded: Sample, task_of: Callable[..., SampleTask], tmp_path: Path, store: ObjectStore
) -> SampleTask:
    import dataclasses

    scratch = str(tmp_path / "scratch")
    return dataclasses.replace(task_of(uploaded), data=str(store.location), scratch=scratch)


def test_a_result_is_published_fetched_and_equals_the_local_one(
    task: SampleTask,
    uploaded: Sample,
    run_all: Callable[[SampleTask], str],
    store: ObjectStore,
    reported: Path,
    tmp_path: Path,
) -> None:
    record = StageRecord.model_validate_json(run_all(task))
    assert record.state == "done", record.reason
    assert record.traffic.requests > 0
    (published,) = completed_results(store, "S1")
    assert published.result_id == record.result
    fetch_result(store, published, tmp_path / "fetched")
    local = reported / "S1"
    for path in sorted((local / "cells.zarr").rglob("*")):
        if path.is_file():
            copy = tmp_path / "fetched" / path.relative_to(local)
            assert copy.read_bytes() == path.read_bytes(), path
    assert (tmp_path / "fetched" / "cells.csv").read_bytes() == (local / "cells.csv").read_bytes()
    assert list((tmp_path / "scratch").iterdir()) == []
    fetched = fetch_results(uploaded, str(store.location))
    assert [one.result_id for one in fetched] == [record.result]
    assert fetch_results(uploaded, str(store.location)) == []
    assert promote_result(uploaded, record.result) is None
    assert (uploaded.path / "cells.csv").read_bytes() == (local / "cells.csv").read_bytes()
    again = StageRecord.model_validate_json(run_all(task))
    assert (again.state, again.counts) == ("already", record.counts)


def test_a_stage_on_another_worker_stages_again(
    task: SampleTask, store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = run_stage("segment", task)
    other = ObjectStorage(tmp_path / "other")
    monkeypatch.setattr("wbcpipe.cluster.stages.storage_of", lambda _data, _scratch: other)
    record = StageRecord.model_validate_json(run_stage("report", task, before))
    assert record.state == "done", record.reason
    assert record.traffic.bytes_down > 6e6
    assert len(completed_results(store, "S1")) == 1
    monkeypatch.undo()  # the first worker, which was only slow, goes on
    late = StageRecord.model_validate_json(run_stage("classify", task, before))
    assert (late.state, late.result) == ("already", record.result)
    assert len(completed_results(store, "S1")) == 1
    assert list((tmp_path / "scratch").iterdir()) == []


def test_an_object_that_was_cut_short_is_never_processed(
    task: SampleTask, store: ObjectStore, tmp_path: Path, run_all: Callable[[SampleTask], str]
) -> None:
    (field,) = (tmp_path / "bucket").rglob("field_00001.ome.tif")
    field.write_bytes(field.read_bytes()[:-1000])
    record = StageRecord.model_validate_json(run_all(task))
    assert (record.state, record.error) == ("failed", "CorruptObjectError")
    assert completed_results(store, "S1") == []


def process(*words: str) -> tuple[int, str]:
    """Exit code and text of the error that ends a command."""
    found = CliRunner().invoke(cli, ["process", *words], standalone_mode=False)
    error = found.exception
    assert isinstance(error, WbcpipeError), error
    return error.exit_code, str(error)


def test_a_sample_half_uploaded_is_refused(store: ObjectStore, uploaded: Sample) -> None:
    shutil.rmtree(uploaded.path.parents[1] / "bucket" / "S1" / "manifests")
    code, text = process("S1", "--data", str(store.location))
    assert code == 74
    assert "no sample 'S1' with a manifest" in text
    assert completed_results(store, "S1") == []


def test_a_damaged_manifest_is_the_error_of_its_sample_alone(
    store: ObjectStore, uploaded: Sample, tmp_path: Path
) -> None:
    shutil.copytree(tmp_path / "bucket" / "S1", tmp_path / "bucket" / "S2")  # copied: not of S2
    data = str(store.location)
    names = choose_samples(data, store, Selection(everything=True))
    plan = plan_tasks(names, data, store, TaskOptions())
    assert [task.sample for task in plan.tasks] == [uploaded.name]
    assert "it was copied here" in str(plan.refused["S2"])
    damaged = Selection(conditions=parse_where("state=damaged"))
    assert choose_samples(data, store, damaged) == ["S2"]


def test_an_unknown_bucket_is_refused(tmp_path: Path) -> None:
    code, text = process("--all", "--data", (tmp_path / "nowhere").as_uri())
    assert code == BucketNotFoundError.exit_code
    assert "\n" not in text


def test_a_bundle_that_fits_no_sample_writes_nothing(
    store: ObjectStore, uploaded: Sample, tmp_path: Path
) -> None:
    from wbcpipe.classify.models.bundle import find_bundle

    shipped = find_bundle("auto", kind="scope")
    shutil.copytree(shipped.path, tmp_path / "other")
    info = json.loads((tmp_path / "other" / "bundle.json").read_text(encoding="utf-8"))
    info["modalities"] = ["red", "green", "blue", "infrared"]
    info["missing_modality"] = {}
    info["derived"] = []
    (tmp_path / "other" / "bundle.json").write_text(json.dumps(info), encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    for data in (str(store.location), str(uploaded.path.parent)):
        code, text = process("S1", "--data", data, "--bundle", str(tmp_path / "other"))
        assert code == 80, text
        assert "reads modalities ['red', 'green', 'blue', 'infrared']" in text
    assert sorted(tmp_path.rglob("*")) == before
