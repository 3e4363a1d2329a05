"""Early fusion: one network reads the planes of all modalities and has one output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wbcpipe.classify.networks.base import FusionNetwork, build_backbone

if TYPE_CHECKING:
    from torch import Tensor

    from wbcpipe.classify.models.classes import Backbone

__all__ = ["EarlyFusion"]


class EarlyFusion(FusionNetwork):
    """A backbone whose first convolution reads M * c planes."""

    heads = 1

    def __init__(self, backbone: Backbone, modalities: int, planes: int, classes: int) -> None:
        super().__init__(modalities, planes, classes)
        self.backbone = build_backbone(backbone, modalities * planes, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, 1, K) of images (B, M * c, H, W)."""
        logits: Tensor = self.backbone(images)
        return logits.unsqueeze(1)  # (B, K) -> (B, 1, K)
