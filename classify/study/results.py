"""The result of one job on disk: logits as tensors, figures as JSON. Nothing is ever unpickled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import safetensors.numpy
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError

from wbcpipe.classify.metrics import Scores
from wbcpipe.classify.training.recipe import Recipe
from wbcpipe.errors import TrainingDataError
from wbcpipe.system.files import make_folder, write_atomic, write_json

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = [
    "CellCounts",
    "FoldResult",
    "ResultInfo",
    "is_done",
    "read_result",
    "read_results",
    "write_result",
]

_JSON: Final = "result.json"
_TENSORS: Final = "result.safetensors"


class CellCounts(BaseModel):
    """Number of cells that one fold trains, calibrates and tests on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: int
    calibration: int
    test: int


class ResultInfo(BaseModel):
    """The content of ``result.json``.

    Attributes:
        backbone: short name.
        row: name of the row of the table.
        fold: from 0.
        folds: number of folds of the study.
        classes: K names.
        modalities: M names that the network reads.
        derived: modalities that are computed from others.
        cells: of the fold.
        recipe: of the network.
        scores: of the plain mean over heads on the test cells.
        calibration_error: expected calibration error of the same.
        parameters: of the network.
        flops: multiply-adds for one cell; None without fvcore.
        seconds: duration of the job.
        versions: of the packages.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    backbone: str
    row: str
    fold: int
    folds: int
    classes: tuple[str, ...]
    modalities: tuple[str, ...]
    derived: tuple[str, ...]
    cells: CellCounts
    recipe: Recipe
    scores: Scores
    calibration_error: float
    parameters: int
    flops: int | None
    seconds: float
    versions: dict[str, str]


@dataclass(frozen=True)
class FoldResult:
    """One row of a study on one fold.

    Attributes:
        info: the figures.
        arrays: ``test_rows``, ``test_labels``, ``calibration_rows``, ``calibration_labels`` int64
            (N,); ``test_logits`` and ``calibration_logits`` float32 (N, H, K). For networks with
            several inputs, float32 (M, N, H, K) of the test cells: ``single_logits`` (modality m on
            all inputs), ``missing_logits`` (zeros in its place), ``typical_logits`` (a typical
            image in its place); and ``jacobian`` (H, M), see `jacobian_norms`.
    """

    info: ResultInfo
    arrays: dict[str, NDArray[Any]]


def is_done(folder: Path) -> bool:
    """Return whether a folder holds a result; its JSON is written last."""
    return (folder / _JSON).is_file()


def write_result(folder: Path, result: FoldResult) -> None:
    """Write a result; after an interruption there is none."""
    make_folder(folder)
    with write_atomic(folder / _TENSORS) as handle:
        handle.write(
            safetensors.numpy.save(
                {name: np.ascontiguousarray(a) for name, a in result.arrays.items()}
            )
        )
    write_json(folder / _JSON, result.info.model_dump(mode="json"))


def read_result(folder: Path) -> FoldResult:
    """Read what `write_result` wrote.

    Raises:
        TrainingDataError: it is damaged, or of another version.
    """
    try:
        info = ResultInfo.model_validate_json((folder / _JSON).read_bytes())
        arrays = safetensors.numpy.load_file(folder / _TENSORS)
    except (ValidationError, SafetensorError, OSError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise TrainingDataError(
            f"{folder}: this result cannot be read ({reason}); remove it and run again."
        ) from error
    return FoldResult(info, arrays)


def read_results(out: Path) -> dict[str, dict[str, list[FoldResult]]]:
    """Return all results of a study: backbone to row to its folds, in order."""
    found: dict[str, dict[str, list[FoldResult]]] = {}
    for path in sorted(out.glob(f"*/*/fold-*/{_JSON}")):
        result = read_result(path.parent)
        found.setdefault(result.info.backbone, {}).setdefault(result.info.row, []).append(result)
    for rows in found.values():
        for folds in rows.values():
            folds.sort(key=lambda one: one.info.fold)
    return found
