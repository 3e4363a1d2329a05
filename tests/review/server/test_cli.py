"""The command: what it refuses, and how it says so."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from wbcpipe.errors import ConfigError, SampleNameError, SampleStateError
from wbcpipe.review.cli import review
from wbcpipe.samples.cell_store import CellStore

if TYPE_CHECKING:
    from wbcpipe.samples.sample import Sample

ROOT = Path(__file__).parents[3]


def run(*words: str, **options: Any) -> BaseException | None:
    return CliRunner().invoke(review, words, **options).exception


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--host", "192.0.2.1"], "--certificate and --key .* and --password-file"),
        (["--host", "192.0.2.1", "--password-file", "p"], "--certificate and --key"),
        (["--host", "0.0.0.0"], "every address"),
        (["--host", "no.such.host.invalid"], "no address is known"),
        (["--certificate", "c"], "belong together"),
        (["--password-file", "p", "--reader", "Ada"], "each reader logs in"),
        (["--password-file", "p"], "no such file"),
        (["--certificate", "c", "--key", "k"], "not a PEM certificate"),
        (["--reader", "a\nb"], "--reader"),
        (["--lab", "l.toml"], "l.toml"),
        (["--add-reader", "Ada"], "--password-file"),
        (["--port", "1", "--host", "192.0.2.1"], "--certificate"),
    ],
)
def test_what_is_missing_is_said(
    words: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error = run("--no-browser", *words)
    assert isinstance(error, ConfigError)
    assert __import__("re").search(reason, str(error)), str(error)


def test_a_sample_that_is_none_is_refused_before_a_page_opens(planted: Sample) -> None:
    data = str(planted.path.parent)
    assert isinstance(run("--data", data, "--sample", "nope"), SampleStateError)
    assert isinstance(run("--data", data, "--sample", "../x"), SampleNameError)
    CellStore(planted.cells_path).discard_predictions()
    error = run("--data", data, "--sample", "S1", "--no-browser")
    assert isinstance(error, SampleStateError)
    assert "wbcpipe classify" in str(error)


def test_a_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    error = run()
    assert isinstance(error, ConfigError)
    assert "pip install 'wbcpipe[review]'" in str(error)


def test_a_reader_is_added(tmp_path: Path) -> None:
    path = tmp_path / "readers.txt"
    words = ["--password-file", str(path), "--add-reader", "Ada"]
    result = CliRunner().invoke(review, words, input="a long password\na long password\n")
    assert result.exit_code == 0, result.output
    assert path.read_text().startswith("Ada:scrypt$")
    assert "a long password" not in result.output
    assert isinstance(run(*words, input="short\nshort\n"), ConfigError)


def test_help_loads_neither_the_server_nor_zarr() -> None:
    script = (
        "import sys\n"
        "from wbcpipe.pipeline import cli\n"
        "try: cli.main(args=['review', '--help'], prog_name='wbcpipe')\n"
        "except SystemExit: pass\n"
        "heavy = {'starlette', 'uvicorn', 'zarr', 'numpy', 'torch'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT.parent, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Usage: wbcpipe review" in done.stdout
