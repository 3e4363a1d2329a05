"""Scores of probabilities and their tables.

Means are weighted by class support, as in the paper's Table 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import TypedDict  # pydantic needs this one below Python 3.12

from wbcpipe.classify.uncertainty.confusion import class_scores, confusion_matrix

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

__all__ = [
    "MeanSd",
    "ScoreSummary",
    "Scores",
    "expected_calibration_error",
    "percent",
    "scores",
    "summarise",
    "table_lines",
]


class Scores(TypedDict):
    """The scores of one network on some cells.

    A class without cells has None, and no weight in the means.
    """

    cells: int
    f1_weighted: float
    sensitivity: float
    specificity: float
    auc: float | None
    accuracy: float
    f1: dict[str, float | None]
    sensitivity_by_class: dict[str, float | None]
    confusion: list[list[int]]


class MeanSd(TypedDict):
    """Mean and sample standard deviation over folds; None where there are too few."""

    mean: float | None
    sd: float | None


class ScoreSummary(TypedDict):
    """Scores over folds; the confusion matrix and the cells are sums."""

    f1_weighted: MeanSd
    sensitivity: MeanSd
    specificity: MeanSd
    auc: MeanSd
    accuracy: MeanSd
    f1: dict[str, MeanSd]
    confusion: list[list[int]]
    cells: int


def scores(
    labels: NDArray[np.int64], probability: NDArray[np.floating[Any]], classes: Sequence[str]
) -> Scores:
    """Return weighted F1, sensitivity, specificity and AUC, accuracy, per-class F1 and the
    confusion matrix.

    Args:
        labels: (N,) int64.
        probability: (N, K).
        classes: K names.

    Returns: Plain numbers, ready for JSON; a class without cells in ``labels`` has F1 ``None`` and
        weighs nothing.
    """
    matrix = confusion_matrix(labels, probability.argmax(axis=1), len(classes))
    found = class_scores(matrix)
    total = found.support.sum()
    others = total - found.support
    true_negatives = others - (matrix.sum(axis=0) - np.diag(matrix))
    specificity = np.divide(true_negatives, others, out=np.zeros_like(others), where=others > 0)
    weight = found.support / total
    return {
        "cells": int(total),
        "f1_weighted": found.weighted_f1,
        "sensitivity": float(weight @ found.recall),
        "specificity": float(weight @ specificity),
        "auc": _auc(labels, probability, weight),
        "accuracy": found.accuracy,
        "f1": {
            name: float(found.f1[i]) if found.support[i] else None for i, name in enumerate(classes)
        },
        "sensitivity_by_class": {
            name: float(found.recall[i]) if found.support[i] else None
            for i, name in enumerate(classes)
        },
        "confusion": matrix.tolist(),
    }


def _auc(
    labels: NDArray[np.int64], probability: NDArray[np.floating[Any]], weight: NDArray[np.float64]
) -> float | None:
    """Return the mean area under the ROC curve of each class against the rest, weighted by
    support.
    """
    from sklearn.metrics import roc_auc_score  # slow to import, and not needed to read a bundle

    found = [
        (float(weight[k]), float(roc_auc_score(labels == k, probability[:, k])))
        for k in range(probability.shape[1])
        if 0 < np.count_nonzero(labels == k) < len(labels)
    ]
    total = sum(share for share, _ in found)
    return sum(share * value for share, value in found) / total if total else None


def expected_calibration_error(
    labels: NDArray[np.int64], probability: NDArray[np.floating[Any]], bins: int = 15
) -> float:
    """Return the mean distance between confidence and accuracy over equal bins of confidence,
    weighted by cells.

    Naeini et al., https://doi.org/10.1609/aaai.v29i1.9602.
    """
    confidence = probability.max(axis=1)
    right = probability.argmax(axis=1) == labels
    index = np.clip((confidence * bins).astype(int), 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    gap = np.abs(
        np.bincount(index, weights=confidence, minlength=bins)
        - np.bincount(index, weights=right, minlength=bins)
    )
    return float(gap.sum() / max(1, count.sum()))


def summarise(folds: Sequence[Scores]) -> ScoreSummary:
    """Return mean and sample standard deviation over folds of each headline figure and of each
    class's F1.
    """
    return {
        "f1_weighted": _mean_sd([fold["f1_weighted"] for fold in folds]),
        "sensitivity": _mean_sd([fold["sensitivity"] for fold in folds]),
        "specificity": _mean_sd([fold["specificity"] for fold in folds]),
        "auc": _mean_sd([fold["auc"] for fold in folds]),
        "accuracy": _mean_sd([fold["accuracy"] for fold in folds]),
        "f1": {name: _mean_sd([fold["f1"][name] for fold in folds]) for name in folds[0]["f1"]},
        "confusion": np.sum([fold["confusion"] for fold in folds], axis=0).tolist(),
        "cells": sum(fold["cells"] for fold in folds),
    }


def _mean_sd(values: Sequence[float | None]) -> MeanSd:
    known = [value for value in values if value is not None]
    return {
        "mean": float(np.mean(known)) if known else None,
        "sd": float(np.std(known, ddof=1)) if len(known) > 1 else None,
    }


def percent(entry: MeanSd) -> str:
    """Return a mean and deviation in [0, 1] as ``95.43 ± 0.36``; ``-`` without a mean."""
    if entry["mean"] is None:
        return "-"
    return f"{100 * entry['mean']:.2f}" + (
        "" if entry["sd"] is None else f" ± {100 * entry['sd']:.2f}"
    )


def table_lines(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of a Markdown table.

    >>> table_lines(("class", "cells"), [("NEU", 3)])
    ['| class | cells |', '|---|---|', '| NEU | 3 |']
    """
    first, *others = (f"| {' | '.join(map(str, row))} |" for row in (header, *rows))
    return [first, "|---" * len(header) + "|", *others]
