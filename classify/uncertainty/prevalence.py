"""True frequencies from calls: what a rare class would be without the false calls of the common ones.

A network that calls 1 % of the neutrophils a basophil doubles the basophils of a healthy sample. Its calibrated
probabilities assume the classes to be as frequent as among the cells it was calibrated on; Saerens et al.
(https://doi.org/10.1162/089976602753284446) find the frequencies that explain a sample's probabilities best, by
expectation maximisation. On real cells drawn as blood is (`benchmarks/beyond.py`) this erred least, before the maximum
likelihood by the confusion matrix (Rogan and Gladen, https://doi.org/10.1093/oxfordjournals.aje.a112510, for any number
of classes), which is here to compare with and to tell how little the calibrating cells know.

It needs probabilities that mean what they say, and can do harm otherwise: each bundle tries it on cells that had no say
in its calibration, and a report shows it only where it helped there (`try_correction`).

It holds where a sample differs from the calibrating cells in the mixture of its classes and in nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "CorrectedShares",
    "CorrectionTrial",
    "adjust_posteriors",
    "call_rates",
    "correct_counts",
    "least_squares_shares",
    "true_shares",
    "try_correction",
]

DRAWS: Final = 200
DRAW_ROUNDS: Final = 60
ROUNDS: Final = 2000
TRIALS: Final = 30
TRIAL_CELLS: Final = 200
SETTLED: Final = 1e-7
SPREAD: Final = 0.5
"""Jeffreys' prior: what each entry of the confusion matrix has in advance, spread as half a cell a row."""


class CorrectionTrial(BaseModel):
    """Whether the correction helps, on samples drawn from certifying cells with classes as uneven as in blood.

    Attributes:
        raw_points: mean absolute error of a class's percentage, as counted from the accepted calls.
        corrected_points: the same, corrected.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    raw_points: float = Field(ge=0)
    corrected_points: float = Field(ge=0)

    @property
    def helps(self) -> bool:
        """The correction erred less."""
        return self.corrected_points < self.raw_points


@dataclass(frozen=True)
class CorrectedShares:
    """Estimated true shares.

    Attributes:
        share: (K,) summing to 1.
        low: (K,) lower end of the 95 % interval.
        high: (K,) upper end.
    """

    share: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def call_rates(confusion: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """Chance (K, C) of each call for each true class, from counts.

    Args:
        confusion: (K, C) counts; row the true class, column the call; a last column of unidentified cells may be there.
    """
    counts = confusion.astype(np.float64) + SPREAD / confusion.shape[1]
    rates: NDArray[np.float64] = counts / counts.sum(axis=1, keepdims=True)
    return rates


def true_shares(calls: NDArray[np.floating[Any]], rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Maximum-likelihood shares (..., K) of the true classes.

    Args:
        calls: (..., C) counts of each call.
        rates: (..., K, C), see `call_rates`.
    """
    seen = calls / calls.sum(axis=-1, keepdims=True)
    share = np.full((*seen.shape[:-1], rates.shape[-2]), 1.0 / rates.shape[-2])
    for _ in range(ROUNDS):
        expected = np.einsum("...k,...kc->...c", share, rates)
        new = share * np.einsum("...c,...kc->...k", seen / np.maximum(expected, 1e-15), rates)
        step = float(np.abs(new - share).max())
        share = new
        if step < SETTLED:
            break
    result: NDArray[np.float64] = share / share.sum(axis=-1, keepdims=True)
    return result


def least_squares_shares(calls: NDArray[np.floating[Any]], rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares (K,) on the simplex whose expected calls are nearest the ones seen: least squares, for comparison."""
    from scipy.optimize import nnls

    seen = np.asarray(calls, np.float64) / np.sum(calls)
    heavy = 1e3  # a row that asks for a sum of 1, above all else
    left = np.vstack([rates.T, np.full(len(rates), heavy)])
    found, _ = nnls(left, np.append(seen, heavy))
    share: NDArray[np.float64] = found / found.sum()
    return share


def adjust_posteriors(probability: NDArray[np.floating[Any]], trained: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares (K,) by Saerens' expectation maximisation over the cells' probabilities (N, K), for comparison.

    Args:
        probability: fused and calibrated.
        trained: (K,) shares of the classes among the cells it was calibrated on.
    """
    each = probability.astype(np.float64) / trained
    share = trained.copy()
    for _ in range(ROUNDS):
        joint = each * share
        new = (joint / np.maximum(joint.sum(axis=1, keepdims=True), 1e-15)).mean(axis=0)
        step = float(np.abs(new - share).max())
        share = new
        if step < SETTLED:
            break
    result: NDArray[np.float64] = share / share.sum()
    return result


def correct_counts(
    probability: NDArray[np.floating[Any]], confusion: NDArray[np.integer[Any]], *, draws: int = DRAWS, seed: int = 0
) -> CorrectedShares:
    """True shares with intervals that know both how few cells were counted and how few were validated.

    Each draw takes the sample's cells with replacement and estimates again; to it is added how far the estimate from
    calls moves when the confusion matrix is drawn anew (Dirichlet rows). Intervals are quantiles of the draws. The same
    input gives the same output.

    Args:
        probability: (N, K) of a sample's cells, fused and calibrated; one cell at least.
        confusion: (K, K) counts of the calibrating cells: row the true class, column the likeliest one. Each class
            needs a cell.
        draws: bootstrap draws.
        seed: of the draws.
    """
    counts = np.asarray(confusion, np.float64)
    trained = counts.sum(axis=1) / counts.sum()
    share = adjust_posteriors(probability, trained)
    rng = np.random.default_rng(seed)
    size = len(probability)
    weight = rng.multinomial(size, np.full(size, 1 / size), size=draws).astype(np.float64)  # (draws, N)
    sampled = _adjust_draws(weight, probability.astype(np.float64) / trained, share)
    expected = np.broadcast_to(share @ call_rates(confusion), (draws, len(share)))
    rows = counts + SPREAD / counts.shape[1]
    validated = true_shares(expected, np.stack([rng.dirichlet(row, size=draws) for row in rows], axis=1))
    spread = np.clip(sampled + validated - share, 0.0, 1.0)
    low, high = np.quantile(spread, (0.025, 0.975), axis=0)
    return CorrectedShares(share, np.minimum(low, share), np.maximum(high, share))


def _adjust_draws(
    weight: NDArray[np.float64], ratio: NDArray[np.float64], start: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Saerens' shares (D, K) of weighted cells; ``weight`` (D, N), ``ratio`` (N, K) of probability to trained share."""
    classes = len(start)
    share = np.tile(0.98 * start + 0.02 / classes, (len(weight), 1))
    total = weight.sum(axis=1, keepdims=True)
    for _ in range(DRAW_ROUNDS):
        likelihood = np.maximum(share @ ratio.T, 1e-15)  # (D, N)
        share = share * ((weight / likelihood) @ ratio) / total
    return share


def try_correction(
    probability: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    threshold: float,
    trained: NDArray[np.float64],
    *,
    seed: int = 0,
) -> CorrectionTrial:
    """Draw samples in which each class is about half as frequent as the one before, in changing orders; correct them.

    Args:
        probability: (N, K), fused and calibrated, of cells that nothing was fitted on.
        labels: (N,) int64.
        threshold: accepted calls have at least this confidence.
        trained: (K,) shares of the classes among the cells that were fitted on.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    classes = probability.shape[1]
    by_class = [np.flatnonzero(labels == k) for k in range(classes)]
    best, sure = probability.argmax(axis=1), probability.max(axis=1) >= threshold
    raw, corrected = [], []
    for _ in range(TRIALS):
        share = rng.permutation(0.5 ** np.arange(classes))
        share = share * np.array([len(rows) > 0 for rows in by_class])
        numbers = rng.multinomial(TRIAL_CELLS, share / share.sum())
        drawn = [rng.choice(rows, number) for rows, number in zip(by_class, numbers, strict=True) if number]
        rows = np.concatenate(drawn)
        truth = numbers / TRIAL_CELLS
        calls = np.bincount(best[rows][sure[rows]], minlength=classes)
        raw.append(np.abs(calls / max(calls.sum(), 1) - truth).mean())
        corrected.append(np.abs(adjust_posteriors(probability[rows], trained) - truth).mean())
    before, after = (round(100 * float(np.mean(errors)), 4) for errors in (raw, corrected))
    return CorrectionTrial(raw_points=before, corrected_points=after)
