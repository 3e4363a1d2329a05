"""OpenVINO gives the logits of torch, from images and from crops."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from wbcpipe.classify.inference.engine import TorchEngine
from wbcpipe.classify.inference.openvino_engine import OpenVinoEngine
from wbcpipe.classify.models.normalise import CLIP, scaled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wbcpipe.classify.networks import FusionNetwork


CPU = torch.device("cpu")


def test_openvino_gives_what_torch_gives(
    network: FusionNetwork, pictures: NDArray[np.float32]
) -> None:
    found = OpenVinoEngine(network, (3, 32, 32), threads=1)
    assert found.name == "openvino-cpu-float32"
    expected = TorchEngine(network, CPU)(pictures)
    np.testing.assert_allclose(found(pictures), expected, atol=1e-5)
    assert found(pictures[:1]).shape == (1, 3, 4)


@pytest.fixture
def crops() -> tuple[NDArray[np.uint16], NDArray[np.float32], NDArray[np.float32]]:
    """Crops, and a gain and an offset of each plane by which some values lie beyond what is
    clipped.
    """
    rng = np.random.default_rng(1)
    values = rng.integers(0, 65536, (6, 3, 32, 32)).astype(np.uint16)
    gain = rng.uniform(1 / 8000, 1 / 2000, (6, 3)).astype(np.float32)
    return values, gain, (-rng.uniform(20_000, 45_000, (6, 3)) * gain).astype(np.float32)


def test_openvino_normalises_crops_on_the_way(
    network: FusionNetwork,
    crops: tuple[NDArray[np.uint16], NDArray[np.float32], NDArray[np.float32]],
) -> None:
    found = OpenVinoEngine(network, (3, 32, 32), threads=1)
    assert found.crop_logits is not None
    values, gain, offset = crops
    pictures = scaled(values, gain, offset)
    assert (pictures == CLIP).any()
    assert (pictures == -CLIP).any()
    expected = TorchEngine(network, CPU)(pictures)
    np.testing.assert_allclose(found.crop_logits(values, gain, offset), expected, atol=1e-5)
    np.testing.assert_allclose(
        found.crop_logits(values[:1], gain[:1], offset[:1]), expected[:1], atol=1e-5
    )
    np.testing.assert_allclose(found(pictures), expected, atol=1e-5)


def test_an_engine_whose_requests_cannot_be_made_fails_each_time(
    network: FusionNetwork, pictures: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    import openvino

    def fail(_self: object) -> None:
        raise RuntimeError("no memory")

    engine = OpenVinoEngine(network, (3, 32, 32), threads=1)
    with monkeypatch.context() as changed:
        changed.setattr(openvino.CompiledModel, "create_infer_request", fail)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="no memory"):
                engine(pictures)
    assert engine(pictures).shape == (6, 3, 4)
