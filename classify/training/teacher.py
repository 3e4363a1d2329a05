"""The teacher of the distillation: late fusion, of one network a modality or of several.

Teacher and student see the same augmented image (Beyer et al.,
https://doi.org/10.48550/arXiv.2106.05237), because the teacher reads the student's batches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from wbcpipe.classify.networks import FusionNetwork, LateFusion, fused_copy, keep_channels_last
from wbcpipe.classify.training.distill import fused_log_probability
from wbcpipe.classify.uncertainty.fusion import stacking_helps
from wbcpipe.classify.uncertainty.probability_calibration import fit_calibration, fused_probability

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from wbcpipe.classify.models.classes import Backbone
    from wbcpipe.classify.uncertainty.probability_calibration import ProbabilityCalibration

__all__ = ["MeanOfNetworks", "Teacher", "fit_teacher_fusion", "late_fusion_of"]


@dataclass(frozen=True)
class Teacher:
    """A frozen network with one head a modality, and how its heads are fused.

    Attributes:
        network: late fusion, or several of them with other seeds (`MeanOfNetworks`).
        fusion: calibration that fuses the heads, fitted on cells that the network was not trained
            on; None for their mean probability.
    """

    network: FusionNetwork
    fusion: ProbabilityCalibration | None = None

    def on(self, device: torch.device) -> Teacher:
        """Return a copy for fast evaluation on a device."""
        network = fused_copy(self.network).to(device).to(memory_format=torch.channels_last)
        if device.type == "cpu":
            keep_channels_last(network)
        return replace(self, network=network)

    def fused(self, logits: Tensor) -> Tensor:
        """Return the log of the fused probability (B, 1, K) of its logits (B, M, K)."""
        if self.fusion is None:
            return fused_log_probability(logits)
        fused = fused_probability(logits.cpu().numpy(), self.fusion)
        log_probability = torch.from_numpy(fused).clamp_min_(1e-12).log_().to(logits)
        return log_probability.unsqueeze(1)


class MeanOfNetworks(FusionNetwork):
    """Networks of one kind, trained with other seeds: the mean probability of each head."""

    def __init__(self, networks: Sequence[FusionNetwork]) -> None:
        first = networks[0]
        super().__init__(first.modalities, first.planes, first.classes, first.heads)
        self.networks = torch.nn.ModuleList(networks)

    def forward(self, images: Tensor) -> Tensor:
        """Return log probabilities (B, heads, K) of images (B, M * c, H, W)."""
        logs = torch.stack(
            [functional.log_softmax(network(images).float(), dim=-1) for network in self.networks]
        )  # (S, B, heads, K)
        return torch.logsumexp(logs, dim=0) - torch.tensor(float(len(logs))).log()


def late_fusion_of(members: list[FusionNetwork], backbone: Backbone) -> LateFusion:
    """Return the late-fusion network of M trained single-modality networks."""
    first = members[0]
    network = LateFusion(backbone, len(members), first.planes, first.classes)
    for slot, member in zip(network.members, members, strict=True):
        slot.load_state_dict(member.state_dict())
    return network.eval().requires_grad_(False)


def fit_teacher_fusion(
    logits: NDArray[np.float32], labels: NDArray[np.int64]
) -> ProbabilityCalibration:
    """Fit how a teacher's heads are fused: by stacking where that helps, else a weighted mean.

    Args:
        logits: (N, M, K) of cells that the teacher was not trained on.
        labels: (N,) int64.
    """
    return fit_calibration(logits, labels, stacked=stacking_helps(logits, labels))
