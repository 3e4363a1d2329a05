from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbcpipe.errors import CorruptObjectError
from wbcpipe.remote.records import FileDigest, RawManifest, StoredFile, parse_record, safe_path


def _manifest(*paths: str) -> RawManifest:
    digest = FileDigest.of(b"x").model_dump()
    files = tuple(StoredFile(path=path, key=f"raw/{path}", **digest) for path in paths)
    return RawManifest(
        sample="S1",
        identity="sample S1 of 2026",
        number=1,
        complete=True,
        written="2026-11-30",
        software="1",
        files=files,
    )


def test_a_manifest_is_read_as_it_was_written() -> None:
    manifest = _manifest("sample.json", "raw/single/field_00000.ome.tif")
    assert parse_record(RawManifest, manifest.to_bytes(), "s3://b/x") == manifest


def test_the_digest_of_raw_files_leaves_the_log_and_the_order_out() -> None:
    one = _manifest("a", "b", "log.jsonl").raw_digest()
    assert one == _manifest("b", "a").raw_digest() != _manifest("a").raw_digest()


@pytest.mark.parametrize(
    "path",
    [
        *("../x", "/x", "a//b", "a/./b", "a\\b", "C:x", ".x", "a/.x", "x.", "con", "a/NUL.txt"),
        *("", "é", "/".join("abcdefghi"), "a" * 200, "a\nb"),
    ],
)
def test_a_path_that_leaves_its_folder_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"safe relative path|deeper"):
        safe_path(path)
    content = json.loads(_manifest("a").to_bytes())
    content["files"][0]["path"] = path
    del content["sha256"]
    with pytest.raises(CorruptObjectError, match=r"^s3://b/x: damaged"):
        parse_record(RawManifest, json.dumps(content).encode(), "s3://b/x")


def test_two_files_that_windows_takes_for_one_are_refused() -> None:
    with pytest.raises(ValueError, match="two files have one path"):
        _manifest("a", "A")


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_refused_in_words(content: bytes) -> None:
    with pytest.raises(CorruptObjectError) as refused:
        parse_record(RawManifest, content, "s3://b/x")
    assert str(refused.value).startswith("s3://b/x: damaged")
