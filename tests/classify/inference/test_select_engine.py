"""The fastest engine that agrees with torch is selected; a wrong one is found."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from wbcpipe.classify.inference import select_engine as selection
from wbcpipe.classify.inference.engine import TorchEngine
from wbcpipe.classify.inference.parallel_batches import stream_pool
from wbcpipe.classify.inference.select_engine import (
    TOLERANCE,
    check_engine,
    check_probabilities,
    select_engine,
)
from wbcpipe.classify.models.bundle import load_bundle
from wbcpipe.classify.models.normalise import scaled
from wbcpipe.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wbcpipe.classify.models.bundle import Bundle
    from wbcpipe.classify.networks import FusionNetwork


CPU = torch.device("cpu")


@pytest.mark.parametrize("wrong", ["gain", "offset", "plane", "clip", "pictures"])
def test_an_engine_that_normalises_otherwise_is_found(wrong: str) -> None:
    network = load_bundle("virtual-shufflenet").network()
    right = TorchEngine(network, CPU)

    class Wrong(TorchEngine):
        def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
            return right(-images if wrong == "pictures" else images)

        def crop_logits(  # type: ignore[override]
            self, crops: NDArray[np.uint16], gain: NDArray[np.float32], offset: NDArray[np.float32]
        ) -> NDArray[np.float32]:
            if wrong == "gain":
                gain = np.broadcast_to(gain[:, :1], gain.shape)
            elif wrong == "offset":
                offset = offset + np.float32(0.5)
            elif wrong == "plane":
                crops = crops[:, ::-1]
            elif wrong == "clip":
                return right(
                    crops.astype(np.float32) * gain[..., None, None] + offset[..., None, None]
                )
            return right(scaled(np.ascontiguousarray(crops), np.ascontiguousarray(gain), offset))

    engine = Wrong(network, CPU)
    with pytest.raises(ConfigError, match=r"its probabilities differ by up to [\d.]+ from torch's"):
        check_probabilities(engine, right, (4, 112, 112), TOLERANCE["float32"])


def test_what_is_not_here_or_not_alike_is_refused_by_name_and_passed_over_by_auto(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = load_bundle("virtual-shufflenet")
    monkeypatch.setattr(selection, "_kept", {})

    class Wrong:
        name = "openvino-cpu-float32"
        crop_logits = None

        def __init__(self, *_: object) -> None: ...

        def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
            return np.tile(np.array([9.0, 0, 0, 0, 0], np.float32), (len(images), 4, 1))

    monkeypatch.setattr(selection, "OpenVinoEngine", Wrong)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    with pytest.raises(
        ConfigError,
        match=r"engine 'openvino': its probabilities differ by up to [\d.]+ from torch's",
    ):
        select_engine(bundle, "cpu", "openvino")
    for _ in range(2):
        assert select_engine(bundle, "cpu").name == "torch-cpu-float32"
        monkeypatch.setattr(selection, "_kept", {})
    note = "cells are classified by torch, which is slower: its probabilities differ by up to"
    assert [text.startswith(note) for text in caplog.messages] == [True], "told once"
    monkeypatch.undo()
    monkeypatch.setattr(selection, "_kept", {})
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert select_engine(bundle, "cpu").name == "torch-cpu-float32"
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(
        ConfigError, match=r"engine 'openvino' is not installed: pip install openvino"
    ):
        select_engine(bundle, "cpu", "openvino")


@pytest.mark.usefixtures("two_threads")
def test_the_last_engine_is_kept_for_the_same_weights(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "_kept", {})
    first = select_engine(tiny_bundle, "cpu", "torch")
    assert select_engine(tiny_bundle, "cpu", "torch") is first
    torch.set_num_threads(1)
    assert select_engine(tiny_bundle, "cpu", "torch") is first, "fewer threads"
    torch.set_num_threads(3)
    more = select_engine(tiny_bundle, "cpu", "torch")
    assert more is not first
    smaller = replace(tiny_bundle, info=tiny_bundle.info.model_copy(update={"side": 16}))
    assert select_engine(smaller, "cpu", "torch") is not more
    assert select_engine(tiny_bundle, "cpu", "torch") is not more, "one is kept"


def test_an_engine_of_processors_needs_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    assert check_engine("auto", "openvino").type == "cpu"
    assert check_engine("auto", "auto").type == "cuda"
    with pytest.raises(
        ConfigError, match="engine 'openvino' runs on processors only; omit --device"
    ):
        check_engine("cuda", "openvino")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
def test_cuda_gives_what_the_processor_gives(
    network: FusionNetwork, pictures: NDArray[np.float32]
) -> None:
    cuda = torch.device("cuda")
    engine = selection.gpu_engine(network, cuda, (3, 32, 32))
    assert engine.name == "torch-cuda-float16"
    expected = TorchEngine(network, CPU)(pictures)
    np.testing.assert_allclose(engine(pictures), expected, atol=0.02)
    parts = [pictures[row : row + 3] for row in range(4)] * 20
    with stream_pool(engine) as pool:
        for row, found in enumerate(pool.map(engine, parts)):
            np.testing.assert_allclose(found, expected[row % 4 : row % 4 + 3], atol=0.02)
    np.testing.assert_allclose(
        TorchEngine(network, cuda)(pictures), expected, atol=0.01
    )  # convolutions may take TF32


def test_half_precision_that_does_not_agree_is_not_taken(
    network: FusionNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert selection.gpu_engine(network, CPU, (3, 32, 32)).name == "torch-cpu-float16"
    monkeypatch.setitem(selection.TOLERANCE, "float16", 0.0)
    assert selection.gpu_engine(network, CPU, (3, 32, 32)).name == "torch-cpu-float32"


def test_half_precision_that_overflows_is_not_taken(network: FusionNetwork) -> None:
    with torch.no_grad():
        first = next(module for module in network.modules() if isinstance(module, torch.nn.Conv2d))
        first.weight.mul_(1e6)  # beyond 65504, and batch norm brings it back in float32
        following = next(
            module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)
        )
        following.running_var.mul_(1e12)  # type: ignore[union-attr]
        following.bias.fill_(1e5)
    assert selection.gpu_engine(network, CPU, (3, 32, 32)).name == "torch-cpu-float32"
