"""Can the slide be stained as the scope file says? Asked before anything is taken, for nothing can be made up for."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

from wbcpipe.acquire.config.micromanager_cfg import read_config, staining_problems
from wbcpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wbcpipe.acquire.config.scope import Scope, StainingStep
    from wbcpipe.acquire.hardware.core_link import CoreLink
    from wbcpipe.acquire.hardware.protocols import Microscope
    from wbcpipe.acquire.plan import PlannedPass
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan

__all__ = ["check_staining", "check_steps", "open_checked", "program_problem", "step_problems"]


def program_problem(scope: Scope) -> str:
    """Why the staining program cannot be started; empty if it can, or there is none."""
    command = scope.staining.command
    if not command or shutil.which(command[0]):
        return ""
    return f"staining.command: there is no program {command[0]!r} that can be started; give its whole path"


def check_staining(scope: Scope) -> None:
    """Refuse a staining that cannot be, as far as that is seen without the microscope.

    Raises:
        ConfigError: a step names what the .cfg does not have, the program is not there; or the operator must do it and
            there is none at a terminal.
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
    """What the loaded devices do not have or take of the staining's steps, in words; nothing is set."""
    loaded = (*link.devices(), "Core")
    return [
        f"{place}: {problem}" for place, step in _steps(scope) if (problem := _problem(step, link, loaded=loaded)) != ""
    ]


def _steps(scope: Scope) -> Iterator[tuple[str, StainingStep]]:
    for key, steps in (("steps", scope.staining.steps), ("safe_state", scope.staining.safe_state or ())):
        for number, step in enumerate(steps):
            yield f"staining.{key}[{number}]", step


def _problem(step: StainingStep, link: CoreLink, *, loaded: tuple[str, ...]) -> str:
    if step.device not in loaded:
        return f"device {step.device!r} is not loaded"
    if not link.has_property(step.device, step.property):
        return f"{step.device!r} has no property {step.property!r}; it has {', '.join(link.properties(step.device))}"
    allowed = link.allowed_values(step.device, step.property)
    if allowed and step.value not in allowed:
        return f"{step.device}-{step.property} does not take {step.value!r}; it takes {', '.join(allowed)}"
    if limits := link.limits(step.device, step.property):
        try:
            inside = limits[0] <= float(step.value) <= limits[1]
        except ValueError:
            inside = False
        if not inside:
            return f"{step.device}-{step.property} = {step.value} is outside {limits[0]:g} to {limits[1]:g}"
    return ""


def check_steps(scope: Scope, link: CoreLink) -> None:
    """Refuse a staining that the loaded devices cannot carry out.

    Raises:
        ConfigError: the text names each step that does not hold.
    """
    if problems := step_problems(scope, link):
        raise ConfigError(f"{scope.path}: {'; '.join(problems)}.")


def open_checked(
    scope: Scope, specimen: SpecimenPlan | None = None, planned: PlannedPass | None = None, /
) -> Microscope:
    """Open the microscope for the first of two passes, if its devices can stain the slide after it.

    Raises:
        ConfigError: they cannot.
        HardwareError: it does not open.
    """
    from wbcpipe.acquire.hardware.microscope import CoreMicroscope
    from wbcpipe.acquire.open_microscope import open_microscope

    microscope = open_microscope(scope, specimen, planned)
    try:
        if isinstance(microscope, CoreMicroscope):
            check_steps(scope, microscope.link)
    except BaseException:
        microscope.close()
        raise
    return microscope
