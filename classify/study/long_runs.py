"""The record of a long training run: its curve, its final figures and its predictions, as JSON.

One file holds everything that a table or a plot needs, so that runs of several machines can be
collected in one folder without their cells or weights.
"""

from __future__ import annotations

import base64
import zlib
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from scipy.special import log_softmax

from wbcpipe.classify.metrics import Scores
from wbcpipe.classify.study.results import CellCounts
from wbcpipe.classify.training.recipe import Recipe
from wbcpipe.errors import TrainingDataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["CurvePoint", "Predictions", "RunRecord", "first_flat_step", "read_runs"]

LOG_STEP: Final = 0.05
"""Rounding of a log probability; the smallest is 255 of these, -12.75."""


class CurvePoint(BaseModel):
    """The network after some optimiser steps.

    Attributes:
        step: optimiser steps done.
        calibration_f1: weighted F1 of the plain mean on the calibration cells.
        test_f1: the same on the test cells.
        test_nll: mean negative log likelihood of the test cells, plain mean.
        head_accuracy: of each head on the test cells.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int
    calibration_f1: float
    test_f1: float
    test_nll: float
    head_accuracy: tuple[float, ...]


class Predictions(BaseModel):
    """The log probabilities of some cells, rounded to `LOG_STEP`, in compact form.

    Attributes:
        shape: N, heads, K.
        rows: rows of the cells in the data set: int32, zlib, base64.
        labels: their classes: uint8, zlib, base64.
        log_probability: (N, heads, K) uint8, in units of -`LOG_STEP`, zlib, base64.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: tuple[int, int, int]
    rows: str
    labels: str
    log_probability: str

    @classmethod
    def pack(
        cls, rows: NDArray[np.int64], labels: NDArray[np.int64], logits: NDArray[np.float32]
    ) -> Predictions:
        """Pack the logits (N, heads, K) of cells with given rows and classes (N,)."""
        logs = log_softmax(logits.astype(np.float64), axis=-1)
        levels = np.clip(np.round(-logs / LOG_STEP), 0, 255).astype(np.uint8)
        return cls(
            shape=logits.shape,
            rows=_packed(rows.astype("<i4")),
            labels=_packed(labels.astype(np.uint8)),
            log_probability=_packed(levels),
        )

    def unpack(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Return rows (N,), classes (N,) and log probabilities (N, heads, K) float32.

        Raises:
            ValueError: the content is not of the stated shape.
        """
        rows = np.frombuffer(_unpacked(self.rows), "<i4").astype(np.int64)
        labels = np.frombuffer(_unpacked(self.labels), np.uint8).astype(np.int64)
        levels = np.frombuffer(_unpacked(self.log_probability), np.uint8).reshape(self.shape)
        if not len(rows) == len(labels) == len(levels):
            raise ValueError(f"{len(rows)} rows, {len(labels)} labels, {len(levels)} cells")
        return rows, labels, levels.astype(np.float32) * np.float32(-LOG_STEP)


class RunRecord(BaseModel):
    """One network, trained on one fold.

    Attributes:
        dataset: name of the cells.
        variant: name of the row of the tables.
        length: optimiser steps of the network or, if it is put together from trained ones, of each.
        fold: from 0.
        folds: number of folds.
        seed: of weights and batches; the folds are the same for all seeds.
        classes: K names.
        modalities: M names that the network reads.
        cells: of the fold.
        recipe: of the network.
        teachers: variants whose networks taught it.
        epochs: passes over the training cells, ``length`` times the batch over the cells.
        parameters: of the network.
        flops: multiply-adds for one cell; None without fvcore.
        cpu_s: processor time of the training.
        seconds: its duration.
        curve: by step.
        scores: of the plain mean over heads on the test cells.
        test: predictions.
        calibration: predictions of the cells held out for calibration.
        versions: of the packages.
        machine: the processor.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    dataset: str
    variant: str
    length: int
    fold: int
    folds: int
    seed: int
    classes: tuple[str, ...]
    modalities: tuple[str, ...]
    cells: CellCounts
    recipe: Recipe
    teachers: tuple[str, ...]
    epochs: float
    parameters: int
    flops: int | None
    cpu_s: float
    seconds: float
    curve: tuple[CurvePoint, ...]
    scores: Scores
    test: Predictions
    calibration: Predictions
    versions: dict[str, str]
    machine: str

    @property
    def file_name(self) -> str:
        """Path of the record below the folder of all records."""
        return record_name(self.dataset, self.variant, self.length, self.fold, self.seed)


def record_name(dataset: str, variant: str, length: int, fold: int, seed: int) -> str:
    """Return the path of a run's record below the folder of all records."""
    return f"{dataset}/{variant}.steps-{length}.fold-{fold}.seed-{seed}.json"


def read_runs(folder: Path) -> list[RunRecord]:
    """Return all records below a folder, by path.

    Raises:
        TrainingDataError: a file is damaged or of another version.
    """
    found = []
    for path in sorted(folder.glob("*/*.json")):
        try:
            found.append(RunRecord.model_validate_json(path.read_bytes()))
        except (ValidationError, OSError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise TrainingDataError(
                f"{path}: this record cannot be read ({reason}); remove it and run again."
            ) from error
    return found


def first_flat_step(steps: Sequence[int], values: Iterable[float], within: float) -> int | None:
    """Return the first step from which a curve stays within a distance of its last value.

    None if that is the last step alone: the curve still changes.

    >>> first_flat_step([10, 20, 30, 40], [0.2, 0.7, 0.9, 0.91], within=0.02)
    30
    """
    curve = np.asarray(list(values))
    away = np.flatnonzero(np.abs(curve - curve[-1]) > within)
    first = 0 if not len(away) else int(away[-1]) + 1
    return None if first >= len(curve) - 1 else steps[first]


def _packed(array: NDArray[np.generic]) -> str:
    return base64.b64encode(zlib.compress(array.tobytes(), 9)).decode()


def _unpacked(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))
