"""Over the bridge as headless.

Two passes with a stain between, calibration, the focusing device, and faults.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner

from wbcpipe.acquire.calibration.process import CalibrationRequest, run_calibration
from wbcpipe.acquire.capture.session import AcquisitionSession
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.acquire.request import AcquisitionRequest
from wbcpipe.acquire.simulation.faults import Fault, FaultyOpener, FaultyScope, read_strikes
from wbcpipe.pipeline import cli
from wbcpipe.samples.field_status import read_missing
from wbcpipe.samples.fields import complete_fields, fields_on_disk, read_field
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
    from wbcpipe.samples.fields import Pass
    from wbcpipe.tests.acquire.conftest import BridgeMaker

#: Fields of the usual size on few pixels, which catch 64 times the light.
WIDE = (
    ("pixel_um = 0.1", "pixel_um = 0.8"),
    ("[-60.0, 60.0]", "[-500.0, 500.0]"),
    ("exposure_ms = 5.0", "exposure_ms = 0.08"),
    ("exposure_ms = 20.0", "exposure_ms = 0.31"),
)
#: DemoCamera's focusing device.
AUTOFOCUS = (
    ("Device,LED,", "Device,Autofocus,DemoCamera,DAutoFocus\nDevice,LED,"),
    ('"fixed"', '"hardware"\nhardware_device = "Autofocus"\nhardware_settle_s = 0.0'),
    ("window_px = 384", "window_px = 256"),
    ("range_um = 30.0", "range_um = 6.0"),
)
TWO_PASSES: tuple[Pass, ...] = ("brightfield", "fluorescence")

# pyjavaz leaves its socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:Unclosed socket:ResourceWarning")


def take(
    sample: Sample, scope: Scope, specimen: SpecimenPlan, n_fields: int, pass_name: Pass = "single"
) -> None:
    plan = AcquisitionPlan.from_scope(scope, "A")
    with AcquisitionSession(
        AcquisitionRequest(sample, scope, plan, specimen, pass_name=pass_name)
    ) as session:
        session.take(range(n_fields))


def events_of(sample: Sample, name: str) -> list[dict[str, Any]]:
    lines = (sample.path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == name]


def assert_same_frames(samples: list[Sample], pass_name: Pass = "single") -> None:
    one, other = (fields_on_disk(sample.raw_path(pass_name)) for sample in samples)
    assert one
    assert list(one) == list(other)
    for index in one:
        (pixels, info), (other_pixels, other_info) = (
            read_field(one[index]),
            read_field(other[index]),
        )
        np.testing.assert_array_equal(pixels, other_pixels)
        places = [
            (
                seen.x_um,
                seen.y_um,
                seen.slide_transform,
                [replace(frame, time_s=0.0) for frame in seen.frames],
            )
            for seen in (info, other_info)
        ]
        assert places[0] == places[1]


def test_both_passes_in_one_command_find_the_same_fields_as_headless(
    tmp_path: Path, make_bridge: BridgeMaker, specimen: SpecimenPlan
) -> None:
    bridge = make_bridge(*WIDE)
    text = (tmp_path / "small.toml").read_text(encoding="utf-8")
    old = 'backend = "headless"'
    assert old in text
    (tmp_path / "small.toml").write_text(
        text.replace(old, f'backend = "bridge"\nport = {bridge.port}'), encoding="utf-8"
    )
    words = ["acquire", "--slide", "B1", "--scope", str(tmp_path / "small.toml"), "--fields", "3"]
    words += ["--protocol", "two-pass", "--specimen-seed", str(specimen.seed)]
    result = CliRunner().invoke(
        cli, [*words, "--data", str(tmp_path / "data"), "--json"], input="y\n"
    )
    assert result.exit_code == 0, result.output
    samples = [Sample.open(tmp_path / "data", name) for name in ("B1", "headless")]
    assert complete_fields(samples[0].path / "raw") == [0, 1, 2]
    assert events_of(samples[0], "slide_found")
    for name in TWO_PASSES:
        take(samples[1], bridge.headless, specimen, 3, name)
        assert_same_frames(samples, name)


def test_calibration_finds_the_same_figures(
    make_bridge: BridgeMaker, specimen: SpecimenPlan
) -> None:
    bridge = make_bridge()
    parts = ("dark", "geometry")
    figures = [
        run_calibration(CalibrationRequest(scope, "A", parts, specimen), lambda *_: None).parts
        for scope in (bridge.scope, bridge.headless)
    ]
    assert set(figures[0].measured()) == set(parts)
    assert figures[0] == figures[1]


def test_the_focusing_device_is_asked(
    tmp_path: Path, make_bridge: BridgeMaker, specimen: SpecimenPlan
) -> None:
    bridge = make_bridge(*AUTOFOCUS)
    samples = [Sample.open(tmp_path, name) for name in ("bridge", "headless")]
    for sample, scope in zip(samples, (bridge.scope, bridge.headless), strict=True):
        take(sample, scope, specimen, 2)
    (focused,) = events_of(samples[0], "focused")
    assert focused["by_device"] > 0
    assert_same_frames(samples)


def test_faults_are_retried_and_a_field_that_always_fails_is_missing(
    tmp_path: Path, make_bridge: BridgeMaker, specimen: SpecimenPlan
) -> None:
    bridged = make_bridge(("camera_timeout_s = 10.0", "camera_timeout_s = 0.5"))
    sample = Sample.open(tmp_path, "S1")
    sample.path.mkdir()
    plan = AcquisitionPlan.from_scope(bridged.scope, "A")
    faults = (
        Fault("camera time-out", 1),
        Fault("lamp dark", 2),
        Fault("dropped frame", 3, attempts=3),
        Fault("lamp saturates", 4),
    )
    opener = FaultyOpener(plan, faults, tmp_path / "strikes", bleaching=False)
    with AcquisitionSession(
        AcquisitionRequest(sample, bridged.scope, plan, specimen, microscope=opener)
    ) as session:
        session.take(range(5))
        assert isinstance(session.microscope, FaultyScope)
        assert not session.microscope.link.shutter.is_open()
    assert {fault.kind for fault in read_strikes(tmp_path / "strikes")} == {
        fault.kind for fault in faults
    }
    assert list(read_missing(sample.raw_path())) == [3]
    assert list(fields_on_disk(sample.raw_path())) == [0, 1, 2, 4]
    take(sample, bridged.scope, specimen, 5)
    assert list(fields_on_disk(sample.raw_path())) == [0, 1, 2, 3, 4]
