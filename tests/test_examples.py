"""The scripts of docs/examples, on a small demo sample."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

import wbcpipe
from wbcpipe.classify.models.bundle import shipped_bundles
from wbcpipe.samples.fields import complete_fields, read_passes

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs" / "examples"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:pandas")


def call(capsys: pytest.CaptureFixture[str], script: str, *words: object) -> str:
    """Run a script as the user does; return what it prints."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *map(str, words)])
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    return capsys.readouterr().out


def test_every_example_is_tested_and_short() -> None:
    tested = Path(__file__).read_text(encoding="utf-8")
    for path in sorted(EXAMPLES.glob("*.py")):
        assert f'"{path.name}"' in tested
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 40


def test_the_demo_is_counted_and_resumes(
    demo_sample: wbcpipe.Sample,
    small_scope: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = {path: path.stat().st_mtime_ns for path in demo_sample.raw_path().iterdir()}
    with caplog.at_level("INFO", "wbcpipe"):
        shown = call(capsys, "count_demo.py", demo_sample.path.parent, small_scope, 4)
    assert "NEU: " in shown
    assert {path: path.stat().st_mtime_ns for path in demo_sample.raw_path().iterdir()} == before
    assert "sample demo: model virtual-shufflenet" in caplog.text
    assert "sample demo: classified by virtual-shufflenet before" in caplog.text


def test_cells_are_read_into_pandas(
    demo_sample: wbcpipe.Sample, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = call(capsys, "cells_to_pandas.py", demo_sample.path.parent, demo_sample.name)
    cells = wbcpipe.CellStore(demo_sample.cells_path)
    assert {line.split()[0] for line in shown.splitlines()[2:]} == set(cells.predicted_classes())
    assert np.array_equal(cells.table()["area_um2"], cells.column("area_um2"))


def test_fields_of_another_program_are_segmented(
    demo_sample: wbcpipe.Sample, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "fields"
    folder.mkdir()
    for index in complete_fields(demo_sample.path / "raw"):
        frames, info = read_passes(demo_sample.path / "raw", index)
        assert info.modalities[-1] == "fluorescence"
        tifffile.imwrite(folder / f"{index}.tif", frames, photometric="minisblack")
    pixel_um = demo_sample.record().pixel_um
    shown = call(capsys, "segment_own_fields.py", folder, tmp_path, "own", pixel_um)
    found = int(shown.split()[0])
    assert found == len(shown.splitlines()) - 1
    assert abs(found - len(wbcpipe.CellStore(demo_sample.cells_path))) <= 3
    with pytest.raises(SystemExit, match="sample name 'no/such' is refused"):
        call(capsys, "segment_own_fields.py", folder, tmp_path, "no/such", pixel_um)


def test_two_bundles_are_compared(
    demo_sample: wbcpipe.Sample, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strict = tmp_path / "strict"
    shutil.copytree(shipped_bundles()["virtual-shufflenet"], strict)
    info = json.loads((strict / "bundle.json").read_text(encoding="utf-8"))
    info["name"], info["calibration"]["threshold"] = "strict", 1.0
    (strict / "bundle.json").write_text(json.dumps(info), encoding="utf-8")
    before = wbcpipe.CellStore(demo_sample.cells_path).predicted_classes()
    shown = call(capsys, "compare_bundles.py", demo_sample.path.parent, demo_sample.name, strict)
    assert f"virtual-shufflenet and strict, {len(before)} cells:" in shown
    assert "-> unidentified" in shown
    assert wbcpipe.CellStore(demo_sample.cells_path).predicted_classes() == before


def test_a_report_has_the_laboratorys_intervals(
    demo_sample: wbcpipe.Sample, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = call(capsys, "own_intervals.py", demo_sample.path.parent, demo_sample.name)
    assert "intervals: St Elsewhere, adults, 2026" in shown
    assert "x 10^9/L" in shown
    assert "St Elsewhere" in (demo_sample.path / "differential.json").read_text(encoding="utf-8")
