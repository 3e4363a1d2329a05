"""Finds presets and settings whose lights add up, are lit outside exposures, or switch more than
light.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from wbcpipe.acquire.config.cfg_reader import same_value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wbcpipe.acquire.config.cfg_reader import HardwareConfig
    from wbcpipe.acquire.config.scope import LightSettings, Scope

__all__ = ["lighting_problems", "lighting_warnings", "lights_of", "shutters_of"]

#: Properties of a shutter that open it, and the values that close it.
_OPENS: Final = re.compile(r"(?i)state|on[ /_-]?off|open|power|shutter|shutter[ _-]?(state|open)")
_CLOSED: Final = re.compile(r"(?i)0+(\.0*)?|closed?|off|false|no|disabled?")
_SHUTTER: Final = re.compile(r"(?i)shutter")

_Setting = tuple[str, str, str]


def lights_of(scope: Scope) -> dict[str, LightSettings]:
    """Return each light setting of a scope file by its key."""
    lights: dict[str, LightSettings] = {
        f"modalities.{name}": modality for name, modality in scope.modalities.items()
    }
    return lights if scope.light.dark is None else {**lights, "light.dark": scope.light.dark}


def shutters_of(scope: Scope, config: HardwareConfig) -> dict[str, str]:
    """Return the shutter of each modality by the modality's key: that of its preset, else
    ``light.shutter_device``.
    """
    shutters = {}
    for where, light in lights_of(scope).items():
        named = [
            value
            for device, name, value in config.light(light)
            if (device, name) == ("Core", "Shutter")
        ]
        if where != "light.dark":
            shutters[where] = named[-1] if named else scope.light.shutter_device
    return shutters


def lighting_problems(scope: Scope, config: HardwareConfig) -> list[str]:
    """Return sentences about lights that are wrong in some modality, or lit outside exposures."""
    settings = {where: config.light(light) for where, light in lights_of(scope).items()}
    return [
        *_equal_lights(settings),
        *_open_settings(config, settings),
        *(
            text
            for where in settings
            for text in _more_than_light(scope, config, where, settings[where])
        ),
    ]


def lighting_warnings(scope: Scope, config: HardwareConfig) -> list[str]:
    """Return sentences about shutters beside ``light.shutter_device``, and shutters opened when the
    .cfg is loaded.
    """
    found = []
    own = scope.light.shutter_device
    shutters = shutters_of(scope, config)
    others = sorted({shutter for shutter in shutters.values() if shutter != own})
    if own and others:
        found.append(
            f"presets switch to the shutter {', '.join(map(repr, others))} beside {own!r} of "
            f"'light.shutter_device': the one that is set is opened, waited for and closed for "
            "each exposure, and all are closed at every exit"
        )
    gating = _gating(scope, config)
    for where, light in lights_of(scope).items():
        for device, name, value in config.light(light):
            other = (
                own
                and device not in gating
                and _SHUTTER.search(" ".join(config.devices.get(device, ())))
            )
            if other and _opens(name, value):
                found.append(
                    f"{where} opens {device!r} ({name} = {value}), which is not closed between "
                    f"exposures; name it in 'light.shutter_device' if it gates the light"
                )
    for setting in (*config.startup, *config.shutdown):
        if setting.device in gating and _opens(setting.property, setting.value):
            when = "unloaded" if setting.preset == "Shutdown" else "loaded"
            found.append(
                f"line {setting.line} of the .cfg opens the shutter {setting.device!r} when it is "
                f"{when}: remove it"
            )
    return found


def _equal_lights(settings: dict[str, list[_Setting]]) -> Iterator[str]:
    """Yield sentences about modalities with equal light, and those that 'light.dark' would leave
    lit.
    """
    seen: dict[tuple[_Setting, ...], str] = {}
    dark = set(settings.get("light.dark", ()))
    for where, light in settings.items():
        if not light or where == "light.dark":
            continue
        if seen.setdefault(tuple(sorted(light)), where) != where:
            yield f"{where} is lit exactly as {seen[tuple(sorted(light))]}"
        if dark and dark <= set(light):
            yield (
                f"light.dark sets nothing that {where} does not also set, so that light would "
                f"stay on"
            )


def _open_settings(config: HardwareConfig, settings: dict[str, list[_Setting]]) -> Iterator[str]:
    """Yield a sentence for each property that one modality sets and another leaves as it is: their
    lights add up.
    """
    modalities = {
        where: light for where, light in settings.items() if where != "light.dark" and light
    }
    dark = {_place(device, name) for device, name, _ in settings.get("light.dark", ())}
    values: dict[tuple[str, str], dict[str, str]] = {}
    for where, light in modalities.items():
        for device, name, value in light:
            values.setdefault(_place(device, name), {})[where] = value
    loaded = {_place(device, name): value for device, name, value in config.settings}
    for place, by_light in values.items():
        without = [where for where in modalities if where not in by_light]
        resting = loaded.get(place)
        is_constant = resting is not None and all(
            same_value(value, resting) for value in by_light.values()
        )
        if without and place not in dark and not is_constant:
            yield (
                f"{place[0]}-{place[1]} is set by {_and(list(by_light))} and left open by "
                f"{_and(without)}: what the one lights stays on in the other; set it in each of "
                "them"
            )


def _place(device: str, name: str) -> tuple[str, str]:
    """Return what a setting acts on: a state device has one position, by its number or by its
    label.
    """
    return (device, "State") if name == "Label" else (device, name)


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _gating(scope: Scope, config: HardwareConfig) -> set[str]:
    """Return the shutters that an exposure opens, with those that a combined shutter opens."""
    gating = {
        shutter
        for shutter in (scope.light.shutter_device, *shutters_of(scope, config).values())
        if shutter
    }
    if scope.light.shutter_device and (of_the_core := config.role("Shutter")):
        gating.add(of_the_core)
    combined = {
        value
        for device, name, value in config.settings
        if device in gating and name.startswith("Physical Shutter") and value in config.devices
    }
    return gating | combined


def _opens(name: str, value: str) -> bool:
    return bool(_OPENS.fullmatch(name)) and not _CLOSED.fullmatch(value.strip())


def _more_than_light(
    scope: Scope, config: HardwareConfig, where: str, settings: list[_Setting]
) -> Iterator[str]:
    """Yield sentences about what a light's settings switch beside the light."""
    roles = {
        "Camera": ("camera", "camera.device", scope.camera.device),
        "Focus": ("focus drive", "stage.z_device", scope.stage.z_device),
        "XYStage": ("XY stage", "stage.xy_device", scope.stage.xy_device),
    }
    gating = _gating(scope, config)
    for device, name, value in settings:
        if device == "Core" and name in roles and value != roles[name][2]:
            what, key, own = roles[name]
            yield (
                f"{where} makes {value!r} the {what} for all that follows (Core-{name}); {key!r} "
                f"is {own!r}: remove that line from the preset"
            )
        elif (device, name) == ("Core", "AutoShutter") and not _CLOSED.fullmatch(value.strip()):
            yield (
                f"{where} switches auto-shutter on, so that the core opens the shutter by "
                f"itself: remove that line"
            )
        elif (device, name) == ("Core", "Initialize"):
            yield f"{where} initialises or unloads the devices (Core-Initialize): remove that line"
        elif (device, name) == ("Core", "Shutter"):
            if value not in config.devices:
                yield f"{where} makes {value!r} the shutter, which the .cfg does not declare"
            elif not scope.light.shutter_device:
                yield (
                    f"{where} makes {value!r} the shutter; name it in 'light.shutter_device', "
                    f"not 'light.dark'"
                )
        elif scope.light.shutter_device and device in gating and _opens(name, value):
            yield (
                f"{where} opens the shutter {device!r} ({name} = {value}): the slide is lit at "
                f"once and outside exposures; remove that line, the shutter is opened for each "
                "exposure"
            )
