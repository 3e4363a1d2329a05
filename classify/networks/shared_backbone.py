"""One backbone that reads the planes of all modalities: single modality, early fusion and MM-MIMO.

MM-MIMO (multi-modal multi-input multi-output network, section 2.3 of the paper) has one output per modality:
independent sub-networks inside one network, at the cost of early fusion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wbcpipe.classify.networks.base import FusionNetwork, build_backbone

if TYPE_CHECKING:
    from torch import Tensor

    from wbcpipe.classify.models.classes import Backbone

__all__ = ["SharedBackbone"]


class SharedBackbone(FusionNetwork):
    """A backbone with M * c input planes and heads * K outputs: one head for early fusion, M for MM-MIMO."""

    def __init__(self, backbone: Backbone, modalities: int, planes: int, classes: int, heads: int = 1) -> None:
        super().__init__(modalities, planes, classes)
        self.heads = heads
        self.backbone = build_backbone(backbone, modalities * planes, heads * classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, heads, K) of images (B, M * c, H, W)."""
        logits: Tensor = self.backbone(images)
        return logits.reshape(-1, self.heads, self.classes)  # (B, heads * K) -> (B, heads, K)
