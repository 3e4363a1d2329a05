"""Agreement of two readers on the same cells.

Confusion table, Cohen's kappa with its interval, specific agreement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import scipy

from wbcpipe.classify.uncertainty.clopper_pearson import clopper_pearson
from wbcpipe.classify.uncertainty.confusion import confusion_matrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Agreement", "ClassAgreement", "Kappa", "class_kappa", "cohen_kappa", "compare_readers"]

_Z: Final = 1.959963984540054
"""Quantile of the normal distribution for 95 %."""


class Kappa(NamedTuple):
    """Cohen's kappa and its 95 % interval; 1 is complete agreement, 0 that of chance.

    Attributes:
        value: kappa.
        low, high: limits of the interval.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassAgreement:
    """Agreement about one class: is the cell of it, or not.

    Attributes:
        name: class name.
        both: cells that both readers call the class.
        only_first, only_second: cells that one of them calls the class.
        neither: all other cells.
        kappa: of the 2 x 2 table; ``None`` where a reader calls no cell, or every cell, the class.
        specific: share of the calls of this class in which the readers agree: 2 both / (2 both +
            only_first + only_second), the specific agreement of J. L. Fleiss, Biometrics 31 (1975)
            651, doi:10.2307/2529549. It is not lowered by a rare class, as kappa is. ``None`` where
            no reader calls the class.
    """

    name: str
    both: int
    only_first: int
    only_second: int
    neither: int
    kappa: Kappa | None
    specific: float | None


@dataclass(frozen=True)
class Agreement:
    """Two readers' classes of the same cells, compared.

    Attributes:
        cells: compared.
        agreed: of them, those with one class from both.
        observed: agreed / cells; ``None`` without cells.
        observed_interval: its 95 % Clopper-Pearson interval.
        kappa: over all classes; ``None`` where it is not defined.
        classes: K names.
        confusion: (K, K) cells; row the class of the first reader, column that of the second.
        by_class: one entry for each class.
    """

    cells: int
    agreed: int
    observed: float | None
    observed_interval: tuple[float, float]
    kappa: Kappa | None
    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    by_class: tuple[ClassAgreement, ...]


def compare_readers(
    first: Sequence[str], second: Sequence[str], classes: Sequence[str]
) -> Agreement:
    """Compare the classes that two readers gave the same cells.

    Args:
        first, second: N class names each, in one order of the cells.
        classes: class names in the order of the tables; others that a reader used follow, sorted.

    Raises:
        ValueError: the readers have different numbers of cells.

    >>> compare_readers(["NEU", "NEU", "LYM"], ["NEU", "LYM", "LYM"], ["NEU", "LYM"]).confusion
    ((1, 1), (0, 1))
    """
    if len(first) != len(second):
        raise ValueError(
            f"{len(first)} and {len(second)} classes; both readers need one for each cell."
        )
    names = tuple(dict.fromkeys((*classes, *sorted({*first, *second} - {*classes}))))
    index = {name: position for position, name in enumerate(names)}
    counts = confusion_matrix(
        [index[name] for name in first], [index[name] for name in second], len(names)
    )
    cells, agreed = len(first), int(np.trace(counts))
    return Agreement(
        cells=cells,
        agreed=agreed,
        observed=agreed / cells if cells else None,
        observed_interval=clopper_pearson(agreed, cells),
        kappa=cohen_kappa(counts),
        classes=names,
        confusion=tuple(tuple(row) for row in counts.tolist()),
        by_class=tuple(
            _class_agreement(name, counts, position) for position, name in enumerate(names)
        ),
    )


def _class_agreement(name: str, counts: NDArray[np.int64], index: int) -> ClassAgreement:
    both = int(counts[index, index])
    only_first = int(counts[index].sum()) - both
    only_second = int(counts[:, index].sum()) - both
    neither = int(counts.sum()) - both - only_first - only_second
    called = 2 * both + only_first + only_second
    return ClassAgreement(
        name=name,
        both=both,
        only_first=only_first,
        only_second=only_second,
        neither=neither,
        kappa=class_kappa(both, only_first, only_second, neither),
        specific=2 * both / called if called else None,
    )


def cohen_kappa(counts: NDArray[np.integer[Any]]) -> Kappa | None:
    """Return Cohen's kappa of a confusion table with its interval.

    Kappa: J. Cohen, Educational and Psychological Measurement 20 (1960) 37,
    doi:10.1177/001316446002000104. Interval: the large-sample standard error of J. L. Fleiss, J.
    Cohen and B. S. Everitt, Psychological Bulletin 72 (1969) 323, doi:10.1037/h0028106, equation
    13. Where the readers agree on every cell it is 0: the lower limit is then that of the observed
    agreement (Clopper-Pearson) at the agreement expected by chance.

    Args:
        counts: (K, K) cells.

    Returns:
        kappa; ``None`` without cells, or where both readers give every cell one and the same class.
    """
    cells = int(counts.sum())
    if not cells:
        return None
    shares = counts / cells  # (K, K)
    rows, columns = shares.sum(axis=1), shares.sum(axis=0)  # (K,), (K,)
    observed, chance = float(np.trace(shares)), float(rows @ columns)
    if 1 - chance < 1e-12:
        return None
    kappa = (observed - chance) / (1 - chance)
    if int(np.trace(counts)) == cells:
        return Kappa(1.0, (clopper_pearson(cells, cells)[0] - chance) / (1 - chance), 1.0)
    diagonal = np.diag(shares) @ ((1 - chance) - (rows + columns) * (1 - observed)) ** 2
    # p_ij (p_.i + p_j.)^2: the first reader's share of class j beside the second one's of class i
    crossed = shares * (columns[:, None] + rows[None, :]) ** 2
    off_diagonal = (1 - observed) ** 2 * (crossed.sum() - np.trace(crossed))
    rest = (observed * chance - 2 * chance + observed) ** 2
    error = math.sqrt(max(0.0, float(diagonal + off_diagonal - rest)) / cells) / (1 - chance) ** 2
    return Kappa(kappa, max(-1.0, kappa - _Z * error), min(1.0, kappa + _Z * error))


def class_kappa(both: int, only_first: int, only_second: int, neither: int) -> Kappa | None:
    """Return Cohen's kappa of one class against all others, with an interval that also holds for a
    rare class.

    The limits are those of the goodness-of-fit test of A. Donner and M. Eliasziw, Statistics in
    Medicine 11 (1992) 1511, doi:10.1002/sim.4780111109: the values of kappa that a chi-squared test
    with one degree of freedom does not reject at 5 %, for readers who call the class equally often.
    The interval is widened to hold Cohen's kappa where they do not.

    Args:
        both, only_first, only_second, neither: cells.

    Returns:
        kappa; ``None`` where a reader calls no cell, or every cell, the class.

    >>> [round(value, 3) for value in class_kappa(20, 4, 6, 170)]
    [0.771, 0.608, 0.873]
    """
    cells = both + only_first + only_second + neither
    first, second = both + only_first, both + only_second
    if not 0 < first < cells or not 0 < second < cells:
        return None
    chance = (first * second + (cells - first) * (cells - second)) / cells**2
    kappa = ((both + neither) / cells - chance) / (1 - chance)
    p = (first + second) / (2 * cells)
    q = 1 - p
    differ = only_first + only_second

    def excess(value: float) -> float:
        """Return chi-squared of the three kinds of pairs at a kappa, minus its 95 % quantile."""
        expected = (p * p + p * q * value, 2 * p * q * (1 - value), q * q + p * q * value)
        pairs = zip((both, differ, neither), (cells * share for share in expected), strict=True)
        return sum((seen - mean) ** 2 / mean for seen, mean in pairs if seen != mean) - _Z**2

    fitted = 1 - differ / (2 * cells * p * q)
    least, greatest = -min(p / q, q / p), 1.0
    low = _root(excess, least + 1e-9, fitted, least)
    high = _root(excess, fitted, greatest - 1e-9, greatest)
    return Kappa(kappa, min(low, kappa), max(high, kappa))


def _root(excess: Any, start: float, stop: float, otherwise: float) -> float:
    """Return where the test begins or ceases to reject; ``otherwise`` where it rejects nothing on
    that side.
    """
    if start >= stop or excess(start) * excess(stop) >= 0:
        return otherwise
    return float(scipy.optimize.brentq(excess, start, stop))
