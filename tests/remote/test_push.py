from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from wbcpipe.errors import RemoteStorageError, SampleBusyError, SampleStateError
from wbcpipe.remote import push as push_module
from wbcpipe.remote.local_files import raw_files, scan_ended
from wbcpipe.remote.object_store import ObjectStore
from wbcpipe.remote.push import SamplePusher, Throttle, push_sample
from wbcpipe.remote.samples import list_samples, newest_manifest, stage_sample
from wbcpipe.samples.fields import FieldInfo, FrameInfo, field_path, write_field
from wbcpipe.samples.records import SampleRecord
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.tests.remote.conftest import FakeS3

    WriteSample = Callable[..., Sample]


def _add_field(sample: Sample, index: int) -> None:
    frames = (FrameInfo("color1"),)
    write_field(
        field_path(sample.raw_path(), index),
        np.full((1, 8, 8), index, np.uint16),
        FieldInfo(index, 0, 0, 0.5, frames),
    )


def _content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_sample_is_pushed_and_staged_byte_for_byte(
    store: ObjectStore, write_sample: WriteSample, tmp_path: Path
) -> None:
    sample = write_sample()
    report = push_sample(store, sample)
    assert (report.state, report.files, report.manifest) == ("complete", 6, 1)
    assert report.checks == {"etag-md5": 6}
    staged = stage_sample(store, "S1", tmp_path / "scratch")
    expected = {name: data for name, data in _content(sample.path).items() if name[:4] != "sync"}
    assert _content(staged.path) == {k: v for k, v in expected.items() if k[0] != "."}
    assert staged.record() == sample.record()


def test_a_second_push_sends_nothing(
    store: ObjectStore, s3: FakeS3, write_sample: WriteSample
) -> None:
    sample = write_sample()
    push_sample(store, sample)
    before = dict(s3.objects)
    s3.requests.clear()
    sample.log("later")  # no result depends on the log
    assert push_sample(store, sample).sent == 0
    assert s3.objects == before
    assert s3.counts() == {"LIST": 1, "GET": 1}, "to find the manifest"


def test_a_push_without_its_journal_compares_and_sends_nothing(
    store: ObjectStore, s3: FakeS3, write_sample: WriteSample
) -> None:
    sample = write_sample()
    push_sample(store, sample)
    (sample.path / "sync.jsonl").unlink()
    s3.requests.clear()
    assert push_sample(store, sample).sent == 0
    assert s3.counts()["PUT"] == 0


def test_fields_are_pushed_during_the_scan_and_records_after_it(
    store: ObjectStore,
    s3: FakeS3,
    write_sample: WriteSample,
    end_scan: Callable[[Sample], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(push_module, "_MANIFEST_EVERY_S", 0.0)
    sample = write_sample(ended=False)
    (sample.raw_path() / ".field_00003.ome.tif.partial").write_bytes(b"half")
    pusher = SamplePusher(store, sample)
    assert pusher.push().state == "scanning"
    keys = {key.removeprefix("site-1/S1/raw/") for key in s3.objects}
    fields = {f"raw/single/field_{index:05d}.ome.tif" for index in range(3)}
    assert keys == {"sample.json", *fields, "site-1/S1/manifests/raw-1.json"}
    _add_field(sample, 3)
    assert pusher.push().sent == 1
    end_scan(sample)
    report = pusher.push()
    assert (report.state, report.manifest) == ("complete", 3)
    manifest = newest_manifest(store, "S1")
    assert manifest is not None
    assert manifest.complete
    assert len(manifest.files) == 7


def test_a_record_that_changed_leaves_the_old_object_as_it_was(
    store: ObjectStore, s3: FakeS3, write_sample: WriteSample, tmp_path: Path
) -> None:
    sample = write_sample()
    push_sample(store, sample)
    first = newest_manifest(store, "S1")
    before = dict(s3.objects)
    (sample.path / "truth.csv").write_bytes(b"new")
    _add_field(sample, 3)
    push_sample(store, sample)
    assert before.items() <= s3.objects.items()
    (sample.path / "truth.csv").write_bytes(b"newer")
    push_sample(store, sample)
    third = newest_manifest(store, "S1")
    assert first is not None
    assert third is not None
    assert third.number == 3
    assert third.raw_digest() != first.raw_digest()
    staged = stage_sample(store, "S1", tmp_path / "scratch")
    assert (staged.path / "truth.csv").read_bytes() == b"newer"


def test_a_file_that_is_lost_here_stays_in_the_manifest(
    store: ObjectStore, write_sample: WriteSample
) -> None:
    sample = write_sample()
    push_sample(store, sample)
    field_path(sample.raw_path(), 1).unlink()
    _add_field(sample, 3)
    push_sample(store, sample)
    manifest = newest_manifest(store, "S1")
    assert manifest is not None
    assert manifest.file("raw/single/field_00001.ome.tif")


def test_another_sample_of_the_name_is_refused(
    store: ObjectStore, s3: FakeS3, write_sample: WriteSample
) -> None:
    push_sample(store, write_sample())
    before = dict(s3.objects)
    other = write_sample("S2", created="2026-12-01")
    other = Sample("S1", other.path.rename(other.path.with_name("other")))
    other.write(SampleRecord(sample="S1", created="2026-12-01"))
    with pytest.raises(SampleStateError, match="another sample of this name"):
        push_sample(store, other)
    del s3.objects["site-1/S1/manifests/raw-1.json"]
    with pytest.raises(SampleStateError, match="another sample of this name"):
        push_sample(store, other)
    assert s3.objects.items() <= before.items()


def test_links_and_private_files_are_not_pushed(
    store: ObjectStore, s3: FakeS3, write_sample: WriteSample, tmp_path: Path
) -> None:
    sample = write_sample()
    secret = tmp_path / "secret.txt"
    secret.write_text("CANARY")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "field_00009.ome.tif").write_text("CANARY")
    (sample.path / "raw" / "single" / "field_00008.ome.tif").symlink_to(secret)
    (sample.path / "raw" / "brightfield").symlink_to(tmp_path / "elsewhere")
    for name in ("order.json", "label.png", "lab.toml"):
        (sample.path / name).write_text("CANARY")
    (sample.path / "raw" / "a b.txt").write_text("x")
    report = push_sample(store, sample)
    assert [text.partition(":")[0] for text in report.refused] == [
        "raw/a b.txt",
        "raw/brightfield",
        "raw/single/field_00008.ome.tif",
    ]
    assert not any(b"CANARY" in content for content in s3.objects.values())


def test_a_sample_without_raw_fields_is_nothing_to_push(
    store: ObjectStore, s3: FakeS3, tmp_path: Path
) -> None:
    sample = Sample.open(tmp_path, "cells")
    sample.write(SampleRecord(sample="cells", kind="stack"))
    assert push_sample(store, sample).state == "scanning", "the first field may come"
    sample.cells_path.mkdir()
    assert push_sample(store, sample).state == "nothing"
    assert not s3.objects


def test_a_network_that_fails_in_the_middle_loses_nothing(
    store: ObjectStore, s3: FakeS3, write_sample: WriteSample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wbcpipe.remote.connect.MAX_RETRIES", 0)
    store = ObjectStore(store.location)
    sample = write_sample()
    s3.fault = lambda _method, key: "503" if key.endswith("00001.ome.tif") else None
    with pytest.raises(RemoteStorageError, match="HTTP 503"):
        push_sample(store, sample)
    assert newest_manifest(store, "S1") is None, "nothing says that the sample is there"
    assert [one.state for one in list_samples(store)] == ["incomplete"]
    s3.fault = lambda _method, _key: None
    report = push_sample(store, sample)
    assert report.state == "complete"
    sent = [key for method, key in s3.requests if method == "PUT"]
    assert sent.count("site-1/S1/raw/raw/single/field_00000.ome.tif") == 1


def test_two_pushes_of_one_sample_are_refused(
    folder_store: ObjectStore, write_sample: WriteSample
) -> None:
    sample = write_sample()
    with sample.lock("sync", name="sync"), pytest.raises(SampleBusyError):
        push_sample(folder_store, sample)


def test_a_push_leaves_the_lock_of_the_sample_alone(
    folder_store: ObjectStore, write_sample: WriteSample
) -> None:
    sample = write_sample()
    with sample.lock("classify"):
        assert push_sample(folder_store, sample).state == "complete"


def test_a_scan_that_goes_on_has_not_ended(write_sample: WriteSample) -> None:
    sample = write_sample()
    assert scan_ended(sample)
    later = (sample.path / "scan.json").stat().st_mtime + 10
    note = sample.path / ".sample.holder"
    note.write_text(f"process {os.getpid()}, run\n")
    os.utime(note, (later, later))
    assert not scan_ended(sample), "a living process holds it, since after the scan ended"
    note.write_text(f"process {os.getpid()}, review\n")
    os.utime(note, (later, later))
    assert scan_ended(sample), "it writes no raw files"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    note.write_text(f"process {gone.pid}, run\n")
    os.utime(note, (later, later))
    assert scan_ended(sample), "its process is gone"
    with sample.lock("run"):
        os.utime(note, (later, later))
        assert not scan_ended(sample)
    assert scan_ended(sample), "the lock was released"


def test_an_import_has_ended_when_its_log_says_so(write_sample: WriteSample) -> None:
    sample = write_sample(ended=False)
    sample.write(SampleRecord(sample="S1", kind="stack"))
    assert not scan_ended(sample)
    sample.log("fields_imported", fields=4)
    assert not scan_ended(sample)
    _add_field(sample, 3)
    assert scan_ended(sample)


def test_the_identity_comes_first(write_sample: WriteSample) -> None:
    assert raw_files(write_sample()).files[0].inside == "sample.json"


def test_a_throttle_keeps_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr("wbcpipe.remote.push.time.monotonic", lambda: now[0])
    throttle = Throttle(1e6, sleep)
    for _ in range(3):
        started = now[0]
        now[0] += 0.25  # the upload itself
        throttle.spend(1_000_000, started)
    assert slept == pytest.approx([0.75] * 3)
    Throttle(0, sleep).spend(10**9, 0)
    assert len(slept) == 3
