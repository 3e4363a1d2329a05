"""Compare a sample with its ground truth: detection, calls and differential."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wbcpipe.errors import SampleStateError
from wbcpipe.report.differential import Differential, count_cells
from wbcpipe.report.rows import read_rows
from wbcpipe.report.scores import match_points, score_calls
from wbcpipe.samples.cell_columns import QcFlag
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.field_status import read_skipped
from wbcpipe.samples.fields import passes_on_disk, whole_fields
from wbcpipe.samples.truth import read_truth

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from wbcpipe.report.rows import CellRows
    from wbcpipe.report.scores import CallScores
    from wbcpipe.samples.sample import Sample

__all__ = ["CallComparison", "Detection", "Evaluation", "Share", "Truth", "evaluate_sample", "visible_truth"]

_TOLERANCE_UM: Final = 4.0
#: What is seen of a cell cut by the outer edge has its centre up to a cell's radius from the true one.
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
    """Found cells against true ones.

    Attributes:
        truth: white cells whose centre a field shows.
        found: rows of ``cells.zarr`` that are not debris, less those ignored.
        matched: pairs within the tolerance.
        ignored: cells cut by the outer edge, neither right nor wrong.
        recall: matched of truth.
        precision: matched of found.
        f1: their harmonic mean.
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
class CallComparison:
    """Calls against truth, on the cells that count.

    Attributes:
        scores: an unidentified cell is a miss.
        identified: the same without the unidentified cells.
        heads: weighted F1 of each head alone, always made to choose a class.
        fused_forced: weighted F1 of all heads' mean, always made to choose.
        other_labels: cells left out because their label is no class of the bundle.
    """

    scores: CallScores
    identified: CallScores
    heads: dict[str, float]
    fused_forced: float
    other_labels: int


@dataclass(frozen=True)
class Share:
    """One class of the differential against truth, in per cent."""

    name: str
    true_percent: float | None
    called_percent: float | None
    interval_percent: tuple[float, float]
    inside: bool | None


@dataclass(frozen=True)
class Evaluation:
    """All that can be said; parts are ``None`` where there is nothing to compare with."""

    sample: str
    against: str
    classes: tuple[str, ...]
    detection: Detection | None
    calls: CallComparison | None
    differential: tuple[Share, ...] | None

    def to_json(self) -> dict[str, Any]:
        """As one object for machines."""
        return asdict(self)


def visible_truth(sample: Sample) -> Truth:
    """Read the white cells of ``truth.csv``, and which of them the sample's fields show.

    Raises:
        SampleStateError: the file is damaged.
    """
    white = [row for row in read_truth(sample.truth_path) if row.is_white_cell]
    field = np.array([row.field for row in white], dtype=np.int64)
    visible = field >= 0
    raw = sample.path / "raw"
    if on_disk := whole_fields(raw):
        # A cell in a field that was skipped as empty was there to be seen: it counts as missed.
        visible &= np.isin(field, [*on_disk, *read_skipped(raw / passes_on_disk(raw)[0])])
    return Truth(
        position_um=np.array([(row.y_um, row.x_um) for row in white], dtype=np.float64).reshape(-1, 2),
        visible=np.asarray(visible, dtype=np.bool_),
        label=[row.label for row in white],
    )


def evaluate_sample(sample: Sample) -> Evaluation:
    """Compare a sample with ``truth.csv``, or, where there is none, its calls with the cells' labels.

    Raises:
        SampleStateError: no such sample, no cells, or neither truth nor labels.
    """
    sample.record()
    store = CellStore(sample.cells_path)
    rows = read_rows(store) if store.is_classified() else None
    if sample.truth_path.is_file():
        truth = visible_truth(sample)
        detection, partner = _detect(store, truth)
        labels = ["" if index < 0 else truth.label[index] for index in partner]
        seen = [label for label, visible in zip(truth.label, truth.visible, strict=True) if visible]
        against = "truth.csv"
    else:
        labels, detection, against = store.labels(), None, "labels"
        seen = [label for label in labels if label]
        if not seen:
            raise SampleStateError(
                f"{sample.path}: nothing to compare with: no truth.csv (the virtual scope writes one) and no labels "
                "(`wbcpipe import cells` takes them from folder names)."
            )
        if rows is None:
            raise SampleStateError(f"{sample.path}: cells are not classified yet; run `wbcpipe classify` first.")
    classes = rows.classes if rows else tuple(str(name) for name in store.attributes.get("classes") or ())
    return Evaluation(
        sample=sample.name,
        against=against,
        classes=classes,
        detection=detection,
        calls=_compare_calls(rows, labels) if rows else None,
        differential=_compare_shares(rows, seen) if rows else None,
    )


def _detect(store: CellStore, truth: Truth) -> tuple[Detection, NDArray[np.intp]]:
    """Detection, and for every row of the store the index of its true cell or -1."""
    quality = store.column("qc_flags").astype(np.int64)
    position = np.column_stack([store.column("y_um"), store.column("x_um")]).astype(np.float64)
    candidates = np.flatnonzero((quality & QcFlag.DEBRIS.value) == 0)
    visible = np.flatnonzero(truth.visible)
    pairs = match_points(truth.position_um[visible], position[candidates], _TOLERANCE_UM)
    partner = np.full(len(store), -1, dtype=np.intp)
    for i, j, _ in pairs:
        partner[candidates[j]] = visible[i]
    alone = candidates[partner[candidates] < 0]
    hidden = truth.position_um[~truth.visible]
    at_border = (quality[alone] & QcFlag.BORDER.value) != 0
    ignored = len(match_points(hidden, position[alone[~at_border]], _TOLERANCE_UM)) + len(
        match_points(hidden, position[alone[at_border]], _CUT_TOLERANCE_UM)
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


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _compare_calls(rows: CellRows, labels: Sequence[str]) -> CallComparison | None:
    """``None`` when no counted cell has a label that is a class."""
    index = {name: position for position, name in enumerate(rows.classes)}
    labelled = [i for i in range(len(rows)) if not rows.exclusion_reason[i] and labels[i]]
    chosen = [i for i in labelled if labels[i] in index]
    if not chosen:
        return None
    true = [index[labels[i]] for i in chosen]
    called = [index.get(rows.predicted_class[i], len(index)) for i in chosen]
    sure = [(t, c) for t, c in zip(true, called, strict=True) if c < len(index)]
    alone = rows.head_predictions()[chosen]  # (n, H)
    fused = rows.probability[chosen].mean(axis=1).argmax(axis=1)  # (n,)

    def forced(calls: NDArray[np.intp]) -> float:
        return score_calls(true, calls.tolist(), rows.classes).weighted_f1

    return CallComparison(
        scores=score_calls(true, called, rows.classes),
        identified=score_calls([t for t, _ in sure], [c for _, c in sure], rows.classes),
        heads={head: forced(alone[:, position]) for position, head in enumerate(rows.heads)},
        fused_forced=forced(fused),
        other_labels=len(labelled) - len(chosen),
    )


def _compare_shares(rows: CellRows, seen: Sequence[str]) -> tuple[Share, ...]:
    """The differential as called against the shares among the true cells ``seen``."""
    differential = Differential.from_tally(count_cells(rows.predicted_class, rows.qc_flags, rows.classes))
    known = [label for label in seen if label in rows.classes]
    shares = []
    for line in differential.classes:
        low, high = line.interval_percent
        true = 100 * known.count(line.name) / len(known) if known else None
        inside = None if true is None or line.percent is None else low <= true <= high
        shares.append(Share(line.name, true, line.percent, (low, high), inside))
    return tuple(shares)
