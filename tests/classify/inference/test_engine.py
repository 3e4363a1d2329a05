"""The torch engine gives the logits of its network; threads are shared by streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from wbcpipe.classify.inference.engine import TorchEngine, share_threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wbcpipe.classify.networks import FusionNetwork

CPU = torch.device("cpu")


def test_folding_changes_no_logit(network: FusionNetwork, pictures: NDArray[np.float32]) -> None:
    with torch.inference_mode():
        plain = network(torch.from_numpy(pictures)).numpy()
    np.testing.assert_allclose(TorchEngine(network, CPU)(pictures), plain, atol=1e-5)


@pytest.mark.parametrize(
    ("threads", "expected"), [(1, (1, 1)), (2, (2, 1)), (8, (8, 1)), (9, (4, 2)), (64, (8, 8))]
)
def test_threads_are_shared_by_streams(threads: int, expected: tuple[int, int]) -> None:
    assert share_threads(threads) == expected
