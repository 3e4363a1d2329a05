"""Tests of how independent the heads are.

One modality on all inputs, missing modalities, and the Jacobian.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from wbcpipe.classify.inference.engine import TorchEngine, pick_device
from wbcpipe.classify.inference.missing_modality import (
    blank,
    evenly_spaced_rows,
    typical_profiles_of,
)
from wbcpipe.classify.networks import SharedBackbone
from wbcpipe.classify.training.train import predict_logits

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from wbcpipe.classify.models.normalise import Normalisation
    from wbcpipe.classify.networks import FusionNetwork
    from wbcpipe.classify.training.data import CellSet
    from wbcpipe.system.compute import Device

__all__ = ["jacobian_norms", "probe_inputs"]


def probe_inputs(
    network: FusionNetwork,
    training: CellSet,
    test: CellSet,
    normalisation: Normalisation,
    device: Device,
) -> dict[str, NDArray[np.float32]]:
    """Return logits (M, N, H, K) of test cells for changed inputs.

    ``single``: modality m on all inputs, as in the paper's Figure 4 (b) to (e); ``missing``: zeros
    in its place; ``typical``: a typical image in its place.
    """
    modalities, planes = network.modalities, network.planes
    # Heads that are told of missing inputs expect zeros.
    told = isinstance(network, SharedBackbone) and network.missing is not None
    engine = TorchEngine(network, pick_device(device))
    typical = [] if told else typical_profiles_of(training.images, normalisation).tolist()

    def logits(
        prepare: Callable[[int, NDArray[np.float32]], NDArray[np.float32]],
    ) -> NDArray[np.float32]:
        by_modality = [
            predict_logits(engine, test, normalisation, prepare=partial(prepare, index))
            for index in range(modalities)
        ]
        return np.stack(by_modality)

    def single(index: int, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.tile(images[:, index * planes : (index + 1) * planes], (1, modalities, 1, 1))

    return {
        "single_logits": logits(single),
        "missing_logits": logits(lambda index, images: blank(images, (index,), planes, ())),
        "typical_logits": logits(lambda index, images: blank(images, (index,), planes, typical)),
    }


def jacobian_norms(
    network: FusionNetwork, cells: CellSet, normalisation: Normalisation, *, max_cells: int = 64
) -> NDArray[np.float64]:
    """Return the mean Frobenius norm over cells of the Jacobian of head i's logits by input j: (H,
    M).

    Independent heads, as the paper intends, depend on their own input alone: the matrix is
    diagonal.

    Args:
        network: in evaluation mode.
        cells: evenly spaced ones are used.
        normalisation: of the input.
        max_cells: largest number of cells.
    """
    rows = evenly_spaced_rows(len(cells.images), max_cells)
    images = torch.from_numpy(normalisation.apply(cells.images[rows])).requires_grad_()
    logits = network(images)  # (N, H, K)
    heads, classes = logits.shape[1:]
    square = torch.zeros((len(images), heads, network.modalities), dtype=torch.float64)
    for head in range(heads):
        for index in range(classes):
            (slope,) = torch.autograd.grad(logits[:, head, index].sum(), images, retain_graph=True)
            by_input = slope.reshape(len(images), network.modalities, -1)
            square[:, head] += by_input.double().square().sum(dim=-1)
    norms: NDArray[np.float64] = square.sqrt().mean(dim=0).numpy()
    return norms
