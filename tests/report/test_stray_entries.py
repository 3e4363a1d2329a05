"""What lies in the data root and is no sample is named by the commands, which go on with the
samples.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from wbcpipe.cli.commands import cli
from wbcpipe.report.status import sample_names, stray_entries
from wbcpipe.samples.records import SampleRecord
from wbcpipe.samples.sample import OTHER_FOLDERS, Sample

if TYPE_CHECKING:
    from pathlib import Path

STRAY = {
    "notes.txt": "is a file, and samples are folders",
    "pipe": "is a pipe, and samples are folders",
    "New folder": "has a name that no sample may have",
    "photographs": "holds no sample.json, no raw images and no cells",
    "qc": "is no folder, and wbcpipe keeps files of its own below that name",
    "caf\\xe9": "has a name that no sample may have",
    "circle": "is a file, and samples are folders",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with the sample S1, wbcpipe's own folders, a hidden file, and strays of every
    kind.
    """
    sample = Sample.open(tmp_path, "S1")
    sample.write(SampleRecord(sample="S1"))
    for name in OTHER_FOLDERS - {"qc"}:
        (tmp_path / name).mkdir()
    (tmp_path / ".hidden").touch()
    for name in ("notes.txt", "qc"):
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "pipe")
    for name in ("New folder", "photographs", "caf\udce9"):
        (tmp_path / name).mkdir()
    (tmp_path / "New folder" / "sample.json").touch()
    (tmp_path / "circle").symlink_to("circle")
    return tmp_path


def test_strays_are_told_from_samples(root: Path) -> None:
    assert dict(stray_entries(root)) == STRAY
    assert sample_names(root) == ["S1"]
    assert stray_entries(root / "nothing there") == []


def test_status_names_them_and_goes_on(root: Path) -> None:
    result = CliRunner().invoke(cli, ["status", "--data", str(root)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "notes.txt: no sample: it is a file, and samples are folders" in result.output
    assert "S1" in result.output
    content = json.loads(CliRunner().invoke(cli, ["status", "--data", str(root), "--json"]).output)
    assert {entry["name"]: entry["reason"] for entry in content["others"]} == STRAY
    assert [sample["name"] for sample in content["samples"]] == ["S1"]


def test_verify_names_them_and_goes_on(root: Path) -> None:
    result = CliRunner().invoke(
        cli, ["verify", "--all", "--data", str(root)], catch_exceptions=False
    )
    assert result.exit_code == 0
    assert "photographs: no sample, not checked: it holds no sample.json" in result.stderr
    assert "S1: sound" in result.stdout
