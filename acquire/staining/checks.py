"""Check that the slide can be stained as the scope file says, before the first pass: it cannot be repeated."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

from wbcpipe.acquire.config.micromanager_cfg import read_config, staining_problems
from wbcpipe.errors import ConfigError

if TYPE_CHECKING:
    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.core_link import CoreLink

__all__ = ["check_staining", "check_steps", "program_problem", "property_problem", "step_problems"]


def program_problem(scope: Scope) -> str:
    """Return why the staining program cannot be started; empty if it can, or if there is none."""
    command = scope.staining.command
    if not command or shutil.which(command[0]):
        return ""
    return f"staining.command: there is no program {command[0]!r} that can be started; give its full path"


def check_staining(scope: Scope) -> None:
    """Refuse a staining that cannot work, as far as this can be checked without the microscope.

    Raises:
        ConfigError: a step names what the .cfg does not have, the program is not there, or an operator must stain
            the slide and there is none at a terminal.
    """
    problems = staining_problems(scope, read_config(scope.config_path)) if scope.staining.steps else []
    problems += filter(None, [program_problem(scope)])
    if problems:
        raise ConfigError(f"{scope.path}: {'; '.join(problems)}.")
    if scope.staining.method == "prompt" and not sys.stdin.isatty():
        raise ConfigError(
            f"scope {scope.name!r}: the slide is stained by hand, and there is no operator at a terminal. Run --pass "
            "brightfield now and --pass fluorescence after the stain, or describe a pump or a program in [staining]."
        )


def step_problems(scope: Scope, link: CoreLink) -> list[str]:
    """Return what the loaded devices lack or do not accept of the staining's steps; nothing is set."""
    steps = scope.staining.keyed_steps()
    found = ((key, property_problem(link, step.device, step.property, step.value)) for key, step in steps)
    return [f"{key}: {problem}" for key, problem in found if problem]


def property_problem(link: CoreLink, device: str, name: str, value: str) -> str:
    """Return why a loaded device does not accept a value for its property ``name``; empty if it does."""
    if device not in (*link.devices(), "Core"):
        return f"device {device!r} is not loaded; add it to the .cfg"
    if not link.has_property(device, name):
        return f"{device!r} has no property {name!r}; it has {', '.join(link.properties(device))}"
    allowed = link.allowed_values(device, name)
    if allowed and value not in allowed:
        return f"{device}-{name} does not accept {value!r}; it accepts {', '.join(allowed)}"
    if limits := link.limits(device, name):
        try:
            inside = limits[0] <= float(value) <= limits[1]
        except ValueError:
            inside = False
        if not inside:
            return f"{device}-{name} = {value} is outside {limits[0]:g} to {limits[1]:g}"
    return ""


def check_steps(scope: Scope, link: CoreLink) -> None:
    """Refuse a staining that the loaded devices cannot carry out.

    Raises:
        ConfigError: the text names each step that does not hold.
    """
    if problems := step_problems(scope, link):
        raise ConfigError(f"{scope.path}: {'; '.join(problems)}.")
