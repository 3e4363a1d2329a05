"""Sequences on SequenceTester.

Its camera's frames hold, as MessagePack, every setting its devices took and when.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from wbcpipe.acquire.config.scope import load_scope
from wbcpipe.acquire.events import field_events
from wbcpipe.acquire.hardware.microscope import CoreMicroscope
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.errors import HardwareError
from wbcpipe.samples.fields import MODALITIES

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope

#: The frame is (1 + serial number, camera, first count, count, state before, state, history); see
#: SettingLogger.cpp of Micro-Manager's SequenceTester.
HISTORY, STATE, CAMERA = 6, 5, 1

CFG = """
Property,Core,Initialize,0
Device,THub,SequenceTester,THub
Device,Camera,SequenceTester,TCamera-0
Device,LED,SequenceTester,TSwitcher-0
Device,Shutter,SequenceTester,TShutter-0
Device,XY,SequenceTester,TXYStage-0
Device,Z,SequenceTester,TZStage-0
Property,Camera,ImageMode,MachineReadable
Property,Camera,ImageWidth,128
Property,Camera,ImageHeight,128
Parent,Camera,THub
Parent,LED,THub
Parent,Shutter,THub
Parent,XY,THub
Parent,Z,THub
Property,Core,Initialize,1
Property,LED,TriggerSourceDevice,TCamera-0
Property,LED,TriggerSourcePort,ExposureStartEdge
Property,LED,TriggerSequenceMaxLength,{steps}
"""

TOML = """
[micromanager]
config = "tester.cfg"
[camera]
device = "Camera"
sensor_px = [128, 128]
bits = 8
pixel_um = 0.1
[stage]
xy_device = "XY"
z_device = "Z"
x_um = [-1000.0, 1000.0]
y_um = [-1000.0, 1000.0]
z_um = [-100.0, 100.0]
[light]
shutter_device = "Shutter"
sequencing = "{sequencing}"
[slots.A]
x_um = [-60.0, 60.0]
y_um = [-60.0, 60.0]
[focus]
method = "fixed"
fixed_um = 7.0
"""

LIGHT = """
[modalities.{name}]
settings = [{{ device = "LED", property = "State", value = "{state}" }}]
exposure_ms = {exposure_ms}
wavelength_nm = 500.0
"""

STATES = {"color1": 3, "color2": 9, "color3": 5, "fluorescence": 12}


def scope_of(
    folder: Path, *, steps: int = 16, sequencing: str = "on", last_ms: float = 7.0
) -> Scope:
    lights = "".join(
        LIGHT.format(name=name, state=state, exposure_ms=last_ms if name == "fluorescence" else 7.0)
        for name, state in STATES.items()
    )
    (folder / "tester.cfg").write_text(CFG.format(steps=steps), encoding="utf-8")
    (folder / "tester.toml").write_text(
        TOML.format(sequencing=sequencing) + lights, encoding="utf-8"
    )
    return load_scope(folder / "tester.toml")


def unpacked(data: bytes, at: int = 0) -> tuple[Any, int]:
    """One MessagePack item at ``at``, and where it ends; only what SequenceTester writes."""
    kind = data[at]
    at += 1
    if kind <= 0x7F:
        return kind, at
    if kind >= 0xE0:
        return kind - 256, at
    if kind in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[kind], at
    numbers = {0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"}
    numbers |= {0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}
    if kind in numbers:
        size = struct.calcsize(numbers[kind])
        return struct.unpack(numbers[kind], data[at : at + size])[0], at + size
    if 0xA0 <= kind <= 0xBF or kind in (0xD9, 0xDA):
        length, start = (kind - 0xA0, at) if kind <= 0xBF else (data[at], at + 1)
        if kind == 0xDA:
            length, start = int.from_bytes(data[at : at + 2], "big"), at + 2
        return data[start : start + length].decode(), start + length
    if 0x90 <= kind <= 0x9F or kind == 0xDC:
        count, at = (
            (kind - 0x90, at)
            if kind <= 0x9F
            else (int.from_bytes(data[at : at + 2], "big"), at + 2)
        )
        items = []
        for _ in range(count):
            item, at = unpacked(data, at)
            items.append(item)
        return items, at
    raise AssertionError(f"MessagePack kind {kind:#x} was not expected")


def record_of(frame: np.ndarray) -> list[Any]:
    record, _ = unpacked(frame.astype(np.uint8).tobytes())
    assert len(record) == 7
    return list(record)


def state_of(record: list[Any]) -> dict[tuple[str, str], Any]:
    return {tuple(key): value for key, (_, value) in record[STATE]}


def lights_of(record: list[Any]) -> list[int]:
    """What the light's position was set to since the frame before."""
    return [value for key, (_, value), _ in record[HISTORY] if key == ["TSwitcher-0", "Position"]]


def take(
    microscope: CoreMicroscope, scope: Scope, index: int, lights: tuple[str, ...]
) -> list[list[Any]]:
    field = AcquisitionPlan.from_scope(scope, "A").fields()[index]
    events = tuple(event for event in field_events(scope, field, 7.0) if event.modality in lights)
    out = np.zeros((len(events), 128, 128), np.uint16)
    microscope.move_xy(field.x_um, field.y_um)
    microscope.move_z(7.0)
    if microscope.sequencing.can_sequence(events):
        microscope.sequencing.expose_sequence(events, out)
    else:
        for event, frame in zip(events, out, strict=True):
            microscope.switch_light(event.modality)
            microscope.expose(event.exposure_ms, frame)
    microscope.wait_for_frames()
    return [record_of(frame) for frame in out]


@pytest.mark.parametrize(
    "lights", [MODALITIES, MODALITIES[:3], ("color2", "fluorescence")], ids=len
)
def test_the_uploaded_lights_are_played_in_order(tmp_path: Path, lights: tuple[str, ...]) -> None:
    scope = scope_of(tmp_path)
    with CoreMicroscope(scope) as microscope:
        for index in range(3):
            records = take(microscope, scope, index, lights)
            for number, (record, light) in enumerate(zip(records, lights, strict=True)):
                _, _, is_sequence, _, frame_number = record[CAMERA]
                assert (is_sequence, frame_number) == (True, number)
                state = state_of(record)
                assert state["TSwitcher-0", "Position"] == STATES[light]
                assert state["TCamera-0", "Exposure"] == 7.0
                assert state["TShutter-0", "ShutterState"] is True
                assert state["TZStage-0", "ZPositionUm"] == 7.0
                # The first is set by command and again by the first exposure's edge; each further
                # one by its edge.
                assert lights_of(record) == [STATES[light]] * (2 if number == 0 else 1)
            assert not microscope.link.shutter.is_open()


def test_commands_are_obeyed_after_a_sequence(tmp_path: Path) -> None:
    scope = scope_of(tmp_path)
    frame = np.zeros((128, 128), np.uint16)
    with CoreMicroscope(scope) as microscope:
        take(microscope, scope, 0, MODALITIES)
        for light in ("color3", "color1"):
            microscope.switch_light(light)
            microscope.expose(2.5, frame)
            microscope.wait_for_frames()
            record = record_of(frame)
            assert record[CAMERA][2] is False
            assert state_of(record)["TSwitcher-0", "Position"] == STATES[light]
            assert lights_of(record) == [STATES[light]], (
                "the exposure's edge moves nothing any more"
            )
            assert state_of(record)["TCamera-0", "Exposure"] == 2.5
        assert state_of(take(microscope, scope, 1, MODALITIES)[0])["TCamera-0", "Exposure"] == 7.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "LED-State cannot be sequenced"),
        ({"steps": 3}, "LED-State holds 3 steps of the 4 needed"),
        ({"last_ms": 20.0}, "the camera 'Camera' cannot step through different exposures"),
    ],
    ids=["none", "short", "exposures"],
)
def test_what_the_core_denies_is_done_by_command(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(HardwareError, match=words):
        CoreMicroscope(scope_of(tmp_path, **change))
    scope = scope_of(tmp_path, sequencing="auto", **change)
    with CoreMicroscope(scope) as microscope:
        records = take(microscope, scope, 0, MODALITIES)
        for record, light in zip(records, MODALITIES, strict=True):
            assert record[CAMERA][2] is False, "a snap"
            assert state_of(record)["TSwitcher-0", "Position"] == STATES[light]
        assert state_of(records[3])["TCamera-0", "Exposure"] == change.get("last_ms", 7.0)
        if change.get("steps") == 3:
            # Three steps are enough for a pass of three modalities.
            assert all(record[CAMERA][2] for record in take(microscope, scope, 1, MODALITIES[:3]))
