from __future__ import annotations

import os
from typing import TYPE_CHECKING

import psutil
import pytest

from wbcpipe.errors import ConfigError
from wbcpipe.system.file_kinds import is_file
from wbcpipe.system.user_files import MAX_DECODED_BYTES, UserFile, printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def user_file(path: Path) -> UserFile:
    return UserFile(path, "a recipe", ConfigError)


def folder(path: Path) -> None:
    path.mkdir()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def circle(path: Path) -> None:
    path.symlink_to(path)


def absent(path: Path) -> None:
    pass


def large(path: Path) -> None:
    with path.open("wb") as handle:
        handle.truncate(20 * 2**30)  # sparse


def latin(path: Path) -> None:
    path.write_bytes('{"name": "Zürich"}'.encode("latin-1"))


def deep(path: Path) -> None:
    path.write_bytes(b"[" * 100_000 + b"]" * 100_000)


def deep_tables(path: Path) -> None:
    path.write_bytes(b'{"a":' * 2000 + b"1" + b"}" * 2000)


def not_finite(path: Path) -> None:
    path.write_bytes(b'{"a": NaN}')


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (folder, "this is a folder; give the path of a recipe"),
        (pipe, "this is a pipe, which may have no end"),
        (endless, "this is a device, which may have no end"),
        (circle, "cannot be read"),
        (absent, "there is no such file; give the path of a recipe"),
        (large, "21474.8 MB; a recipe has at most 4.2 MB"),
        (latin, "not text in UTF-8"),
        (deep, "nested"),
        (deep_tables, "nested"),
        (not_finite, "NaN is not a number"),
    ],
)
def test_what_is_no_such_file_is_refused_in_one_line(
    make: Callable[[Path], None], text: str, tmp_path: Path
) -> None:
    path = tmp_path / "recipe.json"
    make(path)
    with pytest.raises(ConfigError, match=text) as caught:
        user_file(path).read_json()
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"], ids=["too long", "NUL"])
def test_a_name_that_no_file_can_have(name: str, tmp_path: Path) -> None:
    assert not is_file(tmp_path / name)
    with pytest.raises(ConfigError, match="cannot be read"):
        user_file(tmp_path / name).read()


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbfa = 1")
    assert user_file(tmp_path / "a.json").read_json() == {"a": 1}
    assert user_file(tmp_path / "a.toml").read_toml() == {"a": 1}


@pytest.mark.parametrize(
    ("sides", "text"), [((0, 5), "without a pixel"), ((9400, 9400), "88 megapixels; at most 67")]
)
def test_the_limit_of_pixels(sides: tuple[int, int], text: str, tmp_path: Path) -> None:
    file = user_file(tmp_path / "x.png")
    file.check_pixels(8192, 8192)
    with pytest.raises(ConfigError, match=text):
        file.check_pixels(*sides)


def test_the_limits_of_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = user_file(tmp_path / "x.npy")
    file.check_decoded_bytes(1000)
    with pytest.raises(ConfigError, match=r"declares 8\.59 GB of images; a file may hold 8\.6 GB"):
        file.check_decoded_bytes(MAX_DECODED_BYTES + 1)
    memory = type("Memory", (), {"available": 900})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(ConfigError, match="of memory are free"):
        file.check_decoded_bytes(1000)


def test_names_that_are_not_utf8_can_be_printed() -> None:
    assert [printable(text) for text in ("a.png", "caf\udce9.png", "\ud83d")] == [
        "a.png",
        "caf\\xe9.png",
        "\\ud83d",
    ]
