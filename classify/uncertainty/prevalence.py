"""True class frequencies of a sample, estimated from its probabilities.

A network that predicts 1 % of the neutrophils as basophils doubles the basophils of a healthy
sample. Its calibrated probabilities assume the class frequencies of the cells it was calibrated on.
Saerens et al. (https://doi.org/10.1162/089976602753284446) find the frequencies that explain a
sample's probabilities best, by expectation maximisation. On real cells drawn with the class
frequencies of blood (`benchmarks/beyond.py`) its error was the smallest; next came maximum
likelihood by the confusion matrix (Rogan and Gladen,
https://doi.org/10.1093/oxfordjournals.aje.a112510, for any number of classes), which is kept for
comparison and for the uncertainty due to few validation cells.

The correction needs well-calibrated probabilities and can do harm otherwise: each bundle tests it
on cells that were not used for its calibration (`try_correction`), and a report shows it only where
it helped.

It is valid if a sample differs from the validation cells in its class frequencies only.
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
    "true_shares",
    "try_correction",
]

DRAWS: Final = 200
DRAW_ROUNDS: Final = 60
ROUNDS: Final = 2000
TRIALS: Final = 30
TRIAL_CELLS: Final = 200
TOLERANCE: Final = 1e-7
SPREAD: Final = 0.5
"""Prior count of each row of the confusion matrix, spread over its entries."""


class CorrectionTrial(BaseModel):
    """Test of the correction, on samples drawn from test cells with class frequencies as uneven as
    those of blood.

    Attributes:
        raw_points: mean absolute error of a class's percentage, in percentage points, as counted.
        corrected_points: the same, corrected.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    raw_points: float = Field(ge=0)
    corrected_points: float = Field(ge=0)

    @property
    def helps(self) -> bool:
        """Whether the corrected error is smaller."""
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
    """Return the probability (K, C) of each predicted class given each true class, from counts.

    Args:
        confusion: (K, C) counts; row the true class, column the predicted one; the last may be
            unidentified.
    """
    counts = confusion.astype(np.float64) + SPREAD / confusion.shape[1]
    rates: NDArray[np.float64] = counts / counts.sum(axis=1, keepdims=True)
    return rates


def true_shares(
    counts: NDArray[np.floating[Any]], rates: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the maximum-likelihood shares (..., K) of the true classes.

    Args:
        counts: (..., C) cells of each predicted class.
        rates: (..., K, C), see `call_rates`.
    """
    seen = counts / counts.sum(axis=-1, keepdims=True)
    share = np.full((*seen.shape[:-1], rates.shape[-2]), 1.0 / rates.shape[-2])
    for _ in range(ROUNDS):
        expected = np.einsum("...k,...kc->...c", share, rates)
        new = share * np.einsum("...c,...kc->...k", seen / np.maximum(expected, 1e-15), rates)
        step = float(np.abs(new - share).max())
        share = new
        if step < TOLERANCE:
            break
    result: NDArray[np.float64] = share / share.sum(axis=-1, keepdims=True)
    return result


def adjust_posteriors(
    probability: NDArray[np.floating[Any]], trained: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return shares (K,) by Saerens' expectation maximisation over the cells' probabilities (N, K).

    Args:
        probability: fused and calibrated.
        trained: (K,) shares of the classes among the cells it was calibrated on.
    """
    each = probability.astype(np.float64) / trained
    share = trained.copy()
    for _ in range(ROUNDS):
        new = share * ((1.0 / np.maximum(each @ share, 1e-15)) @ each) / len(each)
        step = float(np.abs(new - share).max())
        share = new
        if step < TOLERANCE:
            break
    result: NDArray[np.float64] = share / share.sum()
    return result


def correct_counts(
    probability: NDArray[np.floating[Any]],
    confusion: NDArray[np.integer[Any]],
    *,
    draws: int = DRAWS,
) -> CorrectedShares:
    """Estimate true shares with intervals that include the uncertainty of both the counted and the
    validation cells.

    Each draw resamples the sample's cells with replacement and estimates again; added to it is the
    change of the estimate when the confusion matrix is resampled (Dirichlet rows). Intervals are
    quantiles of the draws. The same input gives the same output.

    Args:
        probability: (N, K) of a sample's cells, fused and calibrated; one cell at least.
        confusion: (K, K) counts of the validation cells: row the true class, column the most
            probable one. Each class needs a cell.
        draws: bootstrap draws.
    """
    counts = np.asarray(confusion, np.float64)
    trained = counts.sum(axis=1) / counts.sum()
    share = adjust_posteriors(probability, trained)
    rng = np.random.default_rng(0)
    size = len(probability)
    weight = rng.multinomial(size, np.full(size, 1 / size), size=draws).astype(
        np.float64
    )  # (draws, N)
    sampled = _adjust_draws(weight, probability.astype(np.float64) / trained, share)
    expected = np.broadcast_to(share @ call_rates(confusion), (draws, len(share)))
    rows = counts + SPREAD / counts.shape[1]
    validated = true_shares(
        expected, np.stack([rng.dirichlet(row, size=draws) for row in rows], axis=1)
    )
    spread = np.clip(sampled + validated - share, 0.0, 1.0)
    low, high = np.quantile(spread, (0.025, 0.975), axis=0)
    return CorrectedShares(share, np.minimum(low, share), np.maximum(high, share))


def _adjust_draws(
    weight: NDArray[np.float64], ratio: NDArray[np.float64], start: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return Saerens' shares (D, K); ``weight`` (D, N) of cells, ``ratio`` (N, K) of probability to
    trained share.
    """
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
) -> CorrectionTrial:
    """Test the correction on samples in which each class is half as frequent as the one before, in
    random order.

    Args:
        probability: (N, K), fused and calibrated, of cells that were not used for any fit.
        labels: (N,) int64.
        threshold: accepted cells have at least this confidence.
        trained: (K,) shares of the classes among the cells that were fitted on.
    """
    rng = np.random.default_rng(0)
    classes = probability.shape[1]
    rows_of_class = [np.flatnonzero(labels == k) for k in range(classes)]
    best, accepted = probability.argmax(axis=1), probability.max(axis=1) >= threshold
    raw, corrected = [], []
    for _ in range(TRIALS):
        share = rng.permutation(0.5 ** np.arange(classes))
        share = share * np.array([len(rows) > 0 for rows in rows_of_class])
        numbers = rng.multinomial(TRIAL_CELLS, share / share.sum())
        drawn = [
            rng.choice(rows, number)
            for rows, number in zip(rows_of_class, numbers, strict=True)
            if number
        ]
        rows = np.concatenate(drawn)
        truth = numbers / TRIAL_CELLS
        predicted = np.bincount(best[rows][accepted[rows]], minlength=classes)
        raw.append(np.abs(predicted / max(predicted.sum(), 1) - truth).mean())
        corrected.append(np.abs(adjust_posteriors(probability[rows], trained) - truth).mean())
    before, after = (round(100 * float(np.mean(errors)), 4) for errors in (raw, corrected))
    return CorrectionTrial(raw_points=before, corrected_points=after)
