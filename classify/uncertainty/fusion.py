"""Everything that is fitted on held-out cells, chosen and checked by cross-validation on those cells alone.

Half of the cells choose how to fuse and fit it; the other half, which had no say in it, tells how good it is and bounds
its error. The confusion matrix takes all of them, each half called by what was fitted on the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wbcpipe.classify import metrics
from wbcpipe.classify.uncertainty.head_disagreement import fit_disagreement_limits
from wbcpipe.classify.uncertainty.pooling import POOLS, PoolKind
from wbcpipe.classify.uncertainty.prevalence import try_correction
from wbcpipe.classify.uncertainty.probability_calibration import (
    ProbabilityCalibration,
    fit_calibration,
    fuse,
    head_probability,
    mean_probability,
    negative_log_likelihood,
    stratified_parts,
)
from wbcpipe.classify.uncertainty.risk_control import MIN_CELLS, bound_risk, candidate_thresholds, split_cells

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["calibrate", "call_confusion", "choose_pool", "pool_losses"]

STANDARD_ERRORS: Final = 1.0
LEAST_GAIN: Final = 0.01
"""A pool takes the weighted mean's place if its loss is lower by more than so many standard errors of the difference,
and by more than so much a cell."""


def pool_losses(logits: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Loss (N,), minus the log probability of its class, of each cell by each way to fuse, fitted on the other cells.

    Args:
        logits: (N, heads, K) of held-out cells.
        labels: (N,) int64.

    Returns:
        ``mixture`` (the weighted mean) and each of `POOLS`.
    """
    part = stratified_parts(labels)
    kinds: tuple[PoolKind | None, ...] = (None, *POOLS)
    losses: dict[str, NDArray[np.float64]] = {kind or "mixture": np.empty(len(labels)) for kind in kinds}
    for number in np.unique(part):
        apart = part == number
        for kind in kinds:
            fitted = fit_calibration(logits[~apart], labels[~apart], pool=kind)
            fused = fuse(head_probability(logits[apart], fitted), fitted)
            given = fused[np.arange(len(fused)), labels[apart]]
            losses[kind or "mixture"][apart] = -np.log(np.clip(given, 1e-12, None))
    return losses


def choose_pool(logits: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> PoolKind | None:
    """The pool that cross-validation finds surely better than the weighted mean; ``None``: that mean.

    Args:
        logits: (N, heads, K) of held-out cells.
        labels: (N,) int64.
    """
    losses = pool_losses(logits, labels)
    best = min(POOLS, key=lambda kind: float(losses[kind].mean()))
    gain = losses["mixture"] - losses[best]
    error = float(gain.std(ddof=1)) / np.sqrt(len(gain))
    return best if float(gain.mean()) > max(STANDARD_ERRORS * error, LEAST_GAIN) else None


def calibrate(
    logits: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    *,
    target_accuracy: float = 0.99,
    max_unidentified_fraction: float = 0.05,
) -> tuple[ProbabilityCalibration, NDArray[np.int64]]:
    """Choose, fit and certify on held-out cells.

    With fewer than 120 cells, or a class of fewer than 4, there is nothing to certify with: all cells fit the weighted
    mean, and the scores are of those same cells.

    Args:
        logits: (N, heads, K).
        labels: (N,) int64.
        target_accuracy: accuracy that accepted calls shall have.
        max_unidentified_fraction: largest share of the cells that may be refused for it.

    Returns:
        The calibration, and the rows of the cells that had no say in how calls are made.
    """

    def fit(rows: NDArray[np.int64], pool: PoolKind | None = None) -> ProbabilityCalibration:
        return fit_calibration(
            logits[rows],
            labels[rows],
            target_accuracy=target_accuracy,
            max_unidentified_fraction=max_unidentified_fraction,
            pool=pool,
        )

    if len(labels) < 2 * MIN_CELLS or np.bincount(labels, minlength=logits.shape[2]).min() < 4:
        return fit(np.arange(len(labels))), np.arange(len(labels))
    first, second = split_cells(labels)
    pool = choose_pool(logits[first], labels[first])
    fitted = fit(first, pool)
    twin = fit(second, pool)
    fused = fuse(head_probability(logits[second], fitted), fitted)
    confidence, right = fused.max(axis=1), fused.argmax(axis=1) == labels[second]
    seen = fuse(head_probability(logits[first], fitted), fitted)
    bounds = bound_risk(candidate_thresholds(seen.max(axis=1), fitted.threshold), confidence, right)
    accepted = confidence >= fitted.threshold
    class_names = [str(number) for number in range(logits.shape[2])]
    confusion = call_confusion(logits[second], labels[second], fitted) + call_confusion(
        logits[first], labels[first], twin
    )
    measured = {
        "cells": len(labels),
        "accepted_accuracy": float(right[accepted].mean()) if accepted.any() else None,
        "unidentified_fraction": float(1 - accepted.mean()),
        "nll_after": negative_log_likelihood(labels[second], fused),
        "nll_before": negative_log_likelihood(labels[second], mean_probability(logits[second])),
        "risk_bounds": bounds,
        "head_disagreement": fit_disagreement_limits(head_probability(logits, fitted)),
        "confusion": tuple(tuple(int(count) for count in row) for row in confusion),
        "correction": try_correction(fused, labels[second], fitted.threshold, confusion.sum(axis=1) / confusion.sum()),
        "f1_weighted": metrics.scores(labels[second], fused, class_names)["f1_weighted"],
    }
    return fitted.model_copy(update=measured), second


def call_confusion(
    logits: NDArray[np.floating[Any]], labels: NDArray[np.int64], calibration: ProbabilityCalibration
) -> NDArray[np.int64]:
    """Counts (K, K): row the true class, column the likeliest one; no cell is refused."""
    fused = fuse(head_probability(logits, calibration), calibration)
    return metrics.confusion(labels, fused.argmax(axis=1), logits.shape[2])
