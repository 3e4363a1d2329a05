"""A microscope is left dark, without its slide, and parked; what cannot be done is told."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from wbcpipe.acquire.config.scope import load_scope
from wbcpipe.acquire.config.slide_policies import Loader, SlidePlace
from wbcpipe.acquire.loader.record import LoaderRecord, read_loader, write_loader
from wbcpipe.batch.supervise.leave_microscope import Left, leave_microscope

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each process that would close the shutter parks the stage."""
    found: list[bool] = []

    def close(_: Any, *, park: bool = False) -> str:
        found.append(park)
        return ""

    monkeypatch.setattr(
        "wbcpipe.batch.supervise.leave_microscope.close_shutter_in_subprocess", close
    )
    return found


def scope_with_robot(code: int = 0, park_um: tuple[float, float] | None = (0.0, 0.0)) -> Scope:
    scope = load_scope("demo")
    program = [
        sys.executable,
        "-S",
        "-c",
        f"print('the gripper is open'); raise SystemExit({code})",
    ]
    loader = Loader.model_validate(
        {"method": "command", "load_command": program, "unload_command": program}
    )
    stage = scope.stage.model_copy(update={"park_um": park_um})
    return scope.model_copy(update={"loader": loader, "stage": stage})


def loaded(scope: Scope, data: Path) -> Scope:
    place = SlidePlace(slide="S7", slot="A", number=7)
    write_loader(scope, data, LoaderRecord(state="loaded", place=place, method="command"))
    return scope


def leave(scope: Scope, data: Path, *, unload: bool = True) -> Left:
    return leave_microscope(scope, data, unload=unload, park=True, say=lambda _: None)


def test_the_slide_is_taken_away_in_the_dark_before_the_stage_is_parked(
    tmp_path: Path, closed: list[bool]
) -> None:
    scope = loaded(scope_with_robot(), tmp_path)
    assert leave(scope, tmp_path) == Left(unloaded="S7")
    assert closed == [False, True]
    assert read_loader(scope, tmp_path).state == "empty"
    assert leave(scope, tmp_path) == Left()  # nothing lies there


def test_a_slide_that_is_still_needed_stays(tmp_path: Path, closed: list[bool]) -> None:
    scope = loaded(scope_with_robot(), tmp_path)
    assert leave(scope, tmp_path, unload=False) == Left()
    assert closed == [True]
    assert read_loader(scope, tmp_path).state == "loaded"


def test_a_slide_that_cannot_be_taken_away_is_told_and_the_stage_stays(
    tmp_path: Path, closed: list[bool]
) -> None:
    scope = loaded(scope_with_robot(code=3), tmp_path)
    left = leave(scope, tmp_path)
    assert left.error == "LoaderStateError"
    assert "the gripper is open" in left.reason
    assert "wbcpipe loader state --scope demo --slide S7" in left.reason
    assert closed == [False]


def test_a_shutter_that_may_be_open_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "wbcpipe.batch.supervise.leave_microscope.close_shutter_in_subprocess",
        lambda *_, **__: "the process died (SIGSEGV)",
    )
    assert leave(load_scope("demo"), tmp_path).lit == (
        "It is not certain that the slide is in the dark (the process died (SIGSEGV)): check the "
        "lamp."
    )
