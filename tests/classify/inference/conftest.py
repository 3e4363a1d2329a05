"""Networks, images and crops for the engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from wbcpipe.classify.networks import build_network

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wbcpipe.classify.networks import FusionNetwork


@pytest.fixture
def pictures() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(0, 1, (6, 3, 32, 32)).astype(np.float32)


@pytest.fixture
def network() -> FusionNetwork:
    torch.manual_seed(0)
    return build_network("mm-mimo", "shufflenet_v2_x1_0", 3, 1, 4).eval()
