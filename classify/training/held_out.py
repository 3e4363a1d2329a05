"""Cells that a network was not trained on, for calibration.

Kept apart, or by cross-validation where cells are few.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from wbcpipe.classify import metrics
from wbcpipe.classify.inference.engine import TorchEngine, pick_device
from wbcpipe.classify.inference.missing_modality import blank, typical_profiles
from wbcpipe.classify.models.bundle import half_precision
from wbcpipe.classify.models.bundle_info import Improvement
from wbcpipe.classify.training.train import predict_logits
from wbcpipe.classify.training.train_and_validate import select_modality, train_and_validate
from wbcpipe.classify.uncertainty.paired_difference import paired_difference
from wbcpipe.classify.uncertainty.probability_calibration import fused_probability, mean_probability
from wbcpipe.classify.uncertainty.risk_control import MIN_CELLS
from wbcpipe.errors import TrainingDataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.classify.metrics import Scores
    from wbcpipe.classify.models.bundle import Bundle
    from wbcpipe.classify.models.normalise import Normalisation
    from wbcpipe.classify.networks import FusionNetwork
    from wbcpipe.classify.training.data import CellSet
    from wbcpipe.classify.training.progress import TrainingOptions
    from wbcpipe.classify.training.recipe import Recipe

    Parts = Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]

__all__ = [
    "HeldOut",
    "cross_validation_folds",
    "improvement",
    "keep_apart",
    "leave_out_parts",
    "predict_by_folds",
]

FOLDS: Final = 5


@dataclass(frozen=True)
class HeldOut:
    """A trained network, and the logits of cells by networks that were not trained on them.

    Attributes:
        network: the trained network, with weights rounded as a bundle stores them.
        normalisation: of its input.
        typical: profiles (M * c, 17) that replace a missing plane.
        training: the cells that it was trained on.
        cells: the held-out cells, as the recipe's method reads them.
        logits: (N, heads, K) of these.
        without: the same, by the modality that was blanked.
        scores: by name, see `TrainingResult`.
        folds: of the cross-validation; 0 if the cells were kept apart.
    """

    network: FusionNetwork
    normalisation: Normalisation
    typical: tuple[tuple[float, ...], ...]
    training: CellSet
    cells: CellSet
    logits: NDArray[np.float32]
    without: dict[str, NDArray[np.float32]]
    scores: dict[str, Scores]
    folds: int = 0


def cross_validation_folds(cells: CellSet, validation: CellSet | None, recipe: Recipe) -> int:
    """Return in how many folds to validate; 0: a part of the cells is enough, or the user named
    others.

    Fine-tuning takes few steps, so that it can be repeated: then every cell is held out once. A
    network trained from random weights takes too long for that.
    """
    if (
        validation is not None
        or not recipe.init_from
        or recipe.holdout * len(cells) >= 2 * MIN_CELLS
    ):
        return 0
    folds = min(FOLDS, len(np.unique(cells.groups)))
    return folds if folds > 1 else 0


def keep_apart(
    training: CellSet, validation: CellSet, recipe: Recipe, work: Path, options: TrainingOptions
) -> HeldOut:
    """Train on some cells and predict the others."""
    result = train_and_validate(training, validation, recipe, work, options)
    # Calibrated as shipped: with the weights rounded to what the bundle stores.
    network = half_precision(result.network)
    tested = select_modality(validation, recipe)
    typical = _typical_profiles(select_modality(training, recipe), result.normalisation, recipe)
    engine = TorchEngine(network, pick_device(options.device))
    predict = partial(predict_logits, engine, tested, result.normalisation)
    without = {}
    for index, name in enumerate(tested.modalities if len(tested.modalities) > 1 else ()):
        without[name] = predict(
            prepare=partial(blank, missing=[index], planes=tested.planes, typical=typical)
        )
    return HeldOut(
        network, result.normalisation, typical, training, tested, predict(), without, result.scores
    )


def leave_out_parts(cells: CellSet, names: Sequence[str]) -> Parts:
    """Return the rows to train on and to test on for each sample that is left out in turn.

    Raises:
        TrainingDataError: a name is none of the samples, or no other sample is there to train on.
    """
    parts = []
    for name in names:
        if name not in cells.samples or cells.slides is None:
            raise TrainingDataError(
                f"sample {name!r} cannot be left out: the samples are {', '.join(cells.samples)}."
            )
        out = cells.slides == cells.samples.index(name)
        if out.all() or not out.any():
            raise TrainingDataError(
                f"sample {name!r} cannot be left out: it has "
                f"{'all' if out.all() else 'none'} of the {len(cells)} labelled cells."
            )
        parts.append((np.flatnonzero(~out), np.flatnonzero(out)))
    return parts


def predict_by_folds(
    cells: CellSet, recipe: Recipe, work: Path, options: TrainingOptions, parts: Parts
) -> HeldOut:
    """Train on all cells, and predict some by networks that were not trained on them.

    Args:
        cells: all.
        recipe: how to train.
        work: folder of the training states.
        options: how to run the training.
        parts: for each of these networks, the rows that it is trained on and those that it
            predicts.
    """
    found = []
    for number, (train, test) in enumerate(parts):
        folder = work / "cross-validation" / f"fold-{number}"
        part = keep_apart(
            cells.subset(train), cells.subset(test), recipe, folder, replace(options, fold=number)
        )
        found.append(part)
    rows = np.concatenate([test for _, test in parts])
    order = np.argsort(rows, kind="stable")

    def joined(logits: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        return np.concatenate(logits)[order]

    result = train_and_validate(cells, None, recipe, work, options)
    tested = select_modality(cells.subset(rows[order]), recipe)
    logits = joined([part.logits for part in found])
    name = str(recipe.modality) if recipe.method == "single" else recipe.method
    return HeldOut(
        network=half_precision(result.network),
        normalisation=result.normalisation,
        typical=_typical_profiles(select_modality(cells, recipe), result.normalisation, recipe),
        training=cells,
        cells=tested,
        logits=logits,
        without={key: joined([part.without[key] for part in found]) for key in found[0].without},
        scores={name: metrics.scores(tested.labels, mean_probability(logits), tested.classes)},
        folds=len(parts),
    )


def improvement(
    held_out: HeldOut, parent: Bundle, side: int, options: TrainingOptions
) -> Improvement | None:
    """Compare a network with the bundle that it started from; ``None`` if their input sides
    differ.
    """
    cells, info = held_out.cells, parent.info
    if info.side != side:
        return None
    logits = predict_logits(parent.network(), cells, info.normalisation, device=options.device)
    predicted = fused_probability(logits, info.calibration).argmax(axis=1)
    names = np.array([info.classes[index] for index in predicted])
    parent_right = names == np.array(cells.classes)[cells.labels]
    right = mean_probability(held_out.logits).argmax(axis=1) == cells.labels
    gain = paired_difference(right, parent_right)
    return Improvement(
        parent=info.name,
        cells=len(cells),
        folds=held_out.folds,
        accuracy=float(right.mean()),
        parent_accuracy=float(parent_right.mean()),
        difference=gain.difference,
        interval=(gain.low, gain.high),
        seen_by_parent=bool(set(info.training.samples) & set(cells.samples)),
    )


def _typical_profiles(
    training: CellSet, normalisation: Normalisation, recipe: Recipe
) -> tuple[tuple[float, ...], ...]:
    """Return the profiles (M * c, 17) that replace a missing plane, from at most 1,024 training
    cells; none if zeros replace it.
    """
    if recipe.missing_input == "told":
        return ()
    some = training.images[:: max(1, len(training) // 512)]
    rings = np.round(typical_profiles(normalisation.apply(some)), 4)
    return tuple(tuple(float(value) for value in plane) for plane in rings)
