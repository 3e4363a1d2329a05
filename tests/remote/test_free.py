from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from wbcpipe.errors import (
    CorruptObjectError,
    FieldsFreedError,
    IncompleteUploadError,
    SampleStateError,
)
from wbcpipe.remote import free as free_module
from wbcpipe.remote.free import free_sample
from wbcpipe.remote.push import push_sample
from wbcpipe.remote.restore import restore_sample
from wbcpipe.remote.samples import stage_sample
from wbcpipe.report.status import sample_status
from wbcpipe.samples.fields import field_path, fields_on_disk
from wbcpipe.samples.freed import known_fields, read_freed, refuse_if_freed, taken_fields
from wbcpipe.samples.sample import Sample
from wbcpipe.segment.run import segment_sample
from wbcpipe.verify.check_sample import verify_sample

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.remote.object_store import ObjectStore
    from wbcpipe.tests.remote.conftest import FakeS3

    WriteSample = Callable[..., Sample]


def _field(index: int) -> str:
    return f"site-1/S1/raw/raw/single/field_{index:05d}.ome.tif"


@pytest.fixture
def pushed(store: ObjectStore, write_sample: WriteSample) -> Sample:
    sample = write_sample()
    push_sample(store, sample)
    return sample


def _content(sample: Sample) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sample.raw_path().iterdir()}


def test_verified_fields_are_freed_and_brought_back(store: ObjectStore, pushed: Sample) -> None:
    before = _content(pushed)
    report = free_sample(store, pushed)
    assert (report.freed, report.kept, report.reason) == (2, 0, "")
    assert list(fields_on_disk(pushed.raw_path())) == [0], "the report reads the light from it"
    assert (pushed.path / "sample.json").exists()
    assert known_fields(pushed, "single") == {0, 1, 2}
    assert taken_fields(pushed) == [0, 1, 2]
    assert free_sample(store, pushed).freed == 0
    assert push_sample(store, pushed).state == "complete", "the manifest still names them"
    back = restore_sample(store, pushed)
    assert (back.files, back.kept) == (2, ("log.jsonl",))
    assert _content(pushed) == before
    assert read_freed(pushed) is None
    refuse_if_freed(pushed, "run")


def test_a_freed_sample_says_so(store: ObjectStore, pushed: Sample) -> None:
    whole = verify_sample(pushed)
    free_sample(store, pushed)
    status = sample_status(pushed)
    assert (status.fields_taken, status.fields_freed) == (3, 2)
    assert status.freed_to == "s3://laboratory/site-1"
    check = verify_sample(pushed)
    assert (check.freed, check.freed_to) == (2, "s3://laboratory/site-1")
    assert check.damages == whole.damages, "the freed fields are no damage"
    with pytest.raises(FieldsFreedError, match="wbcpipe sync S1 --from s3://laboratory/site-1"):
        segment_sample(pushed, pixel_um=0.1)


@pytest.mark.parametrize(
    "damage",
    [
        lambda s3: s3.objects.pop(_field(1)),
        lambda s3: s3.objects.update({_field(1): s3.objects[_field(1)][:-1]}),
    ],
    ids=["missing", "cut short"],
)
def test_a_field_that_the_bucket_does_not_hold_stays(
    store: ObjectStore, s3: FakeS3, pushed: Sample, damage: Callable[[FakeS3], object]
) -> None:
    damage(s3)
    report = free_sample(store, pushed)
    assert (report.freed, report.kept) == (1, 1)
    assert list(fields_on_disk(pushed.raw_path())) == [0, 1]


def test_an_object_with_another_content_frees_nothing(
    store: ObjectStore, s3: FakeS3, pushed: Sample
) -> None:
    content = s3.objects[_field(2)]
    s3.objects[_field(2)] = content[:-1] + bytes([content[-1] ^ 1])
    with pytest.raises(CorruptObjectError, match="SHA-256 differs"):
        free_sample(store, pushed)
    assert list(fields_on_disk(pushed.raw_path())) == [0, 1, 2]
    assert read_freed(pushed) is None


def test_read_back_reads_each_object_again(store: ObjectStore, s3: FakeS3, pushed: Sample) -> None:
    s3.requests.clear()
    free_sample(store, pushed, read_back=True)
    read = {key for method, key in s3.requests if method == "GET"}
    assert {_field(1), _field(2)} <= read


def test_a_field_that_changed_here_stays(store: ObjectStore, pushed: Sample) -> None:
    path = field_path(pushed.raw_path(), 1)
    path.write_bytes(path.read_bytes()[::-1])
    assert (free_sample(store, pushed).freed, path.exists()) == (1, True)


def test_a_sample_in_use_or_not_complete_keeps_its_fields(
    store: ObjectStore,
    write_sample: WriteSample,
    end_scan: Callable[[Sample], None],
    pushed: Sample,
) -> None:
    with pushed.lock("classify"):
        assert "in use" in free_sample(store, pushed).reason
    scanning = write_sample("S2", ended=False)
    push_sample(store, scanning)
    assert free_sample(store, scanning).reason == "its scan has not ended"
    end_scan(scanning)
    report = free_sample(store, scanning)
    assert (report.freed, report.reason) == (0, "the sample is not complete in the bucket")
    pushed.work_path.mkdir()
    assert "not reported yet" in free_sample(store, pushed).reason
    assert len(fields_on_disk(pushed.raw_path())) == 3


def test_a_kill_while_fields_are_removed_leaves_a_sample_that_says_so(
    store: ObjectStore, pushed: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _content(pushed)
    removed: list[int] = []

    def remove_one(_path: Path, action: Callable[[], None]) -> None:
        if removed:
            raise KeyboardInterrupt
        action()
        removed.append(1)

    with monkeypatch.context() as patch:
        patch.setattr(free_module, "patiently", remove_one)
        with pytest.raises(KeyboardInterrupt):
            free_sample(store, pushed)
    assert taken_fields(pushed) == [0, 1, 2]
    with pytest.raises(FieldsFreedError):
        refuse_if_freed(pushed, "run")
    assert free_sample(store, pushed).freed == 1
    restore_sample(store, pushed)
    assert _content(pushed) == before


def test_a_sample_is_brought_to_another_computer(
    store: ObjectStore, s3: FakeS3, pushed: Sample, tmp_path: Path
) -> None:
    new = Sample.open(tmp_path / "new", "S1")
    damaged = s3.objects[_field(2)]
    s3.objects[_field(2)] = damaged[:-1]
    with pytest.raises(CorruptObjectError, match="cut short"):
        restore_sample(store, new)
    with pytest.raises(FieldsFreedError):
        refuse_if_freed(new, "run")
    s3.objects[_field(2)] = damaged
    restore_sample(store, new)
    assert _content(new) == _content(pushed)
    refuse_if_freed(new, "run")


def test_nothing_here_is_replaced(
    store: ObjectStore, write_sample: WriteSample, pushed: Sample, tmp_path: Path
) -> None:
    path = field_path(pushed.raw_path(), 1)
    path.write_bytes(b"other")
    with pytest.raises(SampleStateError, match="not the field that is in the bucket"):
        restore_sample(store, pushed)
    assert path.read_bytes() == b"other"
    other = write_sample("S3", created="2027")
    with pytest.raises(SampleStateError, match="another sample of this name"):
        restore_sample(store, Sample("S1", other.path))
    link = tmp_path / "linked" / "S1" / "raw"
    link.parent.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SampleStateError, match="nothing is written through it"):
        restore_sample(store, Sample.open(tmp_path / "linked", "S1"))
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_sample_that_is_half_uploaded_is_neither_staged_nor_brought_back(
    store: ObjectStore, write_sample: WriteSample, tmp_path: Path
) -> None:
    push_sample(store, write_sample(ended=False))
    for action in (
        lambda: stage_sample(store, "S1", tmp_path / "scratch"),
        lambda: restore_sample(store, Sample.open(tmp_path / "new", "S1")),
        lambda: stage_sample(store, "S9", tmp_path / "scratch"),
    ):
        with pytest.raises(IncompleteUploadError) as refused:
            action()
        assert refused.value.exit_code == 74
    assert not (tmp_path / "scratch").exists()
    assert not (tmp_path / "new").exists()
