"""Scores of predicted classes against true ones, and matching of detected cells to true ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy

from wbcpipe.classify.uncertainty.confusion import class_scores, confusion_matrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["ClassScore", "PredictionScores", "match_points", "score_predictions"]


@dataclass(frozen=True)
class ClassScore:
    """One class.

    Attributes:
        name: class name.
        precision: share of the cells predicted as the class that are of it; 0 without such cells.
        recall: share of the cells of the class that are predicted as it; 0 without such cells.
        f1: harmonic mean of precision and recall.
        support: cells of the class.
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class PredictionScores:
    """Predicted classes compared with true ones.

    Attributes:
        cells: cells compared.
        accuracy: share of the cells whose predicted class is right.
        weighted_f1: F1 of the classes, weighted by support.
        classes: one score per class.
        confusion: (K, K + 1) counts; row the true class, column the predicted one, the last column
            unidentified.
    """

    cells: int
    accuracy: float
    weighted_f1: float
    classes: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]


def score_predictions(
    true: Sequence[int], predicted: Sequence[int], classes: Sequence[str]
) -> PredictionScores:
    """Score predicted classes; an unidentified cell is a miss for its class.

    Args:
        true: n class indices.
        predicted: n class indices; K for unidentified.
        classes: K names.
    """
    confusion = confusion_matrix(true, predicted, len(classes), len(classes) + 1)
    found = class_scores(confusion)
    return PredictionScores(
        cells=len(true),
        accuracy=found.accuracy,
        weighted_f1=found.weighted_f1,
        classes=tuple(
            ClassScore(
                name,
                float(found.precision[k]),
                float(found.recall[k]),
                float(found.f1[k]),
                int(found.support[k]),
            )
            for k, name in enumerate(classes)
        ),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def match_points(
    true: NDArray[np.float64], found: NDArray[np.float64], tolerance_um: float
) -> list[tuple[int, int, float]]:
    """Pair points one to one: as many pairs within the tolerance as possible, then the shortest.

    Args:
        true: (n, 2) positions in micrometres.
        found: (m, 2) positions.
        tolerance_um: largest distance of a pair.

    Returns:
        (index in ``true``, index in ``found``, distance), in order of ``true``.
    """
    if not len(true) or not len(found):
        return []
    near = scipy.spatial.cKDTree(true).sparse_distance_matrix(
        scipy.spatial.cKDTree(found), tolerance_um, output_type="ndarray"
    )
    rows, columns, distance = near["i"], near["j"], near["v"]
    if not len(rows):
        return []
    row_ids, row = np.unique(rows, return_inverse=True)
    column_ids, column = np.unique(columns, return_inverse=True)
    # A pair beyond the tolerance costs more than any other pairs can save.
    forbidden = (len(rows) + 1) * (tolerance_um + 1)
    cost = np.full((len(row_ids), len(column_ids)), forbidden)
    cost[row, column] = distance
    chosen = zip(*scipy.optimize.linear_sum_assignment(cost), strict=True)
    return [
        (int(row_ids[i]), int(column_ids[j]), float(cost[i, j]))
        for i, j in chosen
        if cost[i, j] < forbidden
    ]
