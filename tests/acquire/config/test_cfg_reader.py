"""The .cfg file is read as the real core reads it: accepted, refused and silently dropped lines."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import mm_test_adapters
import pymmcore
import pytest

from wbcpipe.acquire.config.cfg_reader import read_config
from wbcpipe.acquire.config.micromanager_cfg import configuration_problems, configuration_warnings
from wbcpipe.acquire.config.scope import load_scope
from wbcpipe.errors import ConfigError

if TYPE_CHECKING:
    from wbcpipe.acquire.config.scope import Scope

SHIPPED = Path(__file__).parents[3] / "hardware_configs"
CFG = (SHIPPED / "demo.cfg").read_bytes()
LED = b"ConfigGroup,Illumination,color1,LED,Label,385nm\n"


def _scope(tmp_path: Path, cfg: bytes) -> Scope:
    (tmp_path / "demo.cfg").write_bytes(cfg)
    (tmp_path / "demo.toml").write_bytes((SHIPPED / "demo.toml").read_bytes())
    return load_scope(tmp_path / "demo.toml")


def _core_refuses(path: Path) -> str:
    core = pymmcore.CMMCore()
    core.setDeviceAdapterSearchPaths([str(mm_test_adapters.device_adapter_path())])
    try:
        core.loadSystemConfiguration(str(path))
        core.unloadAllDevices()
    except (RuntimeError, OSError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "Property,Camera,MaximumExposureMs,10000,0000",
            "too long for a Property line: 5 parts.*decimal comma",
        ),
        ("Property,Camera", "too short for a Property line"),
        ("Device,Z2,DemoCamera,DStage,old", "too long for a Device line: 5 parts, not 4"),
        ("Device,Z2,DemoCamera", "too short for a Device line"),
        ("Label,LED,1,385nm,violet", "too long for a Label line"),
        ("ConfigGroup,Illumination,color5", "too short|ConfigGroup line: 3 parts, not 2 or 5 or 6"),
        (
            "ConfigGroup,Illumination,color5,LED,Label,550nm,x",
            "too long for a ConfigGroup line: 7 parts",
        ),
        ("Equipment,LED,State,1", "'Equipment' is a keyword of an old Micro-Manager"),
        ("ImageSynchro,XY", "'ImageSynchro' is a keyword of an old Micro-Manager"),
        ("PixelSize_um,Res40x,0.1", "resolution 'Res40x' has no ConfigPixelSize line before it"),
        (
            "PixelSize_um,Res40x,0,1",
            "too long for a PixelSize_um line: 4 parts, not 3.*decimal comma",
        ),
        ("Property,Nope,State,1", "device 'Nope' is not declared before it is used"),
        (
            "Property, Camera,Exposure,10",
            "device ' Camera' is not declared before it is used .mind the blanks",
        ),
        ("Parent,Nope,DHub", "device 'Nope' is not declared"),
        ("Device,Z,DemoCamera,DStage", "device 'Z' is declared twice"),
        ("Property,Core,Nope,1", "the core has no property 'Nope'"),
        (
            "Property,Core,Camera,Camera2",
            "Core-Camera is the device 'Camera2', which is not declared",
        ),
        ("Property,Core,Initialize,1", "the devices are initialised already in line"),
        (",,,", "has no keyword of the core"),
    ],
    ids=lambda text: text[:40],
)
def test_what_the_core_refuses_is_refused_with_its_line(
    tmp_path: Path, line: str, words: str
) -> None:
    scope = _scope(tmp_path, CFG + line.encode() + b"\n")
    assert _core_refuses(scope.config_path)
    number = CFG.count(b"\n") + 1
    (problem,) = (
        text for text in read_config(scope.config_path).problems if re.search(words, text)
    )
    assert problem.startswith(f"demo.cfg line {number}: ")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            b"Propety,Camera,Exposure,10",
            "'Propety,Camera,Exposure,10' has no keyword of the core, which drops",
        ),
        (
            b"  Property,Camera,Exposure,77",
            "which drops the line: write 'Property' at the start of the line",
        ),
        (
            b"property,Camera,Exposure,77",
            "which drops the line: write 'Property' at the start of the line",
        ),
        (b"Property\tCamera\tExposure\t10", "which drops the line"),
        (b"Config,a,b,c,d", "'Config' is a keyword of an old Micro-Manager"),
        (b"Label,LED,50,UV", "state 50 is beyond the 10 of 'LED'; the core drops the label"),
        (
            b"Label,LED,x,UV",
            "state 'x' of 'LED' is not a whole number from 0; the core would take 0",
        ),
        (b"Label,LED,5,470nm", "label '470nm' of 'LED' is given to two states"),
        (b"Delay,Z,abc", "'abc' is not a number; the core would take 0"),
        (
            b"Device,Z2,DemoCamera,DStage",
            r"declared after 'Property,Core,Initialize,1' .line \d+., so it is never",
        ),
        (b"#" + b"x" * 4099, "4100 bytes: the core stops reading here"),
        (b"# old Mac\rProperty,Camera,Exposure,77", "CR alone"),
        (b"Property,Camera,Exposure,10\x00,7", "a zero byte"),
    ],
    ids=lambda text: str(text)[:40],
)
def test_what_the_core_drops_silently_is_refused_with_its_line(
    tmp_path: Path, line: bytes, words: str
) -> None:
    scope = _scope(tmp_path, CFG + line + b"\n")
    assert not _core_refuses(scope.config_path)
    number = CFG.count(b"\n") + 1
    (problem,) = (
        text for text in read_config(scope.config_path).problems if re.search(words, text)
    )
    assert problem.startswith(f"demo.cfg line {number}: ")


@pytest.mark.parametrize(
    "cfg",
    [
        CFG.replace(b"LED,Label,385nm", b"LED,Label,State-5"),
        CFG + "# Objektiv: 40x Öl\n".encode("cp1252"),
        b"\xef\xbb\xbf" + CFG,
        CFG.replace(b"\n", b"\r\n"),
        CFG.replace(LED, b"") + LED.replace(b"color1", b"color1"),
        CFG.replace(b"1,385nm", b"1,385nm ").replace(b"LED,Label,385nm", b"LED,Label,385nm "),
        CFG.replace(LED, LED + b"   \n  # an indented comment\n"),
        CFG.replace(
            b"Property,Core,Focus,Z",
            b"Property,Core,Focus,Z,\nProperty,Core,,Focus,Z\nProperty,Core,SLM",
        ),
        CFG.replace(b"LED,1,385nm", b"LED,1,Veilchen \xfc").replace(
            b"LED,Label,385nm", b"LED,Label,Veilchen \xfc"
        ),
        CFG + b"#" + b"x" * 4097 + b"\n",
    ],
    ids=[
        "default label",
        "cp1252",
        "BOM",
        "CRLF",
        "apart",
        "blank",
        "comment",
        "empty",
        "cp1252 label",
        "long comment",
    ],
)
def test_what_the_core_accepts_is_accepted(tmp_path: Path, cfg: bytes) -> None:
    scope = _scope(tmp_path, cfg)
    assert not _core_refuses(scope.config_path)
    config = read_config(scope.config_path)
    assert configuration_problems(scope, config) == []
    assert configuration_warnings(scope, config) == []
    assert len(config.presets["Illumination"]) == 4
    assert len(config.devices) == CFG.count(b"\nDevice,")


def test_preset_lines_that_are_not_together_are_one_preset(tmp_path: Path) -> None:
    extra = b"".join(
        b"ConfigGroup,Illumination,%s,Stain Valve,Label,closed\n" % name.encode()
        for name in ("color1", "color2", "color3", "fluorescence")
    )
    scope = _scope(tmp_path, CFG + extra)
    config = read_config(scope.config_path)
    assert configuration_problems(scope, config) == []
    assert config.presets["Illumination"]["color2"] == [
        ("LED", "Label", "550nm"),
        ("Stain Valve", "Label", "closed"),
    ]


def test_a_property_set_twice_in_a_preset_is_named_with_its_lines(tmp_path: Path) -> None:
    scope = _scope(
        tmp_path,
        CFG + b"ConfigGroup,Illumination,color1,LED,Label,635nm\nConfigGroup,Old,p,LED,Label,x\n",
    )
    (problem,) = configuration_problems(scope, read_config(scope.config_path))[:1]
    assert re.search(
        r"preset 'color1' .* sets LED-Label 2 times \(lines \d+ and \d+\); the core keeps", problem
    )


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            b"ConfigGroup,Illumination,gruen,LED,Label,550nm\n",
            "preset 'gruen' of group 'Illumination' does the same",
        ),
        (b"ConfigGroup,Old,p,Gone,State,1\n", "preset 'p' of group 'Old' names the device 'Gone'"),
        (
            b"ConfigGroup,Old,p,LED,Label,555nm\n",
            "preset 'p' of group 'Old' sets 'LED' to the label '555nm'",
        ),
        (
            b"ConfigGroup,Illumination,UV,Gone,State,1\n",
            "preset 'UV' of group 'Illumination' names the device 'Gone'",
        ),
    ],
    ids=["alias", "stale device", "stale label", "stale in a used group"],
)
def test_presets_that_nobody_sets_are_a_warning(tmp_path: Path, lines: bytes, words: str) -> None:
    scope = _scope(tmp_path, CFG + lines)
    assert not _core_refuses(scope.config_path)
    config = read_config(scope.config_path)
    assert configuration_problems(scope, config) == []
    (warning,) = configuration_warnings(scope, config)
    assert words in warning


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"LED,Label,385nm", b"LED,Label,385nm ", "to the label '385nm '; it has Closed, 385nm"),
        (b"LED,Label,385nm", b"LED,Label,State-1", "to the label 'State-1'"),
        (b"LED,Label,385nm", b"LED,Label,State-10", "to the label 'State-10'"),
        (
            b"System,Startup,LED,Label,Closed",
            b"System,Startup,LED,Label,Shut",
            "preset 'Startup' .* label 'Shut'",
        ),
        (
            b"System,Startup,LED,Label,Closed",
            b"System,Startup,Gone,State,1",
            "preset 'Startup' .* device 'Gone'",
        ),
        (
            b"System,Startup,LED,Label,Closed",
            b"System,Shutdown,Gone,State,1",
            "preset 'Shutdown' .* device 'Gone'",
        ),
        (b"Property,Core,Initialize,1", b"", "no line 'Property,Core,Initialize,1'"),
        (
            b"# The virtual scope",
            b"\xef\xbb\xbfDevice,Q,DemoCamera,DStage\n#",
            "line 1: .* follows a byte order mark",
        ),
    ],
    ids=range(8),
)
def test_labels_and_start_up_are_looked_at(
    tmp_path: Path, old: bytes, new: bytes, words: str
) -> None:
    assert old in CFG
    scope = _scope(tmp_path, CFG.replace(old, new, 1))
    assert any(
        re.search(words, text)
        for text in configuration_problems(scope, read_config(scope.config_path))
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (CFG.decode().encode("utf-16"), "saved as UTF-16"),
        (b"#" * 5_000_000, "too large for a .cfg file"),
    ],
    ids=["UTF-16", "large"],
)
def test_what_is_no_cfg_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    scope = _scope(tmp_path, content)
    with pytest.raises(ConfigError, match=words):
        read_config(scope.config_path)


RESOLUTION = "ConfigPixelSize,Res{0},LED,Label,{1}\nPixelSize_um,Res{0},{2}\n"


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (RESOLUTION.format("65x", "Closed", 0.1), None),
        (RESOLUTION.format("65x", "Closed", 0.102), None),
        (RESOLUTION.format("65x", "550nm", 0.1) + RESOLUTION.format("20x", "385nm", 0.325), None),
        (RESOLUTION.format("20x", "550nm", 0.325), "a pixel of 0.325 um, 'camera.pixel_um' is 0.1"),
        (
            RESOLUTION.format("65x", "550nm", 0.1) + RESOLUTION.format("20x", "Closed", 0.325),
            "'Res20x': a pixel of",
        ),
        (
            RESOLUTION.format("65x", "Closed", 0.1) + "PixelSizeAffine,Res65x,0.1,0,0,0,0.1,0\n",
            None,
        ),
        (
            RESOLUTION.format("65x", "Closed", 0.1) + "PixelSizeAffine,Res65x,0.1,0,0,0,-0.1,0\n",
            "flipped against",
        ),
        (
            RESOLUTION.format("65x", "Closed", 0.1) + "PixelSizeAffine,Res65x,0,-0.1,0,0.1,0,0\n",
            "turned by 90 degrees",
        ),
        (
            RESOLUTION.format("65x", "Closed", 0.1)
            + "PixelSizeAffine,Res65x,.0996,.0087,0,-.0087,.0996,0\n",
            "turned by",
        ),
        (
            RESOLUTION.format("65x", "Closed", 0.1) + "PixelSizeAffine,Res65x,0.2,0,0,0,0.2,0\n",
            "a pixel of 0.2 um",
        ),
        (
            RESOLUTION.format("65x", "Closed", 0.1)
            + "PixelSizeAffine,Res65x,0.1,0.1,0,0.1,0.1,0\n",
            "is singular",
        ),
    ],
    ids=range(11),
)
def test_a_pixel_size_that_differs_is_a_warning(
    tmp_path: Path, lines: str, words: str | None
) -> None:
    scope = _scope(tmp_path, CFG + lines.encode())
    config = read_config(scope.config_path)
    assert configuration_problems(scope, config) == []
    warnings = configuration_warnings(scope, config)
    assert len(warnings) == (words is not None)
    assert all(words in text for text in warnings if words)


def test_a_device_without_an_end_is_no_cfg(tmp_path: Path) -> None:
    scope = _scope(tmp_path, CFG)
    endless = scope.micromanager.model_copy(update={"config": "/dev/zero"})
    with pytest.raises(ConfigError, match="no such Micro-Manager configuration"):
        read_config(scope.model_copy(update={"micromanager": endless}).config_path)
