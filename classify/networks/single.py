"""One modality: the first four rows of the paper's Table 1, and the teachers of the distillation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wbcpipe.classify.networks.base import FusionNetwork, build_backbone

if TYPE_CHECKING:
    from torch import Tensor

    from wbcpipe.classify.models.classes import Backbone

__all__ = ["SingleModality"]


class SingleModality(FusionNetwork):
    """A backbone that reads the c planes of one modality."""

    heads = 1

    def __init__(self, backbone: Backbone, planes: int, classes: int) -> None:
        super().__init__(1, planes, classes)
        self.backbone = build_backbone(backbone, planes, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, 1, K) of images (B, c, H, W)."""
        logits: Tensor = self.backbone(images)
        return logits.unsqueeze(1)  # (B, K) -> (B, 1, K)
