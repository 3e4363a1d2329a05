"""The networks of the paper's Table 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wbcpipe.classify.networks.base import FusionNetwork
from wbcpipe.classify.networks.late_fusion import LateFusion
from wbcpipe.classify.networks.shared_backbone import SharedBackbone

if TYPE_CHECKING:
    from wbcpipe.classify.models.classes import Backbone, Method

__all__ = ["FusionNetwork", "LateFusion", "SharedBackbone", "build_network"]


def build_network(method: Method, backbone: Backbone, modalities: int, planes: int, classes: int) -> FusionNetwork:
    """Build a randomly initialised network; distillation (``-kd``) changes the training, not the network.

    Args:
        method: how modalities are fused.
        backbone: name in torchvision.
        modalities: M; for ``single`` it must be 1.
        planes: c, planes of each modality.
        classes: K.

    Raises:
        ValueError: the method or backbone is unknown, or ``single`` gets several modalities.
    """
    match method.removesuffix("-kd"):
        case "single":
            if modalities != 1:
                raise ValueError(f"method 'single' reads 1 modality, got {modalities}; choose one of them.")
            return SharedBackbone(backbone, 1, planes, classes)
        case "early-fusion":
            return SharedBackbone(backbone, modalities, planes, classes)
        case "late-fusion":
            return LateFusion(backbone, modalities, planes, classes)
        case "mm-mimo":
            return SharedBackbone(backbone, modalities, planes, classes, heads=modalities)
    raise ValueError(
        f"method {method!r} is not known; use 'single', 'early-fusion', 'late-fusion', 'mm-mimo' or a '-kd' of these."
    )
