"""The cell table in memory: what the documents need of ``cells.zarr`` except the pictures."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wbcpipe.classify.uncertainty.probability_calibration import ProbabilityCalibration
from wbcpipe.errors import SampleStateError
from wbcpipe.report.differential import exclusion_reasons
from wbcpipe.samples.cell_columns import QcFlag

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from wbcpipe.samples.cell_store import CellStore

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
        confidence: (N,) probability of the fused call.
        disagreement: (N,) Jensen-Shannon divergence of the heads.
        probability: (N, H, K) calibrated, per head.
        classes: K class names.
        heads: H head names.
        exclusion_reason: N reasons why a cell is left out, empty for those that count.
        classified: how the cells were called, as classify wrote it.
        calibration: the calibration they were called with; ``None`` where an older version called them.
    """

    columns: dict[str, NDArray[Any]]
    label: list[str]
    predicted_class: list[str]
    confidence: NDArray[np.float32]
    disagreement: NDArray[np.float32]
    probability: NDArray[np.float32]
    classes: tuple[str, ...]
    heads: tuple[str, ...]
    exclusion_reason: list[str]
    classified: Mapping[str, Any] = field(default_factory=dict)
    calibration: ProbabilityCalibration | None = None

    def __len__(self) -> int:
        return len(self.predicted_class)

    @property
    def qc_flags(self) -> NDArray[np.uint16]:
        """(N,) bit flags."""
        return np.asarray(self.columns["qc_flags"], dtype=np.uint16)

    @property
    def counted(self) -> NDArray[np.bool_]:
        """(N,) true for cells that are not rejected."""
        return np.array([not reason for reason in self.exclusion_reason], dtype=np.bool_)

    def head_predictions(self) -> NDArray[np.intp]:
        """(N, H) index of the class each head alone would call."""
        return np.asarray(self.probability.argmax(axis=2), dtype=np.intp)

    def digest(self) -> str:
        """SHA-256 over every column, so that a document can say from exactly which cells it was made."""
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
        SampleStateError: the cells are not classified, or the calls do not fit the cells.
    """
    call = store.predicted_classes()
    classified = store.attributes["classified"]
    probability = store.column("probability").astype(np.float32, copy=False)
    classes = tuple(str(name) for name in classified.get("classes") or store.attributes.get("classes") or ())
    heads = tuple(str(name) for name in classified.get("heads") or ())
    if not heads:
        heads = store.modalities if probability.shape[1] == len(store.modalities) else _numbered(probability.shape[1])
    if probability.shape != (len(store), len(heads), len(classes)):
        raise SampleStateError(
            f"{store.path}: probabilities of shape {probability.shape} do not fit {len(store)} cells, {len(heads)} "
            f"heads and {len(classes)} classes; run `wbcpipe classify` again."
        )
    columns = {name: store.column(name) for name in _COLUMNS}
    if classified.get("dead_modalities"):
        # These cells were called without the modality that the flag misses.
        columns["qc_flags"] = columns["qc_flags"] & ~np.uint16(QcFlag.MISSING_MODALITY.value)
    return CellRows(
        columns=columns,
        label=store.labels(),
        predicted_class=call,
        confidence=store.column("confidence").astype(np.float32, copy=False),
        disagreement=store.column("disagreement").astype(np.float32, copy=False),
        probability=probability,
        classes=classes,
        heads=heads,
        exclusion_reason=exclusion_reasons(columns["qc_flags"]),
        classified=dict(classified),
        calibration=_read_calibration(store, classified),
    )


def _read_calibration(store: CellStore, classified: Mapping[str, Any]) -> ProbabilityCalibration | None:
    if "calibration" not in classified:
        return None
    try:
        return ProbabilityCalibration.model_validate_json(json.dumps(classified["calibration"]))
    except ValueError as error:
        raise SampleStateError(
            f"{store.path}: the calibration of these calls cannot be read ({' '.join(str(error).split())}); run "
            "`wbcpipe classify` again."
        ) from error


def _numbered(heads: int) -> tuple[str, ...]:
    return tuple(f"head {index + 1}" for index in range(heads))
