"""Upper bounds of the error among accepted predictions: risk control by a confidence threshold.

Cells kept for this test alone are predicted at a few thresholds that were chosen without them. At
each threshold the errors among the accepted cells are binomial, so the exact upper limit of Clopper
and Pearson holds. The significance is divided by the number of thresholds (Bonferroni), so that all
limits hold together and any threshold may be used. This is Learn then Test (Angelopoulos et al.,
https://doi.org/10.48550/arXiv.2110.01052) with the error among accepted predictions as the risk.

Statement: with the stated confidence, over the draw of the test cells, the share of wrong
predictions among the accepted ones is at most the bound, for cells from the same distribution as
the test cells: same microscope, stain and class frequencies. Nothing is stated for one cell, one
class, or other samples.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from wbcpipe.classify.uncertainty.clopper_pearson import clopper_pearson
from wbcpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = [
    "ASSUMPTION",
    "CROSS_VALIDATED",
    "MIN_CELLS",
    "RiskBounds",
    "RiskLevel",
    "bound_risk",
    "candidate_thresholds",
    "cells_needed",
    "split_cells",
]

CONFIDENCE: Final = 0.95
REFUSED: Final = (0.05, 0.15, 0.35)
"""Shares of cells refused at the thresholds that are tested besides the bundle's own threshold."""
MIN_CELLS: Final = 60
ASSUMPTION: Final = (
    "for cells from the same distribution as the test cells (same microscope, stain and class "
    "frequencies); on average over the accepted cells, not for one cell or one class"
)
CROSS_VALIDATED: Final = (
    "; tested by cross-validation: the network in use was trained on all "
    "cells, those that were tested each on a part"
)
"""What is added to the assumption if no cell was kept from training."""


class RiskLevel(BaseModel):
    """One threshold and its error bound.

    Attributes:
        threshold: cells of lower confidence are unidentified.
        accepted: test cells that were accepted.
        wrong: accepted test cells whose predicted class was wrong.
        error_bound: upper limit of the share of wrong predictions among accepted ones.
        unidentified_fraction: of the test cells.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: float = Field(ge=0, le=1)
    accepted: int = Field(ge=0)
    wrong: int = Field(ge=0)
    error_bound: float = Field(ge=0, le=1)
    unidentified_fraction: float = Field(ge=0, le=1)


class RiskBounds(BaseModel):
    """Error bounds that hold together.

    Attributes:
        confidence: probability that all bounds hold, over the draw of the test cells.
        cells: test cells.
        levels: from the lowest threshold to the highest.
        assumption: for which cells they hold.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    confidence: float = Field(default=CONFIDENCE, gt=0, lt=1)
    cells: int
    levels: tuple[RiskLevel, ...] = Field(min_length=1)
    assumption: str = ASSUMPTION

    def level_at(self, threshold: float) -> RiskLevel | None:
        """Return the level of a threshold; ``None`` if exactly this threshold was not tested."""
        return next((level for level in self.levels if level.threshold == threshold), None)

    def level_for(self, max_error: float) -> RiskLevel:
        """Return the lowest tested threshold whose error bound is at most ``max_error``.

        Raises:
            ConfigError: no tested threshold has such a bound.
        """
        for level in self.levels:
            if level.error_bound <= max_error:
                return level
        best = min(self.levels, key=lambda level: level.error_bound)
        raise ConfigError(
            f"an error of at most {100 * max_error:g} % cannot be guaranteed: {self.cells} test "
            f"cells bound it by {100 * best.error_bound:.2g} % at best "
            f"({100 * best.unidentified_fraction:.0f} % "
            f"unidentified); ask for that or more, or calibrate the bundle on more cells."
        )


def candidate_thresholds(confidence: NDArray[np.floating[Any]], own: float) -> list[float]:
    """Return thresholds to test, ascending: the bundle's ``own``, and those that refuse some shares
    of other cells.

    Args:
        confidence: (N,) of cells that are not test cells.
        own: the bundle's default threshold.
    """
    wanted = np.floor(np.quantile(confidence.astype(np.float64), REFUSED) * 1e4) / 1e4
    return sorted({float(own), *(float(value) for value in wanted)})


def bound_risk(
    thresholds: Sequence[float],
    confidence: NDArray[np.floating[Any]],
    right: NDArray[np.bool_],
    *,
    simultaneous: float = CONFIDENCE,
) -> RiskBounds:
    """Bound the error among accepted predictions at thresholds that were chosen without these
    cells.

    Args:
        thresholds: ascending.
        confidence: (N,) of the test cells' predictions.
        right: (N,) whether the predicted class is the true one.
        simultaneous: probability that all bounds hold.
    """
    tail = (1 - simultaneous) / len(thresholds)
    levels = []
    for threshold in thresholds:
        accepted = confidence >= threshold
        count, wrong = int(accepted.sum()), int((accepted & ~right).sum())
        levels.append(
            RiskLevel(
                threshold=threshold,
                accepted=count,
                wrong=wrong,
                error_bound=clopper_pearson(wrong, count, tail)[1],
                unidentified_fraction=float(1 - accepted.mean()),
            )
        )
    return RiskBounds(confidence=simultaneous, cells=len(right), levels=tuple(levels))


def cells_needed(
    error_bound: float, thresholds: int = 1 + len(REFUSED), *, confidence: float = CONFIDENCE
) -> int:
    """Return how many accepted test cells, none of them wrong, bound the error by ``error_bound``.

    The limit for no error among n cells is 1 - tail^(1 / n), tail = (1 - confidence) / thresholds.

    Args:
        error_bound: above 0 and below 1.
        thresholds: tested together.
        confidence: probability that all bounds hold.

    >>> [cells_needed(bound) for bound in (0.1, 0.05, 0.02, 0.01)]
    [42, 86, 217, 437]
    """
    return math.ceil(math.log((1 - confidence) / thresholds) / math.log1p(-error_bound))


def split_cells(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows to fit on and the rows to test on: halves, each with half of each class."""
    rng = np.random.default_rng(0)
    fit: list[int] = []
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        half = (len(rows) + int(rng.integers(2))) // 2
        fit += rows[:half].tolist()
    first = np.sort(np.asarray(fit, np.int64))
    return first, np.setdiff1d(np.arange(len(labels)), first)
