"""Heads that contradict each other more than they did on good pictures: a wrong registration, or a dead lamp.

Each head is compared with the mean of the others. On held-out cells the distance that one cell in twenty exceeds is
noted for each head. In a sample taken as those were, about one cell in twenty exceeds it too; an alarm is raised where
the share is both surely higher (a binomial test) and high enough to matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.special import bdtrc

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DisagreementLimits", "HeadCheck", "check_heads", "fit_disagreement_limits", "head_distance"]

EXPECTED_FRACTION: Final = 0.05
"""Share of held-out cells beyond a head's limit."""
FACTOR: Final = 4.0
"""Slides differ among themselves: a share below so many times the usual one is no alarm, however sure it is."""
SIGNIFICANCE: Final = 1e-3
MIN_CELLS: Final = 20


class DisagreementLimits(BaseModel):
    """Limits of the heads' distances.

    Attributes:
        limits: one per head; the share ``usual`` of the held-out cells lay beyond it.
        usual: that share.
        factor: an alarm needs a share of more than ``factor * usual``.
        chance: an alarm needs a share that chance alone would bring less often than this.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    limits: tuple[float, ...]
    expected_fraction: float = Field(default=EXPECTED_FRACTION, gt=0, lt=1)
    factor: float = Field(default=FACTOR, ge=1)
    significance: float = Field(default=SIGNIFICANCE, gt=0, lt=1)


@dataclass(frozen=True)
class HeadCheck:
    """One head in one sample.

    Attributes:
        share: of the cells that lie beyond the limit; ``None`` with too few cells.
        limit: largest share that is no limits.
        exceeded: whether the head disagrees more than allowed.
    """

    share: float | None
    limit: float
    exceeded: bool


def head_distance(probability: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Total variation (N, H), 0 to 1, of each head from the mean of the others; zeros for one head.

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
    """Limits from held-out cells (N, H, K); ``None`` for one head or too few cells."""
    if probability.shape[1] == 1 or len(probability) < MIN_CELLS:
        return None
    limits = np.quantile(head_distance(probability), 1 - EXPECTED_FRACTION, axis=0, method="higher")
    return DisagreementLimits(limits=tuple(float(value) for value in np.round(limits, 5)))


def check_heads(probability: NDArray[np.floating[Any]], limits: DisagreementLimits) -> list[HeadCheck]:
    """Check each head of a sample's cells (N, H, K)."""
    count = len(probability)
    beyond = (head_distance(probability) > np.asarray(limits.limits)).sum(axis=0)
    limit = limits.factor * limits.expected_fraction
    if count < MIN_CELLS:
        return [HeadCheck(None, limit, exceeded=False)] * len(limits.limits)
    checks = []
    for number in beyond:
        by_chance = float(bdtrc(int(number) - 1, count, limits.expected_fraction)) if number else 1.0
        share = int(number) / count
        checks.append(HeadCheck(share, limit, exceeded=share > limit and by_chance < limits.significance))
    return checks
