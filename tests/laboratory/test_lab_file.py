"""The laboratory's file: what it gives, and the line of what it must not say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from wbcpipe.errors import ConfigError
from wbcpipe.laboratory.lab_file import Lab, find_lab, load_lab

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """\
version = "2026-11"
laboratory = "St Elsewhere"

[reference]
source = "St Elsewhere, adults, 2026"
[reference.percent]
NEU = [38, 74]
BLAST = [0, 0.5]

[[extra_class]]
name = "SMUDGE"
meaning = "smudge cell"
key = "s"

[[extra_class]]
name = "BLAST"
meaning = "blast"
white_cell = true

[keys]
k = "artefact"

[sign]
unidentified = "soft"
gates = "hard"
min_cells = 200
"""
CLASSES = ("NEU", "LYM", "EOS", "MO", "BAS")


def test_what_the_file_gives(tmp_path: Path) -> None:
    path = tmp_path / "lab.toml"
    path.write_text(GOOD, encoding="utf-8")
    lab = find_lab(tmp_path)
    assert lab == load_lab(path)
    assert lab.file is not None
    assert lab.file.version == "2026-11"
    assert lab.per_100_white_cells() == {"SMUDGE": True, "BLAST": False}
    assert lab.reference is not None
    assert lab.reference.percent["NEU"] == (38, 74)
    assert (lab.sign.unidentified, lab.sign.doubtful, lab.sign.gates, lab.sign.min_cells) == (
        "soft",
        "hard",
        "hard",
        200,
    )
    keys = lab.key_map(CLASSES)
    assert (keys["s"], keys["k"], keys["n"], keys["l"]) == ("SMUDGE", "artefact", "NEU", "LYM")
    assert sorted(keys.values()) == sorted(
        [*CLASSES, "unidentified", "not_classed", "artefact", "SMUDGE", "BLAST"]
    ), "every class has one key"
    path.write_text(GOOD + "# a remark\n", encoding="utf-8")
    again = load_lab(path).file
    assert again is not None
    assert again.sha256 != lab.file.sha256


def test_without_a_file(tmp_path: Path) -> None:
    lab = find_lab(tmp_path)
    assert lab == Lab()
    assert lab.file is None
    assert lab.key_map(("NEU", "Nabe", "1")) == {
        "n": "NEU",
        "u": "unidentified",
        "x": "not_classed",
        "a": "artefact",
        "b": "Nabe",
        "c": "1",
    }


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('version = "2026-11"\n', "", "line 1: key 'version' is missing"),
        (
            "unidentified =",
            "unidentifid =",
            "line 24: key 'sign.unidentifid' is not known, did you mean 'unidentified'",
        ),
        (
            'gates = "hard"',
            'gates = "firm"',
            "line 25: key 'sign.gates': .*'hard', 'soft' or 'off'",
        ),
        ("min_cells = 200", "min_cells = 0", "line 26: key 'sign.min_cells'"),
        ("NEU = [38, 74]", "NEU = [74, 38]", "line [45]: .*the lower limit comes first"),
        ('name = "BLAST"', 'name = "SMUDGE"', "the class 'SMUDGE' exists already"),
        ('name = "BLAST"', 'name = "artefact"', "the class 'artefact' exists already"),
        (
            'name = "BLAST"',
            'name = "B\\u001bL"',
            r"line 16: key 'extra_class.1.name': the character U\+001B",
        ),
        ('name = "BLAST"', 'name = "B\\u202eL"', r"line 16: .*U\+202E"),
        ('name = "BLAST"', f'name = "{"B" * 65}"', "line 16: .*at most 64"),
        ('key = "s"', 'key = "k"', "the key 'k' is given twice"),
        ('key = "s"', 'key = "1"', r"line 13: key 'extra_class.0.key'"),
        ('k = "artefact"', 'K = "artefact"', "line 21: "),
        ("[sign]", "[sign", r"not readable as TOML \(.*line 23"),
    ],
    ids=range(14),
)
def test_what_it_must_not_say_has_a_line(
    tmp_path: Path, before: str, after: str, words: str
) -> None:
    path = tmp_path / "lab.toml"
    assert before in GOOD
    path.write_text(GOOD.replace(before, after), encoding="utf-8")
    with pytest.raises(ConfigError, match=words) as caught:
        load_lab(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"x = " + b"[" * 5000, b"a" * 5_000_000], ids=["text", "deep", "long"]
)
def test_what_is_no_file_of_a_laboratory(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "lab.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"lab\.toml: "):
        load_lab(path)
    with pytest.raises(ConfigError, match="there is no such file"):
        load_lab(tmp_path / "other.toml")
