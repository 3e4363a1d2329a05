"""From labelled cells to a bundle: training, calibration, and provenance."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from typing import TYPE_CHECKING, Final

from wbcpipe.classify import metrics
from wbcpipe.classify.models.bundle import Bundle, BundleInfo, write_bundle
from wbcpipe.classify.models.bundle_info import LEFT_OUT, BundleReference, Training, Validation
from wbcpipe.classify.training.folds import holdout, stratified_folds
from wbcpipe.classify.training.held_out import (
    cross_validation_folds,
    improvement,
    keep_apart,
    leave_out_parts,
    predict_by_folds,
)
from wbcpipe.classify.training.progress import TrainingOptions
from wbcpipe.classify.uncertainty.fusion import calibrate
from wbcpipe.classify.uncertainty.probability_calibration import fused_probability, mean_probability
from wbcpipe.classify.uncertainty.risk_control import CROSS_VALIDATED
from wbcpipe.errors import TrainingDataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.classify.metrics import Scores
    from wbcpipe.classify.training.data import CellSet
    from wbcpipe.classify.training.held_out import HeldOut
    from wbcpipe.classify.training.recipe import Recipe
    from wbcpipe.classify.uncertainty.probability_calibration import ProbabilityCalibration

__all__ = ["build_bundle"]

FALLBACK_THRESHOLD: Final = 0.5
"""Of a network from random weights with too few cells to fit one: below it a call is more often
wrong than right.
"""


def build_bundle(
    cells: CellSet,
    validation: CellSet | tuple[str, ...] | None,
    recipe: Recipe,
    *,
    name: str,
    out: Path,
    options: TrainingOptions | None = None,
) -> Bundle:
    """Train a network, calibrate it on validation cells, and write the bundle ``out/name``.

    Args:
        cells: labelled cells.
        validation: cells to validate and calibrate on; by default a fraction of ``cells``, in
            complete fields, or all of them by cross-validation if a bundle is fine-tuned on few
            cells. Or names of samples in ``cells``: each is predicted by a network that was
            trained on the others, and the bundle's network is trained on all.
        recipe: how to train.
        name: of the bundle.
        out: work folder; training states in it are used again.
        options: how to run the training.

    Raises:
        TrainingDataError: a field is both in ``cells`` and in ``validation``, or a sample cannot be
            left out.
    """
    options = options or TrainingOptions()
    parent = options.init_from
    changes: Callable[[ProbabilityCalibration], ProbabilityCalibration] = _unchanged
    if isinstance(validation, tuple):
        changes, parts = _without_promises, leave_out_parts(cells, validation)
        found = predict_by_folds(cells, recipe, out, options, parts)
    elif folds := cross_validation_folds(cells, validation, recipe):
        changes = _cross_validated
        parts = stratified_folds(cells.labels, cells.groups, folds, recipe.seed)
        found = predict_by_folds(cells, recipe, out, options, parts)
    else:
        found = keep_apart(*_split(cells, validation, recipe), recipe, out, options)
    tested = found.cells
    limits = {
        "target_accuracy": recipe.target_accuracy,
        "max_unidentified_fraction": recipe.max_unidentified_fraction,
        "default_threshold": parent.info.calibration.threshold if parent else FALLBACK_THRESHOLD,
    }
    calibration, certified = calibrate(found.logits, tested.labels, **limits)
    calibration = changes(calibration)
    missing_modality = {
        name: changes(calibrate(logits, tested.labels, **limits)[0])
        for name, logits in found.without.items()
    }
    fused = fused_probability(found.logits[certified], calibration)
    labels = tested.labels[certified]
    scores = {
        **found.scores,
        **(_scores_by_sample(found, validation) if isinstance(validation, tuple) else {}),
        "calibrated": metrics.scores(labels, fused, tested.classes),
    }
    info = BundleInfo(
        name=name,
        method=recipe.method,
        backbone=recipe.backbone,
        stem=recipe.stem,
        told_missing=recipe.missing_input == "told",
        classes=tested.classes,
        modalities=tested.modalities,
        derived=tuple(item for item in cells.derived if item in tested.modalities),
        planes=tested.planes,
        kind=cells.source,
        pixel_um=cells.pixel_um,
        crop_px=cells.crop_px,
        side=recipe.side,
        normalisation=found.normalisation,
        calibration=calibration,
        missing_modality=missing_modality,
        typical_profiles=found.typical,
        validation=Validation(
            samples=tested.samples,
            rows=scores,
            calibration_error=metrics.expected_calibration_error(labels, fused),
            improvement=improvement(found, parent, recipe.side, options) if parent else None,
        ),
        training=_provenance(found.training, recipe, parent),
    )
    return write_bundle(out / name, info, found.network)


def _scores_by_sample(found: HeldOut, names: tuple[str, ...]) -> dict[str, Scores]:
    """Return the scores of each sample that was left out, of the plain mean over heads."""
    cells, probability = found.cells, mean_probability(found.logits)
    rows = {name: cells.slides == cells.samples.index(name) for name in names}
    return {
        f"{name}{LEFT_OUT}": metrics.scores(cells.labels[part], probability[part], cells.classes)
        for name, part in rows.items()
    }


def _unchanged(calibration: ProbabilityCalibration) -> ProbabilityCalibration:
    return calibration


def _cross_validated(calibration: ProbabilityCalibration) -> ProbabilityCalibration:
    """Return a calibration whose error bounds say that they were tested by cross-validation."""
    bounds = calibration.risk_bounds
    if bounds is None:
        return calibration
    told = bounds.model_copy(update={"assumption": bounds.assumption + CROSS_VALIDATED})
    return calibration.model_copy(update={"risk_bounds": told})


def _without_promises(calibration: ProbabilityCalibration) -> ProbabilityCalibration:
    """Return a calibration that bounds no error and corrects no percentage.

    Samples that were left out tell what to expect of another one. Laboratories differ more than
    cells, and a few of them bound nothing.
    """
    return calibration.model_copy(update={"risk_bounds": None, "correction": None})


def _split(cells: CellSet, validation: CellSet | None, recipe: Recipe) -> tuple[CellSet, CellSet]:
    """Return the cells to train on and to validate on."""
    if validation is None:
        train, test = holdout(cells.labels, cells.groups, recipe.holdout, recipe.seed)
        return cells.subset(train), cells.subset(test)
    both = sorted(set(validation.samples) & set(cells.samples))
    if both and set(validation.groups.tolist()) & set(cells.groups.tolist()):
        raise TrainingDataError(
            f"samples {both} are named for training and for validation; choose one for each."
        )
    return cells, validation


def _provenance(cells: CellSet, recipe: Recipe, init_from: Bundle | None) -> Training:
    stamp = os.environ.get("SOURCE_DATE_EPOCH")
    now = datetime.fromtimestamp(int(stamp), UTC) if stamp else datetime.now(UTC)
    return Training(
        samples=cells.samples,
        cells=cells.counts(),
        init_from=BundleReference(bundle=init_from.info.name, sha256=init_from.info.sha256)
        if init_from
        else None,
        recipe=recipe.model_dump(mode="json"),
        versions={
            name: metadata.version(name) for name in ("wbcpipe", "torch", "torchvision", "numpy")
        },
        python=platform.python_version(),
        date=now.isoformat(timespec="seconds"),
    )
