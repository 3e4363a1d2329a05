"""From labelled cells to a bundle: the procedure, the calibration, and where it all came from."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from typing import TYPE_CHECKING, Final

import numpy as np

from wbcpipe.classify import metrics
from wbcpipe.classify.inference.engine import TorchEngine, pick_device
from wbcpipe.classify.inference.missing_modality import blank, typical_planes
from wbcpipe.classify.models.bundle import Bundle, half_precision, write_bundle
from wbcpipe.classify.models.bundle_info import BundleInfo, BundleReference, Training, Validation, ValidationScores
from wbcpipe.classify.training.folds import holdout
from wbcpipe.classify.training.train import predict_logits
from wbcpipe.classify.training.train_and_validate import run_procedure, select_modality
from wbcpipe.classify.uncertainty.fusion import calibrate
from wbcpipe.classify.uncertainty.probability_calibration import fuse, head_probability
from wbcpipe.errors import TrainingDataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.classify.models.normalise import Normalisation
    from wbcpipe.classify.networks import FusionNetwork
    from wbcpipe.classify.training.data import CellSet
    from wbcpipe.classify.training.recipe import Recipe
    from wbcpipe.classify.training.train import EpochReport

__all__ = ["train_bundle"]

_BATCH: Final = 64


def train_bundle(
    cells: CellSet,
    validation: CellSet | None,
    recipe: Recipe,
    *,
    name: str,
    out: Path,
    crop_px: int,
    init_from: Bundle | None = None,
    device: str = "auto",
    progress: Callable[[EpochReport], None] | None = None,
) -> Bundle:
    """Train, calibrate on cells kept apart, and write the bundle ``out/name``.

    Args:
        cells: labelled cells.
        validation: cells to validate and calibrate on; by default a share of ``cells``, in whole fields.
        recipe: what to do.
        name: of the bundle.
        out: work folder; training states below it are used again.
        crop_px: side of the crops before they were resized.
        init_from: the bundle whose weights the recipe starts from.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: called after each epoch.
    """
    training = cells
    if validation is None:
        train, test = holdout(cells.labels, cells.groups, recipe.holdout, recipe.seed)
        training, validation = cells.subset(train), cells.subset(test)
    elif (both := sorted(set(validation.samples) & set(cells.samples))) and (
        set(validation.groups.tolist()) & set(cells.groups.tolist())
    ):
        raise TrainingDataError(f"samples {both} are named for training and for validation; choose one for each.")
    outcome = run_procedure(training, validation, recipe, out, init_from=init_from, device=device, progress=progress)
    # Calibrated as shipped: with the weights rounded to what the bundle keeps.
    network = half_precision(outcome.network)
    seen = select_modality(validation, recipe)
    logits = predict_logits(network, seen, outcome.normalisation, device=device)
    wish = {
        "target_accuracy": recipe.target_accuracy,
        "max_unidentified_fraction": recipe.max_unidentified_fraction,
    }
    calibration, certified = calibrate(logits, seen.labels, **wish)
    typical = _typical(select_modality(training, recipe), outcome.normalisation)
    without = {}
    if len(seen.modalities) > 1:
        for index, missing in enumerate(seen.modalities):
            left = _logits_without(network, seen, outcome.normalisation, index, typical, device)
            without[missing] = calibrate(left, seen.labels, **wish)[0]
    fused = fuse(head_probability(logits[certified], calibration), calibration)
    rows = dict(outcome.rows)
    rows["calibrated"] = metrics.scores(seen.labels[certified], fused, seen.classes)
    info = BundleInfo(
        name=name,
        method=recipe.method,
        backbone=recipe.backbone,
        classes=seen.classes,
        modalities=seen.modalities,
        derived=tuple(item for item in cells.derived if item in seen.modalities),
        planes=seen.planes,
        kind=cells.source,
        pixel_um=cells.pixel_um,
        crop_px=crop_px,
        side=recipe.side,
        normalisation=outcome.normalisation,
        calibration=calibration,
        missing_modality=without,
        typical_profiles=typical,
        validation=Validation(
            samples=validation.samples,
            rows={method: ValidationScores.model_validate(row) for method, row in rows.items()},
            calibration_error=metrics.expected_calibration_error(seen.labels[certified], fused),
        ),
        training=_provenance(training, recipe, init_from),
    )
    return write_bundle(out / name, info, network)


def _typical(training: CellSet, normalisation: Normalisation) -> tuple[tuple[float, ...], ...]:
    """What stands in for a missing plane, from at most 512 training cells."""
    some = training.images[:: max(1, len(training) // 512)]
    rings = np.round(typical_planes(normalisation.apply(some)), 4)
    return tuple(tuple(float(value) for value in plane) for plane in rings)


def _logits_without(
    network: FusionNetwork,
    cells: CellSet,
    normalisation: Normalisation,
    missing: int,
    typical: tuple[tuple[float, ...], ...],
    device: str,
) -> NDArray[np.float32]:
    """Logits (N, heads, K) of every cell, one modality replaced by what is typical of it."""
    engine = TorchEngine(network, pick_device(device))
    parts = []
    for start in range(0, len(cells), _BATCH):
        prepared = normalisation.apply(cells.images[start : start + _BATCH])
        parts.append(engine(blank(prepared, [missing], cells.planes, typical)))
    return np.concatenate(parts)


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
