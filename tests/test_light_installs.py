"""What works on a computer without the microscope's core, and on one without torch."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from wbcpipe.system.packages import CLASSIFICATION, CORE

if TYPE_CHECKING:
    from wbcpipe.samples.sample import Sample

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MICROSCOPE = {"pycromanager", "pyjavaz", "pyzmq", "pymmcore", "mm-test-adapters"}
NETWORKS = {"torch", "torchvision", "openvino"}

#: Python runs it at the start of every process, those that wbcpipe starts too.
HIDE = """
import sys
hidden = set({hidden!r})

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            return None
        return self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
"""
#: Runs commands in one process; prints exit code and output of each.
RUN = """
import contextlib, io, json, sys
from wbcpipe.pipeline import main
def run(words):
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        try:
            main(words)
        except SystemExit as end:
            return end.code or 0, shown.getvalue()
if __name__ == "__main__":
    print(json.dumps([run(words) for words in json.loads(sys.argv[1])]))
    assert "torch._dynamo" not in sys.modules, "importing it takes as long as importing torch"
"""


def run_without(
    hidden: tuple[str, ...], commands: list[str], folder: Path
) -> dict[str, tuple[int, str]]:
    """Run commands where some modules cannot be found."""
    hide = folder / "hide"
    hide.mkdir()
    (hide / "sitecustomize.py").write_text(HIDE.format(hidden=hidden), encoding="utf-8")
    script = folder / "commands.py"
    script.write_text(RUN, encoding="utf-8")
    path = os.pathsep.join(filter(None, [str(hide), os.environ.get("PYTHONPATH", "")]))
    words = json.dumps([command.split() for command in commands])
    done = subprocess.run(
        [sys.executable, str(script), words],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return {command: (code, text) for command, (code, text) in zip(commands, found, strict=True)}


@pytest.fixture
def data(demo_sample: Sample, small_scope: Path, tmp_path: Path) -> Path:
    """A data root with a finished sample, and a worklist of another one."""
    root = tmp_path / "data"
    shutil.copytree(demo_sample.path, root / "demo")
    (tmp_path / "night.csv").write_text("sample,fields\nN1,1\n", encoding="utf-8")
    shutil.copytree(small_scope.parent, tmp_path / "scope")
    return root


def check(found: dict[str, tuple[int, str]], codes: dict[str, int], install: str) -> None:
    assert {command: code for command, (code, _) in found.items()} == codes, found
    for command, (code, text) in found.items():
        assert "Traceback" not in text, command
        if code == 3:
            lines = [line for line in text.splitlines() if line.startswith("wbcpipe: ")]
            assert len(lines) == 1, command
            assert install in re.sub(r"\s+", " ", text), command


def test_an_analysis_computer_needs_no_microscope_core(data: Path, tmp_path: Path) -> None:
    for path in (data / "demo" / "cells.zarr", data / "demo" / "work"):
        shutil.rmtree(path)
    at, scope = "--data data", "--scope scope/demo.toml"
    codes = {
        "--help": 0,
        f"doctor {scope} {at}": 3,
        f"doctor --offline {scope} {at}": 0,
        f"acquire --slide new --fields 1 {scope} {at}": 3,
        f"run --sample new --fields 1 {scope} {at}": 3,
        f"batch check night.csv {scope} {at}": 0,
        f"batch run night.csv --no-check {scope} {at}": 3,
        f"segment --sample demo --jobs 1 {at}": 0,
        f"classify --sample demo {at}": 0,
        f"report --sample demo {at}": 0,
        f"run --sample demo --fields 4 {scope} {at}": 0,
        f"evaluate --sample demo {at}": 0,
        "review --help": 0,
        f"review agreement --help {at}": 0,
        f"verify --sample demo {at}": 0,
        f"status {at}": 0,
    }
    found = run_without(CORE.modules, list(codes), tmp_path)
    check(found, codes, CORE.install)
    assert not (data / "new").exists()


def test_a_microscope_computer_needs_no_torch(data: Path, tmp_path: Path) -> None:
    at, scope = "--data data", "--scope scope/demo.toml"
    codes = {
        "--help": 0,
        f"doctor {scope} {at}": 0,
        f"acquire --slide new --fields 1 {scope} {at}": 0,
        f"segment --sample demo --jobs 1 {at}": 0,
        f"classify --sample demo {at}": 3,
        f"run --sample other --fields 1 {scope} {at}": 3,
        f"report --sample demo {at}": 0,
        f"batch check night.csv {scope} {at}": 0,
        f"batch run night.csv --no-check {scope} {at}": 3,
        "bundles": 0,
        "bundles verify": 3,
        f"train demo --out model {at}": 3,
        f"study demo --out study {at}": 3,
        f"verify --sample demo {at}": 0,
        "review --help": 0,
    }
    found = run_without((*CLASSIFICATION.modules, "openvino"), list(codes), tmp_path)
    check(found, codes, CLASSIFICATION.install)
    assert not (data / "other").exists()


def requirement_names(lines: list[str]) -> set[str]:
    return {re.match(r"[A-Za-z0-9._-]+", line)[0] for line in lines if line}  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "left_out"), [("analysis-pc", MICROSCOPE), ("microscope-pc", NETWORKS)]
)
def test_the_lists_for_light_installs_are_the_dependencies(name: str, left_out: set[str]) -> None:
    listed = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    listed = [line for line in listed if not line.startswith("#")]
    wanted = [
        line
        for line in PROJECT["project"]["dependencies"]
        if not requirement_names([line]) & left_out
    ]
    assert listed == wanted
