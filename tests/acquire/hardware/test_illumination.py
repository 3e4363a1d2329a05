"""Light on the real core, also without a shutter.

On only while the camera exposes, and dark on every way out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pycromanager
import pytest

from wbcpipe.acquire.capture.session import AcquisitionSession
from wbcpipe.acquire.config.cfg_reader import read_config
from wbcpipe.acquire.config.micromanager_cfg import configuration_problems
from wbcpipe.acquire.doctor import check_live, check_offline
from wbcpipe.acquire.hardware.core_link import CoreLink
from wbcpipe.acquire.hardware.safe_dark import close_shutter_in_subprocess
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.acquire.request import AcquisitionRequest
from wbcpipe.acquire.simulation.virtual_scope import VirtualScope
from wbcpipe.errors import ConfigError, HardwareError
from wbcpipe.samples.fields import fields_on_disk, read_field
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan

SHUTTER = 'shutter_device = "LED Shutter"'
DARK = (SHUTTER, 'dark = { group = "Illumination", preset = "dark" }')
PRESET = (
    "ConfigGroup,Illumination,fluorescence,LED,Label,470nm",
    "ConfigGroup,Illumination,fluorescence,LED,Label,470nm\nConfigGroup,Illumination,dark,LED,Label,Closed",
)


def test_the_specimen_sees_only_light_that_is_on(
    small_scope: Scope, specimen: SpecimenPlan
) -> None:
    frame = np.empty((256, 256), np.uint16)
    with VirtualScope(small_scope, specimen) as microscope:
        microscope.switch_light("color2")
        assert microscope.illumination.observed() == ""
        microscope.expose(5.0, frame)
        bright = frame.mean()
        assert microscope.illumination.observed() == ""
        microscope.link.set_property("LED", "Label", "Closed")
        microscope.expose(5.0, frame)
        assert frame.mean() < 0.05 * bright
        with pytest.raises(HardwareError, match=r"It takes: .*385nm"):
            microscope.link.set_property("LED", "Label", "999nm")


@pytest.mark.parametrize("sequencing", ["off", "on"])
def test_it_takes_the_same_pixels_and_is_lit_only_while_it_exposes(
    tmp_path: Path, make_scope: Callable[..., Scope], specimen: SpecimenPlan, sequencing: str
) -> None:
    taken = []
    for number, changes in enumerate(((), (DARK, PRESET))):
        scope = make_scope(*changes, sequencing=sequencing)
        sample = Sample.open(tmp_path, f"S{number}")
        with AcquisitionSession(
            AcquisitionRequest(sample, scope, AcquisitionPlan.from_scope(scope, "A"), specimen)
        ) as session:
            assert isinstance(session.microscope, VirtualScope)
            link = session.microscope.link
            moved_in: list[str] = []
            call = link.call

            def noted(
                name: str, *arguments: Any, call: Any = call, moved_in: list[str] = moved_in
            ) -> Any:
                if name == "set_xy_position":
                    moved_in.append(str(call("get_property", "LED", "Label")))
                return call(name, *arguments)

            link.call = noted  # type: ignore[method-assign]
            session.take(range(3))
            if changes:
                assert set(moved_in) == {"Closed"}, "the stage moved in the light"
                assert link.get_property("LED", "Label") == "Closed"
        taken.append([read_field(path)[0] for path in fields_on_disk(sample.raw_path()).values()])
    assert len(taken[0]) == 3
    np.testing.assert_array_equal(taken[0], taken[1])


@pytest.mark.parametrize("sequencing", ["off", "on"])
def test_a_failing_exposure_and_every_exit_leave_it_dark(
    make_scope: Callable[..., Scope],
    specimen: SpecimenPlan,
    monkeypatch: pytest.MonkeyPatch,
    made_cores: list[Any],
    sequencing: str,
) -> None:
    scope = make_scope(DARK, PRESET, sequencing=sequencing)
    left: list[str] = []
    unload = pycromanager.stop_headless

    def unloading() -> None:
        left.append(str(made_cores[0].get_property("LED", "Label")))
        unload()

    monkeypatch.setattr(pycromanager, "stop_headless", unloading)

    with VirtualScope(scope, specimen) as microscope:
        microscope.switch_light("fluorescence")
        monkeypatch.setattr(microscope.camera, "image", fail)
        with pytest.raises(HardwareError, match="planted"):
            microscope.expose(1.0, np.empty((256, 256), np.uint16))
        assert microscope.link.get_property("LED", "Label") == "Closed"
        microscope.link.set_property("LED", "Label", "470nm")
        microscope.recover()
        assert microscope.link.get_property("LED", "Label") == "Closed"
        microscope.link.set_property("LED", "Label", "470nm")
    assert left == ["Closed"]


def fail(*_: object) -> None:
    raise HardwareError("planted")


def test_light_that_is_found_on_is_put_out_and_told(make_scope: Callable[..., Scope]) -> None:
    startup = ("System,Startup,LED,Label,Closed", "System,Startup,LED,Label,470nm")
    link = CoreLink(make_scope(DARK, PRESET, startup))
    assert link.shutter_was_open
    assert link.get_property("LED", "Label") == "Closed"
    link.close()
    link = CoreLink(make_scope(DARK, PRESET))
    assert not link.shutter_was_open
    link.close()


def test_a_process_of_its_own_makes_it_dark(make_scope: Callable[..., Scope]) -> None:
    assert close_shutter_in_subprocess(make_scope(DARK, PRESET)) == ""


@pytest.mark.parametrize(
    ("light", "words"),
    [
        (
            'shutter_device = ""',
            r"key 'light': name the shutter in 'shutter_device', or without one give 'dark'",
        ),
        (SHUTTER + "\n" + DARK[1], r"'dark' is for a microscope without a shutter"),
        (
            'dark = { group = "Illumination" }',
            r"key 'light.dark': give either 'group' and 'preset', or 'settings'",
        ),
    ],
)
def test_darkness_is_described_once(
    make_scope: Callable[..., Scope], light: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        make_scope((SHUTTER, light))


@pytest.mark.parametrize(
    ("dark", "words"),
    [
        (
            '{ group = "Illumination", preset = "drak" }',
            r"light\.dark\.preset 'drak' is not in the \.cfg; .* 'dark'",
        ),
        (
            '{ settings = [{ device = "LED", property = "Label", value = "470nm" }] }',
            r"light\.dark sets nothing that modalities\.fluorescence does not also set, so that "
            r"light would stay on",
        ),
    ],
)
def test_darkness_that_is_none_is_found_offline(
    make_scope: Callable[..., Scope], dark: str, words: str
) -> None:
    scope = make_scope((SHUTTER, f"dark = {dark}"), PRESET)
    (problem,) = configuration_problems(scope, read_config(scope.config_path))
    import re

    assert re.search(words, problem), problem


def test_doctor_warns_and_leaves_it_dark(make_scope: Callable[..., Scope], tmp_path: Path) -> None:
    scope = make_scope(DARK, PRESET)
    (check,) = [
        check for check in check_offline(scope, "A", 4, tmp_path) if check.name == "shutter"
    ]
    assert (check.status, check.detail[:5]) == ("warn", "none:")
    (light,) = [check for check in check_live(scope) if check.name == "light fluorescence"]
    assert light.detail == "switched, then set dark again"
