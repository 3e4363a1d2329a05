"""Scope files: what is refused, and in which words."""

from __future__ import annotations

import re
import shutil
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from wbcpipe.acquire.calibration.compare import check_calibration
from wbcpipe.acquire.config.cfg_reader import read_config
from wbcpipe.acquire.config.micromanager_cfg import (
    check_configuration,
    configuration_problems,
    configuration_warnings,
)
from wbcpipe.acquire.config.policies import Part
from wbcpipe.acquire.config.scope import Modality, Scope, Slot, list_scopes, load_scope
from wbcpipe.acquire.hardware.camera import oriented
from wbcpipe.errors import ConfigError, ScopeNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

SHIPPED = Path(__file__).parents[3] / "hardware_configs"
DEMO = (SHIPPED / "demo.toml").read_text(encoding="utf-8")


#: The tables of a scope file, by key.
TABLES = {
    name: field.annotation
    for name, field in Scope.model_fields.items()
    if isinstance(field.annotation, type)
    and issubclass(field.annotation, Part)
    and name != "modalities"
}


def _keys(table: dict[str, Any], place: str = "") -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        yield place, key
        if isinstance(value, dict):
            yield from _keys(value, f"{place}.{key}" if place else key)


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.toml")))
def test_every_shipped_scope_loads_and_agrees_with_its_cfg(name: str) -> None:
    scope = load_scope(name)
    assert scope.name == name
    assert len(scope.sha256) == 64
    assert configuration_problems(scope, read_config(scope.config_path)) == []


#: What the source of Micro-Manager's adapters creates: (library, device) to its properties that the
#: examples set.
ADAPTERS = {
    ("pE300", "pE300"): {"Port", "SelectionA", "SelectionB", "SelectionC", "IntensityB"},
    ("Arduino", "Arduino-Hub"): {"Port", "Logic"},
    ("Arduino", "Arduino-Switch"): {"State", "Sequence"},
    ("Arduino", "Arduino-Shutter"): set(),
    ("EvidentIX85", "EvidentIX85-Hub"): {"Port"},
    ("EvidentIX85", "IX85-Focus"): set(),
    ("EvidentIX85", "IX85-Nosepiece"): set(),
    ("EvidentIX85", "IX85-LightPath"): {"Label"},
    ("EvidentIX85", "IX85-DIAShutter"): {"State"},
    ("EvidentIX85", "IX85-EPIShutter1"): {"State"},
    ("EvidentIX85", "IX85-MirrorUnit1"): {"Label"},
    ("EvidentIX85XYStage", "IX85_XYStage"): {"Port"},
    ("SpinnakerCamera", "Blackfly S BFS-U3-51S5M"): {
        "Pixel Format",
        "Exposure Auto",
        "Gain Auto",
        "Gamma Enabled",
    },
    ("Utilities", "Multi Shutter"): {"Physical Shutter 1", "Physical Shutter 2"},
    ("Cephla", "SquidHub"): {"Port", "Home on startup"},
    ("Cephla", "CephlaShutter"): {
        "Has Lasers",
        "OnOff",
        "Pattern",
        "Intensity",
        "Red",
        "Green",
        "Blue",
        "488nm",
    },
    ("Cephla", "XYStage"): set(),
    ("Cephla", "ZStage"): set(),
    ("DahengGalaxy", "DahengCamera"): {"TriggerMode"},
}


@pytest.mark.parametrize("name", ["ix85-pe300-flir", "squid-daheng"])
def test_examples_use_the_adapters_own_names(name: str) -> None:
    scope = load_scope(name)
    assert scope.title.startswith("Example: ")
    assert not scope.virtual
    config = read_config(scope.config_path)
    lines = [line.split(",") for line in scope.config_path.read_text(encoding="utf-8").splitlines()]
    set_up = [(line[1], line[2]) for line in lines if line[0] == "Property" and line[1] != "Core"]
    set_later = [(line[3], line[4]) for line in lines if line[0] == "ConfigGroup"]
    for device, key in [*set_up, *set_later]:
        library, adapter = config.devices[device]
        if library == "SerialManager":
            assert key == "BaudRate"
        else:
            assert key in ADAPTERS[library, adapter], (device, key)
    assert {kind for kind in config.devices.values() if kind[0] != "SerialManager"} <= set(ADAPTERS)


def test_an_examples_dark_lights_are_dark_in_every_preset() -> None:
    """Both sources open with one shutter, so each preset has to say what each of them does."""
    scope = load_scope("ix85-pe300-flir")
    presets = read_config(scope.config_path).presets["Illumination"]
    for name, settings in presets.items():
        values = {(device, key): value for device, key, value in settings}
        transmitted, epi = (
            int(values["Arduino-Switch", "State"]),
            int(values["pE300", "SelectionB"]),
        )
        assert (transmitted > 0) != (epi > 0), name
        assert epi == (name == "fluorescence")


@pytest.mark.parametrize(
    ("place", "key"),
    [item for item in _keys(tomllib.loads(DEMO)) if item[0] != "slots"],
    ids=lambda part: part or "top",
)
def test_every_misspelt_key_is_named(tmp_path: Path, place: str, key: str) -> None:
    wrong = key + "x"
    if f"[{place}.{key}]".replace("[.", "[") in DEMO:
        table = re.escape(f"{place}.{key}" if place else key)
        text = re.sub(rf"\[{table}(?=[\].])", f"[{place}.{wrong}" if place else f"[{wrong}", DEMO)
    elif (
        any(isinstance(value, dict) for name, value in tomllib.loads(DEMO).items() if name == key)
        and not place
    ):
        text = re.sub(rf"^\[{key}(?=[\].])", f"[{wrong}", DEMO, flags=re.MULTILINE)
    else:
        begin = DEMO.index(f"[{place}]") if place else 0
        text = DEMO[:begin] + re.sub(
            rf"^{key} = ", f"{wrong} = ", DEMO[begin:], count=1, flags=re.MULTILINE
        )
    path = tmp_path / "wrong.toml"
    path.write_text(text, encoding="utf-8")
    full = f"{place}.{wrong}" if place else wrong
    with pytest.raises(ConfigError, match=re.escape(f"key '{full}' is not known")) as caught:
        load_scope(path)
    assert str(path) in str(caught.value)
    assert f"did you mean {key!r}" in str(caught.value)
    assert "allowed: " in str(caught.value)


@pytest.mark.parametrize(
    ("table", "key"),
    [
        *((name, key) for name, model in TABLES.items() for key in model.model_fields),
        *(("modalities.color1", key) for key in Modality.model_fields),
        *(("slots.A", key) for key in Slot.model_fields),
    ],
)
def test_every_misspelt_key_of_a_table_is_named_whether_the_demo_sets_it_or_not(
    tmp_path: Path, table: str, key: str
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(DEMO.replace(f"[{table}]", f"[{table}]\n{key}x = 0\n#", 1), encoding="utf-8")
    with pytest.raises(
        ConfigError, match=re.escape(f"key '{table}.{key}x' is not known, did you mean {key!r}?")
    ):
        load_scope(path)


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ("[segment.masks]\ncore_mu = 1", "key 'segment.masks.core_mu' is not known, did you mean"),
        ("[segment.mask]\n", "key 'segment.mask' is not known, did you mean 'masks'"),
        ("[segment.quality]\nblurred_um = inf", "quality.blurred_um': must be 0.01 to 10 um"),
    ],
)
def test_a_wrong_setting_of_the_segmentation_is_named(
    tmp_path: Path, tables: str, words: str
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(f"{DEMO}\n{tables}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        load_scope(path)


def test_settings_of_the_segmentation_are_read_over_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"{DEMO}\n[segment.masks]\ncore_um = 1\n", encoding="utf-8")
    settings = load_scope(path).segment
    assert settings.overrides() == {"masks": {"core_um": 1.0}}
    assert settings.masks.min_lobe_um2 == 1.5


def test_every_model_key_is_in_the_demo_or_has_a_default() -> None:
    assert set(tomllib.loads(DEMO)) <= set(Scope.model_fields)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            'backend = "headless"',
            'backend = "java"',
            "'micromanager.backend'.*'headless' or 'bridge'",
        ),
        ("binning = 1", "binning = 3", "'camera.binning'.*1, 2, 4 or 8"),
        (
            "exposure_ms = 20.0",
            "exposure_ms = 0",
            "'modalities.fluorescence.exposure_ms': must be 0.001 to 600000 ms",
        ),
        ('device = "Camera"\n', "", "'camera.device' is missing"),
        ("z_um = [-100.0, 100.0]", "z_um = [100.0, -100.0]", "'stage.z_um'.*is empty"),
        (
            "[[1.0, 0.0], [0.0, 1.0]]",
            "[[0.7, 0.7], [-0.7, 0.7]]",
            "'camera.stage_affine'.*turn the camera",
        ),
        ("[[1.0, 0.0], [0.0, 1.0]]", "[[-1.0, 0.0], [0.0, 1.0]]", "virtual scope must be"),
        ('preset = "color1"\n', "", "'modalities.color1'.*'group' and 'preset', or 'settings'"),
        (
            'modality = "color1"',
            'modality = "fluorescence"',
            "'focus.modality'.*'color1', 'color2' or 'color3'",
        ),
        ("bits = 16", "bits = 16\nroi_px = [0, 0, 4096, 100]", "not within the sensor"),
        ("title =", "name = 'x'\ntitle =", "'name' is not allowed"),
        ("binning = 1", "binning =", "not TOML"),
    ],
    ids=lambda text: text.split("\n")[0][:24],
)
def test_wrong_values_say_what_is_allowed(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in DEMO
    path = tmp_path / "wrong.toml"
    path.write_text(DEMO.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        load_scope(path)


def test_unknown_scope_lists_the_known() -> None:
    with pytest.raises(ScopeNotFoundError, match=r"no scope 'dmeo'; known scopes: .*demo"):
        load_scope("dmeo")


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ("./mine.toml", "--scope ./mine.toml"),
        ("my scopes/mine.toml", "--scope 'my scopes/mine.toml'"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="other quotes")
def test_a_hint_repeats_the_scope_as_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, option: str
) -> None:
    path = tmp_path / given
    path.parent.mkdir(exist_ok=True)
    path.write_text(DEMO, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    scope = load_scope(given)
    assert scope.option == option
    assert scope.with_sequencing("off").option == option
    (found,) = check_calibration(scope, tmp_path)
    assert f"`wbcpipe calibrate {option}`" in found.detail


def test_own_scopes_go_before_the_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demo.toml").write_text(DEMO, encoding="utf-8")
    monkeypatch.setenv("WBCPIPE_SCOPES", str(tmp_path))
    assert list_scopes()["demo"] == tmp_path / "demo.toml"


def test_a_scope_does_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_scope("demo").camera.binning = 2


def test_unknown_slot_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="no slot 'Q'; its slots: A, B"):
        load_scope("demo").slot("Q")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("Device,Z,", "Device,Focus,", "stage.z_device 'Z' is not in the .cfg"),
        (
            "ConfigGroup,Illumination,color3,",
            "ConfigGroup,Illumination,red,",
            "modalities.color3.preset 'color3' is not",
        ),
        (
            "ConfigGroup,Illumination",
            "ConfigGroup,Light",
            "modalities.color1.group 'Illumination' is not in the .cfg",
        ),
        ("color2,LED,Label,550nm", "color2,LED,Label,555nm", "label '555nm'; it has Closed, 385nm"),
        (
            "color2,LED,Label,550nm",
            "color2,LED,Label,385nm",
            "modalities.color2 is lit exactly as modalities.color1",
        ),
        (
            "Device,LED Shutter",
            "Device,LED,DemoCamera,DStateDevice\nDevice,LED Shutter",
            "'LED' is declared twice",
        ),
        ("Parent,XY,DHub", "Parent,XYZ,DHub", "'XYZ' is not declared before it is used"),
        ("Label,LED,1,385nm", "Label,LED,1", "too short for a Label line"),
    ],
    ids=lambda text: text.split("\n")[0][:24],
)
def test_lint_finds_what_micro_manager_passes_over(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    cfg = (SHIPPED / "demo.cfg").read_text(encoding="utf-8")
    assert old in cfg
    (tmp_path / "demo.cfg").write_text(cfg.replace(old, new), encoding="utf-8")
    (tmp_path / "demo.toml").write_text(DEMO, encoding="utf-8")
    scope = load_scope(tmp_path / "demo.toml")
    problems = configuration_problems(scope, read_config(scope.config_path))
    assert any(re.search(words, problem) for problem in problems), problems
    assert configuration_warnings(scope, read_config(scope.config_path)) == []
    with pytest.raises(ConfigError, match=words):
        check_configuration(scope)


def test_modalities_whose_presets_do_the_same_are_named(tmp_path: Path) -> None:
    cfg = (SHIPPED / "demo.cfg").read_text(encoding="utf-8")
    green = "ConfigGroup,Illumination,color2,LED,Label,550nm\n"
    (tmp_path / "demo.cfg").write_text(
        cfg.replace(green, "ConfigGroup,Green,on,LED,Label,385nm\n"), encoding="utf-8"
    )
    preset = 'group = "Illumination"\npreset = "color2"'
    (tmp_path / "demo.toml").write_text(
        DEMO.replace(preset, 'group = "Green"\npreset = "on"'), encoding="utf-8"
    )
    scope = load_scope(tmp_path / "demo.toml")
    assert configuration_problems(scope, read_config(scope.config_path)) == [
        "modalities.color2 is lit exactly as modalities.color1"
    ]


def test_presets_alike_in_a_group_that_is_not_used_are_a_warning(tmp_path: Path) -> None:
    cfg = (SHIPPED / "demo.cfg").read_text(encoding="utf-8")
    twice = "".join(f"ConfigGroup,Live,{name},LED,Label,550nm\n" for name in ("green", "gruen"))
    (tmp_path / "demo.cfg").write_text(cfg + "\n" + twice, encoding="utf-8")
    (tmp_path / "demo.toml").write_text(DEMO, encoding="utf-8")
    (oddity,) = check_configuration(load_scope(tmp_path / "demo.toml"))
    assert "preset 'gruen' of group 'Live' does the same as 'green'" in oddity


def test_a_focusing_device_must_be_in_the_cfg(tmp_path: Path) -> None:
    shutil.copy(SHIPPED / "demo.cfg", tmp_path)
    hardware = 'method = "hardware"\nhardware_device = "Autofocuss"'
    (tmp_path / "demo.toml").write_text(
        DEMO.replace('method = "surface"', hardware), encoding="utf-8"
    )
    with pytest.raises(
        ConfigError, match=r"focus\.hardware_device 'Autofocuss' is not in the \.cfg"
    ):
        check_configuration(load_scope(tmp_path / "demo.toml"))


def test_missing_cfg_is_named(tmp_path: Path) -> None:
    (tmp_path / "demo.toml").write_text(DEMO, encoding="utf-8")
    scope = load_scope(tmp_path / "demo.toml")
    with pytest.raises(ConfigError) as caught:
        read_config(scope.config_path)
    assert str(caught.value) == (
        f"{scope.config_path}: no such Micro-Manager configuration; correct 'micromanager.config'."
    )


@pytest.mark.parametrize(
    "affine",
    [(1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, -1, 0)],
)
def test_frames_are_turned_to_lie_as_the_stage_does(affine: tuple[int, int, int, int]) -> None:
    a, b, c, d = affine
    camera = load_scope("demo").camera.model_copy(update={"stage_affine": ((a, b), (c, d))})
    pixels = np.zeros((5, 7), np.uint16)  # (Y, X) of the camera
    right, down = 2, -1  # of the middle of the image
    pixels[2 + down, 3 + right] = 1
    turned = oriented(pixels, camera)
    (row,), (column,) = np.nonzero(turned)
    middle = (turned.shape[0] // 2, turned.shape[1] // 2)
    assert (column - middle[1], row - middle[0]) == (a * right + b * down, c * right + d * down)
