"""A slide is scanned under its own name or not at all."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zxingcpp
from PIL import Image

from wbcpipe.acquire.capture.sample_record import check_sample
from wbcpipe.acquire.capture.session import AcquisitionSession
from wbcpipe.acquire.config.slide_policies import Label
from wbcpipe.acquire.label.capture import crop
from wbcpipe.acquire.label.check import check_label, label_file_problems
from wbcpipe.acquire.request import AcquisitionRequest
from wbcpipe.acquire.simulation.faults import WRONG_LABEL, Fault, FaultyOpener, read_strikes
from wbcpipe.acquire.supervise.worker import AcquisitionWorker
from wbcpipe.errors import ConfigError, IdentityError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.plan import AcquisitionPlan
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
    from wbcpipe.samples.sample import Sample

CAMERA = {"method": "camera", "device": "Label Camera"}


def with_label(scope: Scope, **policy: Any) -> Scope:
    return scope.model_copy(update={"label": Label.model_validate(policy)})


@pytest.fixture
def ask_for(
    sample: Sample, small_plan: AcquisitionPlan, specimen: SpecimenPlan
) -> Callable[..., AcquisitionRequest]:
    def make(scope: Scope, slide: str = "") -> AcquisitionRequest:
        return AcquisitionRequest(sample, scope, small_plan, specimen, slide=slide)

    return make


def label_events(sample: Sample) -> list[dict[str, Any]]:
    events = map(json.loads, (sample.path / "log.jsonl").read_text(encoding="utf-8").splitlines())
    return [event for event in events if event["event"] == "label_read"]


def image_size(sample: Sample) -> tuple[int, int]:
    with Image.open(sample.path / "label.png") as image:
        return image.size


def printed(*texts: str) -> NDArray[np.uint8]:
    codes = [zxingcpp.create_barcode(text, zxingcpp.BarcodeFormat.DataMatrix) for text in texts]
    images = [
        np.pad(np.array(code.to_image(scale=6, add_quiet_zones=True)), 40, constant_values=255)
        for code in codes
    ]
    side_px = max((image.shape[0] for image in images), default=64)
    paper = [np.full((side_px, side_px), 255, np.uint8)]
    paper += [
        np.pad(image, ((0, side_px - image.shape[0]), (0, 0)), constant_values=255)
        for image in images
    ]
    return np.hstack(paper)


class Paper:
    """Stands for a microscope whose label camera sees these images in turn, the last one for
    good.
    """

    def __init__(self, *images: NDArray[np.uint8]) -> None:
        self.images = list(images)
        self.exposures_ms: list[float] = []
        self.is_lit = False
        self.label_camera = self

    @contextlib.contextmanager
    def lit(self) -> Iterator[None]:
        self.is_lit = True
        try:
            yield
        finally:
            self.is_lit = False

    def snap(self, exposure_ms: float) -> NDArray[np.uint8]:
        assert self.is_lit
        self.exposures_ms.append(exposure_ms)
        return self.images.pop(0) if len(self.images) > 1 else self.images[0]


def test_the_label_camera_reads_the_slide_and_the_sample_keeps_it(
    small_scope: Scope, ask_for: Callable[..., AcquisitionRequest], sample: Sample
) -> None:
    lamp = ({"device": "LED", "property": "Sequence", "value": "Off"},)
    scope = with_label(
        small_scope, **CAMERA, positions_um={"A": (100.0, 200.0)}, z_um=5.0, lamp_on=lamp
    )
    for number in (1, 2):  # on resuming it is read again
        with AcquisitionSession(ask_for(scope, "4711/3")) as session:
            assert session.microscope.move_z(0.0) == 0.0
        assert len(label_events(sample)) == number
    label = sample.record().label
    assert label is not None
    assert (label.code, label.format, sample.record().slide) == ("4711/3", "DataMatrix", "4711/3")
    assert label_events(sample)[0]["matches"] is True
    assert image_size(sample) == (512, 512)


@pytest.mark.parametrize("area_um", [None, (50.0, 50.0)])
def test_the_scan_camera_reads_the_label_at_the_slots_position(
    small_scope: Scope,
    ask_for: Callable[..., AcquisitionRequest],
    sample: Sample,
    area_um: tuple[float, float] | None,
) -> None:
    places = {"A": (15000.0, 500.0), "B": (45000.0, 500.0)}
    scope = with_label(small_scope, method="scan", positions_um=places, area_um=area_um)
    with AcquisitionSession(ask_for(scope)) as session:
        assert session.take([0])
    assert label_events(sample)[0]["slides"] == ["S1"]
    side_px = 256 if area_um is None else 512
    assert image_size(sample) == (side_px, side_px)


def faulty(
    request: AcquisitionRequest, tmp_path: Path, kind: Any, attempts: int = 9
) -> AcquisitionRequest:
    opener = FaultyOpener(request.plan, (Fault(kind, 0, attempts),), tmp_path / "strikes.jsonl")
    return AcquisitionRequest(
        request.sample, request.scope, request.plan, request.specimen, microscope=opener
    )


def test_nothing_of_another_slide_is_written(
    small_scope: Scope, ask_for: Callable[..., AcquisitionRequest], sample: Sample, tmp_path: Path
) -> None:
    request = faulty(ask_for(with_label(small_scope, **CAMERA)), tmp_path, "wrong label", 1)
    with AcquisitionWorker(request) as worker:  # across the process boundary
        worker.request_fields(1)
        with pytest.raises(
            IdentityError,
            match=rf"the label reads '{WRONG_LABEL}', slide 'S1' is expected: the slide",
        ):
            list(worker.events())
    assert not (sample.path / "raw").exists()
    assert not sample.exists()
    assert (sample.path / "label.png").is_file()
    assert label_events(sample)[0]["matches"] is False
    assert [strike.kind for strike in read_strikes(tmp_path / "strikes.jsonl")] == ["wrong label"]
    with AcquisitionSession(request) as session:  # the right slide was put there
        assert session.take([0])
    assert sample.record().label is not None


@pytest.mark.parametrize("required", [True, False])
def test_a_label_that_cannot_be_read_is_tried_at_other_exposures(
    small_scope: Scope, ask_for: Callable[..., AcquisitionRequest], required: bool
) -> None:
    request = ask_for(with_label(small_scope, **CAMERA, exposure_ms=8.0, required=required))
    blank, said = Paper(printed()), list[str]()
    if required:
        with pytest.raises(
            IdentityError,
            match=r"slot 'A' cannot be read, and slide 'S1' is expected; nothing of it",
        ):
            check_label(blank, request, said.append)  # type: ignore[arg-type]
    else:
        assert check_label(blank, request, said.append) is None  # type: ignore[arg-type]
        assert "it is scanned all the same" in said[0]
    assert blank.exposures_ms == [8.0, 4.0, 16.0, 2.0, 32.0]
    assert not blank.is_lit
    glare = Paper(printed(), printed("S1"))
    label = check_label(glare, request, said.append)  # type: ignore[arg-type]
    assert label is not None
    assert glare.exposures_ms == [8.0, 4.0]


@pytest.mark.parametrize(
    ("texts", "pattern", "words"),
    [
        (("S2",), "", "the label reads 'S2', slide 'S1' is expected"),
        (("s1",), "", "the label reads 's1', slide 'S1' is expected"),
        (
            ("S1", "S2"),
            "",
            r"has the codes of several slides, 'S\d', 'S\d'.*narrow them by 'label.pattern'",
        ),
        (("CASE 9",), r"(S\d)", "has 'CASE 9', which 'label.pattern' does not match"),
        (("S2x",), r"(S\d)x", "the label reads 'S2', slide 'S1' is expected"),
        (("S1x", "CASE 9"), r"(S\d)x", ""),
        (("S1",), "", ""),
    ],
)
def test_a_slide_is_that_of_its_label_alone(
    small_scope: Scope,
    ask_for: Callable[..., AcquisitionRequest],
    texts: tuple[str, ...],
    pattern: str,
    words: str,
) -> None:
    # An unreadable label may be a warning; that of another slide never is.
    request = ask_for(with_label(small_scope, **CAMERA, pattern=pattern, required=bool(pattern)))
    with pytest.raises(IdentityError, match=words) if words else contextlib.nullcontext():
        check_label(Paper(printed(*texts)), request, lambda _: None)  # type: ignore[arg-type]


def test_without_the_decoder_nothing_is_opened(
    small_scope: Scope, ask_for: Callable[..., AcquisitionRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_sample(ask_for(small_scope))
    monkeypatch.setattr("wbcpipe.acquire.label.decode.importlib.util.find_spec", lambda _: None)
    check_sample(ask_for(small_scope))
    with pytest.raises(
        ConfigError, match=r"zxing-cpp, which is not installed: pip install 'wbcpipe\[barcode\]'"
    ):
        check_sample(ask_for(with_label(small_scope, **CAMERA)))


def test_positions_out_of_reach_and_slots_without_one_are_told(small_scope: Scope) -> None:
    label = {
        "method": "scan",
        "positions_um": {"A": (59990.0, 0.0)},
        "area_um": (50.0, 50.0),
        "z_um": 101.0,
    }
    assert label_file_problems(with_label(small_scope, **label)) == [
        "label.positions_um: slot 'B' has no position",
        "label.positions_um.A: x = 59990 um is beyond the limits, -60000 to 60000",
        "label.z_um = 101 is beyond the soft limits, -100 to 100",
    ]
    assert label_file_problems(small_scope) == []


def test_a_part_of_the_image_is_read() -> None:
    image = np.arange(100, dtype=np.uint8).reshape(10, 10)
    assert crop(image, (0.5, 0.2, 1.0, 0.4)).tolist() == [
        [25, 26, 27, 28, 29],
        [35, 36, 37, 38, 39],
    ]
    assert crop(image, (0.0, 0.0, 1.0, 1.0)).shape == (10, 10)
