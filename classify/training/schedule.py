"""The learning rate of a training: one cycle (Smith and Topin, https://doi.org/10.48550/arXiv.1708.07120)."""

from __future__ import annotations

import math
from typing import Final

__all__ = ["one_cycle"]

WARM_UP: Final = 0.2
"""Fraction of the steps in which the rate rises."""


def one_cycle(step: int, steps: int) -> float:
    """Return the learning rate relative to its peak: a cosine up from 0.05, then a cosine down to 0.001.

    Args:
        step: from 0.
        steps: number of steps in all.
    """
    rise = max(1, round(WARM_UP * steps))
    if step < rise:
        return 0.05 + 0.95 * (1 - math.cos(math.pi * step / rise)) / 2
    return 1e-3 + (1 - 1e-3) * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise))) / 2
