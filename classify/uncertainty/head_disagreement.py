"""Heads that disagree more than they did on validation cells.

A sign of failed registration or a dead lamp.

Each head is compared with the mean of the others. On validation cells, the distance that 5 % of the
cells exceed is the limit of a head. In a sample of the same kind about 5 % of the cells exceed it
too. A head is reported if more cells exceed it, by a binomial test, and if the share is large
enough to matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import scipy
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "DisagreementLimits",
    "HeadCheck",
    "check_heads",
    "fit_disagreement_limits",
    "head_distance",
]

EXPECTED_FRACTION: Final = 0.05
FACTOR: Final = 4.0
"""Slides differ: a share below this multiple of the expected one is accepted, however significant
it is.
"""
SIGNIFICANCE: Final = 1e-3
MIN_CELLS: Final = 20


class DisagreementLimits(BaseModel):
    """Limits of the distance of each head from the others.

    Attributes:
        limits: one per head; ``expected_fraction`` of the validation cells exceed it.
        expected_fraction: that share.
        factor: a head disagrees if a share of more than ``factor * expected_fraction`` exceeds its
            limit.
        significance: and if the binomial test's p-value is below this.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    limits: tuple[float, ...]
    expected_fraction: float = Field(default=EXPECTED_FRACTION, gt=0, lt=1)
    factor: float = Field(default=FACTOR, ge=1)
    significance: float = Field(default=SIGNIFICANCE, gt=0, lt=1)


@dataclass(frozen=True)
class HeadCheck:
    """Check of one head in one sample.

    Attributes:
        share: of the cells that exceed the head's limit; ``None`` with too few cells.
        limit: largest share that is accepted.
        exceeded: whether the head disagrees with the others.
    """

    share: float | None
    limit: float
    exceeded: bool


def head_distance(probability: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the total variation distance (N, H), 0 to 1, of each head from the mean of the others.

    Zeros for one head.

    Args:
        probability: (N, H, K), calibrated.
    """
    each = probability.astype(np.float64)
    heads = each.shape[1]
    if heads == 1:
        return np.zeros(each.shape[:2])
    others = (each.sum(axis=1, keepdims=True) - each) / (heads - 1)
    distance: NDArray[np.float64] = 0.5 * np.abs(each - others).sum(axis=2)
    return distance


def fit_disagreement_limits(probability: NDArray[np.floating[Any]]) -> DisagreementLimits | None:
    """Find the limits from validation cells (N, H, K); ``None`` for one head or too few cells."""
    if probability.shape[1] == 1 or len(probability) < MIN_CELLS:
        return None
    limits = np.quantile(head_distance(probability), 1 - EXPECTED_FRACTION, axis=0, method="higher")
    return DisagreementLimits(limits=tuple(float(value) for value in np.round(limits, 5)))


def check_heads(
    probability: NDArray[np.floating[Any]], limits: DisagreementLimits
) -> list[HeadCheck]:
    """Check each head on a sample's cells (N, H, K)."""
    cells = len(probability)
    exceeding = (head_distance(probability) > np.asarray(limits.limits)).sum(axis=0)
    limit = limits.factor * limits.expected_fraction
    if cells < MIN_CELLS:
        return [HeadCheck(None, limit, exceeded=False)] * len(limits.limits)
    checks = []
    for count in exceeding.tolist():
        p_value = (
            float(scipy.special.bdtrc(count - 1, cells, limits.expected_fraction)) if count else 1.0
        )
        share = count / cells
        checks.append(
            HeadCheck(share, limit, exceeded=share > limit and p_value < limits.significance)
        )
    return checks
