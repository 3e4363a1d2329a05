"""A slice of the damaged scope files of `benchmarks/hostile_scopes.py`."""

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
        "hostile_scopes", ROOT / "benchmarks" / "hostile_scopes.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_damaged_scopes_are_accepted_or_refused_in_one_line(
    hostile: ModuleType, tmp_path: Path
) -> None:
    outcomes = [hostile.try_scope(tmp_path, scope) for scope in hostile.damaged_scopes(7, 60)]
    assert [outcome for outcome in outcomes if outcome.end not in ("accepted", "refused")] == []
    assert {outcome.end for outcome in outcomes} == {"accepted", "refused"}


def test_the_same_seed_makes_the_same_damages(hostile: ModuleType) -> None:
    assert list(hostile.damaged_scopes(3, 5)) == list(hostile.damaged_scopes(3, 5))
    assert list(hostile.damaged_scopes(3, 5)) != list(hostile.damaged_scopes(4, 5))
