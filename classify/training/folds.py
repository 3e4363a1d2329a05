"""Folds of groups, not of cells.

Cells of one field of one sample are never both in training and in test.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from wbcpipe.errors import TrainingDataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["holdout", "stratified_folds"]


def stratified_folds(
    labels: NDArray[np.int64], groups: NDArray[np.int64], folds: int, seed: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Divide the cells into folds, with classes as evenly distributed as the groups allow.

    Args:
        labels: (N,) int64.
        groups: (N,) int64; cells of a group stay together.
        folds: number of folds.
        seed: of the order.

    Returns:
        For each fold, sorted rows to train on and rows to test on.

    Raises:
        TrainingDataError: fewer groups than folds, or a fold without cells to train or test on.
    """
    count = len(np.unique(groups))
    if folds < 2 or count < folds:
        raise TrainingDataError(
            f"{count} fields or images with labelled cells cannot be divided into {folds} folds; "
            f"use at least 2 folds, and not more than there are fields."
        )
    single = count == len(groups)
    splitter = (StratifiedKFold if single else StratifiedGroupKFold)(
        folds, shuffle=True, random_state=seed
    )
    kept_together = None if single else groups
    with warnings.catch_warnings():
        # A class with fewer cells than folds is absent from some test folds; metrics allow for it.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        try:
            parts = [
                (np.sort(train).astype(np.int64), np.sort(test).astype(np.int64))
                for train, test in splitter.split(np.zeros(len(labels)), labels, kept_together)
            ]
        except ValueError as error:
            raise TrainingDataError(
                f"the cells cannot be divided into {folds} folds: {error}; use fewer folds."
            ) from error
    for train, test in parts:
        if not len(train) or not len(test):
            raise TrainingDataError(
                f"one of {folds} folds has no cells to test on; use fewer folds."
            )
        assert not np.intersect1d(groups[train], groups[test]).size, (
            "a group is on both sides of a fold"
        )
    return parts


def holdout(
    labels: NDArray[np.int64], groups: NDArray[np.int64], share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows to train on, and rows of about ``share`` of the cells, in complete groups, to
    validate on.
    """
    folds = min(max(2, round(1 / share)), len(np.unique(groups)))
    return stratified_folds(labels, groups, folds, seed)[0]
