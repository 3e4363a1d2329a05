"""What one job leaves on disk: logits as tensors, figures as JSON; nothing that would have to be unpickled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from wbcpipe.errors import TrainingDataError
from wbcpipe.system.files import read_json, write_atomic, write_json

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["FoldResult", "is_done", "read_result", "read_results", "write_result"]

FORMAT_VERSION: Final = 1
_JSON: Final = "result.json"
_TENSORS: Final = "result.safetensors"


@dataclass(frozen=True)
class FoldResult:
    """One row of a study on one fold.

    Attributes:
        info: backbone, row, fold, classes, modalities, recipe, scores, seconds, parameters, flops, versions.
        arrays: ``test_rows``, ``test_labels``, ``held_rows``, ``held_labels`` int64 (N,); ``test_logits`` and
            ``held_logits`` float32 (N, H, K). Of networks with several inputs, float32 (M, N, H, K) of the test cells:
            ``alone_logits`` (modality m's planes given to all inputs), ``missing_logits`` (modality m's planes zero),
            ``typical_logits`` (modality m's planes a typical cell's); and ``jacobian`` (H, M), see `jacobian_norms`.
    """

    info: dict[str, Any]
    arrays: dict[str, NDArray[Any]]

    @property
    def classes(self) -> tuple[str, ...]:
        """K names."""
        return tuple(self.info["classes"])

    @property
    def modalities(self) -> tuple[str, ...]:
        """M names."""
        return tuple(self.info["modalities"])


def is_done(folder: Path) -> bool:
    """Whether a result stands there; its JSON is written last."""
    return (folder / _JSON).is_file()


def write_result(folder: Path, result: FoldResult) -> None:
    """Write a result, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with write_atomic(folder / _TENSORS) as handle:
        handle.write(safetensors.numpy.save({name: np.ascontiguousarray(a) for name, a in result.arrays.items()}))
    write_json(folder / _JSON, {"format_version": FORMAT_VERSION, **result.info})


def read_result(folder: Path) -> FoldResult:
    """Read what `write_result` wrote.

    Raises:
        TrainingDataError: it is damaged, or of another version.
    """
    info = read_json(folder / _JSON)
    if info.get("format_version") != FORMAT_VERSION:
        raise TrainingDataError(f"{folder / _JSON}: format {info.get('format_version')!r}, not {FORMAT_VERSION}.")
    try:
        arrays = safetensors.numpy.load_file(folder / _TENSORS)
    except (SafetensorError, OSError) as error:
        raise TrainingDataError(f"{folder}: the result cannot be read ({error}); remove it and run again.") from error
    return FoldResult(info, arrays)


def read_results(out: Path) -> dict[str, dict[str, list[FoldResult]]]:
    """All results of a study: backbone to row to its folds, in order."""
    found: dict[str, dict[str, list[FoldResult]]] = {}
    for path in sorted(out.glob(f"*/*/fold-*/{_JSON}")):
        result = read_result(path.parent)
        found.setdefault(result.info["backbone"], {}).setdefault(result.info["row"], []).append(result)
    for rows in found.values():
        for folds in rows.values():
            folds.sort(key=lambda one: int(one.info["fold"]))
    return found
