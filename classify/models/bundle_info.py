"""Typed model of ``bundle.json``."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from wbcpipe.classify.metrics import Scores
from wbcpipe.classify.models.classes import Backbone, Method, Stem
from wbcpipe.classify.models.normalise import Normalisation
from wbcpipe.classify.uncertainty.probability_calibration import ProbabilityCalibration
from wbcpipe.samples.records import SampleKind

__all__ = ["LEFT_OUT", "BundleInfo", "BundleReference", "Improvement", "Training", "Validation"]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Improvement(_Table):
    """How much better a network is than the bundle that it started from, on cells that it was not
    trained on.

    Attributes:
        parent: name of that bundle.
        cells: compared.
        folds: of the cross-validation; 0 if the cells were kept from all training.
        accuracy: share of them that the network classifies correctly, without a threshold.
        parent_accuracy: the same of the parent.
        difference: of both.
        interval: 95 % interval of the difference.
        seen_by_parent: the parent was trained on cells of these samples, so the comparison favours
            it.
    """

    parent: str
    cells: int
    folds: int
    accuracy: float
    parent_accuracy: float
    difference: float
    interval: tuple[float, float]
    seen_by_parent: bool = False

    @property
    def text(self) -> str:
        """One sentence for people."""
        how = f"{self.folds}-fold cross-validation" if self.folds else "kept from training"
        low, high = (100 * limit for limit in self.interval)
        seen = "; the parent was trained on cells of these samples" if self.seen_by_parent else ""
        own = f"{100 * self.accuracy:.1f} % of {self.cells} cells right ({how})"
        gain = (
            f"{100 * self.difference:+.1f} percentage points, 95 % interval {low:+.1f} to "
            f"{high:+.1f}"
        )
        return f"{own}, {100 * self.parent_accuracy:.1f} % by {self.parent}: {gain}{seen}"

    @property
    def advice(self) -> str:
        """What the interval says, and what to do."""
        low, high = self.interval
        if low > 0:
            return f"the bundle is better than {self.parent} on cells like these"
        found = "worse" if high < 0 else "not shown to be better"
        return f"the bundle is {found}: keep {self.parent}, or label more cells and train again"


LEFT_OUT: Final = " left out"
"""End of the name of a row of scores: those of a sample that was left out of the training."""


class Validation(_Table):
    """Scores on the validation cells.

    Attributes:
        samples: that the cells are from.
        rows: scores by method; ``calibrated``: of the calibrated network on its test cells;
            a sample's name with `LEFT_OUT`: of a network that was trained on the others.
        calibration_error: expected calibration error of the calibrated network.
        improvement: over the bundle that the training started from; ``None`` without one.
    """

    samples: tuple[str, ...] = ()
    rows: dict[str, Scores] = {}
    calibration_error: float | None = None
    improvement: Improvement | None = None

    @property
    def left_out(self) -> tuple[str, ...]:
        """Names of the samples that were left out of the training in turn."""
        return tuple(name.removesuffix(LEFT_OUT) for name in self.rows if name.endswith(LEFT_OUT))


class BundleReference(_Table):
    """Another bundle."""

    bundle: str
    sha256: str


class Training(_Table):
    """Provenance of the weights.

    Attributes:
        samples: that the training cells are from.
        cells: training cells per class.
        init_from: the bundle whose weights the training started from.
        recipe: as `wbcpipe train --recipe` reads it.
        versions: package to version.
        python: version.
        date: UTC, ISO 8601.
    """

    samples: tuple[str, ...] = ()
    cells: dict[str, int] = {}
    init_from: BundleReference | None = None
    recipe: dict[str, JsonValue] = {}
    versions: dict[str, str] = {}
    python: str = ""
    date: str = ""


class BundleInfo(_Table):
    """The content of ``bundle.json``.

    Attributes:
        format_version: of this file.
        name: of the bundle.
        method: how modalities are fused.
        backbone: name of the network in torchvision.
        stem: its first layers, see `networks.divide_stem`.
        told_missing: its heads are told which inputs are zero everywhere.
        classes: K names.
        modalities: M names, in input order.
        derived: those of them that are computed from others.
        planes: c, planes of each modality.
        kind: of the samples that it was trained on.
        pixel_um: pixel size of a crop.
        crop_px: side of a crop before resizing.
        side: input side, in px.
        normalisation: of the input.
        calibration: of the output.
        missing_modality: modality to the calibration that is valid if it is missing.
        typical_profiles: per plane (M * c), 17 mean normalised values from the centre of a crop
            outwards; they replace a plane that is missing. Empty: zeros replace it.
        validation: scores on cells that were not used for training.
        training: provenance of the weights.
        sha256: of ``model.safetensors``.
    """

    format_version: Literal[1] = 1
    name: str
    method: Method
    backbone: Backbone
    stem: Stem = "shared"
    told_missing: bool = False
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    modalities: Annotated[tuple[str, ...], Field(min_length=1)]
    derived: tuple[str, ...] = ()
    planes: Annotated[int, Field(ge=1)] = 1
    kind: SampleKind
    pixel_um: Annotated[float, Field(gt=0)]
    crop_px: Annotated[int, Field(ge=16)]
    side: Annotated[int, Field(ge=16)]
    normalisation: Normalisation
    calibration: ProbabilityCalibration
    missing_modality: dict[str, ProbabilityCalibration] = {}
    typical_profiles: tuple[tuple[float, ...], ...] = ()
    validation: Validation
    training: Training
    sha256: str = ""

    @property
    def head_names(self) -> tuple[str, ...]:
        """Names of the network's outputs: the modalities, or ``fused`` where one output is for
        all.
        """
        count = len(self.calibration.temperatures)
        return self.modalities if count == len(self.modalities) else ("fused",) * count
