"""Scope files as editors and people write them: what is read, and what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from wbcpipe.acquire.config.scope import load_scope
from wbcpipe.errors import ConfigError

DEMO = (Path(__file__).parents[2] / "hardware_configs" / "demo.toml").read_text(encoding="utf-8")
FOLDER = 'folder = "mm-test-adapters"'


@pytest.mark.parametrize("prefix", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_a_file_of_any_editor_is_read(tmp_path: Path, prefix: bytes, ending: str) -> None:
    path = tmp_path / "Müller Labor" / "neues Mikroskop.toml"
    path.parent.mkdir()
    path.write_bytes(prefix + DEMO.replace("\n", ending).encode())
    assert load_scope(path).camera.pixel_um == 0.1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            DEMO.replace(FOLDER, 'folder = "C:\\Micro-Manager"').encode(),
            r"double quotes: write a path with",
        ),
        (
            DEMO.replace(FOLDER, 'folder = "C:\\Users\\me\\MM"').encode(),
            r"double quotes: write a path with",
        ),
        (
            DEMO.replace(FOLDER, 'folder = "C:\\temp"').encode(),
            r"'micromanager\.folder': .*control character",
        ),
        (
            DEMO.replace(FOLDER, 'folder = "D:\\bin\\new"').encode(),
            r"'D:\\x08in\\new' has a control character",
        ),
        (
            DEMO.replace("pixel_um = 0.1 ", "pixel_um = 0,1 ").encode(),
            r"decimal comma: write a point, such as 0\.1",
        ),
        (
            DEMO.replace("exposure_ms = 5.0", "exposure_ms = 5,5").encode(),
            r"'exposure_ms = 5,5' has a decimal comma",
        ),
        (DEMO.replace("binning = 1", "binning =").encode(), r"the line is 'binning ='"),
        (
            "# Öl\n".encode("cp1252") + DEMO.encode(),
            r"line 1 is not UTF-8 .*save the file as UTF-8",
        ),
        (DEMO.encode("utf-16"), "saved as UTF-16"),
        (b"x = " + b"[" * 5000, "nested too deep"),
        (b"x = " + b"9" * 5000, "not TOML: Exceeds the limit"),
        (b"#" * 5_000_000, r"too large \(at most"),
    ],
    ids=range(12),
)
def test_what_is_not_toml_says_what_to_write(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        load_scope(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
