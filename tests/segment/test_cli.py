from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path


def wbcpipe(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wbcpipe", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["segment"], ["cells.zarr", "--pixel-um", "Example"]),
        (["import"], ["fields", "cells", "derived"]),
        (["import", "cells"], ["manifest.csv", "neutrophil", "--no-labels"]),
        (["import", "fields"], ["red cell is about 7.5 um"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_help_teaches(arguments: list[str], words: list[str]) -> None:
    result = wbcpipe(*arguments, "--help")
    assert result.returncode == 0
    for word in words:
        assert word in " ".join(result.stdout.split())


def test_import_and_segment_speak_json(shared_data: Path, tmp_path: Path) -> None:
    pictures = sorted((shared_data / "bccd" / "JPEGImages").glob("*.jpg"))[:2]
    options = ["--sample", "S", "--data", tmp_path, "--json"]
    imported = wbcpipe(
        "import", "fields", *pictures, "--kind", "stained-rgb", "--pixel-um", 0.075, *options
    )
    assert imported.returncode == 0, imported.stderr
    assert json.loads(imported.stdout)["fields"] == 2
    segmented = wbcpipe("segment", *options)
    assert segmented.returncode == 0, segmented.stderr
    result = json.loads(segmented.stdout)
    assert result["cells"] >= 2
    assert result["derived"] == ["fluorescence"]


def test_one_line_and_an_exit_code_for_a_bad_picture(tmp_path: Path) -> None:
    path = tmp_path / "cell.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 80, 3)).astype(np.uint8)).save(
        path
    )
    path.write_bytes(path.read_bytes()[:900])
    result = wbcpipe(
        "import",
        "cells",
        path,
        "--sample",
        "S",
        "--kind",
        "stained-rgb",
        "--pixel-um",
        0.1,
        "--data",
        tmp_path / "data",
    )
    assert result.returncode == 32
    assert len(result.stderr.strip().splitlines()) == 1
    assert "not readable as an image" in result.stderr
    assert not (tmp_path / "data").exists()
