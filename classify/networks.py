"""The networks of the paper's Table 1: torchvision backbones with a resized first convolution and last layer.

Single modality, early fusion and MM-MIMO are one backbone. MM-MIMO (multi-modal multi-input multi-output network,
section 2.3 of the paper) has one output per modality: independent sub-networks inside one network, at the cost of early
fusion. Late fusion has one network per modality, and M times the cost.
"""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING, TypeVar, get_args

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from wbcpipe.classify.models.classes import Backbone

if TYPE_CHECKING:
    from wbcpipe.classify.models.classes import Method

__all__ = ["FusionNetwork", "LateFusion", "build_network", "fused_copy"]

N = TypeVar("N", bound=nn.Module)


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


class FusionNetwork(nn.Module):
    """Base class of the networks.

    Attributes:
        modalities: M, number of modalities of the input.
        planes: c, planes of each modality.
        classes: K.
        heads: number of outputs of K logits for one input.
    """

    def __init__(self, modalities: int, planes: int, classes: int, heads: int) -> None:
        super().__init__()
        self.modalities, self.planes, self.classes, self.heads = modalities, planes, classes, heads

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, heads, K) of images (B, M * c, H, W), the planes of modality 0 first."""
        raise NotImplementedError


class SharedBackbone(FusionNetwork):
    """A backbone with M * c input planes and heads * K outputs: one head for early fusion, M for MM-MIMO."""

    def __init__(self, backbone: Backbone, modalities: int, planes: int, classes: int, heads: int = 1) -> None:
        super().__init__(modalities, planes, classes, heads)
        self.backbone = build_backbone(backbone, modalities * planes, heads * classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, heads, K) of images (B, M * c, H, W)."""
        logits: Tensor = self.backbone(images)
        return logits.reshape(-1, self.heads, self.classes)  # (B, heads * K) -> (B, heads, K)


class LateFusion(FusionNetwork):
    """M single-modality networks side by side."""

    def __init__(self, backbone: Backbone, modalities: int, planes: int, classes: int) -> None:
        super().__init__(modalities, planes, classes, modalities)
        self.members = nn.ModuleList(SharedBackbone(backbone, 1, planes, classes) for _ in range(modalities))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, M, K) of images (B, M * c, H, W); head i sees modality i alone."""
        parts = torch.split(images, self.planes, dim=1)  # M of (B, c, H, W)
        return torch.cat([member(part) for member, part in zip(self.members, parts, strict=True)], dim=1)


def build_backbone(backbone: Backbone, input_planes: int, outputs: int) -> nn.Module:
    """Build a randomly initialised torchvision network from (B, input_planes, H, W) to (B, outputs).

    Raises:
        ValueError: the backbone is not supported.
    """
    if backbone not in get_args(Backbone):
        raise ValueError(f"backbone {backbone!r} is not known; use {' or '.join(map(repr, get_args(Backbone)))}.")
    net: nn.Module = torchvision.models.get_model(backbone, num_classes=outputs)
    above, name = (net, "conv1") if isinstance(net.conv1, nn.Conv2d) else (net.conv1, "0")
    conv = getattr(above, name)
    wide = nn.Conv2d(input_planes, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, bias=False)
    nn.init.kaiming_normal_(wide.weight, mode="fan_out", nonlinearity="relu")
    setattr(above, name, wide)
    return net


def fused_copy(network: N) -> N:
    """Return a frozen copy in evaluation mode with batch normalisation folded into the convolutions.

    A network must register each batch normalisation right after its convolution, as those of torchvision do.
    """
    twin = copy.deepcopy(network).eval().requires_grad_(False)
    for module in list(twin.modules()):
        children = list(module.named_children())
        for (name, first), (next_name, second) in itertools.pairwise(children):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(first, second))
                setattr(module, next_name, nn.Identity())
    return twin
