"""From labelled cells to a bundle: training, calibration, and provenance."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING

import numpy as np

from wbcpipe.classify import metrics
from wbcpipe.classify.inference.missing_modality import blank, typical_profiles
from wbcpipe.classify.models.bundle import Bundle, BundleInfo, half_precision, write_bundle
from wbcpipe.classify.models.bundle_info import BundleReference, Training, Validation
from wbcpipe.classify.training.folds import holdout
from wbcpipe.classify.training.progress import TrainingOptions
from wbcpipe.classify.training.train import predict_logits
from wbcpipe.classify.training.train_and_validate import select_modality, train_and_validate
from wbcpipe.classify.uncertainty.fusion import calibrate
from wbcpipe.classify.uncertainty.probability_calibration import fused_probability
from wbcpipe.errors import TrainingDataError

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.classify.models.normalise import Normalisation
    from wbcpipe.classify.training.data import CellSet
    from wbcpipe.classify.training.recipe import Recipe

__all__ = ["build_bundle"]


def build_bundle(
    cells: CellSet,
    validation: CellSet | None,
    recipe: Recipe,
    *,
    name: str,
    out: Path,
    options: TrainingOptions | None = None,
) -> Bundle:
    """Train a network, calibrate it on validation cells, and write the bundle ``out/name``.

    Args:
        cells: labelled cells.
        validation: cells to validate and calibrate on; by default a fraction of ``cells``, in complete fields.
        recipe: how to train.
        name: of the bundle.
        out: work folder; training states in it are used again.
        options: how to run the training.

    Raises:
        TrainingDataError: a field is both in ``cells`` and in ``validation``.
    """
    options = options or TrainingOptions()
    training, validation = _split(cells, validation, recipe)
    result = train_and_validate(training, validation, recipe, out, options)
    # Calibrated as shipped: with the weights rounded to what the bundle stores.
    network = half_precision(result.network)
    tested = select_modality(validation, recipe)
    logits = predict_logits(network, tested, result.normalisation, device=options.device)
    limits = {
        "target_accuracy": recipe.target_accuracy,
        "max_unidentified_fraction": recipe.max_unidentified_fraction,
    }
    calibration, certified = calibrate(logits, tested.labels, **limits)
    typical = _typical_profiles(select_modality(training, recipe), result.normalisation)
    missing_modality = {}
    for index, missing in enumerate(tested.modalities if len(tested.modalities) > 1 else ()):
        replace = partial(blank, missing=[index], planes=tested.planes, typical=typical)
        left = predict_logits(network, tested, result.normalisation, device=options.device, prepare=replace)
        missing_modality[missing] = calibrate(left, tested.labels, **limits)[0]
    fused = fused_probability(logits[certified], calibration)
    labels = tested.labels[certified]
    scores = {**result.scores, "calibrated": metrics.scores(labels, fused, tested.classes)}
    info = BundleInfo(
        name=name,
        method=recipe.method,
        backbone=recipe.backbone,
        classes=tested.classes,
        modalities=tested.modalities,
        derived=tuple(item for item in cells.derived if item in tested.modalities),
        planes=tested.planes,
        kind=cells.source,
        pixel_um=cells.pixel_um,
        crop_px=cells.crop_px,
        side=recipe.side,
        normalisation=result.normalisation,
        calibration=calibration,
        missing_modality=missing_modality,
        typical_profiles=typical,
        validation=Validation(
            samples=validation.samples,
            rows=scores,
            calibration_error=metrics.expected_calibration_error(labels, fused),
        ),
        training=_provenance(training, recipe, options.init_from),
    )
    return write_bundle(out / name, info, network)


def _split(cells: CellSet, validation: CellSet | None, recipe: Recipe) -> tuple[CellSet, CellSet]:
    """Return the cells to train on and to validate on."""
    if validation is None:
        train, test = holdout(cells.labels, cells.groups, recipe.holdout, recipe.seed)
        return cells.subset(train), cells.subset(test)
    both = sorted(set(validation.samples) & set(cells.samples))
    if both and set(validation.groups.tolist()) & set(cells.groups.tolist()):
        raise TrainingDataError(f"samples {both} are named for training and for validation; choose one for each.")
    return cells, validation


def _typical_profiles(training: CellSet, normalisation: Normalisation) -> tuple[tuple[float, ...], ...]:
    """Return the profiles (M * c, 17) that replace a missing plane, from at most 1,024 training cells."""
    some = training.images[:: max(1, len(training) // 512)]
    rings = np.round(typical_profiles(normalisation.apply(some)), 4)
    return tuple(tuple(float(value) for value in plane) for plane in rings)


def _provenance(cells: CellSet, recipe: Recipe, init_from: Bundle | None) -> Training:
    stamp = os.environ.get("SOURCE_DATE_EPOCH")
    now = datetime.fromtimestamp(int(stamp), UTC) if stamp else datetime.now(UTC)
    return Training(
        samples=cells.samples,
        cells=cells.counts(),
        init_from=BundleReference(bundle=init_from.info.name, sha256=init_from.info.sha256) if init_from else None,
        recipe=recipe.model_dump(mode="json"),
        versions={name: metadata.version(name) for name in ("wbcpipe", "torch", "torchvision", "numpy")},
        python=platform.python_version(),
        date=now.isoformat(timespec="seconds"),
    )
