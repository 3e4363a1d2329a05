"""Whole runs over the bridge: the same files as headless."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from wbcpipe.acquire.capture.session import AcquisitionSession
from wbcpipe.acquire.doctor import check_live
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.acquire.request import AcquisitionRequest
from wbcpipe.acquire.supervise.worker import AcquisitionWorker
from wbcpipe.samples.fields import fields_on_disk, read_field, read_info
from wbcpipe.samples.records import FocusRecord
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
    from wbcpipe.tests.acquire.conftest import Bridged, BridgeMaker

# pyjavaz leaves its socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:Unclosed socket:ResourceWarning")


def test_doctor_looks_through_the_bridge(bridged: Bridged) -> None:
    checks = check_live(bridged.scope)
    assert {check.name for check in checks} >= {
        "core",
        "light color1",
        "camera",
        "dark exposure",
        "stage",
    }
    assert [check.detail for check in checks if check.status == "fail"] == []
    bridged.kill()
    checks = check_live(bridged.scope)
    assert [check.status for check in checks] == ["fail"]
    assert "nothing listens there" in checks[0].detail


def content(sample: Sample) -> tuple[dict[int, NDArray[np.uint16]], list[Any]]:
    """Pixels by index, and the descriptions save the times and the light, to which a broken attempt
    adds.
    """
    paths = fields_on_disk(sample.raw_path())
    infos = [read_info(path) for path in paths.values()]
    timeless = [
        replace(
            info,
            acquired="",
            dose_ms=0.0,
            faded=None,
            frames=tuple(replace(frame, time_s=0.0) for frame in info.frames),
        )
        for info in infos
    ]
    return {index: read_field(path)[0] for index, path in paths.items()}, timeless


def assert_same_files(samples: list[Sample], n_fields: int) -> None:
    one, other = samples
    pixels, infos = content(one)
    other_pixels, other_infos = content(other)
    assert list(pixels) == list(other_pixels) == list(range(n_fields))
    assert infos == other_infos
    for index, images in pixels.items():
        np.testing.assert_array_equal(images, other_pixels[index])


def test_the_virtual_scope_writes_the_same_files_over_the_bridge(
    tmp_path: Path, bridged: Bridged, specimen: SpecimenPlan
) -> None:
    samples = [Sample.open(tmp_path, name) for name in ("bridge", "headless")]
    for sample, scope in zip(samples, (bridged.scope, bridged.headless), strict=True):
        take(sample, scope, 3, specimen)
    assert_same_files(samples, 3)
    assert samples[0].truth_path.read_bytes() == samples[1].truth_path.read_bytes()


def test_sequences_and_focusing_go_over_the_bridge_too(
    tmp_path: Path, make_bridge: BridgeMaker, specimen: SpecimenPlan
) -> None:
    bridge = make_bridge(
        ('method = "fixed"', 'method = "surface"'),
        ("range_um = 30.0", "range_um = 6.0"),
        ("window_px = 384", "window_px = 256"),
    )
    samples = [Sample.open(tmp_path, name) for name in ("bridge", "headless")]
    take(samples[0], bridge.scope.with_sequencing("on"), 2, specimen)
    take(samples[1], bridge.headless.with_sequencing("off"), 2, specimen)
    assert_same_files(samples, 2)
    assert "sequencing_verified" in (samples[0].path / "log.jsonl").read_text(encoding="utf-8")
    surfaces = [FocusRecord.read(sample.raw_path() / "focus.json") for sample in samples]
    assert surfaces[0] == surfaces[1]


def take(sample: Sample, scope: Scope, n_fields: int, specimen: SpecimenPlan | None = None) -> None:
    with AcquisitionSession(
        AcquisitionRequest(sample, scope, AcquisitionPlan.from_scope(scope, "A"), specimen)
    ) as session:
        session.take(range(n_fields))


def test_a_real_camera_writes_the_same_files_over_the_bridge(
    tmp_path: Path, make_bridge: BridgeMaker
) -> None:
    bridge = make_bridge(
        ("virtual = true", "virtual = false"),
        ("Camera,FastImage,1", "Camera,FastImage,0"),
        ("exposure_ms = 20.0", "exposure_ms = 100.0"),
    )
    samples = [Sample.open(tmp_path, name) for name in ("bridge", "headless")]
    take(samples[0], bridge.scope, 2)
    # The demo camera's waves go on from frame to frame, in the same way in every new process.
    plan = AcquisitionPlan.from_scope(bridge.headless, "A")
    with AcquisitionWorker(AcquisitionRequest(samples[1], bridge.headless, plan)) as worker:
        worker.request_fields(2)
        list(worker.events())
    assert_same_files(samples, 2)
    frames = content(samples[0])[0][0]
    assert all(np.ptp(frame) > 0 for frame in frames)
    assert frames[3].max() > 40_000, "beyond what a Java short holds"
