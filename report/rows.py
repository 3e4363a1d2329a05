"""The cell table in memory: what the documents need of ``cells.zarr`` except the images."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydantic import ValidationError

from wbcpipe.classify.uncertainty.probability_calibration import ProbabilityCalibration
from wbcpipe.errors import SampleStateError
from wbcpipe.report.differential import exclusion_reasons
from wbcpipe.samples.cell_columns import QcFlag

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wbcpipe.samples.cell_store import CellStore
    from wbcpipe.samples.classification_record import Classification

__all__ = ["CellRows", "read_rows"]

_COLUMNS: Final = (
    "field_index",
    "y_px",
    "x_px",
    "y_um",
    "x_um",
    "area_um2",
    "nucleus_area_um2",
    "sharpness",
    "qc_flags",
)


@dataclass(frozen=True)
class CellRows:
    """The classified cells of a sample.

    Attributes:
        columns: the store's columns by name, each (N,).
        label: N class names, empty where unknown.
        predicted_class: N class names or ``unidentified``.
        confidence: (N,) probability of the predicted class.
        disagreement: (N,) Jensen-Shannon divergence of the heads.
        probability: (N, H, K) calibrated, per head.
        exclusion_reason: N reasons why a cell is rejected, empty for a cell that is not.
        classification: the model and its options.
        calibration: of the model; ``None`` if it was not stored.
    """

    columns: dict[str, NDArray[Any]]
    label: list[str]
    predicted_class: list[str]
    confidence: NDArray[np.float32]
    disagreement: NDArray[np.float32]
    probability: NDArray[np.float32]
    exclusion_reason: list[str]
    classification: Classification
    calibration: ProbabilityCalibration | None = None

    def __len__(self) -> int:
        return len(self.predicted_class)

    @property
    def classes(self) -> tuple[str, ...]:
        """K class names."""
        return self.classification.classes

    @property
    def heads(self) -> tuple[str, ...]:
        """H head names."""
        return self.classification.heads

    @property
    def qc_flags(self) -> NDArray[np.uint16]:
        """(N,) bit flags."""
        return np.asarray(self.columns["qc_flags"], dtype=np.uint16)

    @property
    def counted(self) -> NDArray[np.bool_]:
        """(N,) true for cells that are not rejected: the identified and the unidentified ones."""
        return np.array([not reason for reason in self.exclusion_reason], dtype=np.bool_)

    def head_predictions(self) -> NDArray[np.intp]:
        """Return the index (N, H) of the class that each head alone predicts."""
        return np.asarray(self.probability.argmax(axis=2), dtype=np.intp)

    def digest(self) -> str:
        """Return the SHA-256 of every column, which identifies the cells that a document was made
        from.
        """
        total = hashlib.sha256()
        for name in _COLUMNS:
            total.update(np.ascontiguousarray(self.columns[name]).tobytes())
        for array in (self.confidence, self.disagreement, self.probability):
            total.update(np.ascontiguousarray(array).tobytes())
        for texts in (self.label, self.predicted_class, list(self.classes), list(self.heads)):
            total.update("\x00".join(texts).encode() + b"\x01")
        return total.hexdigest()


def read_rows(store: CellStore) -> CellRows:
    """Read the classified cells.

    Raises:
        SampleStateError: the cells are not classified, or the predictions do not fit the cells.
    """
    predicted_class = store.predicted_classes()
    classification, calibration = _read_classification(store)
    probability = store.column("probability").astype(np.float32, copy=False)
    classes, heads = classification.classes, classification.heads
    if probability.shape != (len(store), len(heads), len(classes)):
        raise SampleStateError(
            f"{store.path}: probabilities of shape {probability.shape} do not fit {len(store)} "
            f"cells, {len(heads)} heads and {len(classes)} classes; run `wbcpipe classify` again."
        )
    columns = {name: store.column(name) for name in _COLUMNS}
    if classification.dead_modalities:
        # These cells were classified without the modality that the flag reports as missing.
        columns["qc_flags"] = columns["qc_flags"] & ~np.uint16(QcFlag.MISSING_MODALITY.value)
    return CellRows(
        columns=columns,
        label=store.labels(),
        predicted_class=predicted_class,
        confidence=store.column("confidence").astype(np.float32, copy=False),
        disagreement=store.column("disagreement").astype(np.float32, copy=False),
        probability=probability,
        exclusion_reason=exclusion_reasons(columns["qc_flags"]),
        classification=classification,
        calibration=calibration,
    )


def _read_classification(store: CellStore) -> tuple[Classification, ProbabilityCalibration | None]:
    classification = store.classification()
    if classification.calibration is None:
        return classification, None
    try:
        return classification, ProbabilityCalibration.model_validate(classification.calibration)
    except ValidationError as error:
        raise SampleStateError(
            f"{store.path}: the calibration cannot be read ({' '.join(str(error).split())}); run "
            f"`wbcpipe classify` again."
        ) from error
