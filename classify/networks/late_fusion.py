"""Late fusion: one network per modality, whose probabilities are averaged; M times the cost of one network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from wbcpipe.classify.networks.base import FusionNetwork
from wbcpipe.classify.networks.shared_backbone import SharedBackbone

if TYPE_CHECKING:
    from torch import Tensor

    from wbcpipe.classify.models.classes import Backbone

__all__ = ["LateFusion"]


class LateFusion(FusionNetwork):
    """M single-modality networks side by side."""

    def __init__(self, backbone: Backbone, modalities: int, planes: int, classes: int) -> None:
        super().__init__(modalities, planes, classes)
        self.heads = modalities
        self.members = nn.ModuleList(SharedBackbone(backbone, 1, planes, classes) for _ in range(modalities))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, M, K) of images (B, M * c, H, W); head i sees modality i alone."""
        parts = torch.split(images, self.planes, dim=1)  # M of (B, c, H, W)
        return torch.cat([member(part) for member, part in zip(self.members, parts, strict=True)], dim=1)
