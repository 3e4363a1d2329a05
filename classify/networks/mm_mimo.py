"""MM-MIMO: one backbone that reads all modalities and has one output per modality.

Section 2.3 of the paper (multi-modal multi-input multi-output network): independent sub-networks inside one network, at
the cost of early fusion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wbcpipe.classify.networks.base import FusionNetwork, build_backbone

if TYPE_CHECKING:
    from torch import Tensor

    from wbcpipe.classify.models.classes import Backbone

__all__ = ["MultiModalMimo"]


class MultiModalMimo(FusionNetwork):
    """A backbone with M * c input planes and M * K outputs."""

    def __init__(self, backbone: Backbone, modalities: int, planes: int, classes: int) -> None:
        super().__init__(modalities, planes, classes)
        self.heads = modalities
        self.backbone = build_backbone(backbone, modalities * planes, modalities * classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, M, K) of images (B, M * c, H, W)."""
        logits: Tensor = self.backbone(images)
        return logits.reshape(-1, self.heads, self.classes)  # (B, M * K) -> (B, M, K)
