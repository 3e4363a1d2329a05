"""Apply a bundle to the cells of a sample."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from wbcpipe.classify.inference.engine import CallsCrops, Engine, engine_for
from wbcpipe.classify.inference.missing_modality import blank, calibration_without, dead_modalities
from wbcpipe.classify.inference.parallel_batches import probabilities
from wbcpipe.classify.models.bundle import Bundle, find_bundle
from wbcpipe.classify.models.classes import split_channels
from wbcpipe.classify.models.normalise import resize
from wbcpipe.classify.training.data import PIXEL_TOLERANCE, source_kind
from wbcpipe.classify.uncertainty.probability_calibration import disagreement, fuse, head_probability
from wbcpipe.errors import BundleError, ConfigError, NoCellsError
from wbcpipe.samples.cell_columns import UNIDENTIFIED
from wbcpipe.samples.cell_store import CellStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from wbcpipe.classify.uncertainty.probability_calibration import ProbabilityCalibration
    from wbcpipe.samples.sample import Sample

__all__ = ["Classifier", "classify_sample", "planes_for", "resolve_bundle"]


class Classifier:
    """A bundle ready to call cells.

    Args:
        bundle: the model.
        device: ``auto``, ``cpu`` or ``cuda``.
        batch_size: cells the network sees at once, by default as many as suit the engine; the last batch is filled up,
            so that a cell's result never depends on how many cells came with it.
        engine: in place of the one that fits the device.
        without: modalities that are missing; something typical is put in their place.
        max_error: share of wrong calls among accepted ones that the bundle's risk control shall bound, in place of its
            own threshold.

    Raises:
        BundleError: ``without`` names no modality of the bundle, or all of them.
        ConfigError: the bundle cannot guarantee ``max_error``.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "auto",
        batch_size: int | None = None,
        engine: Engine | None = None,
        without: Sequence[str] = (),
        max_error: float | None = None,
    ) -> None:
        self.bundle = bundle
        self.without = tuple(name for name in bundle.info.modalities if name in without)
        self.calibration = with_max_error(calibration_without(bundle.info, tuple(without)), max_error, bundle.info.name)
        self.engine = engine or engine_for(bundle, device)
        self.batch_size = batch_size or self.engine.batch_size

    def prepare(self, images: NDArray[np.uint16], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Resized, normalised pictures (n, M * c, side, side) of the bundle's planes (n, M * c, S, S) uint16.

        Args:
            images: the crops.
            out: where to put the pictures; by default in new memory.
        """
        info = self.bundle.info
        prepared = info.normalisation.apply(resize(images, info.side), out)
        if self.without:
            missing = [info.modalities.index(name) for name in self.without]
            prepared[...] = blank(prepared, missing, info.planes, info.typical_profiles)
        return prepared

    def room(self) -> NDArray[np.float32] | None:
        """Room for `prepare`'s pictures of a batch, where `probability_of` needs it."""
        if self._of_crops is not None:
            return None
        info = self.bundle.info
        return self.engine.buffer((self.batch_size, len(info.modalities) * info.planes, info.side, info.side))

    def probability_of(
        self, images: NDArray[np.uint16], room: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Calibrated probabilities (n, heads, K) of the bundle's planes (n, M * c, S, S) uint16.

        Args:
            images: the crops.
            room: of `room`.
        """
        starts = range(0, len(images), self.batch_size)
        if self._of_crops is not None:
            crops = resize(images, self.bundle.info.side)
            given = (crops, *self.bundle.info.normalisation.affine(crops))
            batches = (tuple(values[at : at + self.batch_size] for values in given) for at in starts)
            return self._calibrated([self._logits(self._of_crops, *batch) for batch in batches])
        parts = []
        for at in starts:
            some = images[at : at + self.batch_size]
            prepared = self.prepare(some, None if room is None else room[: len(some)])
            parts.append(self._logits(self.engine, prepared))
        return self._calibrated(parts)

    def probability(self, prepared: NDArray[np.float32]) -> NDArray[np.float32]:
        """Calibrated probabilities (n, heads, K) of prepared pictures."""
        starts = range(0, len(prepared), self.batch_size)
        return self._calibrated([self._logits(self.engine, prepared[at : at + self.batch_size]) for at in starts])

    @property
    def _of_crops(self) -> CallsCrops | None:
        return None if self.without else self.engine.of_crops

    def _logits(self, run: Callable[..., NDArray[np.float32]], *batch: NDArray[Any]) -> NDArray[np.float32]:
        count = len(batch[0])
        short = self.batch_size - count
        if short:
            batch = tuple(np.concatenate([some, np.zeros((short, *some.shape[1:]), some.dtype)]) for some in batch)
        return run(*batch)[:count]

    def _calibrated(self, logits: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        return head_probability(np.concatenate(logits), self.calibration).astype(np.float32)

    def call(self, probability: NDArray[np.float32]) -> tuple[list[str], NDArray[np.float32], NDArray[np.float32]]:
        """Calls, confidence (n,) and disagreement (n,) of calibrated probabilities (n, heads, K)."""
        info = self.bundle.info
        fused = fuse(probability, self.calibration)
        confidence = fused.max(axis=1)
        names = [
            info.classes[index] if sure else UNIDENTIFIED
            for index, sure in zip(fused.argmax(axis=1), confidence >= self.calibration.threshold, strict=True)
        ]
        heads = [k for k, name in enumerate(info.head_names) if name not in self.without]
        return names, confidence.astype(np.float32), disagreement(probability[:, heads]).astype(np.float32)


def with_max_error(calibration: ProbabilityCalibration, max_error: float | None, name: str) -> ProbabilityCalibration:
    """The calibration with the threshold at which its error is bounded by ``max_error``; ``None`` leaves it as it is.

    Raises:
        ConfigError: the bundle has no error bounds, or none of its bounds is as low.
    """
    if max_error is None:
        return calibration
    if calibration.risk_bounds is None:
        raise ConfigError(
            f"bundle {name!r} has no error bounds for these modalities, so --max-error cannot be met; leave "
            "--max-error out, or train a bundle with at least 120 validation cells."
        )
    level = calibration.risk_bounds.level_for(max_error)
    return calibration.model_copy(update={"threshold": level.threshold})


def resolve_bundle(sample: Sample, name: str) -> Bundle:
    """The bundle called ``name``; ``auto`` is the shipped one for the kind of the sample's cells."""
    kind = None
    if name == "auto":
        kind = source_kind(CellStore(sample.cells_path))
        if kind == "scope" and sample.exists():
            kind = sample.record().kind
    return find_bundle(name, kind=kind)


def classify_sample(
    sample: Sample,
    bundle: Bundle,
    *,
    device: str = "auto",
    engine: str = "auto",
    batch_size: int | None = None,
    without: Sequence[str] = (),
    max_error: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Call every cell of a sample and write the calls into its ``cells.zarr``.

    A modality that shows nothing in most of the cells is left out as if ``without`` named it.

    Cells that a later stage leaves out (debris, border) are called too. Cells that this bundle has called already are
    left as they are. The caller holds the sample's lock.

    Args:
        sample: a segmented or imported sample.
        bundle: the model.
        device: ``auto``, ``cpu`` or ``cuda``.
        engine: see `engine_for`.
        batch_size: cells at once, by default as many as suit the engine.
        without: modalities to leave out.
        max_error: see `Classifier`.
        progress: called with (cells done, cells in all).

    Returns:
        A summary for people and JSON: cells, calls by class, bundle, engine, seconds, whether it was done before.

    Raises:
        BundleError: the bundle's modalities or pixel size are not the sample's, or ``without`` are not its modalities.
        ConfigError: the bundle cannot guarantee ``max_error``, or the engine is not here.
        NoCellsError: the store is empty.
    """
    began = time.perf_counter()
    store = CellStore(sample.cells_path)
    if not len(store):
        raise NoCellsError(f"{sample.path}: cells.zarr holds no cell to classify.")
    planes = matching_planes(store, bundle)
    dead = dead_modalities(store, bundle.info.modalities, planes)
    left_out = [name for name in bundle.info.modalities if name in (*without, *dead)]
    unknown = [name for name in without if name not in bundle.info.modalities]
    calibration = with_max_error(calibration_without(bundle.info, [*left_out, *unknown]), max_error, bundle.info.name)
    before = store.attributes.get("classified") or {}
    if _called_so(before, bundle, left_out, calibration):
        return _summary(sample, store.predicted_classes(), before, seconds=0.0, already=True)
    runs = engine_for(bundle, device, engine)
    classifier = Classifier(bundle, engine=runs, batch_size=batch_size, without=left_out, max_error=max_error)
    parts = []
    for done, found in probabilities(store, classifier, planes):
        parts.append(found)
        if progress is not None:
            progress(done, len(store))
    probability = np.concatenate(parts)
    call, confidence, differ = classifier.call(probability)
    classified = {
        **provenance(bundle, classifier.calibration, left_out),
        **({"dead_modalities": list(dead)} if dead else {}),
        "engine": classifier.engine.name,
        "batch_size": classifier.batch_size,
    }
    store.write_predictions(probability, call, confidence, differ, classified=classified)
    seconds = time.perf_counter() - began
    if sample.exists():
        sample.log("classified", bundle=bundle.info.name, cells=len(call), seconds=round(seconds, 3))
    return _summary(sample, call, classified, seconds=seconds, already=False)


def _called_so(
    before: dict[str, Any], bundle: Bundle, left_out: Sequence[str], calibration: ProbabilityCalibration
) -> bool:
    """Whether the calls that stand there are those that would be made now."""
    return (
        before.get("sha256") == bundle.info.sha256
        and before.get("calibration_digest") == bundle.calibration_digest
        and list(before.get("excluded_modalities") or ()) == list(left_out)
        and before.get("threshold") == calibration.threshold
    )


def provenance(bundle: Bundle, calibration: ProbabilityCalibration, left_out: Sequence[str]) -> dict[str, Any]:
    """What the store keeps of how its cells were called, and what the report needs to judge the calls."""
    info = bundle.info
    classified: dict[str, Any] = {
        "bundle": info.name,
        "sha256": info.sha256,
        "calibration_digest": bundle.calibration_digest,
        "method": info.method,
        "classes": list(info.classes),
        "heads": list(info.head_names),
        "weights": list(calibration.weights),
        "threshold": calibration.threshold,
    }
    if left_out:
        classified["excluded_modalities"] = list(left_out)
        classified["f1_weighted"] = {
            "all_modalities": info.calibration.f1_weighted,
            "remaining_modalities": calibration.f1_weighted,
        }
    if calibration.risk_bounds is not None:
        bound = calibration.risk_bounds.bound_at(calibration.threshold)
        classified["risk_control"] = None if bound is None else bound.model_dump(mode="json")
    classified["calibration"] = calibration.model_dump(mode="json", exclude_none=True)
    return classified


def matching_planes(store: CellStore, bundle: Bundle) -> list[int]:
    """Which of the store's channels are the bundle's input, in its order.

    Raises:
        BundleError: a modality of the bundle is missing, or planes, pixel size or crop side differ.
    """
    side = store.images(0, 1).shape[-1]
    return planes_for(store.modalities, store.pixel_um, side, bundle, f"the cells of {store.path.parent.name!r}")


def planes_for(channels: Sequence[str], pixel_um: float, side_px: int, bundle: Bundle, whose: str) -> list[int]:
    """Which of some crops' channels are the bundle's input, in its order.

    Args:
        channels: their names, in order.
        pixel_um, side_px: of the crops.
        bundle: the model.
        whose: named in errors.

    Raises:
        BundleError: see `matching_planes`.
    """
    info = bundle.info
    modalities, planes = split_channels(channels)
    missing = [name for name in info.modalities if name not in modalities]
    if missing or planes != info.planes:
        raise BundleError(
            f"bundle {info.name!r} reads modalities {list(info.modalities)} of {info.planes} plane(s), "
            f"{whose} have {list(modalities)} of {planes}; choose another bundle or train one."
        )
    if abs(pixel_um / info.pixel_um - 1) > PIXEL_TOLERANCE:
        raise BundleError(
            f"bundle {info.name!r} reads crops of {info.pixel_um} um a pixel, "
            f"{whose} have {pixel_um} um; segment or import them again with "
            f"--pixel-um {info.pixel_um}."
        )
    if side_px != info.crop_px:
        raise BundleError(
            f"bundle {info.name!r} reads crops of {info.crop_px} px, {whose} have {side_px} px; "
            "segment or import them again."
        )
    return [modalities.index(name) * planes + plane for name in info.modalities for plane in range(planes)]


def _summary(
    sample: Sample, calls: list[str], classified: dict[str, Any], *, seconds: float, already: bool
) -> dict[str, Any]:
    counts = Counter(calls)
    names = [*classified["classes"], UNIDENTIFIED]
    return {
        "sample": sample.name,
        "cells": len(calls),
        "calls": {name: counts.get(name, 0) for name in names},
        "bundle": classified["bundle"],
        "sha256": classified["sha256"],
        "excluded_modalities": list(classified.get("excluded_modalities") or ()),
        "risk_control": classified.get("risk_control"),
        "device": classified["engine"],
        "seconds": round(seconds, 3),
        "already": already,
    }
