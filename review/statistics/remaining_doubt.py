"""When a review may stop.

Which cells could still move a class across its reference limit or out of its interval.

Each cell that nobody has looked at has a probability of each class, calibrated on validation cells.
If all of them were looked at, class k would lose D_k of its cells and gain A_k others. Both are
sums of independent events of known probability; for such a sum S of mean m and any whole number u
>= m

    P(S > u) <= P(Poisson(m) > u)

(Hoeffding 1956, https://doi.org/10.1214/aoms/1177728178, theorem 4, bounds it by the binomial
distribution of the same mean, and Anderson and Samuels 1967, Proc. 5th Berkeley Symp. 1:1, theorem
2.1, that one by Poisson's.) With u the number of cells that class k can gain, or lose, before its
percentage crosses a reference limit or leaves the 95 % interval of the present count, P(Poisson(m)
> u) <= a holds as long as m is at most the quantile a of the gamma distribution of shape u + 1: a
budget of expected errors for each class and direction. The differential cannot change, with
confidence 1 - 2 K a for K classes, when the expected errors of the cells that are left fit into all
2 K budgets.

A cell's doubt is the share of the exceeded budgets that it uses up: looking at cells in this order
empties them first. Unidentified cells come before all others, since they belong to no percentage
yet. Cells that a quality flag excludes are not part of the percentages, and not of this number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import scipy

from wbcpipe.classify.uncertainty.clopper_pearson import clopper_pearson

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = [
    "CONFIDENCE",
    "NOT_COUNTED",
    "UNIDENTIFIED_CLASS",
    "RemainingDoubt",
    "UnreviewedCells",
    "remaining_doubt",
]

CONFIDENCE: Final = 0.95
UNIDENTIFIED_CLASS: Final = -1
"""Class of a cell that the model is not sure of."""
NOT_COUNTED: Final = -2
"""Class of a cell that is excluded, or has a class that the model does not know."""
#: Weight of a budget that is not exceeded, against those that are: it decides between cells that
#: are else alike.
_KEPT: Final = 1e-3


@dataclass(frozen=True)
class UnreviewedCells:
    """The cells of a sample, as far as a review has come.

    Attributes:
        probability: (N, K) float64, calibrated: of each class of the model.
        now: (N,) index of the class that each cell has now, `UNIDENTIFIED_CLASS` or `NOT_COUNTED`.
        looked: (N,) a reader looked at the cell, or gave it its class.
        counts: K cells of each class now; a class may hold cells that readers gave it.
        total: counted cells now, those of other classes too.
        reference_percent: K lowest and highest normal percentages; ``None`` for a class without.
    """

    probability: NDArray[np.float64]
    now: NDArray[np.intp]
    looked: NDArray[np.bool_]
    counts: Sequence[int]
    total: int
    reference_percent: Sequence[tuple[float, float] | None]


@dataclass(frozen=True)
class RemainingDoubt:
    """What could still change.

    Attributes:
        doubt: (N,) rank value of each cell, looked at or not, the most doubtful highest; 0 for one
            that is not counted.
        order: rows that nobody has looked at, the most doubtful first; those that are not counted
            are left out.
        decisive: number of the first of them after which the differential cannot change.
        open_classes: indices of the classes whose budgets are exceeded now.
    """

    doubt: NDArray[np.float64]
    order: NDArray[np.intp]
    decisive: int
    open_classes: tuple[int, ...]

    @property
    def unreviewed(self) -> int:
        """Counted and unidentified cells that nobody has looked at."""
        return len(self.order)

    def sentence(self) -> str:
        """Say how many cells are left to look at."""
        condition = (
            f"({CONFIDENCE:.0%} confidence, if the model's probabilities hold for this sample)"
        )
        if not self.unreviewed:
            return "Every cell that counts was looked at."
        if not self.decisive:
            rest = "1 cell needs" if self.unreviewed == 1 else f"{self.unreviewed} cells need"
            return f"The differential cannot change any more {condition}: {rest} no look."
        cells = "1 more cell" if self.decisive == 1 else f"{self.decisive} more cells"
        return f"{cells}, and the differential cannot change {condition}."


def remaining_doubt(cells: UnreviewedCells, confidence: float = CONFIDENCE) -> RemainingDoubt:
    """Order the cells by doubt and count those that could still change the differential.

    Args:
        cells: of a sample.
        confidence: that the differential does not change when the decisive cells have been looked
            at.
    """
    departs, arrives = _expected_errors(cells)  # (N, K) each
    counted = cells.now != NOT_COUNTED
    unidentified = cells.now == UNIDENTIFIED_CLASS
    classes = cells.probability.shape[1]
    tail = (1 - confidence) / (2 * classes)
    margin = np.array([_margins(cells, number) for number in range(classes)])  # (K, 2): gain, lose
    budget = scipy.special.gammaincinv(margin.T + 1.0, tail).ravel()  # (2 K,)
    load = np.hstack([arrives, departs])  # (N, 2 K)
    left = counted & ~cells.looked
    # An identified cell's arrival is another's departure: both are charged. Unidentified ones are
    # looked at first.
    exceeded = load[left & ~unidentified].sum(axis=0) > budget
    weight = np.where(exceeded, 1.0, _KEPT) / budget
    doubt = np.where(counted, load @ weight, 0.0)
    doubt[unidentified] += 1.0 + float(doubt.max(initial=0.0))
    rows = np.flatnonzero(left)
    order = rows[np.argsort(-doubt[rows], kind="stable")]
    first = int(np.count_nonzero(left & unidentified))
    return RemainingDoubt(
        doubt=doubt,
        order=order,
        decisive=first + _cells_needed(load[order[first:]], budget),
        open_classes=tuple(
            int(number) for number in np.flatnonzero(exceeded.reshape(2, classes).any(axis=0))
        ),
    )


def _expected_errors(cells: UnreviewedCells) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the probability (N, K) that a cell leaves its class, and that it comes to another
    one.
    """
    number, classes = cells.probability.shape
    own = cells.now[:, None] == np.arange(classes)  # (N, K)
    departs = np.where(own, 1.0 - cells.probability, 0.0)
    arrives = np.where(own, 0.0, cells.probability)
    # A counted cell of a class that the model does not know was given by a reader; it is not in
    # doubt.
    arrives[cells.now == NOT_COUNTED] = 0.0
    return np.clip(departs, 0.0, 1.0), np.clip(arrives, 0.0, 1.0).reshape(number, classes)


def _margins(cells: UnreviewedCells, number: int) -> tuple[int, int]:
    """Return how many cells a class may gain, and lose, before it crosses a reference limit or
    leaves its interval.
    """
    count, total = cells.counts[number], cells.total
    if not total:
        return 0, 0
    low, high = clopper_pearson(count, total)
    gain, lose = _whole(total * high - count), _whole(count - total * low)
    reference = cells.reference_percent[number]
    for limit, inside_below in zip(reference or (), (False, True), strict=False):
        # A percentage at a limit is normal: it may reach the highest one from below, and the lowest
        # one from above.
        at = total * limit / 100
        below = count <= at if inside_below else count < at
        if below:
            gain = min(gain, _whole(at - count, reaches=inside_below))
        else:
            lose = min(lose, _whole(count - at, reaches=not inside_below))
    return max(gain, 0), max(lose, 0)


def _whole(cells: float, *, reaches: bool = True) -> int:
    """Return the whole cells within a distance, which may be reached, or must stay below."""
    return int(np.floor(cells + 1e-9)) if reaches else int(np.ceil(cells - 1e-9)) - 1


def _cells_needed(load: NDArray[np.float64], budget: NDArray[np.float64]) -> int:
    """Return how many first rows of ``load`` (n, C) must go so that the sum of the others is within
    ``budget`` (C,).
    """
    behind = np.vstack(
        [np.cumsum(load[::-1], axis=0)[::-1], np.zeros((1, load.shape[1]))]
    )  # (n + 1, C)
    # A sum in another order may differ in its last bits.
    within = (behind <= budget + 1e-12).all(axis=1)
    return int(np.argmax(within))
