"""Folds that part groups, not cells: what stands in one field of one sample is never both learned and tested."""

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
    """Part the cells into folds with classes as evenly spread as whole groups allow.

    Args:
        labels: (N,) int64.
        groups: (N,) int64; cells of a group stay together.
        folds: how many.
        seed: of the order.

    Returns:
        For each fold, sorted rows to learn from and rows to test on.

    Raises:
        TrainingDataError: fewer groups than folds, or a fold left without cells to learn from or test on.
    """
    count = len(np.unique(groups))
    if folds < 2 or count < folds:
        raise TrainingDataError(
            f"{count} fields or pictures with labelled cells cannot be parted into {folds} folds; use at least 2 folds "
            "and no more than there are fields."
        )
    alone = count == len(groups)
    splitter = (StratifiedKFold if alone else StratifiedGroupKFold)(folds, shuffle=True, random_state=seed)
    kept_together = None if alone else groups
    with warnings.catch_warnings():
        # A class with fewer cells than folds is absent from some test folds; metrics allow for it.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        try:
            parts = [
                (np.sort(train).astype(np.int64), np.sort(test).astype(np.int64))
                for train, test in splitter.split(np.zeros(len(labels)), labels, kept_together)
            ]
        except ValueError as error:
            raise TrainingDataError(f"the cells cannot be parted into {folds} folds: {error}.") from error
    for train, test in parts:
        if not len(train) or not len(test):
            raise TrainingDataError(f"one of {folds} folds has no cells to test on; use fewer folds.")
        assert not np.intersect1d(groups[train], groups[test]).size, "a group stands on both sides of a fold"
    return parts


def holdout(
    labels: NDArray[np.int64], groups: NDArray[np.int64], share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to learn from, and about ``share`` of the cells, in whole groups, kept to validate and calibrate on."""
    folds = min(max(2, round(1 / share)), len(np.unique(groups)))
    return stratified_folds(labels, groups, folds, seed)[0]
