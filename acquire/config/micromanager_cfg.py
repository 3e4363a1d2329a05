"""Reads Micro-Manager's .cfg file without a core, and finds problems of a scope file and its .cfg."""

from __future__ import annotations

import difflib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wbcpipe.acquire.config.policies import MAX_FOCUS_FRAMES
from wbcpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from wbcpipe.acquire.config.policies import DeviceSetting
    from wbcpipe.acquire.config.scope import LightSettings, Scope

__all__ = [
    "HardwareConfig",
    "check_configuration",
    "configuration_problems",
    "configuration_warnings",
    "light_settings",
    "loader_problems",
    "read_config",
    "same_value",
    "staining_problems",
]

#: Minimum number of comma-separated parts of a line, with its keyword.
_LENGTHS = {"Device": 4, "Property": 3, "Label": 4, "ConfigGroup": 2, "Parent": 3, "Delay": 3}


@dataclass
class HardwareConfig:
    """Content of a .cfg file.

    Attributes:
        devices: Label to (adapter library, device name).
        presets: Group to preset to its (device, property, value) settings, in order.
        labels: Device to its state labels.
        settings: (device, property, value) set when the file is loaded, in order; those of ``System``/``Startup`` last.
        problems: Sentences about errors in the file itself.
        equal_presets: Group, and a sentence about two of its presets with equal settings.
    """

    devices: dict[str, tuple[str, str]] = field(default_factory=dict)
    presets: dict[str, dict[str, list[tuple[str, str, str]]]] = field(default_factory=dict)
    labels: dict[str, list[str]] = field(default_factory=dict)
    settings: list[tuple[str, str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    equal_presets: list[tuple[str, str]] = field(default_factory=list)


def read_config(path: Path) -> HardwareConfig:
    """Read a .cfg file.

    Raises:
        ConfigError: The file does not exist, or is not text.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ConfigError(f"{path}: no such Micro-Manager configuration; correct 'micromanager.config'.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file ({error}).") from error
    config = HardwareConfig()
    complete: set[tuple[str, str]] = set()
    last: tuple[str, str] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        parts = [part.strip() for part in line.split(",", 5)]
        where = f"{path.name} line {number}"
        if len(parts) < _LENGTHS.get(parts[0], 1):
            config.problems.append(f"{where}: {line.strip()!r} is too short for a {parts[0]} line")
            continue
        if parts[0] == "ConfigGroup" and len(parts) >= 6:
            here = (parts[1], parts[2])
            if here != last and last is not None:
                complete.add(last)
            if here in complete:
                config.problems.append(f"{where}: preset {parts[2]!r} of group {parts[1]!r} is defined twice")
            last = here
        _add_line(config, parts, where)
    config.settings += config.presets.get("System", {}).get("Startup", [])
    _check_settings(config, path)
    return config


def _add_line(config: HardwareConfig, parts: list[str], where: str) -> None:
    match parts[0]:
        case "Device":
            if parts[1] in config.devices:
                config.problems.append(f"{where}: device {parts[1]!r} is declared twice")
            config.devices[parts[1]] = (parts[2], parts[3])
        case "Label":
            config.labels.setdefault(parts[1], []).append(parts[3])
        case "ConfigGroup":
            group = config.presets.setdefault(parts[1], {})
            if len(parts) >= 5:
                value = parts[5] if len(parts) > 5 else ""
                group.setdefault(parts[2], []).append((parts[3], parts[4], value))
        case "Property" | "Parent" | "Delay" | "FocusDirection":
            if parts[1] != "Core" and parts[1] not in config.devices:
                config.problems.append(f"{where}: device {parts[1]!r} is not declared before it is used")
            if parts[0] == "Property":
                config.settings.append((parts[1], parts[2], ",".join(parts[3:])))
        case _:
            pass


def _check_settings(config: HardwareConfig, path: Path) -> None:
    seen: dict[tuple[str, tuple[tuple[str, str, str], ...]], str] = {}
    for group, presets in config.presets.items():
        for preset, settings in presets.items():
            where = f"{path.name}: preset {preset!r} of group {group!r}"
            _check_preset(config, where, settings)
            other = seen.setdefault((group, tuple(sorted(settings))), preset)
            if other != preset:
                text = f"{where} does the same as {other!r}; the core cannot tell which one is set"
                config.equal_presets.append((group, text))


def _check_preset(config: HardwareConfig, where: str, settings: list[tuple[str, str, str]]) -> None:
    for device, name, value in settings:
        if device != "Core" and device not in config.devices:
            config.problems.append(f"{where} names the device {device!r}, which is not declared")
        labels = config.labels.get(device)
        if name == "Label" and labels and value not in labels:
            config.problems.append(f"{where} sets {device!r} to the label {value!r}; it has {_listed(labels)}")
    for (device, name), count in Counter((device, name) for device, name, _ in settings).items():
        if count > 1:
            config.problems.append(f"{where} sets {device}-{name} {count} times")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _absent(what: str, name: str, there: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(there), n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{what} {name!r} is not in the .cfg{hint} (it has: {_listed(there)})"


def light_settings(scope: Scope, config: HardwareConfig, light: LightSettings) -> tuple[tuple[str, str, str], ...]:
    """Return the (device, property, value) settings of a modality, or of ``light.dark``.

    Raises:
        ConfigError: Its group or preset is not in the .cfg.
    """
    if settings := _settings(config, light):
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
    """Return warnings: equal presets in groups that the scope does not use, and long focus searches."""
    used = {light.group for light in _lights(scope).values()}
    warnings = [text for group, text in config.equal_presets if group not in used]
    focus = scope.focus
    if focus.method != "fixed" and focus.max_frames > MAX_FOCUS_FRAMES:
        warnings.append(
            f"'focus': a search through +-{focus.range_um:g} um in steps of {focus.coarse_step_um:g} um may take "
            f"{focus.max_frames} frames; {MAX_FOCUS_FRAMES} do with 'coarse_step_um' of {focus.range_um / 3:.3g} or "
            f"more, or with a 'range_um' of {3 * focus.coarse_step_um:g} or less"
        )
    return warnings


def _lights(scope: Scope) -> dict[str, LightSettings]:
    """Return each light setting of a scope file by its key."""
    lights: dict[str, LightSettings] = {f"modalities.{name}": modality for name, modality in scope.modalities.items()}
    return lights if scope.light.dark is None else {**lights, "light.dark": scope.light.dark}


def configuration_problems(scope: Scope, config: HardwareConfig) -> list[str]:
    """Return sentences about problems of a scope file and its .cfg; none if both are correct."""
    lights = _lights(scope)
    used = {light.group for light in lights.values()}
    found = [*config.problems, *(text for group, text in config.equal_presets if group in used)]
    devices = {
        "camera.device": scope.camera.device,
        "stage.xy_device": scope.stage.xy_device,
        "stage.z_device": scope.stage.z_device,
        **({"light.shutter_device": scope.light.shutter_device} if scope.light.shutter_device else {}),
        **({"label.device": scope.label.device} if scope.label.method == "camera" else {}),
        **({"focus.hardware_device": scope.focus.hardware_device} if scope.focus.method == "hardware" else {}),
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
    found += [_absent(key, device, config.devices) for key, device in devices.items() if device not in known]
    for problems in (staining_problems, loader_problems):
        found += problems(scope, config)
    return found + _lighting_problems(config, lights)


def staining_problems(scope: Scope, config: HardwareConfig) -> list[str]:
    """Return sentences about devices and labels of the staining steps that are not in the .cfg."""
    steps = [*scope.staining.keyed_steps(), *scope.staining.keyed_safe_state()]
    return _setting_problems(config, [(where, step, step.value) for where, step in steps])


def loader_problems(scope: Scope, config: HardwareConfig) -> list[str]:
    """Return sentences about devices and labels of the loader's steps that are not in the .cfg."""
    steps = scope.loader.keyed_steps()
    return _setting_problems(config, [(where, step, step.value if step.fixed else None) for where, step in steps])


def _setting_problems(config: HardwareConfig, settings: Iterable[tuple[str, DeviceSetting, str | None]]) -> list[str]:
    """Return sentences about settings, each with its key and its value if that is known, that are not in the .cfg."""
    found = []
    for where, setting, value in settings:
        labels = config.labels.get(setting.device)
        if setting.device not in (*config.devices, "Core"):
            found.append(_absent(f"{where}.device", setting.device, config.devices))
        elif setting.property == "Label" and labels and value is not None and value not in labels:
            found.append(_absent(f"{where}.value", value, labels))
    return found


def _lighting_problems(config: HardwareConfig, lights: dict[str, LightSettings]) -> list[str]:
    """Return sentences about modalities with equal light, and those that 'light.dark' would leave lit."""
    found = []
    seen: dict[tuple[tuple[str, str, str], ...], str] = {}
    dark = set(_settings(config, lights["light.dark"])) if "light.dark" in lights else set()
    for where, light in lights.items():
        settings = tuple(sorted(_settings(config, light)))
        if not settings or where == "light.dark":
            continue
        if seen.setdefault(settings, where) != where:
            found.append(f"{where} is lit exactly as {seen[settings]}")
        if dark and dark <= set(settings):
            found.append(f"light.dark sets nothing that {where} does not also set, so that light would stay on")
    return found


def _settings(config: HardwareConfig, light: LightSettings) -> list[tuple[str, str, str]]:
    """Return the settings of a light; none if its preset is not in the .cfg."""
    if light.settings:
        return [(setting.device, setting.property, setting.value) for setting in light.settings]
    return config.presets.get(light.group, {}).get(light.preset, [])


def same_value(got: str, wanted: str) -> bool:
    """Return whether a device's answer equals the value that was set: ``1.0000`` equals ``1``."""
    if got == wanted:
        return True
    try:
        return float(got) == float(wanted)
    except ValueError:
        return False
