"""Base of the networks: a torchvision backbone with a resized first convolution and last layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torchvision
from torch import Tensor, nn

if TYPE_CHECKING:
    from wbcpipe.classify.models.classes import Backbone

__all__ = ["FusionNetwork", "build_backbone"]


def build_backbone(backbone: Backbone, input_planes: int, outputs: int) -> nn.Module:
    """Build a randomly initialised torchvision network from (B, input_planes, H, W) to (B, outputs).

    Raises:
        ValueError: the backbone is not supported.
    """
    if backbone == "shufflenet_v2_x1_0":
        net: nn.Module = torchvision.models.shufflenet_v2_x1_0(num_classes=outputs)
        first = net.conv1
        assert isinstance(first, nn.Sequential)
        assert isinstance(first[0], nn.Conv2d)
        first[0] = _widened(first[0], input_planes)
    elif backbone == "resnet34":
        net = torchvision.models.resnet34(num_classes=outputs)
        assert isinstance(net.conv1, nn.Conv2d)
        net.conv1 = _widened(net.conv1, input_planes)
    else:
        raise ValueError(f"backbone {backbone!r} is not known; use 'shufflenet_v2_x1_0' or 'resnet34'.")
    return net


def _widened(conv: nn.Conv2d, input_planes: int) -> nn.Conv2d:
    wide = nn.Conv2d(
        input_planes,
        conv.out_channels,
        kernel_size=3 if conv.kernel_size == (3, 3) else 7,
        stride=2,
        padding=1 if conv.kernel_size == (3, 3) else 3,
        bias=False,
    )
    nn.init.kaiming_normal_(wide.weight, mode="fan_out", nonlinearity="relu")
    return wide


class FusionNetwork(nn.Module):
    """Base class of the networks.

    Attributes:
        modalities: M, number of modalities of the input.
        planes: c, planes of each modality.
        classes: K.
        heads: number of outputs of K logits for one input.
    """

    heads: int

    def __init__(self, modalities: int, planes: int, classes: int) -> None:
        super().__init__()
        self.modalities = modalities
        self.planes = planes
        self.classes = classes

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, heads, K) of images (B, M * c, H, W), the planes of modality 0 first."""
        raise NotImplementedError
