"""The networks of the paper's Table 1.

Torchvision backbones with a resized first convolution and last layer.

Single modality, early fusion and MM-MIMO are one backbone. MM-MIMO (multi-modal multi-input
multi-output network, section 2.3 of the paper) has one output per modality: independent
sub-networks inside one network, at the cost of early fusion. Late fusion has one network per
modality, and M times the cost.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from wbcpipe.classify.models.classes import Backbone
from wbcpipe.classify.torchvision_import import torchvision

if TYPE_CHECKING:
    from wbcpipe.classify.models.classes import Method, Stem

__all__ = [
    "FusionNetwork",
    "InputLayers",
    "LateFusion",
    "build_network",
    "fused_copy",
    "keep_channels_last",
]

N = TypeVar("N", bound=nn.Module)
_LEAST_SIDE: Final = 3
"""Pixels of an input below which oneDNN has no fast gradient of a depthwise convolution."""


@dataclass(frozen=True)
class InputLayers:
    """How one backbone reads several modalities; the defaults are as published.

    Attributes:
        stem: ``shared``, ``split`` or ``block``, see `divide_stem`.
        told_missing: the heads are told which inputs are zero everywhere.
    """

    stem: Stem = "shared"
    told_missing: bool = False


_AS_PUBLISHED = InputLayers()


def build_network(
    method: Method,
    backbone: Backbone,
    modalities: int,
    planes: int,
    classes: int,
    layers: InputLayers = _AS_PUBLISHED,
) -> FusionNetwork:
    """Build a randomly initialised network.

    Distillation (``-kd``) changes the training, not the network.

    Args:
        method: how modalities are fused.
        backbone: name in torchvision.
        modalities: M; for ``single`` it must be 1.
        planes: c, planes of each modality.
        classes: K.
        layers: how early fusion and MM-MIMO read their modalities.

    Raises:
        ValueError: the method or backbone is unknown, ``single`` gets several modalities, or the
            stem cannot be divided among the modalities.
    """
    match method.removesuffix("-kd"):
        case "single":
            if modalities != 1:
                raise ValueError(
                    f"method 'single' reads 1 modality, got {modalities}; choose one of them."
                )
            return SharedBackbone(backbone, 1, planes, classes)
        case "early-fusion":
            return SharedBackbone(backbone, modalities, planes, classes, layers=layers)
        case "late-fusion":
            return LateFusion(backbone, modalities, planes, classes)
        case "mm-mimo":
            return SharedBackbone(backbone, modalities, planes, classes, modalities, layers)
    raise ValueError(
        f"method {method!r} is not known; use 'single', 'early-fusion', 'late-fusion', 'mm-mimo' "
        f"or a '-kd' of these."
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
        """Return logits (B, heads, K) of images (B, M * c, H, W), the planes of modality 0
        first.
        """
        raise NotImplementedError


class SharedBackbone(FusionNetwork):
    """A backbone with M * c input planes and heads * K outputs: one head for early fusion, M for
    MM-MIMO.
    """

    def __init__(
        self,
        backbone: Backbone,
        modalities: int,
        planes: int,
        classes: int,
        heads: int = 1,
        layers: InputLayers = _AS_PUBLISHED,
    ) -> None:
        super().__init__(modalities, planes, classes, heads)
        self.backbone = build_backbone(backbone, modalities * planes, heads * classes)
        if layers.stem != "shared":
            divide_stem(self.backbone, modalities, layers.stem)
        # Inputs added to the last layer, one for each modality; without a bias and initialised with
        # zeros, so that they change nothing until a modality is missing.
        self.missing: nn.Linear | None = None
        if layers.told_missing:
            self.missing = nn.Linear(modalities, heads * classes, bias=False)
            nn.init.zeros_(self.missing.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, heads, K) of images (B, M * c, H, W)."""
        logits: Tensor = self.backbone(images)
        if self.missing is not None:
            largest = images.abs().amax(dim=(2, 3))  # (B, M * c)
            largest = largest.reshape(-1, self.modalities, self.planes).amax(dim=2)  # (B, M)
            logits = logits + self.missing((largest == 0).to(logits.dtype))
        return logits.reshape(-1, self.heads, self.classes)  # (B, heads * K) -> (B, heads, K)


class LateFusion(FusionNetwork):
    """M single-modality networks side by side."""

    def __init__(self, backbone: Backbone, modalities: int, planes: int, classes: int) -> None:
        super().__init__(modalities, planes, classes, modalities)
        self.members = nn.ModuleList(
            SharedBackbone(backbone, 1, planes, classes) for _ in range(modalities)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, M, K) of images (B, M * c, H, W); head i sees modality i alone."""
        parts = torch.split(images, self.planes, dim=1)  # M of (B, c, H, W)
        return torch.cat(
            [member(part) for member, part in zip(self.members, parts, strict=True)], dim=1
        )


def build_backbone(backbone: Backbone, input_planes: int, outputs: int) -> nn.Module:
    """Build a randomly initialised torchvision network from (B, input_planes, H, W) to (B,
    outputs).

    Raises:
        ValueError: the backbone is not supported.
    """
    if backbone not in get_args(Backbone):
        raise ValueError(
            f"backbone {backbone!r} is not known; use {' or '.join(map(repr, get_args(Backbone)))}."
        )
    net: nn.Module = torchvision.models.get_model(backbone, num_classes=outputs)
    conv = _first_convolution(net)
    _replace_first_convolution(net, input_planes, conv.out_channels)
    return net


def divide_stem(net: nn.Module, modalities: int, stem: Stem) -> None:
    """Give each modality first layers of its own, in place, at about the cost of shared ones.

    ``split``: the first convolution's C output channels are divided: C / M see one modality each.
    ``block``: each modality has a first convolution of 5 / 6 C channels; after the pooling, a
    depthwise and a pointwise convolution reduce them to C / M. Both cost at most 3 % more
    multiply-adds than a shared convolution at side 224 (tested).

    Args:
        net: of `build_backbone`.
        modalities: M; it must divide C, which is 24 for ShuffleNet and 64 for ResNet-34.
        stem: ``split`` or ``block``.

    Raises:
        ValueError: M does not divide C.
    """
    conv = _first_convolution(net)
    planes, channels = conv.in_channels, conv.out_channels
    if channels % modalities:
        raise ValueError(
            f"stem {stem!r} divides {channels} channels among the modalities, which {modalities} "
            f"modalities do not divide; use stem 'shared'."
        )
    if stem == "split":
        _replace_first_convolution(net, planes, channels, groups=modalities)
        return
    wide = modalities * (5 * channels // 6)
    _replace_first_convolution(net, planes, wide, groups=modalities)
    if isinstance(net.conv1, nn.Conv2d):
        net.bn1 = nn.BatchNorm2d(wide)
    else:
        net.conv1[1] = nn.BatchNorm2d(wide)  # type: ignore[operator, assignment]
    depthwise = nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False)
    pointwise = nn.Conv2d(wide, channels, 1, groups=modalities, bias=False)
    for layer in (depthwise, pointwise):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    pool = net.maxpool
    assert isinstance(pool, nn.Module)
    net.maxpool = nn.Sequential(
        pool, depthwise, nn.BatchNorm2d(wide), pointwise, nn.BatchNorm2d(channels), nn.ReLU()
    )


def _first_convolution(net: nn.Module) -> nn.Conv2d:
    first = net.conv1 if isinstance(net.conv1, nn.Conv2d) else net.conv1[0]  # type: ignore[index]
    assert isinstance(first, nn.Conv2d)
    return first


def _replace_first_convolution(
    net: nn.Module, input_planes: int, channels: int, groups: int = 1
) -> None:
    old = _first_convolution(net)
    new = nn.Conv2d(
        input_planes,
        channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        groups=groups,
        bias=False,
    )
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    if isinstance(net.conv1, nn.Conv2d):
        net.conv1 = new
    else:
        net.conv1[0] = new  # type: ignore[operator, assignment]


def fused_copy(network: N) -> N:
    """Return a frozen copy in evaluation mode with batch normalisation folded into the
    convolutions.

    A network must register each batch normalisation right after its convolution, as those of
    torchvision do.
    """
    twin = copy.deepcopy(network).eval().requires_grad_(False)
    for module in list(twin.modules()):
        children = list(module.named_children())
        for (name, first), (next_name, second) in itertools.pairwise(children):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(first, second))
                setattr(module, next_name, nn.Identity())
    return twin


class _PointwiseConvolution(nn.Conv2d):
    """A convolution of 1 x 1 pixel and stride 1, computed as a matrix product."""

    def forward(self, input: Tensor) -> Tensor:
        """Return (B, C', H, W) of (B, C, H, W); in channels-last memory, nothing is copied."""
        pixels = input.permute(0, 2, 3, 1)  # (B, H, W, C)
        return functional.linear(pixels, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class _DepthwiseConvolution(nn.Conv2d):
    """A convolution of 3 x 3 pixels with one filter for each channel, and a margin of 1.

    Inputs of 1 or 2 pixels are filled up with zeros to 3: oneDNN takes twenty times as long for the
    gradient of the filters on smaller ones.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return (B, C, H', W') of (B, C, H, W)."""
        height, width = input.shape[2:]
        if not self.training or min(height, width) >= _LEAST_SIDE:
            return super().forward(input)
        add = (0, max(0, _LEAST_SIDE - width), 0, max(0, _LEAST_SIDE - height))
        found = super().forward(functional.pad(input, add))
        down, across = self.stride
        asked = found[:, :, : (height - 1) // down + 1, : (width - 1) // across + 1]
        return asked.contiguous(memory_format=torch.channels_last)


class _Interleave(torch.autograd.Function):
    """Two images (B, C, H, W) in channels-last memory as one (B, 2 * C, H, W), channels
    alternating.

    `torch.stack` does the same, and its gradients are views of every second number, which slow down
    all that reads them.
    """

    @staticmethod
    def forward(_ctx: Any, first: Tensor, second: Tensor) -> Tensor:
        batch, channels, height, width = first.shape
        joined = first.new_empty(batch, height, width, channels, 2)
        for place, part in enumerate((first, second)):
            joined[..., place] = part.permute(0, 2, 3, 1)
        return joined.flatten(3).permute(0, 3, 1, 2)

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        [gradient] = gradients
        batch, channels, height, width = gradient.shape
        pairs = gradient.permute(0, 2, 3, 1).reshape(batch, height, width, channels // 2, 2)
        return tuple(part.contiguous().permute(0, 3, 1, 2) for part in pairs.unbind(4))


class _ShuffledBlock(nn.Module):
    """A block of ShuffleNet V2 that joins and shuffles its two branches in channels-last memory.

    That of torchvision shuffles into memory with the channels first.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.halves = block.stride == 1
        self.branch1: nn.Module = block.branch1  # type: ignore[assignment]
        self.branch2: nn.Module = block.branch2  # type: ignore[assignment]

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, C', H', W') of (B, C, H, W); channels of the two branches alternate."""
        if self.halves:
            first, images = images.chunk(2, dim=1)
        else:
            first = self.branch1(images)
        joined: Tensor = _Interleave.apply(first, self.branch2(images))
        return joined


def keep_channels_last(network: N) -> N:
    """Have a network in channels-last memory keep it from layer to layer; return the network.

    Convolutions of 1 x 1 pixel become matrix products, and blocks of ShuffleNet V2 shuffle in that
    memory. Weights and their names stay, results differ by rounding. On a processor, a step of
    training takes 0.54 of the time at side 32, 0.70 at 64 and 0.78 at 112
    (`benchmarks/training_step.py`). Compilers of networks expect them as they were.
    """
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torchvision.models.shufflenetv2.InvertedResidual):
                setattr(module, name, _ShuffledBlock(child))
            elif type(child) is nn.Conv2d and (kind := _faster_kind(child)) is not None:
                new = kind(
                    child.in_channels,
                    child.out_channels,
                    child.kernel_size,  # type: ignore[arg-type]
                    child.stride,  # type: ignore[arg-type]
                    child.padding,  # type: ignore[arg-type]
                    groups=child.groups,
                    bias=False,
                    device="meta",
                )
                new.weight, new.bias = child.weight, child.bias
                setattr(module, name, new.train(child.training))
    return network


def _faster_kind(layer: nn.Conv2d) -> type[nn.Conv2d] | None:
    """Return the class that computes a convolution of these kinds faster, if there is one."""
    if layer.dilation != (1, 1):
        return None
    shape = (layer.kernel_size, layer.padding)
    if shape == ((1, 1), (0, 0)) and layer.stride == (1, 1) and layer.groups == 1:
        return _PointwiseConvolution
    if shape == ((3, 3), (1, 1)) and layer.groups == layer.in_channels == layer.out_channels:
        return _DepthwiseConvolution
    return None
