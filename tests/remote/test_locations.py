from __future__ import annotations

import re
from pathlib import Path

import pytest

from wbcpipe.errors import ConfigError
from wbcpipe.remote.locations import LocalLocation, ObjectLocation, parse_location, redact


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://archive", ObjectLocation("s3", "archive", "")),
        ("s3://archive/", ObjectLocation("s3", "archive", "")),
        ("s3://archive/lab-1/2026", ObjectLocation("s3", "archive", "lab-1/2026")),
        ("gs://a_b.example/x/", ObjectLocation("gs", "a_b.example", "x")),
        ("wbc-data", LocalLocation(Path("wbc-data"))),
        ("C:\\slides", LocalLocation(Path("C:\\slides"))),
    ],
)
def test_a_location_is_parsed(text: str, expected: object) -> None:
    assert parse_location(text) == expected


def test_a_file_url_is_a_folder_in_the_layout_of_a_bucket(tmp_path: Path) -> None:
    location = parse_location(tmp_path.as_uri())
    assert location == ObjectLocation("file", "", str(tmp_path))
    assert parse_location(str(location)) == location


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("http://host/bucket", "its scheme is not known"),
        ("az://container/x", "its scheme is not known"),
        ("S3://archive/x", "its scheme is not known"),
        ("s3:/archive/x", "'//' is missing"),
        ("s3://", "is no name of a bucket"),
        ("s3:///x", "is no name of a bucket"),
        ("s3://Archive/x", "is no name of a bucket"),
        ("s3://a..b/x", "is no name of a bucket"),
        ("s3://archive:9000/x", "is no name of a bucket"),
        ("s3://archive/../x", "parts of its prefix"),
        ("s3://archive/a//b", "parts of its prefix"),
        ("s3://archive/a%2fb", "parts of its prefix"),
        ("s3://archive/" + "a/" * 300, "longer than"),
        ("s3://archive/x?token=CANARY", "holds credentials"),
        ("s3://archive/x#CANARY", "holds credentials"),
        ("s3://key:CANARY@archive/x", "holds credentials"),
        ("file://server/folder", "not on 'server'"),
        ("file:///", "below the root"),
        ("file:///a/../b", "without '..'"),
        ("", "it is empty"),
        ("a\0b", "a NUL character"),
    ],
)
def test_anything_else_is_refused_in_one_line_without_credentials(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)) as refused:
        parse_location(text)
    assert "CANARY" not in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "s3://BUCKET/PREFIX" in str(refused.value)


def test_credentials_in_text_are_not_shown() -> None:
    assert redact("s3://key:sec@ret@bucket/x?a#b") == "s3://***@bucket/x?***"
