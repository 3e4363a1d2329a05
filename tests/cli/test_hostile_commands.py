"""A slice of the hostile command lines of `benchmarks/hostile_commands.py`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def hostile() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location(
        "hostile_commands", ROOT / "benchmarks" / "hostile_commands.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_hostile_commands_are_done_or_refused_in_words(
    hostile: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WBCPIPE_DATA", "")  # restored afterwards: the script sets it
    outcomes = hostile.run(7, 90)
    assert [outcome for outcome in outcomes if outcome.end not in ("done", "refused")] == []
    assert {outcome.end for outcome in outcomes} == {"done", "refused"}


def test_the_same_seed_gives_the_same_commands(hostile: ModuleType, tmp_path: Path) -> None:
    lines = [list(hostile.command_lines(seed, 50, tmp_path)) for seed in (3, 3, 4)]
    assert lines[0] == lines[1]
    assert lines[0] != lines[2]
