"""Lights that add up, presets that switch more than light, and lines that move a stage.

Found without a core.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from wbcpipe.acquire.config.cfg_reader import read_config
from wbcpipe.acquire.config.micromanager_cfg import configuration_problems, configuration_warnings
from wbcpipe.acquire.config.scope import load_scope

if TYPE_CHECKING:
    from wbcpipe.acquire.config.scope import Scope

SHIPPED = Path(__file__).parents[3] / "hardware_configs"
CFG = (SHIPPED / "demo.cfg").read_text(encoding="utf-8")
TOML = (SHIPPED / "demo.toml").read_text(encoding="utf-8")
DEVICES = (
    "Device,UV,DemoCamera,DStateDevice\nDevice,Green,DemoCamera,DStateDevice\nDevice,Camera2,DemoCamera,DCam\n"
    "Device,Lamp Shutter,DemoCamera,DShutter\nDevice,Piezo,DemoCamera,DStage\n"
    "Device,All,Utilities,Multi Shutter\nDevice,MC,Utilities,Multi Camera\n# Devices\n"
)
PRESETS = ("color1", "color2", "color3", "fluorescence")


def _scope(tmp_path: Path, *changes: tuple[str, str], extra: str = "") -> Scope:
    toml, cfg = TOML, CFG.replace("# Devices\n", DEVICES)
    for old, new in changes:
        assert old in toml + cfg, old
        toml, cfg = toml.replace(old, new), cfg.replace(old, new)
    (tmp_path / "demo.toml").write_text(toml, encoding="utf-8")
    (tmp_path / "demo.cfg").write_text(cfg + extra, encoding="utf-8")
    return load_scope(tmp_path / "demo.toml")


def _problems(scope: Scope) -> list[str]:
    return configuration_problems(scope, read_config(scope.config_path))


def _warnings(scope: Scope) -> list[str]:
    return configuration_warnings(scope, read_config(scope.config_path))


UV = ("color1,LED,Label,385nm", "color1,UV,State,1")
GREEN = ("color2,LED,Label,550nm", "color2,Green,State,1")


@pytest.mark.parametrize(
    ("changes", "extra", "words"),
    [
        (
            (UV, GREEN),
            "",
            r"UV-State is set by modalities\.color1 and left open by modalities\.color2, "
            r".*fluorescence",
        ),
        (
            (UV, GREEN),
            "",
            r"Green-State is set by modalities\.color2 and left open by modalities\.color1",
        ),
        (
            (UV, GREEN),
            "",
            r"LED-State is set by modalities\.color3 and modalities\.fluorescence and left open by",
        ),
        (
            (),
            "ConfigGroup,Illumination,fluorescence,UV,Label,State-2\n",
            r"UV-State is set by .*fluorescence",
        ),
        (
            (
                (
                    'group = "Illumination"\npreset = "color1"',
                    'settings = [{device="UV", property="State", value="1"}]',
                ),
            ),
            "",
            r"UV-State is set by modalities\.color1 and left open by modalities\.color2",
        ),
    ],
    ids=["first", "second", "rest", "one more", "settings"],
)
def test_lights_that_add_up_name_both_modalities(
    tmp_path: Path, changes: tuple[tuple[str, str], ...], extra: str, words: str
) -> None:
    problems = _problems(_scope(tmp_path, *changes, extra=extra))
    assert any(re.search(words, problem) for problem in problems), problems


@pytest.mark.parametrize(
    ("changes", "extra"),
    [
        (
            (),
            "".join(
                f"ConfigGroup,Illumination,{name},UV,State,{name == 'color1':d}\n"
                for name in PRESETS
            ),
        ),
        ((), "ConfigGroup,Illumination,color1,UV,State,0\nConfigGroup,System,Startup,UV,State,0\n"),
        ((("color2,LED,Label,550nm", "color2,LED,State,3"),), ""),
        (
            (
                UV,
                GREEN,
                (
                    'shutter_device = "LED Shutter"',
                    'dark.settings = [{device="UV", property="State", value="0"},'
                    '{device="Green", property="State", value="0"},{device="LED", '
                    'property="State", value="0"}]',
                ),
            ),
            "",
        ),
    ],
    ids=["set by each", "as at the start", "number and label", "set dark after each"],
)
def test_lights_that_cannot_add_up_are_accepted(
    tmp_path: Path, changes: tuple[tuple[str, str], ...], extra: str
) -> None:
    assert _problems(_scope(tmp_path, *changes, extra=extra)) == []


def _in_each(setting: str) -> str:
    return "".join(f"ConfigGroup,Illumination,{name},{setting}\n" for name in PRESETS)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (
            "ConfigGroup,Illumination,fluorescence,LED Shutter,State,1\n",
            r"fluorescence opens the shutter 'LED",
        ),
        (
            _in_each("LED Shutter,State,1"),
            r"modalities\.color1 opens the shutter 'LED Shutter' \(State = 1\)",
        ),
        (
            "Property,LED Shutter,Physical Shutter 1,Lamp Shutter\n"
            + _in_each("Lamp Shutter,State,1"),
            "color1 opens the shutter 'Lamp Shutter'",
        ),
        (_in_each("LED Shutter,OnOff,On"), r"opens the shutter 'LED Shutter' \(OnOff = On\)"),
        (
            "ConfigGroup,Illumination,color1,Core,Camera,Camera2\n",
            r"color1 makes 'Camera2' the camera .*'camera",
        ),
        (
            _in_each("Core,Camera,Camera2"),
            r"fluorescence makes 'Camera2' the camera for all that follows",
        ),
        (
            _in_each("Core,Focus,Piezo"),
            r"color1 makes 'Piezo' the focus drive .*'stage\.z_device' is 'Z'",
        ),
        (_in_each("Core,AutoShutter,1"), r"color1 switches auto-shutter on"),
        (
            "ConfigGroup,Illumination,color1,Core,Shutter,Lamp Shutter\n",
            r"Core-Shutter is set by .*color1 and left",
        ),
        (
            _in_each("Core,Shutter,Gone"),
            r"color1 makes 'Gone' the shutter, which the \.cfg does not declare",
        ),
    ],
    ids=range(10),
)
def test_presets_that_switch_more_than_light_are_named(
    tmp_path: Path, extra: str, words: str
) -> None:
    problems = _problems(_scope(tmp_path, extra=extra))
    assert any(re.search(words, problem) for problem in problems), problems


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (_in_each("Core,Shutter,LED Shutter"), None),
        (_in_each("Core,Camera,Camera"), None),
        (_in_each("LED Shutter,State,0"), None),
        (
            _in_each("Core,Shutter,Lamp Shutter"),
            "'Lamp Shutter' beside 'LED Shutter' of 'light.shutter_device'",
        ),
        (
            _in_each("Lamp Shutter,State,1"),
            "modalities.color1 opens 'Lamp Shutter' (State = 1), which is not closed",
        ),
        (
            "ConfigGroup,System,Startup,LED Shutter,State,1\n",
            "opens the shutter 'LED Shutter' when it is loaded",
        ),
        ("Property,LED Shutter,State,1\n", "opens the shutter 'LED Shutter' when it is loaded"),
    ],
    ids=[
        "own shutter",
        "own camera",
        "closed",
        "another shutter",
        "a shutter beside",
        "start-up",
        "at load",
    ],
)
def test_what_is_allowed_in_a_preset_is_at_most_a_warning(
    tmp_path: Path, extra: str, words: str | None
) -> None:
    scope = _scope(tmp_path, extra=extra)
    assert _problems(scope) == []
    warnings = _warnings(scope)
    assert bool(warnings) == (words is not None)
    assert all(word in warnings[0] for word in [words] if word)


@pytest.mark.parametrize(
    ("extra", "failed", "words"),
    [
        (
            "ConfigGroup,System,Startup,Z,Position,150\n",
            True,
            "(Position = 150) when it is loaded, beyond 'stage.z_um' of",
        ),
        (
            "Property,Z,Position,-1e9\n",
            True,
            "drives 'Z' (Position = -1e9) when it is loaded, beyond",
        ),
        (
            "Property,Z,Position,nan\n",
            True,
            "drives 'Z' (Position = nan) when it is loaded, beyond",
        ),
        (
            "ConfigGroup,System,Startup,Z,Position,50\n",
            False,
            "(System/Startup) drives 'Z' (Position = 50) when",
        ),
        (
            "ConfigGroup,System,Startup,Piezo,Position,5\n",
            False,
            "drives 'Piezo' (Position = 5) when it is",
        ),
        ("Property,XY,Home,1\n", False, "drives 'XY' (Home = 1) when it is loaded"),
        (
            "ConfigGroup,System,Shutdown,Z,Position,0\n",
            False,
            "drives 'Z' (Position = 0) when it is unloaded",
        ),
        (
            "Property,XY,Home on startup,Yes\n",
            False,
            "has 'XY' home (Home on startup = Yes) whenever",
        ),
        (
            "ConfigGroup,System,Startup,XY,AutoHoming,1\n",
            False,
            "take the slide out first, or write No there",
        ),
    ],
    ids=range(9),
)
def test_lines_that_move_a_stage_are_told(
    tmp_path: Path, extra: str, failed: bool, words: str
) -> None:
    scope = _scope(tmp_path, extra=extra)
    (told,) = _problems(scope) if failed else _warnings(scope)
    assert words in told
    assert re.match(rf"line {len((CFG + DEVICES).splitlines())} of the \.cfg", told)


@pytest.mark.parametrize(
    ("changes", "extra", "words"),
    [
        (
            (('device = "Camera"', 'device = "MC"'),),
            "",
            r"camera\.device 'MC' is a Multi Camera: its sequences mix",
        ),
        (
            (("BitDepth,16", "BitDepth,12"),),
            "",
            r"BitDepth of 12, 'camera\.bits' is 16: write bits = 12",
        ),
        (
            (),
            "Property,Camera,BitDepth,10\nConfigGroup,System,Startup,Camera,BitDepth,14-bit\n",
            "write bits = 14",
        ),
    ],
    ids=["multi camera", "bit depth", "bit depth in words"],
)
def test_a_camera_that_is_another_than_the_scope_file_says(
    tmp_path: Path, changes: tuple[tuple[str, str], ...], extra: str, words: str
) -> None:
    problems = _problems(_scope(tmp_path, *changes, extra=extra))
    assert any(re.search(words, problem) for problem in problems), problems
