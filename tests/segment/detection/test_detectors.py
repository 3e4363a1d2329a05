"""The slot for other detectors: loaded by name, checked, and everything after them as usual."""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import ndimage

from wbcpipe.errors import ConfigError
from wbcpipe.segment.detection import detectors
from wbcpipe.segment.detection.detect import cells_from_labels, detect_cells
from wbcpipe.segment.detection.detectors import find_labels, load_detector
from wbcpipe.segment.run import segment_sample
from wbcpipe.segment.stage import SampleSegmenter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wbcpipe.samples.cell_store import CellStore
    from wbcpipe.samples.sample import Sample

PIXEL_UM = 0.1


def otsu_like(nuclear: Any, pixel_um: float) -> Any:
    """What a lab might bring: smooth, threshold, label; lobes have labels of their own."""
    smooth = ndimage.gaussian_filter(nuclear, 0.3 / pixel_um)
    return ndimage.label(smooth - np.median(smooth) > 0.25 * (smooth.max() - np.median(smooth)))[0]


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("mylab")
    module.find = otsu_like  # type: ignore[attr-defined]
    module.number = 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mylab", module)
    return module


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    detectors.cellpose_detector.cache_clear()
    detectors.stardist_detector.cache_clear()


def three_cells() -> Any:
    """A round nucleus, two lobes of one cell 1 um apart, and a platelet."""
    y, x = np.mgrid[:600, :600]
    picture = np.full((600, 600), 500.0)
    blobs = [(150, 150, 38, 9000), (400, 280, 17, 9000), (400, 324, 17, 9000), (480, 500, 9, 7000)]
    for cy, cx, radius, height in blobs:
        picture += height * (np.hypot(y - cy, x - cx) < radius)
    return ndimage.gaussian_filter(picture, 3).astype(np.uint16)


def test_lobes_are_joined_and_platelets_left_out() -> None:
    nuclear = three_cells()
    labels = find_labels(otsu_like, nuclear, PIXEL_UM)
    assert labels.max() == 4
    found = cells_from_labels(labels, nuclear, PIXEL_UM, "fluorescence")
    own = detect_cells(nuclear, PIXEL_UM, "fluorescence")
    assert len(found) == len(own) == 2
    assert found.y_px == pytest.approx(own.y_px, abs=4)
    assert found.x_px == pytest.approx(own.x_px, abs=4)
    assert found.nucleus_area_um2 == pytest.approx(own.nucleus_area_um2, rel=0.15)
    assert found.quality.tolist() == own.quality.tolist()


@pytest.mark.usefixtures("lab")
def test_a_stage_with_another_detector_finds_the_same_cells(
    copy_run: Callable[[str], Sample], unbroken: CellStore
) -> None:
    sample = copy_run("lab")
    store = segment_sample(sample, pixel_um=0.1, detector="mylab:find")
    assert store.attributes.provenance["detector"] == "mylab:find"
    assert unbroken.attributes.provenance["detector"] == "own"
    ours = np.stack([unbroken.column("y_um"), unbroken.column("x_um")], -1)
    theirs = np.stack([store.column("y_um"), store.column("x_um")], -1)
    apart = np.linalg.norm(ours[:, None] - theirs, axis=-1)
    assert (apart.min(1) < 2).mean() > 0.9
    # With our own again nothing of the other is taken over.
    again = SampleSegmenter(sample)
    again.estimate_statistics(range(6))
    assert len(again.segment_field(0)) == np.count_nonzero(unbroken.column("field_index") == 0)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("best", "no detector 'best'"),
        ("mylab:", "no detector 'mylab:'"),
        ("mylab:absent", "mylab has no function 'absent'"),
        ("mylab:number", "mylab has no function 'number'"),
        ("not_there_at_all:find", "is it installed"),
    ],
)
@pytest.mark.usefixtures("lab")
def test_a_name_that_does_not_hold(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_detector(name)


@pytest.mark.parametrize(
    ("gives", "words"),
    [
        (lambda _nuclear, _pixel_um: np.zeros((3, 3), int), "shape"),
        (lambda nuclear, _pixel_um: np.zeros(nuclear.shape), "float64"),
        (lambda nuclear, _pixel_um: np.full(nuclear.shape, -1), "negative"),
        (lambda _nuclear, _pixel_um: 1 / 0, "detector 'mylab:find' failed: ZeroDivisionError"),
    ],
)
def test_what_is_no_label_image_is_refused(lab: types.ModuleType, gives: Any, words: str) -> None:
    lab.find = gives  # type: ignore[attr-defined]
    detector = load_detector("mylab:find")
    assert detector is not None
    with pytest.raises(ConfigError, match=words):
        find_labels(detector, three_cells(), PIXEL_UM)


def test_cellpose_and_stardist_are_asked_at_the_scale_they_know(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, Any] = {}

    class CellposeModel:
        def __init__(self, **options: Any) -> None:
            asked["cellpose"] = options

        def eval(self, image: Any, diameter: float) -> Any:
            asked["diameter"], asked["shape"] = diameter, image.shape
            return otsu_like(image, 0.3), None, None

    class StarDist2D:
        @classmethod
        def from_pretrained(cls, name: str) -> StarDist2D:
            asked["stardist"] = name
            return cls()

        def predict_instances(self, image: Any) -> Any:
            asked["range"] = np.percentile(image, [1, 99.8]).tolist()
            return otsu_like(image, 0.3), {}

    for package, name, content in (
        ("cellpose", "CellposeModel", CellposeModel),
        ("stardist", "StarDist2D", StarDist2D),
    ):
        module = types.ModuleType(f"{package}.models")
        setattr(module, name, content)
        monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
        monkeypatch.setitem(sys.modules, f"{package}.models", module)
    nuclear = three_cells()
    own = detect_cells(nuclear, PIXEL_UM, "fluorescence")
    for name in ("cellpose", "stardist"):
        detector = load_detector(name)
        assert detector is not None
        found = cells_from_labels(
            find_labels(detector, nuclear, PIXEL_UM), nuclear, PIXEL_UM, "fluorescence"
        )
        assert found.y_px == pytest.approx(own.y_px, abs=5)
    assert asked["cellpose"]["gpu"] in {True, False}
    assert asked["diameter"] == pytest.approx(8 / 0.3)
    assert asked["shape"] == (200, 200)
    assert asked["stardist"] == "2D_versatile_fluo"
    assert asked["range"] == pytest.approx([0, 1], abs=1e-3)


def test_without_the_package_the_message_says_so() -> None:
    with pytest.raises(
        ConfigError, match=r"detector 'stardist': No module named 'stardist.*is it installed"
    ):
        load_detector("stardist")
