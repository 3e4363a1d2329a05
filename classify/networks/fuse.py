"""Batch normalisation folded into the convolutions, for inference."""

from __future__ import annotations

import copy
import itertools
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

__all__ = ["fused_copy"]

N = TypeVar("N", bound=nn.Module)


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
