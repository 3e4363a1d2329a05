"""Calibration, fusion and risk control, fitted on validation cells and tested by cross-validation
on them.

Half of the cells choose the fusion and fit it. The other half, the test cells, measure it and bound
its error. The confusion matrix includes all cells: each half is predicted by what was fitted on the
other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wbcpipe.classify.uncertainty.confusion import class_scores, confusion_matrix
from wbcpipe.classify.uncertainty.head_disagreement import fit_disagreement_limits
from wbcpipe.classify.uncertainty.prevalence import try_correction
from wbcpipe.classify.uncertainty.probability_calibration import (
    ProbabilityCalibration,
    fit_calibration,
    fused_probability,
    head_probability,
    mean_probability,
    negative_log_likelihood,
    stratified_parts,
)
from wbcpipe.classify.uncertainty.risk_control import (
    MIN_CELLS,
    bound_risk,
    candidate_thresholds,
    cells_needed,
    split_cells,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["calibrate", "predicted_confusion", "stacking_helps"]

STANDARD_ERRORS: Final = 1.0
MIN_GAIN: Final = 0.01
"""Stacking replaces the weighted mean if its loss is lower by more than this many standard errors
of the difference and by more than this much a cell.
"""


def stacking_helps(logits: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> bool:
    """Return whether stacking beats the weighted mean in cross-validation.

    Args:
        logits: (N, heads, K) of validation cells.
        labels: (N,) int64.
    """
    mean, stacked = (
        _cross_validated_loss(logits, labels, stacked=stacked) for stacked in (False, True)
    )
    gain = mean - stacked
    error = float(gain.std(ddof=1)) / np.sqrt(len(gain))
    return bool(gain.mean() > max(STANDARD_ERRORS * error, MIN_GAIN))


def _cross_validated_loss(
    logits: NDArray[np.floating[Any]], labels: NDArray[np.int64], *, stacked: bool
) -> NDArray[np.float64]:
    """Return minus the log probability (N,) of each cell's class, by a calibration fitted on the
    other cells.
    """
    part = stratified_parts(labels)
    losses = np.empty(len(labels))
    for number in np.unique(part):
        held_out = part == number
        fitted = fit_calibration(logits[~held_out], labels[~held_out], stacked=stacked)
        fused = fused_probability(logits[held_out], fitted)
        of_class = fused[np.arange(len(fused)), labels[held_out]]
        losses[held_out] = -np.log(np.clip(of_class, 1e-12, None))
    return losses


def calibrate(
    logits: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    *,
    target_accuracy: float = 0.99,
    max_unidentified_fraction: float = 0.05,
    default_threshold: float = 0.0,
) -> tuple[ProbabilityCalibration, NDArray[np.int64]]:
    """Choose and fit a calibration on validation cells, and bound its error.

    With fewer than 120 cells, or a class of fewer than 4, there are too few cells to test on: all
    cells fit the weighted mean, the threshold is the default one, and the scores are of the same
    cells. A threshold that is fitted on fewer cells than could show the target accuracy is not
    below the default one.

    Args:
        logits: (N, heads, K).
        labels: (N,) int64.
        target_accuracy: wanted accuracy of the accepted predictions.
        max_unidentified_fraction: largest share of the cells that may be unidentified to reach it.
        default_threshold: of the bundle that a training started from.

    Returns:
        The calibration, and the rows of the test cells, which were not used to fit it.
    """

    def fit(rows: NDArray[np.int64], *, stacked: bool = False) -> ProbabilityCalibration:
        return fit_calibration(
            logits[rows],
            labels[rows],
            target_accuracy=target_accuracy,
            max_unidentified_fraction=max_unidentified_fraction,
            stacked=stacked,
        )

    if len(labels) < 2 * MIN_CELLS or np.bincount(labels, minlength=logits.shape[2]).min() < 4:
        every = np.arange(len(labels))
        return _with_threshold(fit(every), default_threshold, logits, labels), every
    first, second = split_cells(labels)
    stacked = stacking_helps(logits[first], labels[first])
    fitted, of_second = fit(first, stacked=stacked), fit(second, stacked=stacked)
    if target_accuracy >= 1 or len(first) < cells_needed(1 - target_accuracy, thresholds=1):
        fitted = fitted.model_copy(update={"threshold": max(fitted.threshold, default_threshold)})
    fused = fused_probability(logits[second], fitted)
    confidence, right = fused.max(axis=1), fused.argmax(axis=1) == labels[second]
    fused_first = fused_probability(logits[first], fitted)
    thresholds = candidate_thresholds(fused_first.max(axis=1), fitted.threshold)
    accepted = confidence >= fitted.threshold
    of_test_cells = predicted_confusion(logits[second], labels[second], fitted)
    confusion = of_test_cells + predicted_confusion(logits[first], labels[first], of_second)
    measured = {
        "cells": len(labels),
        "accepted_accuracy": float(right[accepted].mean()) if accepted.any() else None,
        "unidentified_fraction": float(1 - accepted.mean()),
        "nll_after": negative_log_likelihood(labels[second], fused),
        "nll_before": negative_log_likelihood(labels[second], mean_probability(logits[second])),
        "risk_bounds": bound_risk(thresholds, confidence, right),
        "head_disagreement": fit_disagreement_limits(head_probability(logits, fitted)),
        "confusion": tuple(tuple(int(count) for count in row) for row in confusion),
        "correction": try_correction(
            fused, labels[second], fitted.threshold, confusion.sum(axis=1) / confusion.sum()
        ),
        "f1_weighted": class_scores(of_test_cells).weighted_f1,
    }
    return fitted.model_copy(update=measured), second


def _with_threshold(
    fitted: ProbabilityCalibration,
    threshold: float,
    logits: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
) -> ProbabilityCalibration:
    """Return a calibration with another threshold and limits for the heads, measured on cells (N,
    heads, K).
    """
    fused = fused_probability(logits, fitted)
    accepted = fused.max(axis=1) >= threshold
    right = (fused.argmax(axis=1) == labels)[accepted]
    return fitted.model_copy(
        update={
            "threshold": threshold,
            "head_disagreement": fit_disagreement_limits(head_probability(logits, fitted)),
            "accepted_accuracy": float(right.mean()) if right.size else None,
            "unidentified_fraction": float(1 - accepted.mean()),
        }
    )


def predicted_confusion(
    logits: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    calibration: ProbabilityCalibration,
) -> NDArray[np.int64]:
    """Count cells (K, K) by true class (row) and most probable class (column).

    None is unidentified.
    """
    fused = fused_probability(logits, calibration)
    return confusion_matrix(labels, fused.argmax(axis=1), logits.shape[2])
