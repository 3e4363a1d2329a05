"""The jobs of a study: rows of its table, folds of its cells, and their order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from pydantic import ValidationError

from wbcpipe.classify.models.classes import BACKBONE_NAMES
from wbcpipe.classify.training.folds import holdout, stratified_folds
from wbcpipe.classify.training.recipe import Recipe, merge_keys, with_defaults_for
from wbcpipe.errors import ConfigError, TrainingDataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.classify.training.data import CellSet
    from wbcpipe.classify.training.recipe import RecipeKeys

__all__ = ["GroupBy", "Job", "Split", "group_cells", "plan_jobs", "split_cells"]

GroupBy = Literal["auto", "sample", "field", "cell"]
#: Cost of an epoch relative to a network that reads one modality; of a student with teachers
#: relative to one without.
_COST: Final = {"single": 1.0, "late-fusion": 0.01}
_DISTILLATION_COST: Final = 1.6
#: Recipe keys that all rows share: cells are resized once, and each backbone has its own table.
_SHARED: Final = ("side", "backbone")


@dataclass(frozen=True)
class Job:
    """One network on one fold.

    Attributes:
        backbone: short name.
        name: of the row: a modality, a method, or a variant of one.
        fold: from 0.
        recipe: how to train.
        needs: rows of the same backbone and fold whose results it needs.
    """

    backbone: str
    name: str
    fold: int
    recipe: Recipe
    needs: tuple[str, ...] = ()

    @property
    def cost(self) -> float:
        """Work, relative to one epoch of a single modality."""
        factor = _DISTILLATION_COST if self.recipe.method.endswith("-kd") else 1.0
        return _COST.get(self.recipe.method, 1.15) * factor * self.recipe.epochs

    def folder(self, out: Path) -> Path:
        """Return the folder of its result."""
        return out / self.backbone / self.name / f"fold-{self.fold}"


@dataclass(frozen=True)
class Split:
    """Rows of the cells to train on, to calibrate on and to test on; no group is in two of them."""

    train: NDArray[np.int64]
    calibration: NDArray[np.int64]
    test: NDArray[np.int64]


def plan_jobs(
    cells: CellSet,
    methods: Sequence[str],
    backbones: Sequence[str],
    folds: int,
    settings: RecipeKeys,
    variants: Mapping[str, RecipeKeys],
) -> list[Job]:
    """Return all jobs of a study, each after those it needs.

    Args:
        cells: all.
        methods: some of `METHODS`.
        backbones: short names.
        folds: how many.
        settings: recipe keys for all networks.
        variants: row name to recipe keys, ``method`` among them.

    Raises:
        ConfigError: a name or a recipe key is not known, or a variant's key is one that all rows
            share.
    """
    rows: dict[str, RecipeKeys] = {name: {"method": name} for name in methods if name != "single"}
    for name, keys in variants.items():
        if (
            name in rows
            or name in cells.modalities
            or not name.replace("-", "").replace("_", "").isalnum()
        ):
            raise ConfigError(
                f"variant {name!r}: choose another name, of letters, digits, '-' and '_'."
            )
        _check_variant(name, keys, cells.modalities)
        rows[name] = dict(keys)
    built = {name for name, keys in rows.items() if _is_built_on_singles(_method(keys))}
    singles = cells.modalities if "single" in methods or built else ()
    jobs = []
    for backbone in backbones:
        for fold in range(folds):
            for modality in singles:
                recipe = _recipe(
                    {"method": "single", "modality": modality}, backbone, settings, cells
                )
                jobs.append(Job(backbone, modality, fold, recipe))
            for name, keys in rows.items():
                recipe = _recipe(keys, backbone, settings, cells)
                jobs.append(
                    Job(backbone, name, fold, recipe, tuple(singles) if name in built else ())
                )
    # Fold by fold, so that an interrupted study has complete folds; in each, teachers before their
    # students.
    return sorted(jobs, key=lambda job: (job.fold, bool(job.needs), -job.cost))


def _method(keys: RecipeKeys) -> str:
    return str(keys.get("method", Recipe().method))


def _is_built_on_singles(method: str) -> bool:
    return method == "late-fusion" or method.endswith("-kd")


def _check_variant(name: str, keys: RecipeKeys, modalities: Sequence[str]) -> None:
    """Refuse a variant that would fail, or be compared wrongly, only after other networks were
    trained.
    """
    method = _method(keys)
    for key in (*_SHARED, *(("normalise",) if _is_built_on_singles(method) else ())):
        if key in keys:
            raise ConfigError(
                f"variant {name!r}: {key} must be the same for all rows that it is compared with "
                f"or built on; give it with --set."
            )
    if method == "single" and keys.get("modality") not in modalities:
        raise ConfigError(
            f"variant {name!r}: modality {keys.get('modality')!r} is none of "
            f"{', '.join(modalities)}."
        )


def _recipe(keys: RecipeKeys, backbone: str, settings: RecipeKeys, cells: CellSet) -> Recipe:
    content = merge_keys(settings, {**keys, "backbone": BACKBONE_NAMES[backbone]})
    content.setdefault("method", _method(keys))
    content.setdefault("teacher_epochs", content.get("epochs", Recipe().epochs))
    try:
        return Recipe.model_validate(with_defaults_for(content, cells.source, len(cells)))
    except ValidationError as error:
        raise ConfigError(
            f"recipe of {_method(content)}: {' '.join(str(error).split())}"
        ) from error


def group_cells(cells: CellSet, by: GroupBy, folds: int) -> tuple[NDArray[np.int64], GroupBy]:
    """Return the group of each cell (N,) int64, and the kind of the groups.

    Args:
        cells: all.
        by: ``sample``, ``field``, ``cell``, or ``auto``: by sample if there are as many as folds,
            else by field.
        folds: how many.

    Raises:
        TrainingDataError: the sample of each cell is not known.
    """
    known = cells.slides is not None and len(np.unique(cells.slides)) >= folds
    if by == "auto":
        by = "sample" if known else "field"
    if by == "sample":
        if cells.slides is None:
            raise TrainingDataError("the sample of each cell is not known; use --group-by field.")
        return cells.slides, by
    return (np.arange(len(cells), dtype=np.int64) if by == "cell" else cells.groups), by


def split_cells(
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    folds: int,
    calibration_fraction: float,
    seed: int,
) -> list[Split]:
    """Return the rows of each fold.

    Args:
        labels: (N,) int64.
        groups: (N,) int64; cells of a group stay together.
        folds: how many.
        calibration_fraction: fraction of the cells not tested on that is kept to calibrate on.
        seed: of the order.
    """
    splits = []
    for rest, test in stratified_folds(labels, groups, folds, seed):
        train, calibration = holdout(labels[rest], groups[rest], calibration_fraction, seed + 1)
        splits.append(Split(rest[train], rest[calibration], test))
    return splits
