"""Networks made ready for use: batch norm folded into the convolutions."""

from __future__ import annotations

import copy
import itertools
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

__all__ = ["fused_copy"]

N = TypeVar("N", bound=nn.Module)


def fused_copy(network: N) -> N:
    """A frozen copy in evaluation mode whose convolutions have their batch norm folded in.

    It holds for networks that register each batch norm right after the convolution it follows, as torchvision's do.
    """
    twin = copy.deepcopy(network).eval().requires_grad_(False)
    for module in list(twin.modules()):
        children = list(module.named_children())
        for (name, first), (next_name, second) in itertools.pairwise(children):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(first, second))
                setattr(module, next_name, nn.Identity())
    return twin
