"""The losses: cross-entropy summed over heads, and knowledge distillation from one teacher per head.

Equations are those of the MM-MIMO + KD paper (sections 2.3 and 2.4); soft targets follow Hinton et al.,
https://doi.org/10.48550/arXiv.1503.02531.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["cross_entropy_over_heads", "distillation_loss", "fused_log_probability", "total_loss"]


def cross_entropy_over_heads(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Equation 1: the sum over heads of the batch's mean cross-entropy.

    Args:
        logits: (B, heads, K).
        labels: (B, heads) int64, the class of the cell that was given to each head's input.
        label_smoothing: share of the target spread evenly over the classes.
    """
    heads = logits.shape[1]
    mean = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=label_smoothing)
    return heads * mean  # the mean over B * heads, times heads, is the sum over heads of means over B


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Equation 2: the sum over heads of KL(teacher_i || student_i) at temperature T, averaged over the batch.

    Args:
        student: logits (B, heads, K).
        teacher: logits (B, heads, K), of the same inputs; no gradient flows to them.
        temperature: T of equation 3.
    """
    target = functional.log_softmax(teacher.detach() / temperature, dim=-1)
    found = functional.log_softmax(student / temperature, dim=-1)
    divergence = (target.exp() * (target - found)).sum(dim=-1)  # (B, heads)
    return divergence.sum(dim=1).mean()


def total_loss(
    student: Tensor,
    labels: Tensor,
    teacher: Tensor | None = None,
    *,
    temperature: float = 4.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Equation 4: cross-entropy plus T^2 times the distillation loss (the latter only when a teacher is given)."""
    loss = cross_entropy_over_heads(student, labels, label_smoothing=label_smoothing)
    if teacher is not None:
        # T^2 makes up for soft targets' gradients, which shrink as 1 / T^2.
        loss = loss + temperature**2 * distillation_loss(student, teacher, temperature)
    return loss


def fused_log_probability(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """The log of the heads' mean probability: (B, heads, K) -> (B, 1, K); itself valid as the logits of one head.

    It is the late-fusion teacher of early fusion + KD. Dividing by a temperature happens here, before the mean.
    """
    log_probability = functional.log_softmax(logits / temperature, dim=-1)
    count = torch.tensor(float(logits.shape[1]), device=logits.device, dtype=logits.dtype)
    return torch.logsumexp(log_probability, dim=1, keepdim=True) - count.log()
