"""Check a scope's loader.

The limits and programs of its file, and the steps against the loaded devices.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from wbcpipe.acquire.config.cfg_reader import read_config
from wbcpipe.acquire.config.micromanager_cfg import loader_problems
from wbcpipe.acquire.loader.workflow import LoadRequest
from wbcpipe.acquire.procedures.checks import program_problem, property_problem
from wbcpipe.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.core_link import CoreLink

__all__ = [
    "check_loader",
    "live_loader_problems",
    "load_request",
    "loader_file_problems",
    "slot_for",
]


def check_loader(scope: Scope, *, operator: bool = True) -> None:
    """Refuse a loader that cannot work, as far as this can be checked without the microscope.

    Args:
        scope: with its loader.
        operator: one who is asked must be at a terminal.

    Raises:
        ConfigError: the scope has no loader, or no operator for it; a step names what the .cfg does
            not have; a program is not there; a position is beyond the stage's limits.
    """
    if scope.loader.method == "none":
        raise ConfigError(
            f"scope {scope.name!r} has no loader; describe it in [loader] of {scope.path}."
        )
    if operator and scope.loader.method == "prompt" and not sys.stdin.isatty():
        raise ConfigError(
            f"scope {scope.name!r}: an operator brings the slides, and there is none at a "
            f"terminal. Run the command at a terminal, use `wbcpipe batch run`, or describe "
            "devices or a program in [loader]."
        )
    problems = loader_problems(scope, read_config(scope.config_path)) if scope.loader.load else []
    if problems := problems + loader_file_problems(scope):
        raise ConfigError(f"{scope.path}: {'; '.join(problems)}.")


def slot_for(scope: Scope, asked: str | None) -> str:
    """Return the slot of a slide: the one that was asked for, that of the loader, or A.

    Raises:
        ConfigError: the loader brings slides to another slot than the one that was asked for.
    """
    if asked is not None and scope.loader_slot and asked != scope.loader_slot:
        raise ConfigError(
            f"scope {scope.name!r}: its loader brings slides to slot {scope.loader_slot!r}, and "
            f"slot {asked!r} is asked for; leave the slot out."
        )
    return asked or scope.loader_slot or "A"


def load_request(scope: Scope, data: Path, slide: str, number: int | None) -> LoadRequest | None:
    """Return the request to load a slide; ``None`` where the scope has no loader.

    Raises:
        ConfigError: the loader cannot work, or not with this id or place; or a place is given and
            there is no loader.
    """
    if scope.loader.method == "none":
        if number is not None:
            raise ConfigError(
                f"--place {number}: scope {scope.name!r} has no loader; leave it out."
            )
        return None
    check_loader(scope)
    request = LoadRequest(scope, data, slide, number or 0)
    request.place()
    return request


def loader_file_problems(scope: Scope) -> list[str]:
    """Return what is wrong with the loader beyond its .cfg: programs that are not there, positions
    out of reach.
    """
    policy, stage = scope.loader, scope.stage
    commands = (
        ("loader.load_command", policy.load_command),
        ("loader.unload_command", policy.unload_command),
    )
    found = [program_problem(key, command) for key, command in commands]
    if policy.handover_um is not None:
        axes = [("x", policy.handover_um[0], stage.x_um), ("y", policy.handover_um[1], stage.y_um)]
        if policy.handover_z_um is not None:
            axes.append(("z", policy.handover_z_um, stage.z_um))
        for axis, value, (low, high) in axes:
            if not low <= value <= high:
                key = "handover_z_um" if axis == "z" else "handover_um"
                found.append(
                    f"loader.{key}: {axis} = {value:g} um is beyond the limits, {low:g} to "
                    f"{high:g} um"
                )
    return [problem for problem in found if problem]


def live_loader_problems(scope: Scope, link: CoreLink) -> list[str]:
    """Return what the loaded devices lack or do not accept of the loader's steps.

    Nothing is set.
    """
    found = (
        (
            key,
            property_problem(link, step.device, step.property, step.value if step.fixed else None),
        )
        for key, step in scope.loader.keyed_steps()
    )
    return [f"{key}: {problem}" for key, problem in found if problem]
