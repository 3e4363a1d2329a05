"""How often accepted calls are wrong, bounded: risk control for calls below a threshold being ``unidentified``.

Cells kept for this and nothing else are called at a few thresholds that were chosen without them. At each, the errors
among the accepted calls are binomial, so that the exact upper limit of Clopper and Pearson
(https://doi.org/10.1093/biomet/26.4.404) holds; the chance of being wrong is shared out over the thresholds
(Bonferroni), so that all limits hold together and any of the thresholds may be used. This is Learn then Test
(Angelopoulos et al., https://doi.org/10.48550/arXiv.2110.01052) with the error among accepted calls as its risk.

What is guaranteed: with the stated confidence, over the draw of the certifying cells, the share of wrong calls among
the accepted ones is at most the bound, for cells drawn as the certifying cells were: same scope, stain and mixture of
classes. It says nothing of one single cell, of one class, or of samples unlike those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.special import betaincinv

from wbcpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["ASSUMPTION", "RiskBounds", "RiskLevel", "bound_risk", "candidate_thresholds", "split_cells", "upper_limit"]

CONFIDENCE: Final = 0.95
REFUSED: Final = (0.05, 0.15, 0.35)
"""Shares of cells refused at the thresholds that are certified, beside the bundle's own threshold."""
MIN_CELLS: Final = 60
ASSUMPTION: Final = (
    "for cells from the same distribution as the test cells (same microscope, stain and class frequencies); on average "
    "over the accepted cells, not for one cell or one class"
)


class RiskLevel(BaseModel):
    """One threshold and what holds at it.

    Attributes:
        threshold: calls of lower confidence are refused.
        accepted: certifying cells that were accepted.
        wrong: those of them that were called wrong.
        error_bound: upper limit of the share of wrong calls among accepted ones.
        unidentified_fraction: of the certifying cells.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: float = Field(ge=0, le=1)
    accepted: int = Field(ge=0)
    wrong: int = Field(ge=0)
    error_bound: float = Field(ge=0, le=1)
    unidentified_fraction: float = Field(ge=0, le=1)


class RiskBounds(BaseModel):
    """Limits that hold together.

    Attributes:
        confidence: chance that all limits hold, over the draw of the certifying cells.
        cells: certifying cells.
        levels: from the lowest threshold to the highest.
        assumption: for which cells it holds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    confidence: float = Field(default=CONFIDENCE, gt=0, lt=1)
    cells: int
    levels: tuple[RiskLevel, ...] = Field(min_length=1)
    assumption: str = ASSUMPTION

    def statement(self, threshold: float) -> dict[str, Any] | None:
        """What holds at a threshold, for JSON; ``None`` where exactly this one is not certified."""
        level = next((level for level in self.levels if level.threshold == threshold), None)
        if level is None:
            return None
        return {
            "error_bound": level.error_bound,
            "confidence": self.confidence,
            "cells": self.cells,
            "assumption": self.assumption,
        }

    def level_for(self, max_error: float) -> RiskLevel:
        """The lowest certified threshold whose error is bounded by ``max_error``.

        Raises:
            ConfigError: none is.
        """
        for level in self.levels:
            if level.error_bound <= max_error:
                return level
        best = min(self.levels, key=lambda level: level.error_bound)
        raise ConfigError(
            f"an error of at most {100 * max_error:g} % cannot be guaranteed: {self.cells} test cells bound it "
            f"by {100 * best.error_bound:.2g} % at best (refusing {100 * best.unidentified_fraction:.0f} %); ask for "
            "that or more, or calibrate the bundle on more cells."
        )


def upper_limit(wrong: int, accepted: int, miss: float) -> float:
    """Upper limit of a binomial proportion that is too low with a chance of at most ``miss``; 1 without cells."""
    return 1.0 if wrong >= accepted else float(betaincinv(wrong + 1, accepted - wrong, 1 - miss))


def candidate_thresholds(confidence: NDArray[np.floating[Any]], own: float) -> list[float]:
    """Thresholds worth a certificate, rising: the bundle's ``own``, and those refusing some shares of other cells.

    Args:
        confidence: (N,) of cells that are not among the certifying ones.
        own: the threshold that the bundle uses unless asked.
    """
    wanted = np.floor(np.quantile(confidence.astype(np.float64), REFUSED) * 1e4) / 1e4
    return sorted({float(own), *(float(value) for value in wanted)})


def bound_risk(
    thresholds: Sequence[float],
    confidence: NDArray[np.floating[Any]],
    right: NDArray[np.bool_],
    *,
    sure: float = CONFIDENCE,
) -> RiskBounds:
    """Bound the error among accepted calls at thresholds that were chosen without these cells.

    Args:
        thresholds: rising.
        confidence: (N,) of the certifying cells' calls.
        right: (N,) whether the call is the true class.
        sure: chance that all bounds hold.
    """
    miss = (1 - sure) / len(thresholds)
    levels = []
    for threshold in thresholds:
        accepted = confidence >= threshold
        count, wrong = int(accepted.sum()), int((accepted & ~right).sum())
        levels.append(
            RiskLevel(
                threshold=threshold,
                accepted=count,
                wrong=wrong,
                error_bound=upper_limit(wrong, count, miss),
                unidentified_fraction=float(1 - accepted.mean()),
            )
        )
    return RiskBounds(confidence=sure, cells=len(right), levels=tuple(levels))


def split_cells(labels: NDArray[np.int64], seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to fit on and rows to certify with: halves, each with half of each class."""
    rng = np.random.default_rng(seed)
    fit: list[int] = []
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        half = (len(rows) + int(rng.integers(2))) // 2
        fit += rows[:half].tolist()
    first = np.sort(np.asarray(fit, np.int64))
    return first, np.setdiff1d(np.arange(len(labels)), first)
