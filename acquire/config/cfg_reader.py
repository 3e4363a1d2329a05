"""Reads Micro-Manager's .cfg file without a core, as the core reads it, and names what the core
refuses or drops.

What the core does with each kind of line was tried on MMCore 12.5: it splits at commas and drops
empty parts, keeps blanks, knows a comment by the first character alone, passes over keywords that
it does not know, and stops at a line that is too long for its buffer.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from wbcpipe.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.acquire.config.scope import LightSettings

__all__ = ["CfgSetting", "HardwareConfig", "PixelSize", "read_config", "same_value"]

#: Keyword to the numbers of parts that its lines may have, with the keyword.
_PARTS: Final[dict[str, tuple[int, ...]]] = {
    "Device": (4,),
    "Property": (3, 4),
    "Label": (4,),
    "ConfigGroup": (2, 5, 6),
    "Parent": (3,),
    "Delay": (3,),
    "FocusDirection": (3,),
    "ConfigPixelSize": (5,),
    "PixelSize_um": (3,),
    "PixelSizeAffine": (8,),
    "PixelSizeAngle_dxdz": (3,),
    "PixelSizeAngle_dydz": (3,),
    "PixelSizeOptimalZ_Um": (3,),
}
#: Keywords of earlier versions; the core refuses them or does nothing.
_OLD: Final = ("Config", "Configuration", "Equipment", "ImageSynchro")
#: Properties of the core that give a device its role.
_ROLES: Final = (
    "Camera",
    "Shutter",
    "Focus",
    "XYStage",
    "AutoFocus",
    "ImageProcessor",
    "SLM",
    "Galvo",
)
_CORE_PROPERTIES: Final = (*_ROLES, "Initialize", "AutoShutter", "ChannelGroup", "TimeoutMs")
#: Bytes of the longest line that the core reads; it stops at a longer one.
_MAX_LINE: Final = 4099
_MAX_BYTES: Final = 4_000_000
#: Names that adapters give to positions without a label.
_DEFAULT_LABEL: Final = re.compile(r"(?:State|Position|Pos|Filter|Objective|Slot)[-_ ]?(\d{1,4})")


class CfgSetting(NamedTuple):
    """A property that is set when the file is loaded.

    Attributes:
        line: its number, from 1.
        device, property, value: as written.
        preset: ``Startup`` or ``Shutdown``, of the group ``System``; empty for a line of its own.
    """

    line: int
    device: str
    property: str
    value: str
    preset: str = ""


@dataclass
class PixelSize:
    """A pixel size that the .cfg gives for some settings, such as those of an objective.

    Attributes:
        line: number of the line that gives it.
        settings: (device, property, value) for which it holds.
        pixel_um: side of an unbinned pixel; 0 where it is not given.
        affine: (a, b, c, d) of the 2x2 matrix from pixels to um of the stage; ``None`` where it is
            not given.
    """

    line: int
    settings: list[tuple[str, str, str]] = field(default_factory=list)
    pixel_um: float = 0.0
    affine: tuple[float, float, float, float] | None = None


@dataclass
class HardwareConfig:
    """Content of a .cfg file.

    Attributes:
        devices: Label to (adapter library, device name).
        presets: Group to preset to its (device, property, value) settings, in order.
        labels: Device to its state labels, each with the number of its state.
        positions: Device to its number of states, where the file gives it.
        settings: (device, property, value) set when the file is loaded, in order; those of
            ``System``/``Startup`` last.
        pre_init: What is set before the devices are initialised.
        startup: What is set when the file is loaded, after the devices are initialised.
        shutdown: What is set when the devices are unloaded: at the end, and when they are
            initialised again.
        replaced: Settings of these two presets that a later line of the same one replaces.
        pixel_sizes: Name of a resolution to its pixel size.
        problems: Sentences about what the core refuses or drops silently.
        preset_problems: (group, preset) to sentences about why the core cannot set it as written.
        equal_presets: Group, preset, and a sentence about its settings being equal to another
            one's.
        lines: Of the file, without line ends.
        is_utf8: The file is UTF-8, so that the core can be given its labels as they are.
    """

    devices: dict[str, tuple[str, str]] = field(default_factory=dict)
    presets: dict[str, dict[str, list[tuple[str, str, str]]]] = field(default_factory=dict)
    labels: dict[str, dict[str, int]] = field(default_factory=dict)
    positions: dict[str, int] = field(default_factory=dict)
    settings: list[tuple[str, str, str]] = field(default_factory=list)
    pre_init: list[CfgSetting] = field(default_factory=list)
    startup: list[CfgSetting] = field(default_factory=list)
    shutdown: list[CfgSetting] = field(default_factory=list)
    replaced: list[CfgSetting] = field(default_factory=list)
    pixel_sizes: dict[str, PixelSize] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    preset_problems: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    equal_presets: list[tuple[str, str, str]] = field(default_factory=list)
    lines: tuple[str, ...] = ()
    is_utf8: bool = True

    def has_label(self, device: str, label: str) -> bool:
        """Return whether a device may have a state label: one of the file, or a default one such as
        ``State-5``.
        """
        labels = self.labels.get(device, {})
        if not labels or label in labels:
            return True
        default = _DEFAULT_LABEL.fullmatch(label)
        if default is None or int(default[1]) in labels.values():
            return False
        return int(default[1]) < self.positions.get(device, int(default[1]) + 1)

    def light(self, light: LightSettings) -> list[tuple[str, str, str]]:
        """Return the (device, property, value) settings of a light.

        None if its preset is not in the file.
        """
        if light.settings:
            return [(setting.device, setting.property, setting.value) for setting in light.settings]
        return self.presets.get(light.group, {}).get(light.preset, [])

    def role(self, name: str) -> str:
        """Return the device that the file gives a role of the core, such as ``Focus``.

        Empty if there is none.
        """
        return next(
            (
                value
                for device, key, value in reversed(self.settings)
                if (device, key) == ("Core", name)
            ),
            "",
        )


def read_config(path: Path) -> HardwareConfig:
    """Read a .cfg file.

    Raises:
        ConfigError: The file does not exist, or is not text.
    """
    content = None
    try:
        if path.is_file():  # nor a device without an end
            with path.open("rb") as file:
                content = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: cannot be read ({error}); correct 'micromanager.config'."
        ) from error
    if content is None:
        raise ConfigError(
            f"{path}: no such Micro-Manager configuration; correct 'micromanager.config'."
        )
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError(
            f"{path}: saved as UTF-16 (Notepad: 'Unicode'), unknown to the core; save it as UTF-8."
        )
    if len(content) > _MAX_BYTES:
        raise ConfigError(f"{path}: too large for a .cfg file (at most {_MAX_BYTES} bytes).")
    return _Reader(path, content).config


def same_value(got: str, wanted: str) -> bool:
    """Return whether a device's answer equals the value that was set: ``1.0000`` equals ``1``."""
    if got == wanted:
        return True
    try:
        return float(got) == float(wanted)
    except ValueError:
        return False


class _Reader:
    """Reads the lines of a file into its config."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.config = HardwareConfig()
        self._name = path.name
        self._initialised = 0
        #: (group, preset) to (device, property) to the lines that set it, each with its value.
        self._preset_lines: dict[tuple[str, str], dict[tuple[str, str], list[tuple[int, str]]]] = {}
        self._states: dict[str, dict[int, str]] = {}
        has_mark = content.startswith(b"\xef\xbb\xbf")
        lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        text, self.config.is_utf8 = _decode(content.removeprefix(b"\xef\xbb\xbf"))
        self.config.lines = tuple(line.partition("\r")[0] for line in text.split("\n"))
        for number, raw in enumerate(lines, 1):
            line = self._as_the_core_reads(number, raw, self.config.lines[number - 1])
            parts = [part for part in line.split(",") if part]
            if line.startswith("#") or not line.strip() or line.lstrip().startswith("#"):
                continue
            if number == 1 and has_mark and parts != ["Property", "Core", "Initialize", "0"]:
                self._problem(
                    1,
                    f"{line!r} follows a byte order mark, so the core drops it: save the file "
                    f"without one",
                )
            elif self._is_whole(number, line, parts):
                self._add(number, parts)
        if not self._initialised:
            self.config.problems.append(
                f"{self._name}: no line 'Property,Core,Initialize,1': no device would work"
            )
        self._finish()

    def _problem(self, line: int, text: str) -> None:
        self.config.problems.append(f"{self._name} line {line}: {text}")

    def _as_the_core_reads(self, number: int, raw: bytes, line: str) -> str:
        if len(raw) > _MAX_LINE:
            self._problem(
                number,
                f"{len(raw)} bytes: the core stops reading here; a line has at most {_MAX_LINE}",
            )
        if raw.partition(b"\r")[2].strip(b"\r"):
            self._problem(
                number,
                "a line end of old Macs (CR alone): the core drops the rest; save with LF or CRLF",
            )
        if "\0" in line:
            self._problem(number, "a zero byte, at which the core cuts the line; remove it")
            line = line.partition("\0")[0]
        return line

    def _is_whole(self, number: int, line: str, parts: list[str]) -> bool:
        """Return whether a line has a known keyword and the right number of parts.

        Note what is wrong.
        """
        keyword = parts[0] if parts else ""
        if keyword in _OLD:
            self._problem(
                number,
                f"{keyword!r} is a keyword of an old Micro-Manager, which the core drops: remove "
                f"it",
            )
            return False
        if keyword not in _PARTS:
            known = keyword.strip().casefold()
            near = next((name for name in _PARTS if name.casefold() == known), "")
            hint = (
                f": write {near!r} at the start of the line"
                if near
                else f" (known: {', '.join(_PARTS)})"
            )
            self._problem(
                number, f"{line[:60]!r} has no keyword of the core, which drops the line{hint}"
            )
            return False
        allowed = _PARTS[keyword]
        if len(parts) not in allowed:
            wanted = " or ".join(map(str, allowed))
            how = "short" if len(parts) < min(allowed) else "long"
            last = parts[-2:]
            hint = (
                "; a decimal comma? Write a point"
                if how == "long" and all(part.isdigit() for part in last)
                else ""
            )
            self._problem(
                number,
                f"{line.strip()[:80]!r} is too {how} for a {keyword} line: {len(parts)} parts, "
                f"not {wanted}; the core refuses it{hint}",
            )
            return False
        return True

    def _add(self, number: int, parts: list[str]) -> None:
        config = self.config
        match parts[0]:
            case "Device":
                self._add_device(number, *parts[1:])
            case "Label":
                self._add_label(number, *parts[1:])
            case "Property":
                self._add_property(number, parts[1], parts[2], "".join(parts[3:]))
            case "ConfigGroup":
                group = config.presets.setdefault(parts[1], {})
                if len(parts) >= 5:
                    group.setdefault(parts[2], [])
                    lines = self._preset_lines.setdefault((parts[1], parts[2]), {})
                    lines.setdefault((parts[3], parts[4]), []).append((number, "".join(parts[5:])))
            case "ConfigPixelSize":
                size = config.pixel_sizes.setdefault(parts[1], PixelSize(number))
                size.settings.append((parts[2], parts[3], parts[4]))
            case "Parent" | "Delay" | "FocusDirection":
                self._must_be_declared(number, parts[1])
                if parts[0] != "Parent":
                    self._numbers(number, parts[2:])
            case _:
                self._add_pixel_size(number, parts)

    def _add_device(self, number: int, label: str, library: str, name: str) -> None:
        if label in self.config.devices or label == "Core":
            self._problem(number, f"device {label!r} is declared twice")
        if self._initialised:
            self._problem(
                number,
                f"device {label!r} is declared after 'Property,Core,Initialize,1' (line "
                f"{self._initialised}), so it is never initialised: move it up",
            )
        self.config.devices[label] = (library, name)

    def _must_be_declared(self, number: int, device: str) -> None:
        if device != "Core" and device not in self.config.devices:
            blank = " (mind the blanks)" if device.strip() in self.config.devices else ""
            self._problem(number, f"device {device!r} is not declared before it is used{blank}")

    def _add_label(self, number: int, device: str, state: str, label: str) -> None:
        self._must_be_declared(number, device)
        if not state.isascii() or not state.isdigit() or len(state) > 6:
            self._problem(
                number,
                f"state {state!r} of {device!r} is not a whole number from 0; the core would take "
                f"0",
            )
            return
        count = self.config.positions.get(device)
        if count is not None and int(state) >= count:
            self._problem(
                number,
                f"state {state} is beyond the {count} of {device!r}; the core drops the label",
            )
            return
        states = self._states.setdefault(device, {})
        if label in states.values() and states.get(int(state)) != label:
            self._problem(
                number,
                f"label {label!r} of {device!r} is given to two states; the core keeps the last",
            )
        states[int(state)] = label

    def _add_property(self, number: int, device: str, name: str, value: str) -> None:
        config = self.config
        self._must_be_declared(number, device)
        if device == "Core":
            if name not in _CORE_PROPERTIES:
                self._problem(
                    number,
                    f"the core has no property {name!r}; it has {', '.join(_CORE_PROPERTIES)}",
                )
            elif name in _ROLES and value and value not in config.devices:
                self._problem(number, f"Core-{name} is the device {value!r}, which is not declared")
            elif name == "Initialize" and value == "1":
                if self._initialised:
                    self._problem(
                        number, f"the devices are initialised already in line {self._initialised}"
                    )
                self._initialised = self._initialised or number
        elif (
            name == "Number of positions"
            and value.isascii()
            and value.isdigit()
            and len(value) <= 6
        ):
            config.positions[device] = int(value)
        config.settings.append((device, name, value))
        if device != "Core":
            when = config.startup if self._initialised else config.pre_init
            when.append(CfgSetting(number, device, name, value))

    def _add_pixel_size(self, number: int, parts: list[str]) -> None:
        size = self.config.pixel_sizes.get(parts[1])
        numbers = self._numbers(number, parts[2:])
        if size is None:
            self._problem(
                number,
                f"resolution {parts[1]!r} has no ConfigPixelSize line before it; the core refuses "
                f"it",
            )
        elif numbers and parts[0] == "PixelSize_um":
            size.line, size.pixel_um = number, numbers[0]
        elif numbers and parts[0] == "PixelSizeAffine":
            size.affine = (numbers[0], numbers[1], numbers[3], numbers[4])

    def _numbers(self, line: int, texts: list[str]) -> list[float]:
        """Return the numbers of a line.

        None, and a problem, if one is not a number, of which the core makes 0.
        """
        try:
            numbers = [float(text) for text in texts]
        except ValueError:
            numbers = [float("nan")]
        if all(abs(number) < 1e9 for number in numbers):
            return numbers
        self._problem(line, f"{','.join(texts)[:60]!r} is not a number; the core would take 0")
        return []

    def _finish(self) -> None:
        """Complete what all lines together say: labels, and presets whose lines need not stand
        together.
        """
        config = self.config
        config.labels = {
            device: {label: state for state, label in states.items()}
            for device, states in self._states.items()
        }
        seen: dict[tuple[str, tuple[tuple[str, str, str], ...]], str] = {}
        for (group, preset), lines in self._preset_lines.items():
            settings = [(device, name, found[-1][1]) for (device, name), found in lines.items()]
            config.presets[group][preset] = settings
            where = f"{self._name}: preset {preset!r} of group {group!r}"
            if problems := self._preset_problems(where, lines):
                config.preset_problems[group, preset] = problems
            other = seen.setdefault((group, tuple(sorted(settings))), preset)
            if other != preset:
                config.equal_presets.append((group, preset, f"{where} does the same as {other!r}"))
        for preset, kept in (("Startup", config.startup), ("Shutdown", config.shutdown)):
            for (device, name), found in self._preset_lines.get(("System", preset), {}).items():
                *replaced, last = [
                    CfgSetting(line, device, name, value, preset) for line, value in found
                ]
                kept.append(last)
                config.replaced += replaced
        config.settings += config.presets.get("System", {}).get("Startup", [])

    def _preset_problems(
        self, where: str, lines: dict[tuple[str, str], list[tuple[int, str]]]
    ) -> list[str]:
        problems = []
        absent = Counter(
            device for device, _ in lines if device != "Core" and device not in self.config.devices
        )
        problems += [
            f"{where} names the device {device!r}, which is not declared" for device in absent
        ]
        for (device, name), found in lines.items():
            values = list(dict.fromkeys(value for _, value in found))
            if len(values) > 1:
                numbers = " and ".join(str(line) for line, _ in found)
                problems.append(
                    f"{where} sets {device}-{name} {len(found)} times (lines {numbers}); the core "
                    f"keeps the last alone"
                )
            if name == "Label" and not self.config.has_label(device, values[-1]):
                has = ", ".join(map(_quoted, self.config.labels[device]))
                problems.append(
                    f"{where} sets {device!r} to the label {values[-1]!r}; it has {has}"
                )
        return problems


def _quoted(label: str) -> str:
    """Return a label, in quotes where blanks at its ends must be seen."""
    return label if label == label.strip() else repr(label)


def _decode(content: bytes) -> tuple[str, bool]:
    """Return the text of a file in UTF-8, else in the code page of Western Windows, and whether it
    was UTF-8.
    """
    try:
        return content.decode("utf-8"), True
    except UnicodeDecodeError:
        pass
    try:
        return content.decode("cp1252"), False
    except UnicodeDecodeError:
        return content.decode("latin-1"), False
