"""Compare a sample with its ground truth: detection, predicted classes and differential."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from wbcpipe.errors import SampleStateError
from wbcpipe.report.differential import Differential, count_cells
from wbcpipe.report.model_checks import check_model
from wbcpipe.report.reference_differential import (
    compare_with_reference,
    read_reference_differential,
)
from wbcpipe.report.rows import read_rows
from wbcpipe.report.scores import match_points, score_predictions
from wbcpipe.samples.cell_columns import QcFlag
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.field_status import read_skipped
from wbcpipe.samples.fields import passes_on_disk
from wbcpipe.samples.freed import taken_fields
from wbcpipe.samples.truth import read_truth

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.report.reference_differential import ReferenceComparison
    from wbcpipe.report.rows import CellRows
    from wbcpipe.report.scores import PredictionScores
    from wbcpipe.samples.differential_record import ModelChecks
    from wbcpipe.samples.sample import Sample

__all__ = [
    "Detection",
    "Evaluation",
    "PredictionComparison",
    "Share",
    "Truth",
    "evaluate_sample",
    "match_truth",
    "visible_truth",
]

_TOLERANCE_UM: Final = 4.0
#: The visible part of a cell cut by the outer edge has its centre up to a cell's radius from the
#: true one.
_CUT_TOLERANCE_UM: Final = 10.0


@dataclass(frozen=True)
class Truth:
    """The white cells of ``truth.csv``.

    Attributes:
        position_um: (n, 2) y and x on the stage.
        visible: (n,) true where a field that is on disk, or was skipped as empty, shows the centre.
        label: n class names.
    """

    position_um: NDArray[np.float64]
    visible: NDArray[np.bool_]
    label: list[str]


@dataclass(frozen=True)
class Detection:
    """Detected cells compared with true ones.

    Attributes:
        truth: white cells whose centre lies in a field.
        found: rows of ``cells.zarr`` that are not debris, without those ignored.
        matched: pairs within the tolerance.
        ignored: cells cut by the outer edge, neither right nor wrong.
        recall: matched / truth.
        precision: matched / found.
        f1: harmonic mean of precision and recall.
        position_rms_um: root mean square distance of the pairs; ``None`` without pairs.
    """

    truth: int
    found: int
    matched: int
    ignored: int
    recall: float
    precision: float
    f1: float
    position_rms_um: float | None


@dataclass(frozen=True)
class PredictionComparison:
    """Predicted classes compared with true ones, on the cells that are not rejected.

    Attributes:
        scores: an unidentified cell is a miss.
        identified: the same without the unidentified cells.
        heads: weighted F1 of each head alone, without a threshold.
        all_heads: weighted F1 of the mean of all heads, without a threshold.
        other_labels: cells ignored because their label is not a class of the bundle.
    """

    scores: PredictionScores
    identified: PredictionScores
    heads: dict[str, float]
    all_heads: float
    other_labels: int


@dataclass(frozen=True)
class Share:
    """One class of the differential compared with truth, in per cent."""

    name: str
    true_percent: float | None
    predicted_percent: float | None
    interval_percent: tuple[float, float]
    inside: bool | None


@dataclass(frozen=True)
class Evaluation:
    """Result of a comparison; parts are ``None`` where there is nothing to compare with."""

    sample: str
    truth_source: str
    classes: tuple[str, ...]
    detection: Detection | None
    predictions: PredictionComparison | None
    model_checks: ModelChecks | None
    differential: tuple[Share, ...] | None
    reference: ReferenceComparison | None = None


def visible_truth(sample: Sample) -> Truth:
    """Read the white cells of ``truth.csv``, and which of them the sample's fields show.

    Raises:
        SampleStateError: the file is damaged.
    """
    white = [row for row in read_truth(sample.truth_path) if row.is_white_cell]
    field = np.array([row.field for row in white], dtype=np.int64)
    visible = field >= 0
    raw = sample.path / "raw"
    if taken := taken_fields(sample):
        # A cell in a field that was skipped as empty was there to be seen: it counts as missed.
        visible &= np.isin(field, [*taken, *read_skipped(raw / passes_on_disk(raw)[0])])
    return Truth(
        position_um=np.array([(row.y_um, row.x_um) for row in white], dtype=np.float64).reshape(
            -1, 2
        ),
        visible=np.asarray(visible, dtype=np.bool_),
        label=[row.label for row in white],
    )


def evaluate_sample(sample: Sample, reference_path: Path | None = None) -> Evaluation:
    """Compare a sample with ``truth.csv``, or, where there is none, its predicted classes with the
    cells' labels.

    Args:
        sample: with cells.
        reference_path: file of a differential from elsewhere to compare the count with, too; then
            neither truth nor labels are needed.

    Raises:
        SampleStateError: no such sample, no cells, or nothing to compare with.
        ConfigError: see `read_reference_differential`.
    """
    sample.record()
    store = CellStore(sample.cells_path)
    rows = read_rows(store) if store.is_classified() else None
    detection, labels, seen = None, store.labels(), [label for label in store.labels() if label]
    truth_source = "labels" if seen else ""
    if sample.truth_path.is_file():
        truth = visible_truth(sample)
        detection, partner = match_truth(store, truth)
        labels = ["" if index < 0 else truth.label[index] for index in partner]
        seen = [label for label, visible in zip(truth.label, truth.visible, strict=True) if visible]
        truth_source = "truth.csv"
    elif not seen and reference_path is None:
        raise SampleStateError(
            f"{sample.path}: nothing to compare with: there is no truth.csv (the virtual scope "
            f"writes one), no label (`wbcpipe import cells` takes them from folder names), and no "
            "--reference-differential."
        )
    if rows is None and (detection is None or reference_path is not None):
        raise SampleStateError(
            f"{sample.path}: cells are not classified yet; run `wbcpipe classify` first."
        )
    return Evaluation(
        sample=sample.name,
        truth_source=truth_source,
        classes=rows.classes if rows else store.attributes.classes,
        detection=detection,
        predictions=_compare_predictions(rows, labels) if rows else None,
        model_checks=check_model(rows, sample.name, sample.record().kind) if rows else None,
        differential=_compare_shares(rows, seen) if rows and truth_source else None,
        reference=_compare_reference(rows, reference_path) if rows and reference_path else None,
    )


def _compare_reference(rows: CellRows, path: Path) -> ReferenceComparison:
    differential = Differential.from_tally(
        count_cells(rows.predicted_class, rows.qc_flags, rows.classes)
    )
    return compare_with_reference(
        differential, read_reference_differential(path, rows.classes), path.name
    )


def match_truth(store: CellStore, truth: Truth) -> tuple[Detection, NDArray[np.intp]]:
    """Return the detection scores, and for every row of the store the index (N,) of its true cell
    or -1.
    """
    qc_flags = store.column("qc_flags").astype(np.int64)
    position = np.column_stack([store.column("y_um"), store.column("x_um")]).astype(np.float64)
    candidates = np.flatnonzero((qc_flags & QcFlag.DEBRIS.value) == 0)
    visible = np.flatnonzero(truth.visible)
    pairs = match_points(truth.position_um[visible], position[candidates], _TOLERANCE_UM)
    partner = np.full(len(store), -1, dtype=np.intp)
    for i, j, _ in pairs:
        partner[candidates[j]] = visible[i]
    unmatched = candidates[partner[candidates] < 0]
    hidden = truth.position_um[~truth.visible]
    at_border = (qc_flags[unmatched] & QcFlag.BORDER.value) != 0
    ignored = len(match_points(hidden, position[unmatched[~at_border]], _TOLERANCE_UM)) + len(
        match_points(hidden, position[unmatched[at_border]], _CUT_TOLERANCE_UM)
    )
    found = len(candidates) - ignored
    squares = [distance**2 for *_, distance in pairs]
    detection = Detection(
        truth=len(visible),
        found=found,
        matched=len(pairs),
        ignored=ignored,
        recall=_ratio(len(pairs), len(visible)),
        precision=_ratio(len(pairs), found),
        f1=_ratio(2 * len(pairs), len(visible) + found),
        position_rms_um=float(np.sqrt(np.mean(squares))) if squares else None,
    )
    return detection, partner


def _ratio(part: int, total: int) -> float:
    return part / total if total else 0.0


def _compare_predictions(rows: CellRows, labels: Sequence[str]) -> PredictionComparison | None:
    """Compare predicted classes with labels; ``None`` if no counted cell has a label that is a
    class.
    """
    index = {name: position for position, name in enumerate(rows.classes)}
    labelled = [i for i in range(len(rows)) if not rows.exclusion_reason[i] and labels[i]]
    chosen = [i for i in labelled if labels[i] in index]
    if not chosen:
        return None
    true = [index[labels[i]] for i in chosen]
    predicted = [index.get(rows.predicted_class[i], len(index)) for i in chosen]
    identified = [(t, c) for t, c in zip(true, predicted, strict=True) if c < len(index)]
    by_head = rows.head_predictions()[chosen]  # (n, H)
    fused = rows.probability[chosen].mean(axis=1).argmax(axis=1)  # (n,)

    def weighted_f1(classes: NDArray[np.intp]) -> float:
        return score_predictions(true, classes.tolist(), rows.classes).weighted_f1

    return PredictionComparison(
        scores=score_predictions(true, predicted, rows.classes),
        identified=score_predictions(
            [t for t, _ in identified], [c for _, c in identified], rows.classes
        ),
        heads={head: weighted_f1(by_head[:, position]) for position, head in enumerate(rows.heads)},
        all_heads=weighted_f1(fused),
        other_labels=len(labelled) - len(chosen),
    )


def _compare_shares(rows: CellRows, seen: Sequence[str]) -> tuple[Share, ...]:
    """Compare the differential with the shares of the true cells ``seen``."""
    differential = Differential.from_tally(
        count_cells(rows.predicted_class, rows.qc_flags, rows.classes)
    )
    known = [label for label in seen if label in rows.classes]
    shares = []
    for line in differential.classes:
        low, high = line.interval_percent
        true = 100 * known.count(line.name) / len(known) if known else None
        inside = None if true is None or line.percent is None else low <= true <= high
        shares.append(Share(line.name, true, line.percent, (low, high), inside))
    return tuple(shares)
