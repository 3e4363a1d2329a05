"""What ships: every package and data file, one copy of each module, nothing heavy for help."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import pytest
from click.testing import CliRunner

import wbcpipe
from wbcpipe.batch.cli import BATCH_COMMANDS
from wbcpipe.pipeline import cli
from wbcpipe.system.version import release_of

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SKIP = {"tests", "build", "dist", "benchmarks", "docs", ".venv", "venv"}


def package_folders() -> set[str]:
    found = set()
    for init in ROOT.rglob("__init__.py"):
        parts = init.parent.relative_to(ROOT).parts
        if not (set(parts) & SKIP) and not any(part.startswith(".") for part in parts):
            found.add(".".join(("wbcpipe", *parts)))
    return found


def test_every_package_folder_is_listed() -> None:
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == package_folders()


def data_files() -> list[str]:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]
    found = []
    for package, globs in patterns.items():
        folder = ROOT.joinpath(*package.split(".")[1:])
        for pattern in globs:
            matches = [path for path in folder.glob(pattern) if path.is_file()]
            assert matches, f"{package}: {pattern} matches nothing"
            found += [str(path.relative_to(ROOT)) for path in matches]
    return sorted(found)


@pytest.mark.parametrize("name", data_files())
def test_every_data_file_is_installed(name: str) -> None:
    assert files("wbcpipe").joinpath(*Path(name).parts).is_file()


def test_no_module_is_loaded_under_a_second_name() -> None:
    assert not {"acquire", "segment", "classify", "report", "pipeline", "samples"} & set(
        sys.modules
    )


def test_version_is_the_installed_one() -> None:
    assert wbcpipe.__version__ == version("wbcpipe")
    assert "version" in PROJECT["project"]["dynamic"]
    shown = CliRunner().invoke(cli, ["--version"]).stdout
    assert shown == f"wbcpipe, version {wbcpipe.__version__}\n"


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("1.0.0", "1.0.0"),
        ("1.0.1.dev3+g0a1b2c3", "1.0.1"),
        ("1.0.1.dev3+g0a1b2c3.d20261130", "1.0.1"),
        ("0.1.dev0", "0.1"),
        ("unknown", "unknown"),
    ],
)
def test_commits_between_releases_are_one_release(text: str, release: str) -> None:
    assert release_of(text) == release


def test_the_lock_names_the_public_registry_alone() -> None:
    locked = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
    sources = [package["source"] for package in locked["package"]]
    assert {"registry": "https://pypi.org/simple"} in sources
    assert all(
        source in ({"registry": "https://pypi.org/simple"}, {"editable": "."}) for source in sources
    )
    names = {package["name"] for package in locked["package"]}
    wanted = PROJECT["project"]["dependencies"]
    assert {re.split(r"[^\w.-]", text)[0].lower() for text in wanted} <= names


HELP = """
import sys
from wbcpipe.pipeline import cli
for words in {words}:
    try:
        cli.main(args=[*words, "--help"], prog_name="wbcpipe")
    except SystemExit as end:
        assert not end.code, end.code
names = {{"torch", "torchvision", "pycromanager", "zarr", "skimage", "matplotlib"}}
heavy = names & set(sys.modules)
print("HEAVY", sorted(heavy))
"""
COMMANDS = [
    "run",
    "acquire",
    "segment",
    "classify",
    "report",
    "import",
    "train",
    "evaluate",
    "doctor",
    "scopes",
]
COMMANDS += ["bundles", "settings", "status", "calibrate", "send", "export", "review"]


def test_help_teaches_and_loads_nothing_heavy() -> None:
    words = [[], *([command] for command in COMMANDS), ["import", "fields"], ["import", "cells"]]
    words += [["batch"], *(["batch", command] for command in BATCH_COMMANDS)]
    done = subprocess.run(
        [sys.executable, "-c", HELP.format(words=words)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT.parent,
    )
    assert done.stdout.strip().splitlines()[-1] == "HEAVY []"
    for command in COMMANDS:
        assert f"Usage: wbcpipe {command}" in done.stdout


def test_the_public_names_load_on_first_use() -> None:
    script = (
        "import sys, wbcpipe\n"
        "heavy = {'torch', 'zarr', 'skimage', 'numpy', 'pydantic', 'click'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "for name in wbcpipe.__all__: getattr(wbcpipe, name)\n"
        "heavy = {'torch', 'torchvision', 'openvino', 'pymmcore', 'pycromanager'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT.parent)
    assert set(wbcpipe.__all__) <= set(dir(wbcpipe))
    with pytest.raises(AttributeError, match=r"it has .*CellStore, .*load_scope, run"):
        wbcpipe.nonsense  # noqa: B018


@pytest.mark.parametrize("name", [name for name in wbcpipe.__all__ if name != "__version__"])
def test_each_public_name_is_documented(name: str) -> None:
    assert (getattr(wbcpipe, name).__doc__ or "").strip()
    assert f"`{name}`" in (ROOT / "docs" / "how-to" / "python.md").read_text(encoding="utf-8")
