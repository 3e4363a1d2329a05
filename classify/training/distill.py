"""The losses: cross-entropy summed over heads, and knowledge distillation from one teacher per
head and from their fusion.

Equations are those of the MM-MIMO + KD paper (sections 2.3 and 2.4); soft targets follow Hinton et
al., https://doi.org/10.48550/arXiv.1503.02531.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Distillation",
    "cross_entropy_over_heads",
    "distillation_loss",
    "fused_distillation_loss",
    "fused_log_probability",
    "total_loss",
]


class Distillation(BaseModel):
    """Options of the distillation beside its temperature; the defaults are the paper's.

    Attributes:
        weight: of the distillation against the labels, one teacher per head.
        fused_weight: of the distillation of MM-MIMO's fused output, against the labels. It is
            taught by the fused teachers, on cells that are on all inputs.
        teacher_fusion: how the teachers are fused where one output is taught by all of them:
            ``mean`` probability, or ``calibrated`` on training cells that are held out from the
            teachers (``holdout``), by stacking where that helps.
        teacher_seeds: teachers of each modality, trained with other seeds; the mean probability of
            each modality's teaches.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: float = Field(default=1.0, ge=0)
    fused_weight: float = Field(default=0.0, ge=0)
    teacher_fusion: Literal["mean", "calibrated"] = "mean"
    teacher_seeds: int = Field(default=1, ge=1, le=8)


def cross_entropy_over_heads(
    logits: Tensor, labels: Tensor, *, uninformative_heads: Tensor | None = None
) -> Tensor:
    """Return the sum over heads of the batch's mean cross-entropy (equation 1).

    Args:
        logits: (B, heads, K).
        labels: (B, heads) int64, the class of the cell on each head's input.
        uninformative_heads: (B, heads) bool, heads whose target is the uniform distribution instead
            of the label.
    """
    heads = logits.shape[1]
    each = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    if uninformative_heads is not None:
        uniform = -functional.log_softmax(logits, dim=-1).mean(dim=-1)
        each = torch.where(uninformative_heads.flatten(), uniform.flatten(), each)
    return (
        heads * each.mean()
    )  # the mean over B * heads, times heads, is the sum over heads of means over B


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the sum over heads of KL(teacher_i || student_i) at temperature T, averaged over the
    batch (equation 2).

    Args:
        student: logits (B, heads, K).
        teacher: logits (B, heads, K) for the same inputs; no gradient flows to them.
        temperature: T of equation 3.
    """
    return distillation_sum(student, teacher, temperature) / len(student)


def distillation_sum(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the sum of `distillation_loss` over heads and rows."""
    target = functional.log_softmax(teacher.detach() / temperature, dim=-1)
    found = functional.log_softmax(student / temperature, dim=-1)
    return (target.exp() * (target - found)).sum()


def fused_distillation_loss(
    student: Tensor, teacher: Tensor, rows: Tensor, temperature: float
) -> Tensor:
    """Return KL(teacher || student) of fused outputs at temperature T, summed over some rows and
    divided by the size of the batch.

    The student's fused output is the mean probability of its heads.

    Args:
        student: logits (B, heads, K).
        teacher: log of the fused probability (B, 1, K); no gradient flows to it.
        rows: (B,) bool, the rows that show one cell on all inputs.
        temperature: T.
    """
    fused = fused_log_probability(student[rows])
    return distillation_sum(fused, teacher[rows], temperature) / len(student)


def total_loss(
    student: Tensor,
    labels: Tensor,
    teacher: Tensor | None = None,
    *,
    temperature: float = 4.0,
    weight: float = 1.0,
    uninformative_heads: Tensor | None = None,
) -> Tensor:
    """Return cross-entropy plus, if there is a teacher, T^2 times the distillation loss (equation
    4).

    Args:
        student: logits (B, heads, K).
        labels: (B, heads) int64.
        teacher: logits (B, heads, K) for the same inputs.
        temperature: T.
        weight: of the distillation against the labels; 1 is the paper's.
        uninformative_heads: (B, heads) bool, heads whose target is the uniform distribution, with a
            teacher or without.
    """
    loss = cross_entropy_over_heads(student, labels, uninformative_heads=uninformative_heads)
    if teacher is None:
        return loss
    if uninformative_heads is not None:
        teacher = teacher.masked_fill(uninformative_heads.unsqueeze(-1), 0.0)
    # T^2 compensates for the gradients of soft targets, which shrink as 1 / T^2.
    return loss + weight * temperature**2 * distillation_loss(student, teacher, temperature)


def fused_log_probability(logits: Tensor) -> Tensor:
    """Return the log of the heads' mean probability: (B, heads, K) -> (B, 1, K), valid as the
    logits of one head.

    It is the late-fusion teacher of early fusion + KD.
    """
    log_probability = functional.log_softmax(logits, dim=-1)
    count = torch.tensor(float(logits.shape[1]), device=logits.device, dtype=logits.dtype)
    return torch.logsumexp(log_probability, dim=1, keepdim=True) - count.log()
