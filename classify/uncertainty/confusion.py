"""Confusion matrices and the scores that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["ClassScores", "class_scores", "confusion_matrix"]


@dataclass(frozen=True)
class ClassScores:
    """Scores of K classes; a class without cells scores 0 and weighs nothing.

    Attributes:
        support: (K,) cells of each true class.
        precision: (K,) share of the cells predicted as the class that are of it.
        recall: (K,) share of the cells of the class that are predicted as it (its sensitivity).
        f1: (K,) harmonic mean of precision and recall.
        accuracy: share of all cells whose predicted class is right.
        weighted_f1: mean of ``f1``, weighted by support.
    """

    support: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    accuracy: float
    weighted_f1: float


def confusion_matrix(
    true: ArrayLike, predicted: ArrayLike, rows: int, columns: int | None = None
) -> NDArray[np.int64]:
    """Count cells by true class (row) and predicted class (column).

    Args:
        true: (N,) class indices.
        predicted: (N,) class indices.
        rows: number of true classes.
        columns: number of predicted classes; the same by default.

    Returns:
        (rows, columns) int64.
    """
    counts = np.zeros((rows, columns or rows), np.int64)
    np.add.at(counts, (np.asarray(true, np.intp), np.asarray(predicted, np.intp)), 1)
    return counts


def class_scores(confusion: NDArray[np.integer[Any]]) -> ClassScores:
    """Return the scores of a confusion matrix (K, C), C >= K.

    Columns beyond K are misses (unidentified cells).
    """
    classes = len(confusion)
    hits = np.diag(confusion[:, :classes]).astype(np.float64)
    support = confusion.sum(axis=1).astype(np.float64)
    predicted = confusion[:, :classes].sum(axis=0).astype(np.float64)
    f1 = 2 * hits / np.maximum(support + predicted, 1)
    total = max(float(support.sum()), 1.0)
    return ClassScores(
        support=support,
        precision=hits / np.maximum(predicted, 1),
        recall=hits / np.maximum(support, 1),
        f1=f1,
        accuracy=float(hits.sum() / total),
        weighted_f1=float(support / total @ f1),
    )
