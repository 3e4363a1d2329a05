"""Stage 3 for one sample: classify every cell and write the classes into its ``cells.zarr``."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wbcpipe.classify.inference.classifier import Classifier, planes_for, with_max_error
from wbcpipe.classify.inference.missing_modality import calibration_without, dead_modalities
from wbcpipe.classify.inference.parallel_batches import probabilities
from wbcpipe.classify.inference.select_engine import select_engine
from wbcpipe.classify.models.bundle import Bundle, find_bundle
from wbcpipe.classify.training.data import source_kind
from wbcpipe.errors import NoCellsError
from wbcpipe.samples.cell_columns import UNIDENTIFIED
from wbcpipe.samples.cell_store import CellStore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from wbcpipe.classify.uncertainty.probability_calibration import ProbabilityCalibration
    from wbcpipe.samples.sample import Sample

__all__ = ["ClassificationSummary", "ClassifyOptions", "classify_sample", "resolve_bundle"]


@dataclass(frozen=True)
class ClassifyOptions:
    """How to classify a sample.

    Attributes:
        device: ``auto``, ``cpu`` or ``cuda``.
        engine: see `select_engine`.
        batch_size: number of cells per call of the network; None takes the most efficient number for the engine.
        excluded_modalities: modalities to exclude.
        max_error: see `Classifier`.
    """

    device: str = "auto"
    engine: str = "auto"
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
        excluded_modalities: modalities that were not used, by request or because they showed nothing.
        risk_control: the error bound of the accepted calls; None if the bundle has none.
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
    risk_control: Mapping[str, Any] | None
    engine: str
    seconds: float
    already_classified: bool


def resolve_bundle(sample: Sample, name: str) -> Bundle:
    """Return the bundle called ``name``; ``auto`` is the shipped bundle for the kind of the sample's cells."""
    kind = None
    if name == "auto":
        kind = source_kind(CellStore(sample.cells_path))
        if kind == "scope" and sample.exists():
            kind = sample.record().kind
    return find_bundle(name, kind=kind)


def classify_sample(
    sample: Sample,
    bundle: Bundle,
    options: ClassifyOptions | None = None,
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> ClassificationSummary:
    """Classify every cell of a sample and write the classes into its ``cells.zarr``.

    A modality that shows nothing in most of the cells is excluded, as if the options named it. Cells that a later stage
    rejects (debris, border) are classified too. Cells that this bundle has classified already stay as they are. The
    caller holds the sample's lock.

    Args:
        sample: a segmented or imported sample.
        bundle: the model.
        options: how to classify; by default as fits the machine.
        progress: called with (task, units done, units in all).

    Raises:
        BundleError: the bundle's modalities or pixel size are not the sample's, or it has no such modality to exclude.
        ConfigError: the bundle cannot guarantee the largest error, or the engine is not available.
        NoCellsError: the store is empty.
    """
    began_s = time.perf_counter()
    options = options or ClassifyOptions()
    report = progress or (lambda *_: None)
    store = CellStore(sample.cells_path)
    if not len(store):
        raise NoCellsError(f"{sample.path}: cells.zarr holds no cell to classify.")
    side_px = store.sides_px[0]
    planes = planes_for(store.modalities, store.pixel_um, side_px, bundle, f"the cells of {sample.name!r}")
    dead = dead_modalities(store, bundle.info.modalities, planes)
    requested = options.excluded_modalities
    excluded = tuple(name for name in bundle.info.modalities if name in (*requested, *dead))
    unknown = tuple(name for name in requested if name not in bundle.info.modalities)
    calibration = calibration_without(bundle.info, (*excluded, *unknown))
    calibration = with_max_error(calibration, options.max_error, bundle_name=bundle.info.name)
    before = store.attributes.get("classified") or {}
    if _is_current(before, bundle, excluded, calibration):
        return _summary(sample, store.predicted_classes(), before, seconds=0.0, already_classified=True)
    report(f"compiling {bundle.info.name}", 0, 1)
    classifier = Classifier(
        bundle,
        engine=select_engine(bundle, options.device, options.engine),
        batch_size=options.batch_size,
        excluded_modalities=excluded,
        max_error=options.max_error,
    )
    report(f"compiling {bundle.info.name}", 1, 1)
    parts = []
    for done, found in probabilities(store, classifier, planes):
        parts.append(found)
        report("cells classified", done, len(store))
    probability = np.concatenate(parts)
    names, confidence, disagreement = classifier.call(probability)
    classified = {
        **_provenance(bundle, classifier.calibration, excluded),
        **({"dead_modalities": list(dead)} if dead else {}),
        "engine": classifier.engine.name,
        "batch_size": classifier.batch_size,
    }
    store.write_predictions(probability, names, confidence, disagreement, classified=classified)
    seconds = round(time.perf_counter() - began_s, 3)
    if sample.exists():
        sample.log("classified", bundle=bundle.info.name, cells=len(names), seconds=seconds)
    return _summary(sample, names, classified, seconds=seconds, already_classified=False)


def _is_current(
    before: Mapping[str, Any], bundle: Bundle, excluded: Sequence[str], calibration: ProbabilityCalibration
) -> bool:
    """Return whether the stored classes are those that the bundle would give now."""
    return (
        before.get("sha256") == bundle.info.sha256
        and before.get("calibration_digest") == bundle.calibration_digest
        and list(before.get("excluded_modalities") or ()) == list(excluded)
        and before.get("threshold") == calibration.threshold
    )


def _provenance(bundle: Bundle, calibration: ProbabilityCalibration, excluded: Sequence[str]) -> dict[str, object]:
    """Return how the cells were classified, and what the report needs to judge the classes."""
    info = bundle.info
    classified: dict[str, object] = {
        "bundle": info.name,
        "sha256": info.sha256,
        "calibration_digest": bundle.calibration_digest,
        "method": info.method,
        "classes": list(info.classes),
        "heads": list(info.head_names),
        "weights": list(calibration.weights),
        "threshold": calibration.threshold,
    }
    if excluded:
        classified["excluded_modalities"] = list(excluded)
        classified["f1_weighted"] = {
            "all_modalities": info.calibration.f1_weighted,
            "remaining_modalities": calibration.f1_weighted,
        }
    if calibration.risk_bounds is not None:
        bound = calibration.risk_bounds.bound_at(calibration.threshold)
        classified["risk_control"] = None if bound is None else bound.model_dump(mode="json")
    classified["calibration"] = calibration.model_dump(mode="json", exclude_none=True)
    return classified


def _summary(
    sample: Sample, names: Sequence[str], classified: Mapping[str, Any], *, seconds: float, already_classified: bool
) -> ClassificationSummary:
    counts = Counter(names)
    return ClassificationSummary(
        sample=sample.name,
        cells=len(names),
        counts={name: counts[name] for name in (*classified["classes"], UNIDENTIFIED)},
        bundle=classified["bundle"],
        sha256=classified["sha256"],
        excluded_modalities=tuple(classified.get("excluded_modalities") or ()),
        risk_control=classified.get("risk_control"),
        engine=classified["engine"],
        seconds=seconds,
        already_classified=already_classified,
    )
