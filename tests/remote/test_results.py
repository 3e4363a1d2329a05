from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from wbcpipe.errors import CorruptObjectError, RemoteStorageError, SampleStateError
from wbcpipe.remote.object_store import ObjectStore
from wbcpipe.remote.results import (
    completed_results,
    fetch_result,
    publish_result,
    read_result_file,
    result_record,
)

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.tests.remote.conftest import FakeS3


def _result(folder: Path, text: str) -> Path:
    (folder / "cells.zarr" / "images").mkdir(parents=True)
    (folder / "cells.zarr" / "images" / "c.0.0").write_text(text)
    (folder / "differential.json").write_text(text)
    (folder / ".differential.json.partial").write_text("half")
    return folder


def test_a_result_is_published_once(store: ObjectStore, tmp_path: Path) -> None:
    folder = _result(tmp_path / "a", "first")
    assert result_record(store, "S1", "abc") is None
    assert publish_result(store, "S1", "abc", folder)
    assert not publish_result(store, "S1", "abc", _result(tmp_path / "b", "second"))
    (found,) = completed_results(store, "S1")
    assert read_result_file(store, found, "differential.json") == b"first"
    fetch_result(store, found, tmp_path / "back")
    assert (tmp_path / "back" / "cells.zarr" / "images" / "c.0.0").read_text() == "first"
    assert not (tmp_path / "back" / ".differential.json.partial").exists()
    with pytest.raises(CorruptObjectError, match=r"has no cells\.csv"):
        read_result_file(store, found, "cells.csv")


def test_results_of_two_bundles_lie_beside_each_other(store: ObjectStore, tmp_path: Path) -> None:
    for number, name in enumerate(("old", "new")):
        assert publish_result(store, "S1", name, _result(tmp_path / name, str(number)))
    assert [one.result_id for one in completed_results(store, "S1")] == ["old", "new"]


def test_two_writers_of_one_result_never_mix(store: ObjectStore, tmp_path: Path) -> None:
    barrier, made = threading.Barrier(2), []

    def publish(text: str) -> None:
        folder = _result(tmp_path / text, text)
        barrier.wait()
        made.append(publish_result(store, "S1", "abc", folder))

    threads = [threading.Thread(target=publish, args=(text,)) for text in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False, True]
    (found,) = completed_results(store, "S1")
    contents = {read_result_file(store, found, file.path) for file in found.files}
    assert len(contents) == 1, "all files are of one of them"


def test_without_the_marker_there_is_no_result(
    store: ObjectStore, s3: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wbcpipe.remote.connect.MAX_RETRIES", 0)
    store = ObjectStore(store.location)
    s3.fault = lambda method, key: "503" if method == "PUT" and "COMPLETE" in key else None
    folder = _result(tmp_path / "a", "x")
    with pytest.raises(RemoteStorageError):
        publish_result(store, "S1", "abc", folder)
    assert completed_results(store, "S1") == []
    s3.fault = lambda _method, _key: None
    assert publish_result(store, "S1", "abc", folder)


def test_a_marker_that_was_changed_or_copied_is_refused(
    store: ObjectStore, s3: FakeS3, tmp_path: Path
) -> None:
    publish_result(store, "S1", "abc", _result(tmp_path / "a", "x"))
    marker = "site-1/S1/results/abc/COMPLETE.json"
    s3.objects["site-1/S2/results/abc/COMPLETE.json"] = s3.objects[marker]
    with pytest.raises(CorruptObjectError, match="it was copied here"):
        completed_results(store, "S2")
    s3.objects[marker] = s3.objects[marker].replace(b'"size": 1', b'"size": 2', 1)
    with pytest.raises(CorruptObjectError, match="changed since it was written"):
        completed_results(store, "S1")


def test_what_is_no_result_is_refused(store: ObjectStore, s3: FakeS3, tmp_path: Path) -> None:
    with pytest.raises(SampleStateError, match="result id"):
        publish_result(store, "S1", "../x", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SampleStateError, match="no file of a result"):
        publish_result(store, "S1", "abc", tmp_path / "empty")
    folder = _result(tmp_path / "a", "x")
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(SampleStateError, match="a link"):
        publish_result(store, "S1", "abc", folder)
    assert not s3.objects
