"""Engines call alike, on real cells where they are at hand, and step aside where they do not."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from wbcpipe.classify import engines
from wbcpipe.classify.bundle import load_bundle
from wbcpipe.classify.engines import OpenVinoEngine, TorchEngine, engine_for, fast_bfloat16
from wbcpipe.classify.networks import build_network
from wbcpipe.classify.predict import Classifier, _prepared_blocks
from wbcpipe.errors import ConfigError
from wbcpipe.samples import Sample
from wbcpipe.segment.cells import CellStore
from wbcpipe.segment.imports import import_cells

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wbcpipe.classify.networks import FusionNetwork

PICTURES = Path(__file__).resolve().parents[3] / "shared" / "data" / "pbc5"
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


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_openvino_gives_what_torch_gives(network: FusionNetwork, pictures: NDArray[np.float32], precision: str) -> None:
    pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")
    found = OpenVinoEngine(network, precision, (3, 32, 32), threads=1)
    assert found.name == f"openvino-cpu-{precision}"
    expected = TorchEngine(network, CPU)(pictures)
    np.testing.assert_allclose(found(pictures), expected, atol=1e-5 if precision == "float32" else 0.05)
    assert found(pictures[:1]).shape == (1, 3, 4)


def test_what_is_not_here_or_not_alike_is_refused_by_name_and_passed_over_by_auto(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = load_bundle("virtual-shufflenet")

    class Wrong:
        name = "openvino-cpu-float32"

        def __init__(self, *_: object) -> None: ...

        def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
            return np.tile(np.array([9.0, 0, 0, 0, 0], np.float32), (len(images), 4, 1))

    monkeypatch.setattr(engines, "OpenVinoEngine", Wrong)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(ConfigError, match=r"engine 'openvino': its probabilities are up to [\d.]+ from torch's"):
        engine_for(bundle, "cpu", "openvino")
    precision = "bfloat16" if fast_bfloat16() and bundle.info.validation["bfloat16_agreement"] == 1.0 else "float32"
    assert engine_for(bundle, "cpu").name == f"torch-cpu-{precision}"
    monkeypatch.undo()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert engine_for(bundle, "cpu").name.startswith("torch-cpu")
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(ConfigError, match=r"pip install 'wbcpipe\[openvino\]'"):
        engine_for(bundle, "cpu", "openvino")


@pytest.mark.skipif(not PICTURES.is_dir(), reason=f"{PICTURES} is not there")
def test_engines_call_real_cells_alike(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")
    chosen = sorted(PICTURES.rglob("*.jpg"))[::25]
    folder = tmp_path / "pictures"
    folder.mkdir()
    for path in chosen:
        Image.open(path).save(folder / f"{path.stem}.png")
    sample = Sample.at(tmp_path, "smears")
    import_cells([folder], sample, 0.1, "stained-rgb")
    images = CellStore(sample.cells_path).images(0, len(chosen))
    bundle = load_bundle("smear-shufflenet")
    calls = {}
    for precision in ("float32", "bfloat16"):
        shape = (4, bundle.info.side, bundle.info.side)
        for engine in (
            TorchEngine(bundle.network(), CPU, precision),
            OpenVinoEngine(bundle.network(), precision, shape),
        ):
            classifier = Classifier(bundle, engine=engine)
            calls[engine.name] = classifier.call(classifier.probability(classifier.prepare(images)))[0]
    reference = np.array(calls.pop("torch-cpu-float32"))
    assert len(reference) == 60
    for name, found in calls.items():
        assert (np.array(found) == reference).mean() >= (0.999 if "float32" in name else 0.98), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
def test_a_gpu_calls_as_the_processor(network: FusionNetwork, pictures: NDArray[np.float32]) -> None:
    found = TorchEngine(network, torch.device("cuda"), "float16")(pictures)
    np.testing.assert_allclose(found, TorchEngine(network, CPU)(pictures), atol=0.02)


class Reading:
    """Stands in for a store of 50 cells and for the classifier that reads it."""

    modalities = ("a", "b")
    batch_size = 4

    def __init__(self, fails_at: int = 99) -> None:
        self.fails_at = fails_at
        self.ahead = 0

    def __len__(self) -> int:
        return 50

    def images(self, start: int, stop: int) -> NDArray[np.uint16]:
        if start <= self.fails_at < stop:
            raise OSError("the disk is gone")
        self.ahead = max(self.ahead, stop)
        time.sleep(0.002 * (start % 3))  # later blocks may be ready before earlier ones
        return np.arange(start, stop, dtype=np.uint16)[:, None].repeat(2, axis=1)

    def prepare(self, images: NDArray[np.uint16]) -> NDArray[np.uint16]:
        return images


def test_blocks_are_read_ahead_in_order_and_not_without_bound() -> None:
    reading, seen = Reading(), []
    for start, block in _prepared_blocks(reading, reading, [1, 0]):  # type: ignore[arg-type]
        assert block[0, 0] == start
        time.sleep(0.01)
        assert reading.ahead <= start + 4 * len(block) or len(block) < 8
        seen += block[:, 0].tolist()
    assert seen == list(range(50))


def test_a_reader_that_fails_is_heard() -> None:
    reading = Reading(fails_at=20)
    with pytest.raises(OSError, match="the disk is gone"):
        list(_prepared_blocks(reading, reading, [0, 1]))  # type: ignore[arg-type]
