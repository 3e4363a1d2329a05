"""Engines call alike, on real cells where they are at hand, and step aside where they do not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from wbcpipe.classify.inference import engine as engines
from wbcpipe.classify.inference.classifier import Classifier
from wbcpipe.classify.inference.engine import (
    AGREES,
    OpenVinoEngine,
    TorchEngine,
    check_agreement,
    check_engine,
    engine_for,
    shared_threads,
)
from wbcpipe.classify.inference.parallel_batches import stream_threads
from wbcpipe.classify.models.bundle import load_bundle
from wbcpipe.classify.models.normalise import CLIP, scaled
from wbcpipe.classify.networks import build_network
from wbcpipe.errors import ConfigError
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.sample import Sample
from wbcpipe.segment.importers.cells import import_cells

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wbcpipe.classify.networks import FusionNetwork

PICTURES = Path(__file__).resolve().parents[4] / "shared" / "data" / "pbc5"
CPU = torch.device("cpu")


@pytest.fixture
def pictures() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(0, 1, (6, 3, 32, 32)).astype(np.float32)


@pytest.fixture
def network() -> FusionNetwork:
    torch.manual_seed(0)
    return build_network("mm-mimo", "shufflenet_v2_x1_0", 3, 1, 4).eval()


def test_folding_changes_no_logit(network: FusionNetwork, pictures: NDArray[np.float32]) -> None:
    with torch.inference_mode():
        plain = network(torch.from_numpy(pictures)).numpy()
    np.testing.assert_allclose(TorchEngine(network, CPU)(pictures), plain, atol=1e-5)


def test_openvino_gives_what_torch_gives(network: FusionNetwork, pictures: NDArray[np.float32]) -> None:
    pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")
    found = OpenVinoEngine(network, (3, 32, 32), threads=1)
    assert found.name == "openvino-cpu-float32"
    expected = TorchEngine(network, CPU)(pictures)
    np.testing.assert_allclose(found(pictures), expected, atol=1e-5)
    assert found(pictures[:1]).shape == (1, 3, 4)


@pytest.fixture
def crops() -> tuple[NDArray[np.uint16], NDArray[np.float32], NDArray[np.float32]]:
    """Crops, and a gain and an offset of each plane by which some values lie beyond what is clipped."""
    rng = np.random.default_rng(1)
    values = rng.integers(0, 65536, (6, 3, 32, 32)).astype(np.uint16)
    gain = rng.uniform(1 / 8000, 1 / 2000, (6, 3)).astype(np.float32)
    return values, gain, (-rng.uniform(20_000, 45_000, (6, 3)) * gain).astype(np.float32)


def test_openvino_normalises_crops_on_the_way(
    network: FusionNetwork, crops: tuple[NDArray[np.uint16], NDArray[np.float32], NDArray[np.float32]]
) -> None:
    pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")
    found = OpenVinoEngine(network, (3, 32, 32), threads=1)
    assert found.of_crops is not None
    values, gain, offset = crops
    pictures = scaled(values, gain, offset)
    assert (pictures == CLIP).any()
    assert (pictures == -CLIP).any()
    expected = TorchEngine(network, CPU)(pictures)
    np.testing.assert_allclose(found.of_crops(values, gain, offset), expected, atol=1e-5)
    np.testing.assert_allclose(found.of_crops(values[:1], gain[:1], offset[:1]), expected[:1], atol=1e-5)
    np.testing.assert_allclose(found(pictures), expected, atol=1e-5)


def test_an_engine_whose_requests_cannot_be_made_fails_each_time(
    network: FusionNetwork, pictures: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    openvino = pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")

    def fail(_self: object) -> None:
        raise RuntimeError("no memory")

    engine = OpenVinoEngine(network, (3, 32, 32), threads=1)
    with monkeypatch.context() as changed:
        changed.setattr(openvino.CompiledModel, "create_infer_request", fail)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="no memory"):
                engine(pictures)
    assert engine(pictures).shape == (6, 3, 4)


@pytest.mark.parametrize("wrong", ["gain", "offset", "plane", "clip", "pictures"])
def test_an_engine_that_normalises_otherwise_is_found(wrong: str) -> None:
    network = load_bundle("virtual-shufflenet").network()
    right = TorchEngine(network, CPU)

    class Wrong(TorchEngine):
        def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
            return right(-images if wrong == "pictures" else images)

        def of_crops(  # type: ignore[override]
            self, crops: NDArray[np.uint16], gain: NDArray[np.float32], offset: NDArray[np.float32]
        ) -> NDArray[np.float32]:
            if wrong == "gain":
                gain = np.broadcast_to(gain[:, :1], gain.shape)
            elif wrong == "offset":
                offset = offset + np.float32(0.5)
            elif wrong == "plane":
                crops = crops[:, ::-1]
            elif wrong == "clip":
                return right(crops.astype(np.float32) * gain[..., None, None] + offset[..., None, None])
            return right(scaled(np.ascontiguousarray(crops), np.ascontiguousarray(gain), offset))

    engine = Wrong(network, CPU)
    with pytest.raises(ConfigError, match=r"its probabilities are up to [\d.]+ from torch's"):
        check_agreement(engine, right, (4, 112, 112), AGREES["float32"])


@pytest.mark.parametrize("without", [[], ["color2"]])
def test_crops_are_called_as_their_pictures_are(without: list[str]) -> None:
    pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")
    bundle = load_bundle("virtual-shufflenet")
    rng = np.random.default_rng(2)
    coarse = rng.integers(0, 65536, (11, 4, 14, 14)).astype(np.uint16)
    images = coarse.repeat(bundle.info.crop_px // 14, axis=2).repeat(bundle.info.crop_px // 14, axis=3)
    classifier = Classifier(bundle, engine=engine_for(bundle, "cpu", "openvino"), without=without)
    assert classifier.batch_size == classifier.engine.batch_size == 8
    expected = Classifier(bundle, engine=TorchEngine(bundle.network(), CPU), without=without)
    assert expected.batch_size == 32
    found = classifier.probability_of(images, classifier.room())
    assert (classifier.room() is None) == (not without)
    np.testing.assert_allclose(found, expected.probability(expected.prepare(images)), atol=1e-5)
    np.testing.assert_allclose(expected.probability_of(images, expected.room()), found, atol=1e-5)
    assert np.array_equal(classifier.probability_of(images[3:6], classifier.room()), found[3:6])


@pytest.mark.parametrize("takes", ["pictures", "crops"])
def test_an_engine_always_gets_whole_batches(takes: str) -> None:
    bundle = load_bundle("virtual-shufflenet")
    seen: list[tuple[int, ...]] = []

    class Noted(TorchEngine):
        batch_size = 5

        def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
            seen.append((len(images),))
            return np.zeros((len(images), 4, 5), np.float32)

        def of_crops(  # type: ignore[override]
            self, crops: NDArray[np.uint16], gain: NDArray[np.float32], offset: NDArray[np.float32]
        ) -> NDArray[np.float32]:
            seen.append((len(crops), len(gain), len(offset)))
            return np.zeros((len(crops), 4, 5), np.float32)

    classifier = Classifier(
        bundle, engine=Noted(bundle.network(), CPU), without=["color1"] if takes == "pictures" else []
    )
    crops = np.zeros((7, 4, 224, 224), np.uint16)
    assert classifier.probability_of(crops, classifier.room()).shape == (7, 4, 5)
    assert seen == [(5,)] * 2 if takes == "pictures" else [(5, 5, 5)] * 2


def test_what_is_not_here_or_not_alike_is_refused_by_name_and_passed_over_by_auto(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = load_bundle("virtual-shufflenet")

    class Wrong:
        name = "openvino-cpu-float32"
        of_crops = None

        def __init__(self, *_: object) -> None: ...

        def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
            return np.tile(np.array([9.0, 0, 0, 0, 0], np.float32), (len(images), 4, 1))

    monkeypatch.setattr(engines, "OpenVinoEngine", Wrong)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(ConfigError, match=r"engine 'openvino': its probabilities are up to [\d.]+ from torch's"):
        engine_for(bundle, "cpu", "openvino")
    assert engine_for(bundle, "cpu").name == "torch-cpu-float32"
    monkeypatch.undo()
    engines._note.cache_clear()
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert [engine_for(bundle, "cpu").name.startswith("torch-cpu") for _ in range(2)] == [True, True]
    note = "cells are called by torch, more slowly: engine 'openvino' is not installed: pip install openvino.\n"
    assert capsys.readouterr().err == note, "told once"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"engine 'openvino' is not installed: pip install openvino"):
        engine_for(bundle, "cpu", "openvino")


@pytest.mark.skipif(not PICTURES.is_dir(), reason=f"{PICTURES} is not there")
def test_engines_call_real_cells_alike(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")
    chosen = sorted(PICTURES.rglob("*.jpg"))[::25]
    folder = tmp_path / "pictures"
    folder.mkdir()
    for path in chosen:
        Image.open(path).save(folder / f"{path.stem}.png")
    sample = Sample.open(tmp_path, "smears")
    import_cells([folder], sample, 0.1, "stained-rgb")
    images = CellStore(sample.cells_path).images(0, len(chosen))
    bundle = load_bundle("smear-shufflenet")
    calls = {}
    shape = (4, bundle.info.side, bundle.info.side)
    for engine in (
        TorchEngine(bundle.network(), CPU),
        TorchEngine(bundle.network(), CPU, "bfloat16"),
        OpenVinoEngine(bundle.network(), shape),
    ):
        classifier = Classifier(bundle, engine=engine)
        calls[engine.name] = classifier.call(classifier.probability(classifier.prepare(images)))[0]
    reference = np.array(calls.pop("torch-cpu-float32"))
    assert len(reference) == 60
    for name, found in calls.items():
        assert (np.array(found) == reference).mean() >= (0.999 if "float32" in name else 0.98), name


@pytest.mark.parametrize(("threads", "expected"), [(1, (1, 1)), (2, (2, 1)), (8, (8, 1)), (9, (4, 2)), (64, (8, 8))])
def test_threads_are_shared_by_lanes(threads: int, expected: tuple[int, int]) -> None:
    assert shared_threads(threads) == expected


def test_an_engine_of_processors_needs_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert check_engine("auto", "openvino").type == "cpu"
    assert check_engine("auto", "auto").type == "cuda"
    with pytest.raises(ConfigError, match="engine 'openvino' is for processors; leave --device"):
        check_engine("cuda", "openvino")


@pytest.mark.parametrize("kind", ["torch", "openvino"])
def test_lanes_give_what_one_call_gives(network: FusionNetwork, pictures: NDArray[np.float32], kind: str) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        if kind == "openvino":
            pytest.importorskip("openvino")
        engine = TorchEngine(network, CPU) if kind == "torch" else OpenVinoEngine(network, (3, 32, 32))
        assert engine.lanes == {"torch": 3, "openvino": 4}[kind]
        assert engine.buffer((2, 3, 4, 4)).shape == (2, 3, 4, 4)
        parts = [pictures[[row]] for row in range(len(pictures))] * 3
        expected = [TorchEngine(network, CPU)(part) for part in parts]
        with stream_threads(engine) as pool:
            assert list(pool.map(lambda _: torch.get_num_threads(), range(20))) == [1] * 20
            np.testing.assert_allclose(list(pool.map(engine, parts)), expected, atol=1e-5)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
def test_cuda_gives_what_the_processor_gives(network: FusionNetwork, pictures: NDArray[np.float32]) -> None:
    cuda = torch.device("cuda")
    engine = engines._gpu_engine(network, cuda, (3, 32, 32))
    assert engine.name == "torch-cuda-float16"
    expected = TorchEngine(network, CPU)(pictures)
    np.testing.assert_allclose(engine(pictures), expected, atol=0.02)
    parts = [pictures[row : row + 3] for row in range(4)] * 20
    with stream_threads(engine) as pool:
        for row, found in enumerate(pool.map(engine, parts)):
            np.testing.assert_allclose(found, expected[row % 4 : row % 4 + 3], atol=0.02)
    np.testing.assert_allclose(TorchEngine(network, cuda)(pictures), expected, atol=0.01)  # convolutions may take TF32


def test_half_precision_that_does_not_agree_is_not_taken(
    network: FusionNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engines._gpu_engine(network, CPU, (3, 32, 32)).name == "torch-cpu-float16"
    monkeypatch.setitem(engines.AGREES, "float16", 0.0)
    assert engines._gpu_engine(network, CPU, (3, 32, 32)).name == "torch-cpu-float32"


def test_half_precision_that_overflows_is_not_taken(network: FusionNetwork) -> None:
    with torch.no_grad():
        first = next(module for module in network.modules() if isinstance(module, torch.nn.Conv2d))
        first.weight.mul_(1e6)  # beyond 65504, and batch norm brings it back in float32
        following = next(module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d))
        following.running_var.mul_(1e12)  # type: ignore[union-attr]
        following.bias.fill_(1e5)
    assert engines._gpu_engine(network, CPU, (3, 32, 32)).name == "torch-cpu-float32"
