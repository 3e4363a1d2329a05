"""Check a procedure before it starts.

That its program can be started, and that the devices accept its steps.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from wbcpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from wbcpipe.acquire.config.policies import DeviceSetting
    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.core_link import CoreLink

__all__ = ["check_steps", "program_problem", "property_problem", "step_problems"]


def program_problem(key: str, command: Sequence[str]) -> str:
    """Return why a program cannot be started; empty if it can, or if there is none.

    Args:
        key: of the program in the scope file, such as ``staining.command``.
        command: the program and its arguments.
    """
    if not command or shutil.which(command[0]):
        return ""
    return f"{key}: there is no program {command[0]!r} that can be started; give its full path"


def step_problems(link: CoreLink, steps: Iterable[tuple[str, DeviceSetting]]) -> list[str]:
    """Return what the loaded devices lack or do not accept of steps, each with its key.

    Nothing is set.
    """
    found = (
        (key, property_problem(link, step.device, step.property, step.value)) for key, step in steps
    )
    return [f"{key}: {problem}" for key, problem in found if problem]


def property_problem(link: CoreLink, device: str, name: str, value: str | None) -> str:
    """Return why a loaded device does not accept a value for its property ``name``.

    Empty if it does.

    Args:
        link: the core.
        device, name: the device's label and the property.
        value: to set; ``None`` where it is not known yet.
    """
    if device not in (*link.devices(), "Core"):
        return f"device {device!r} is not loaded; add it to the .cfg"
    if not link.has_property(device, name):
        return f"{device!r} has no property {name!r}; it has {', '.join(link.properties(device))}"
    if value is None:
        return ""
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


def check_steps(scope: Scope, link: CoreLink, steps: Iterable[tuple[str, DeviceSetting]]) -> None:
    """Refuse steps that the loaded devices cannot carry out.

    Raises:
        ConfigError: the text names each step that does not hold.
    """
    if problems := step_problems(link, steps):
        raise ConfigError(f"{scope.path}: {'; '.join(problems)}.")
