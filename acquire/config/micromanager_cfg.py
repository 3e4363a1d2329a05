"""Finds problems of a scope file and its .cfg without a core."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from wbcpipe.acquire.config.cfg_reader import read_config
from wbcpipe.acquire.config.light_lint import lighting_problems, lighting_warnings, lights_of
from wbcpipe.acquire.config.pixel_size import pixel_size_warnings
from wbcpipe.acquire.config.policies import MAX_FOCUS_FRAMES
from wbcpipe.acquire.config.stage_moves import move_problems, move_warnings
from wbcpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wbcpipe.acquire.config.cfg_reader import HardwareConfig
    from wbcpipe.acquire.config.policies import DeviceSetting
    from wbcpipe.acquire.config.scope import LightSettings, Scope

__all__ = [
    "check_configuration",
    "configuration_problems",
    "configuration_warnings",
    "light_settings",
    "loader_problems",
    "staining_problems",
]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _absent(what: str, name: str, there: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(there), n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{what} {name!r} is not in the .cfg{hint} (it has: {_listed(there)})"


def light_settings(
    scope: Scope, config: HardwareConfig, light: LightSettings
) -> tuple[tuple[str, str, str], ...]:
    """Return the (device, property, value) settings of a modality, or of ``light.dark``.

    Raises:
        ConfigError: Its group or preset is not in the .cfg.
    """
    if settings := config.light(light):
        return tuple(settings)
    raise ConfigError(f"{scope.path}: " + "; ".join(configuration_problems(scope, config)) + ".")


def check_configuration(scope: Scope) -> list[str]:
    """Check a scope file and its .cfg without touching a device, and return warnings.

    Raises:
        ConfigError: A problem was found; the text names all of them.
    """
    config = read_config(scope.config_path)
    if found := configuration_problems(scope, config):
        raise ConfigError(f"{scope.path}: {'; '.join(found)}.")
    return configuration_warnings(scope, config)


def configuration_warnings(scope: Scope, config: HardwareConfig) -> list[str]:
    """Return warnings: presets that nobody can use, lights and pixel sizes to look at, moves, long
    focus searches.
    """
    used = _used_presets(scope)
    warnings = [text for group, preset, text in config.equal_presets if (group, preset) not in used]
    for preset, texts in config.preset_problems.items():
        warnings += [] if preset in used else texts
    for found in (lighting_warnings, move_warnings, pixel_size_warnings):
        warnings += found(scope, config)
    focus = scope.focus
    if focus.method != "fixed" and focus.max_frames > MAX_FOCUS_FRAMES:
        warnings.append(
            f"'focus': a search through +-{focus.range_um:g} um in steps of "
            f"{focus.coarse_step_um:g} um may take "
            f"{focus.max_frames} frames; {MAX_FOCUS_FRAMES} do with 'coarse_step_um' of "
            f"{focus.range_um / 3:.3g} or more, or with a 'range_um' of "
            f"{3 * focus.coarse_step_um:g} or less"
        )
    return warnings


def configuration_problems(scope: Scope, config: HardwareConfig) -> list[str]:
    """Return sentences about problems of a scope file and its .cfg; none if both are correct."""
    lights = lights_of(scope)
    used = _used_presets(scope)
    found = [
        *config.problems,
        *(text for key, texts in config.preset_problems.items() if key in used for text in texts),
    ]
    devices = {
        "camera.device": scope.camera.device,
        "stage.xy_device": scope.stage.xy_device,
        "stage.z_device": scope.stage.z_device,
        **(
            {"light.shutter_device": scope.light.shutter_device}
            if scope.light.shutter_device
            else {}
        ),
        **({"label.device": scope.label.device} if scope.label.method == "camera" else {}),
        **(
            {"focus.hardware_device": scope.focus.hardware_device}
            if scope.focus.method == "hardware"
            else {}
        ),
    }
    for key in ("lamp_on", "lamp_off"):
        for number, setting in enumerate(getattr(scope.label, key)):
            devices[f"label.{key}[{number}].device"] = setting.device
    for where, light in lights.items():
        for number, setting in enumerate(light.settings):
            devices[f"{where}.settings[{number}].device"] = setting.device
        if light.group and light.group not in config.presets:
            found.append(_absent(f"{where}.group", light.group, config.presets))
        elif light.group and light.preset not in config.presets[light.group]:
            found.append(_absent(f"{where}.preset", light.preset, config.presets[light.group]))
    known = {*config.devices, "Core"}
    found += [
        _absent(key, device, config.devices)
        for key, device in devices.items()
        if device not in known
    ]
    for problems in (
        _camera_problems,
        staining_problems,
        loader_problems,
        lighting_problems,
        move_problems,
    ):
        found += problems(scope, config)
    return found


def _used_presets(scope: Scope) -> set[tuple[str, str]]:
    """Return (group, preset) of those that are set: by the lights, and by the core as it loads and
    unloads the .cfg.
    """
    of_lights = {(light.group, light.preset) for light in lights_of(scope).values() if light.group}
    return of_lights | {("System", "Startup"), ("System", "Shutdown")}


def _camera_problems(scope: Scope, config: HardwareConfig) -> list[str]:
    """Return sentences about a camera that is several, and about fewer bits than the scope file
    says.
    """
    device, found = scope.camera.device, []
    if config.devices.get(device) == ("Utilities", "Multi Camera"):
        found.append(
            f"camera.device {device!r} is a Multi Camera: its sequences mix the frames of several "
            f"cameras, so that lights are taken twice; name the one physical camera"
        )
    depths = [
        value for label, name, value in config.settings if (label, name) == (device, "BitDepth")
    ]
    number = re.match(r"\d{1,2}", depths[-1]) if depths else None
    if number is not None and int(number[0]) < scope.camera.bits:
        found.append(
            f"the .cfg sets {device!r} to a BitDepth of {depths[-1]}, 'camera.bits' is "
            f"{scope.camera.bits}: write bits = {number[0]}, or over-exposure is not seen"
        )
    return found


def staining_problems(scope: Scope, config: HardwareConfig) -> list[str]:
    """Return sentences about devices and labels of the staining steps that are not in the .cfg."""
    steps = [*scope.staining.keyed_steps(), *scope.staining.keyed_safe_state()]
    return _setting_problems(config, [(where, step, step.value) for where, step in steps])


def loader_problems(scope: Scope, config: HardwareConfig) -> list[str]:
    """Return sentences about devices and labels of the loader's steps that are not in the .cfg."""
    steps = scope.loader.keyed_steps()
    return _setting_problems(
        config, [(where, step, step.value if step.fixed else None) for where, step in steps]
    )


def _setting_problems(
    config: HardwareConfig, settings: Iterable[tuple[str, DeviceSetting, str | None]]
) -> list[str]:
    """Return sentences about settings, each with its key and its value if that is known, that are
    not in the .cfg.
    """
    found = []
    for where, setting, value in settings:
        if setting.device not in (*config.devices, "Core"):
            found.append(_absent(f"{where}.device", setting.device, config.devices))
        elif (
            setting.property == "Label"
            and value is not None
            and not config.has_label(setting.device, value)
        ):
            found.append(_absent(f"{where}.value", value, config.labels[setting.device]))
    return found
