"""Lines of a .cfg that move a stage when it is loaded, and the file without them.

The core carries them out whenever the devices are initialised: at the start, and again in the
middle of a run after a fault, when it unloads them first. They are left out of what it is given.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wbcpipe.acquire.config.cfg_reader import CfgSetting, HardwareConfig
    from wbcpipe.acquire.config.scope import Scope

__all__ = ["config_for_core", "move_problems", "move_warnings", "stage_moves"]

_STAGE: Final = re.compile(r"(?i)stage|focus|z[ _-]?(drive|motor)|piezo|\b[xyz]\b")
_MOVES: Final = re.compile(
    r"(?i)(?!.*(limit|speed|velocity|number|max|min|polarity|direction|timeout|range|on start))"
    r".*(position|go[ _-]?to|\bmove|target|\bhome|set[ _-]?point|displacement)"
)
_HOMES: Final = re.compile(r"(?i)(?=.*(start|init|load|auto)).*(home|homing).*")
_OFF: Final = {"no", "off", "false", "0", "disabled", "never", "none"}


def stage_moves(scope: Scope, config: HardwareConfig) -> list[CfgSetting]:
    """Return the settings that move a stage or the focus drive when the .cfg is loaded or
    unloaded.
    """
    named = {
        scope.stage.xy_device,
        scope.stage.z_device,
        config.role("Focus"),
        config.role("XYStage"),
    }
    return [
        setting
        for setting in (*config.startup, *config.shutdown)
        if (
            setting.device in named
            or _STAGE.search(" ".join((setting.device, *config.devices.get(setting.device, ()))))
        )
        and _MOVES.fullmatch(setting.property)
    ]


def move_problems(scope: Scope, config: HardwareConfig) -> list[str]:
    """Return sentences about lines that would drive the focus beyond its soft limits."""
    return [
        f"{_told(setting)}, beyond 'stage.z_um' of {scope.stage.z_um[0]:g} to "
        f"{scope.stage.z_um[1]:g} um: remove that "
        "line"
        for setting in stage_moves(scope, config)
        if _is_beyond(scope, setting)
    ]


def move_warnings(scope: Scope, config: HardwareConfig) -> list[str]:
    """Return sentences about the other lines that move a stage."""
    by_whom = (
        "Micro-Manager carries it out"
        if scope.micromanager.backend == "bridge"
        else "wbcpipe leaves it out, Micro-Manager does not"
    )
    return [
        f"{_told(setting)}; {by_whom}: remove that line"
        for setting in stage_moves(scope, config)
        if not _is_beyond(scope, setting)
    ] + [
        f"line {setting.line} of the .cfg has {setting.device!r} home ({setting.property} = "
        f"{setting.value}) whenever the devices are loaded, again after a fault in the middle of a "
        f"run: take the slide out first, or write No there, and home by hand"
        for setting in (*config.pre_init, *config.startup)
        if _HOMES.fullmatch(setting.property) and setting.value.casefold() not in _OFF
    ]


def config_for_core(scope: Scope, config: HardwareConfig) -> bytes | None:
    """Return what the core is to load in place of the .cfg; ``None`` if it can load the file
    itself.

    Lines that move a stage become comments, so that line numbers stay. Labels of a file that is not
    UTF-8 become UTF-8: the core takes no others back.
    """
    moves = {setting.line for setting in _all_lines(config, stage_moves(scope, config))}
    if not moves and config.is_utf8:
        return None
    lines = (
        f"# left out: {line}" if number in moves else line
        for number, line in enumerate(config.lines, 1)
    )
    return "\n".join(lines).encode("utf-8")


def _all_lines(config: HardwareConfig, moves: list[CfgSetting]) -> Iterator[CfgSetting]:
    """Yield each setting with those that a later line of the same preset replaces."""
    places = {(setting.device, setting.property, setting.preset) for setting in moves}
    for setting in (*config.startup, *config.shutdown, *config.replaced):
        if (setting.device, setting.property, setting.preset) in places:
            yield setting


def _told(setting: CfgSetting) -> str:
    where = f" (System/{setting.preset})" if setting.preset else ""
    when = "unloaded" if setting.preset == "Shutdown" else "loaded"
    move = f"{setting.property} = {setting.value}"
    return (
        f"line {setting.line} of the .cfg{where} drives {setting.device!r} ({move}) when it is "
        f"{when}"
    )


def _is_beyond(scope: Scope, setting: CfgSetting) -> bool:
    if setting.device != scope.stage.z_device:
        return False
    try:
        z_um = float(setting.value)
    except ValueError:
        return False
    return not math.isfinite(z_um) or not scope.stage.z_um[0] <= z_um <= scope.stage.z_um[1]
