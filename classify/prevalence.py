"""True frequencies from calls: what a rare class would be without the false calls of the common ones.

A network that calls 1 % of the neutrophils a basophil doubles the basophils of a healthy sample. Calls are draws from
``sum over true classes k of share(k) * confusion(k, call)``; the validated confusion matrix being known up to its own
counting error, the shares are found by maximum likelihood on the simplex, by expectation maximisation: Rogan and Gladen
(https://doi.org/10.1093/oxfordjournals.aje.a112510) for any number of classes, and never a share below zero. Saerens et
al. (https://doi.org/10.1162/089976602753284446) do the same with probabilities in place of calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Corrected", "adjust_posteriors", "call_rates", "correct_counts", "least_squares_shares", "true_shares"]

DRAWS: Final = 400
ROUNDS: Final = 2000
SETTLED: Final = 1e-7
SPREAD: Final = 0.5
"""Jeffreys' prior: what each entry of the confusion matrix has in advance, spread as half a cell a row."""


@dataclass(frozen=True)
class Corrected:
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
    calls: Sequence[int], confusion: NDArray[np.integer[Any]], *, draws: int = DRAWS, seed: int = 0
) -> Corrected:
    """True shares with intervals that know both how few cells were counted and how few were validated.

    Each draw takes new calls (multinomial) and a new confusion matrix (Dirichlet rows), and estimates again; the
    intervals are the draws' quantiles. The same input gives the same output.

    Args:
        calls: C counts, at least one cell.
        confusion: (K, C) counts on cells of known class.
        draws: bootstrap draws.
        seed: of the draws.
    """
    counted = np.asarray(calls, np.float64)
    rates = call_rates(confusion)
    share = true_shares(counted, rates)
    rng = np.random.default_rng(seed)
    # Calls that the estimate expects, mixed half and half with those seen, so that a call never seen may be drawn.
    model = share @ rates
    total = int(counted.sum())
    again = rng.multinomial(total, 0.5 * model + 0.5 * counted / total, size=draws).astype(np.float64)  # (draws, C)
    prior = confusion + SPREAD / confusion.shape[1]
    drawn = np.stack([rng.dirichlet(row, size=draws) for row in prior], axis=1)  # (draws, K, C)
    each = true_shares(again, drawn)
    low, high = np.quantile(each, (0.025, 0.975), axis=0)
    return Corrected(share, np.minimum(low, share), np.maximum(high, share))
