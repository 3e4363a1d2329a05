"""A bundle ready to classify cells.

Resizing, normalisation, network, calibration and fusion of the heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from wbcpipe.classify.inference.missing_modality import blank, calibration_without
from wbcpipe.classify.models.classes import PIXEL_TOLERANCE, split_channels
from wbcpipe.classify.models.normalise import resize
from wbcpipe.classify.uncertainty.probability_calibration import (
    disagreement,
    fuse,
    head_probability,
)
from wbcpipe.errors import BundleError, ConfigError
from wbcpipe.samples.cell_columns import UNIDENTIFIED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from wbcpipe.classify.inference.engine import CropLogits, Engine
    from wbcpipe.classify.models.bundle import Bundle
    from wbcpipe.classify.uncertainty.probability_calibration import ProbabilityCalibration
    from wbcpipe.system.compute import Device

__all__ = ["Classifier", "planes_for", "with_max_error"]


class Classifier:
    """A bundle ready to classify cells.

    Args:
        bundle: the model.
        device: ``auto``, ``cpu`` or ``cuda``.
        batch_size: number of cells per call of the network; by default the most efficient number
            for the engine. The last batch is padded, so that the result of a cell never depends on
            how many cells came with it.
        engine: replaces the engine that `select_engine` would choose.
        excluded_modalities: modalities that are missing; typical images replace them.
        max_error: largest share of wrong calls among the accepted ones; selects the threshold at
            which the bundle's error bounds guarantee it. By default the bundle's own threshold
            applies.

    Raises:
        BundleError: an excluded modality is none of the bundle's, or all of them are excluded.
        ConfigError: the bundle cannot guarantee ``max_error``.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: Device = "auto",
        batch_size: int | None = None,
        engine: Engine | None = None,
        excluded_modalities: Sequence[str] = (),
        max_error: float | None = None,
    ) -> None:
        info = bundle.info
        self.bundle = bundle
        self.excluded_modalities = tuple(
            name for name in info.modalities if name in excluded_modalities
        )
        self.calibration = with_max_error(
            calibration_without(info, tuple(excluded_modalities)), max_error, bundle_name=info.name
        )
        if engine is None:  # imports torch, which a computer may lack
            from wbcpipe.classify.inference.select_engine import select_engine

            engine = select_engine(bundle, device)
        self.engine = engine
        self.batch_size = batch_size or self.engine.batch_size

    def prepare(
        self, crops: NDArray[np.uint16], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return resized and normalised images (n, M * c, side, side) of crops (n, M * c, S, S)
        uint16.

        Args:
            crops: the bundle's planes, in its order.
            out: the array to write to; by default a new one.
        """
        info = self.bundle.info
        images = info.normalisation.apply(resize(crops, info.side), out)
        if self.excluded_modalities:
            missing = [info.modalities.index(name) for name in self.excluded_modalities]
            images[...] = blank(images, missing, info.planes, info.typical_profiles)
        return images

    def image_buffer(self) -> NDArray[np.float32] | None:
        """Return an array for the images of one batch; None if the engine normalises crops
        itself.
        """
        if self._crop_logits is not None:
            return None
        info = self.bundle.info
        return np.empty(
            (self.batch_size, len(info.modalities) * info.planes, info.side, info.side), np.float32
        )

    def probability_of(
        self, crops: NDArray[np.uint16], buffer: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return calibrated probabilities (n, heads, K) of crops (n, M * c, S, S) uint16.

        Args:
            crops: the bundle's planes, in its order.
            buffer: an array of `image_buffer`, to use again for each batch.
        """
        starts = range(0, len(crops), self.batch_size)
        if self._crop_logits is not None:
            normalisation = self.bundle.info.normalisation
            small = normalisation.separate(resize(crops, self.bundle.info.side))
            inputs = (small, *normalisation.affine(small))
            batches = (
                tuple(values[start : start + self.batch_size] for values in inputs)
                for start in starts
            )
            return self._calibrated([self._logits(self._crop_logits, *batch) for batch in batches])
        logits = []
        for start in starts:
            batch = crops[start : start + self.batch_size]
            images = self.prepare(batch, None if buffer is None else buffer[: len(batch)])
            logits.append(self._logits(self.engine, images))
        return self._calibrated(logits)

    def probability(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return calibrated probabilities (n, heads, K) of images that `prepare` returned."""
        starts = range(0, len(images), self.batch_size)
        return self._calibrated(
            [self._logits(self.engine, images[start : start + self.batch_size]) for start in starts]
        )

    @property
    def _crop_logits(self) -> CropLogits | None:
        return None if self.excluded_modalities else self.engine.crop_logits

    def _logits(
        self, network: Callable[..., NDArray[np.float32]], *batch: NDArray[Any]
    ) -> NDArray[np.float32]:
        count = len(batch[0])
        padding = self.batch_size - count
        if padding:
            batch = tuple(
                np.concatenate([part, np.zeros((padding, *part.shape[1:]), part.dtype)])
                for part in batch
            )
        return network(*batch)[:count]

    def _calibrated(self, logits: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        return head_probability(np.concatenate(logits), self.calibration).astype(np.float32)

    def call(
        self, probability: NDArray[np.float32]
    ) -> tuple[list[str], NDArray[np.float32], NDArray[np.float32]]:
        """Return classes, confidence (n,) and disagreement (n,) for calibrated probabilities (n,
        heads, K).
        """
        info = self.bundle.info
        fused = fuse(probability, self.calibration)
        confidence = fused.max(axis=1)
        names = [
            info.classes[index] if accepted else UNIDENTIFIED
            for index, accepted in zip(
                fused.argmax(axis=1), confidence >= self.calibration.threshold, strict=True
            )
        ]
        heads = [
            k for k, name in enumerate(info.head_names) if name not in self.excluded_modalities
        ]
        return (
            names,
            confidence.astype(np.float32),
            disagreement(probability[:, heads]).astype(np.float32),
        )


def with_max_error(
    calibration: ProbabilityCalibration, max_error: float | None, *, bundle_name: str
) -> ProbabilityCalibration:
    """Return the calibration with the threshold that bounds its error by ``max_error``; None
    changes nothing.

    Raises:
        ConfigError: the bundle has no error bounds, or none of its bounds is as low.
    """
    if max_error is None:
        return calibration
    if calibration.risk_bounds is None:
        raise ConfigError(
            f"bundle {bundle_name!r} has no error bounds for these modalities, so --max-error "
            f"cannot be met; leave --max-error out, or train a bundle with at least 120 validation "
            "cells."
        )
    level = calibration.risk_bounds.level_for(max_error)
    return calibration.model_copy(update={"threshold": level.threshold})


def planes_for(
    channels: Sequence[str], pixel_um: float, side_px: int, bundle: Bundle, cells: str
) -> list[int]:
    """Return the index of the channel for each plane that the bundle reads, in its order.

    Args:
        channels: names of the crops' channels, in order.
        pixel_um: size of a pixel of the crops.
        side_px: side of the crops.
        bundle: the model.
        cells: what the cells are called in errors, as a plural.

    Raises:
        BundleError: a modality of the bundle is missing, or planes, pixel size or crop side differ.
    """
    info = bundle.info
    modalities, planes = split_channels(channels)
    missing = [name for name in info.modalities if name not in modalities]
    if missing or planes != info.planes:
        raise BundleError(
            f"bundle {info.name!r} reads modalities {list(info.modalities)} of {info.planes} "
            f"plane(s), {cells} have {list(modalities)} of {planes}; choose another bundle or "
            f"train one."
        )
    if abs(pixel_um / info.pixel_um - 1) > PIXEL_TOLERANCE:
        raise BundleError(
            f"bundle {info.name!r} reads crops of {info.pixel_um} um a pixel, "
            f"{cells} have {pixel_um} um; segment or import them again with "
            f"--pixel-um {info.pixel_um}."
        )
    if side_px != info.crop_px:
        raise BundleError(
            f"bundle {info.name!r} reads crops of {info.crop_px} px, {cells} have {side_px} px; "
            "segment or import them again."
        )
    return [
        modalities.index(name) * planes + plane
        for name in info.modalities
        for plane in range(planes)
    ]
