"""Stage 3 for one sample: classify every cell and write the classes into its ``cells.zarr``."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wbcpipe.classify.inference.classifier import Classifier, planes_for, with_max_error
from wbcpipe.classify.inference.missing_modality import calibration_without, dead_modalities
from wbcpipe.classify.models.bundle import Bundle, find_bundle
from wbcpipe.classify.uncertainty.applicability import ClassifiedCells, check_applicability
from wbcpipe.errors import NoCellsError, SampleStateError
from wbcpipe.samples.cell_columns import REJECTED, UNIDENTIFIED, QcFlag
from wbcpipe.samples.cell_store import PREDICTIONS, CellStore
from wbcpipe.samples.classification_record import Classification
from wbcpipe.samples.differential_record import ModelF1, RiskControl
from wbcpipe.system.packages import CLASSIFICATION, require
from wbcpipe.system.progress import unreported

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from wbcpipe.classify.uncertainty.probability_calibration import ProbabilityCalibration
    from wbcpipe.samples.differential_record import ModelChecks
    from wbcpipe.samples.sample import Sample
    from wbcpipe.system.compute import Device, EngineName

__all__ = [
    "ClassificationSummary",
    "ClassifyOptions",
    "classify_cells",
    "classify_sample",
    "resolve_bundle",
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassifyOptions:
    """How to classify a sample.

    Attributes:
        device: ``auto``, ``cpu`` or ``cuda``.
        engine: see `select_engine`.
        batch_size: number of cells per call of the network; None takes the most efficient number
            for the engine.
        excluded_modalities: modalities to exclude.
        max_error: see `Classifier`.
    """

    device: Device = "auto"
    engine: EngineName = "auto"
    batch_size: int | None = None
    excluded_modalities: tuple[str, ...] = ()
    max_error: float | None = None


@dataclass(frozen=True)
class ClassificationSummary:
    """The result of `classify_sample`, for people and JSON.

    Attributes:
        sample: name of the sample.
        cells: number of cells.
        counts: cells by class, ``unidentified`` last.
        bundle: name of the bundle.
        sha256: of its weights.
        excluded_modalities: modalities that were not used, by request or because they showed
            nothing.
        risk_control: the error bound of the accepted calls; None if the bundle has none, or if
            there are doubts.
        doubts: why the bundle's error bound does not hold for this sample.
        remedy: what to do about them.
        engine: name of the engine that classified the cells.
        seconds: time it took; 0 if the cells had been classified before.
        already_classified: whether they had.
    """

    sample: str
    cells: int
    counts: dict[str, int]
    bundle: str
    sha256: str
    excluded_modalities: tuple[str, ...]
    risk_control: RiskControl | None
    doubts: tuple[str, ...]
    remedy: str
    engine: str
    seconds: float
    already_classified: bool


def resolve_bundle(sample: Sample, name: str) -> Bundle:
    """Return the bundle called ``name``; ``auto`` is the shipped bundle for the kind of the
    sample's cells.
    """
    kind = None
    if name == "auto":
        kind = CellStore(sample.cells_path).attributes.kind
        if kind == "scope" and sample.exists():
            kind = sample.record().kind
    return find_bundle(name, kind=kind)


def classify_sample(
    sample: Sample,
    bundle: Bundle | str | Path = "auto",
    options: ClassifyOptions | None = None,
    *,
    progress: Callable[[str, int, int], None] = unreported,
) -> ClassificationSummary:
    """Classify every cell of a sample and write the classes into its ``cells.zarr``.

    A modality that shows nothing in most of the cells is excluded, as if the options named it.
    Cells that a later stage rejects (debris, border) are classified too. Cells that this bundle has
    classified already stay as they are. The sample is locked meanwhile.

    Args:
        sample: a segmented or imported sample.
        bundle: the model: a bundle, its name or folder, or ``auto`` for the shipped one that fits
            the sample.
        options: how to classify; by default as fits the machine.
        progress: called with (task, units done, units in all).

    Returns:
        How many cells of each class, and what the model's error bound says of this sample.

    Raises:
        BundleError: there is no such bundle, its modalities or pixel size are not the sample's, or
            it has no such modality to exclude.
        ConfigError: the bundle cannot guarantee the largest error, or the engine is not available.
        MissingPackageError: torch is not installed.
        NoCellsError: the store is empty.
        SampleStateError: there is no such sample, its cells are not found, or it is signed.
        SampleBusyError: another process uses the sample.

    Example:
        ``wbcpipe.classify_sample(sample, "models/mine", ClassifyOptions(max_error=0.05)).counts``
    """
    if not sample.path.is_dir():  # before the lock, which would create the folder
        raise SampleStateError(
            f"no sample {sample.name!r} in {sample.path.parent}; `wbcpipe status` lists those "
            f"there."
        )
    with sample.lock("classify"):
        model = bundle if isinstance(bundle, Bundle) else resolve_bundle(sample, str(bundle))
        return classify_cells(sample, model, options, progress=progress)


def classify_cells(
    sample: Sample,
    bundle: Bundle,
    options: ClassifyOptions | None = None,
    *,
    progress: Callable[[str, int, int], None] = unreported,
) -> ClassificationSummary:
    """Do the work of `classify_sample`, which has the arguments; the caller holds the lock."""
    require(CLASSIFICATION, "classifying cells")
    from wbcpipe.classify.inference.parallel_batches import probabilities
    from wbcpipe.classify.inference.select_engine import select_engine

    began_s = time.perf_counter()
    options = options or ClassifyOptions()
    store = CellStore(sample.cells_path)
    if not len(store):
        raise NoCellsError(f"{sample.path}: cells.zarr holds no cell to classify.")
    side_px = store.sides_px[0]
    planes = planes_for(
        store.modalities, store.pixel_um, side_px, bundle, f"the cells of {sample.name!r}"
    )
    dead = dead_modalities(store, bundle.info.modalities, planes)
    requested = options.excluded_modalities
    excluded = tuple(name for name in bundle.info.modalities if name in (*requested, *dead))
    unknown = tuple(name for name in requested if name not in bundle.info.modalities)
    calibration = calibration_without(bundle.info, (*excluded, *unknown))
    calibration = with_max_error(calibration, options.max_error, bundle_name=bundle.info.name)
    before = _intact_classification(store)
    trained = sample.name in bundle.info.training.samples
    if (
        before is not None
        and before.trained_on_sample == trained
        and _is_current(before, bundle, excluded, calibration)
    ):
        _log.info("sample %s: classified by %s before", sample.name, bundle.info.name)
        return _summary(sample, store, before, calibration, seconds=0.0)
    _log.info("sample %s: classifying %d cells by %s", sample.name, len(store), bundle.info.name)
    if dead:
        _log.info("sample %s: without %s, which shows nothing", sample.name, ", ".join(dead))
    progress(f"compiling {bundle.info.name}", 0, 1)
    classifier = Classifier(
        bundle,
        engine=select_engine(bundle, options.device, options.engine),
        batch_size=options.batch_size,
        excluded_modalities=excluded,
        max_error=options.max_error,
    )
    progress(f"compiling {bundle.info.name}", 1, 1)
    parts = []
    for done, found in probabilities(store, classifier, planes):
        parts.append(found)
        progress("cells classified", done, len(store))
    probability = np.concatenate(parts)
    names, confidence, disagreement = classifier.call(probability)
    classification = _classification(bundle, classifier, dead, trained_on_sample=trained)
    store.write_predictions(
        probability, names, confidence, disagreement, classification=classification
    )
    seconds = round(time.perf_counter() - began_s, 3)
    _log.info(
        "sample %s: %d cells classified in %.1f s, engine %s",
        sample.name,
        len(names),
        seconds,
        classifier.engine.name,
    )
    if sample.exists():
        sample.log("classified", bundle=bundle.info.name, cells=len(names), seconds=seconds)
    return _summary(sample, store, classification, calibration, seconds=seconds)


def _intact_classification(store: CellStore) -> Classification | None:
    """Return how the cells were classified; ``None`` if they were not, or the result is damaged."""
    if not store.is_classified():
        return None
    try:
        found = store.classification()
        for name in PREDICTIONS:
            store.check(name)
    except SampleStateError:
        return None
    return found


def _is_current(
    before: Classification,
    bundle: Bundle,
    excluded: Sequence[str],
    calibration: ProbabilityCalibration,
) -> bool:
    """Return whether the stored classes are those that the bundle would give now."""
    return (
        before.sha256 == bundle.info.sha256
        and before.calibration_digest == bundle.calibration_digest
        and before.excluded_modalities == tuple(excluded)
        and before.threshold == calibration.threshold
    )


def _classification(
    bundle: Bundle, classifier: Classifier, dead: Sequence[str], *, trained_on_sample: bool
) -> Classification:
    """Return how the cells were classified, with what the report needs to check the classes."""
    info, calibration, excluded = (
        bundle.info,
        classifier.calibration,
        classifier.excluded_modalities,
    )
    f1 = ModelF1(
        all_modalities=info.calibration.f1_weighted, remaining_modalities=calibration.f1_weighted
    )
    return Classification(
        bundle=info.name,
        sha256=info.sha256,
        calibration_digest=bundle.calibration_digest,
        method=info.method,
        classes=info.classes,
        heads=info.head_names,
        weights=calibration.weights,
        threshold=calibration.threshold,
        excluded_modalities=excluded,
        dead_modalities=tuple(dead),
        f1_weighted=f1 if excluded else None,
        risk_control=_risk_control(calibration),
        calibration=calibration.model_dump(mode="json", exclude_none=True),
        engine=classifier.engine.name,
        batch_size=classifier.batch_size,
        trained_on_sample=trained_on_sample,
    )


def _risk_control(calibration: ProbabilityCalibration) -> RiskControl | None:
    bounds = calibration.risk_bounds
    level = bounds.level_at(calibration.threshold) if bounds else None
    if bounds is None or level is None:
        return None
    return RiskControl(
        error_bound=level.error_bound,
        confidence=bounds.confidence,
        cells=bounds.cells,
        assumption=bounds.assumption,
    )


def _summary(
    sample: Sample,
    store: CellStore,
    used: Classification,
    calibration: ProbabilityCalibration,
    *,
    seconds: float,
) -> ClassificationSummary:
    """Summarise the classes in the store; ``seconds`` is 0 if they had been there before."""
    names = store.predicted_classes()
    counts = Counter(names)
    checks = _check_model(sample, store, names, used, calibration)
    return ClassificationSummary(
        sample=sample.name,
        cells=len(names),
        counts={name: counts[name] for name in (*used.classes, UNIDENTIFIED)},
        bundle=used.bundle,
        sha256=used.sha256,
        excluded_modalities=used.excluded_modalities,
        risk_control=checks.risk_control,
        doubts=tuple(doubt.text for doubt in checks.doubts),
        remedy=checks.remedy,
        engine=used.engine,
        seconds=seconds,
        already_classified=not seconds,
    )


def _check_model(
    sample: Sample,
    store: CellStore,
    names: Sequence[str],
    used: Classification,
    calibration: ProbabilityCalibration,
) -> ModelChecks:
    """Check the cells that the report will not reject against the bundle's validation cells."""
    flags = store.column("qc_flags").astype(np.int64)
    if used.dead_modalities:
        flags &= ~QcFlag.MISSING_MODALITY.value  # as the report does: classified without it
    counted = (flags & sum(flag.value for flag in REJECTED)) == 0
    unidentified = np.count_nonzero((np.asarray(names) == UNIDENTIFIED) & counted)
    kind = sample.record().kind if sample.exists() else store.attributes.kind
    return check_applicability(
        ClassifiedCells(
            sample.name,
            kind,
            store.column("probability")[counted],
            int(unidentified),
            used,
            calibration,
        )
    )
