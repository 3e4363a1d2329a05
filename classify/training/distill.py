"""The losses: cross-entropy summed over heads, and knowledge distillation from one teacher per head.

Equations are those of the MM-MIMO + KD paper (sections 2.3 and 2.4); soft targets follow Hinton et al.,
https://doi.org/10.48550/arXiv.1503.02531.
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
    "decoupled_loss",
    "distillation_loss",
    "fused_log_probability",
    "standardise_logits",
    "total_loss",
]


class Distillation(BaseModel):
    """How a student is taught, beside the temperature; the defaults are the paper's.

    Attributes:
        kind: ``whole`` compares all classes' probabilities at once; ``decoupled`` weighs two parts, see
            `decoupled_loss`.
        weight: of the distillation against the labels.
        standardise: compare logits of mean 0 and deviation 1, see `standardise_logits`.
        target_weight, others_weight: of the parts of ``decoupled``; their authors' choice.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["whole", "decoupled"] = "whole"
    weight: float = Field(default=1.0, ge=0)
    standardise: bool = False
    target_weight: float = Field(default=1.0, ge=0)
    others_weight: float = Field(default=8.0, ge=0)


def cross_entropy_over_heads(
    logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, doubtful: Tensor | None = None
) -> Tensor:
    """Equation 1: the sum over heads of the batch's mean cross-entropy.

    Args:
        logits: (B, heads, K).
        labels: (B, heads) int64, the class of the cell that was given to each head's input.
        label_smoothing: share of the target spread evenly over the classes.
        doubtful: (B, heads) bool, heads that shall find all classes alike likely, whatever the label; none by default.
    """
    heads = logits.shape[1]
    each = functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), label_smoothing=label_smoothing, reduction="none"
    )
    if doubtful is not None:
        even = -functional.log_softmax(logits, dim=-1).mean(dim=-1)
        each = torch.where(doubtful.flatten(), even.flatten(), each)
    return heads * each.mean()  # the mean over B * heads, times heads, is the sum over heads of means over B


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


def standardise_logits(logits: Tensor) -> Tensor:
    """Logits (..., K) with mean 0 and standard deviation 1 over the classes.

    A student then need not copy how large its teacher's logits are, only their order and relative distances. Sun et
    al., https://doi.org/10.48550/arXiv.2403.01427.
    """
    centred = logits - logits.mean(dim=-1, keepdim=True)
    return centred / centred.std(dim=-1, keepdim=True).clamp_min(1e-6)


def decoupled_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, target_weight: float, others_weight: float
) -> Tensor:
    """Decoupled distillation, summed over heads: how sure the right class is, and how the others share the rest.

    Zhao et al., https://doi.org/10.48550/arXiv.2203.08679 (their alpha and beta are the two weights). With
    ``others_weight`` equal to the teacher's doubt, cell by cell, it would be `distillation_loss`.

    Args:
        student, teacher: logits (B, heads, K).
        labels: (B, heads) int64.
        temperature: T.
        target_weight: of the divergence between the right class and all others.
        others_weight: of the divergence among the others.
    """
    right = functional.one_hot(labels, student.shape[-1]).bool()
    parts = []
    for logits in (teacher.detach() / temperature, student / temperature):
        log_p = functional.log_softmax(logits, dim=-1)
        others = log_p.masked_fill(right, -torch.inf)
        doubt = torch.logsumexp(others, dim=-1)  # (B, heads)
        sure = log_p.masked_fill(~right, 0.0).sum(dim=-1)
        parts.append((torch.stack([sure, doubt], dim=-1), (others - doubt.unsqueeze(-1)).masked_fill(right, 0.0)))
    (taught, taught_others), (found, found_others) = parts
    target = (taught.exp() * (taught - found)).sum(dim=-1)
    spread = taught_others.exp().masked_fill(right, 0.0)
    among = (spread * (taught_others - found_others)).sum(dim=-1)
    return (target_weight * target + others_weight * among).sum(dim=1).mean()


def total_loss(
    student: Tensor,
    labels: Tensor,
    teacher: Tensor | None = None,
    *,
    temperature: float = 4.0,
    label_smoothing: float = 0.0,
    options: Distillation | None = None,
    doubtful: Tensor | None = None,
) -> Tensor:
    """Equation 4: cross-entropy plus T^2 times the distillation loss (the latter only when a teacher is given).

    Args:
        student: logits (B, heads, K).
        labels: (B, heads) int64.
        teacher: logits (B, heads, K), of the same inputs.
        temperature: T.
        label_smoothing: of the cross-entropy.
        options: departures from the paper; by default none.
        doubtful: (B, heads) bool, heads that shall find all classes alike likely, with a teacher or without.
    """
    loss = cross_entropy_over_heads(student, labels, label_smoothing=label_smoothing, doubtful=doubtful)
    if teacher is None:
        return loss
    if doubtful is not None:
        teacher = teacher.masked_fill(doubtful.unsqueeze(-1), 0.0)
    options = options or Distillation()
    if options.standardise:
        student, teacher = standardise_logits(student), standardise_logits(teacher)
    if options.kind == "decoupled":
        taught = decoupled_loss(student, teacher, labels, temperature, options.target_weight, options.others_weight)
    else:
        taught = distillation_loss(student, teacher, temperature)
    # T^2 makes up for soft targets' gradients, which shrink as 1 / T^2.
    return loss + options.weight * temperature**2 * taught


def fused_log_probability(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """The log of the heads' mean probability: (B, heads, K) -> (B, 1, K); itself valid as the logits of one head.

    It is the late-fusion teacher of early fusion + KD. Dividing by a temperature happens here, before the mean.
    """
    log_probability = functional.log_softmax(logits / temperature, dim=-1)
    count = torch.tensor(float(logits.shape[1]), device=logits.device, dtype=logits.dtype)
    return torch.logsumexp(log_probability, dim=1, keepdim=True) - count.log()
