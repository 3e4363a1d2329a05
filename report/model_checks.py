"""Checks of a sample against the bundle's validation cells.

True frequencies, disagreeing heads, an error bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wbcpipe.classify.uncertainty.applicability import ClassifiedCells, check_applicability
from wbcpipe.classify.uncertainty.prevalence import correct_counts
from wbcpipe.classify.uncertainty.probability_calibration import fuse
from wbcpipe.samples.cell_columns import UNIDENTIFIED
from wbcpipe.samples.differential_record import HeadAgreement

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wbcpipe.report.rows import CellRows
    from wbcpipe.samples.differential_record import ModelChecks
    from wbcpipe.samples.records import SampleKind

__all__ = ["ClassShare", "check_model", "corrected_shares", "head_agreement"]


@dataclass(frozen=True)
class ClassShare:
    """A class's corrected share, in per cent, with its 95 % interval."""

    percent: float
    interval_percent: tuple[float, float]


def corrected_shares(rows: CellRows, checks: ModelChecks) -> dict[str, ClassShare]:
    """Estimate each class's true share of the cells that are not rejected.

    Args:
        rows: the sample's cells.
        checks: of `check_model`.

    Returns: Class name to share; empty if the bundle has not shown that the correction helps, if
        the checks doubt that its figures hold for this sample, or if nothing was counted.
    """
    fitted, probability = rows.calibration, rows.probability[rows.counted]
    if checks.doubts or fitted is None or fitted.confusion is None or not len(probability):
        return {}
    if fitted.correction is None or not fitted.correction.helps:
        return {}
    found = correct_counts(fuse(probability, fitted), np.asarray(fitted.confusion))
    bounds = zip(found.share, found.low, found.high, strict=True)
    return {
        name: ClassShare(100 * float(share), (100 * float(low), 100 * float(high)))
        for name, (share, low, high) in zip(rows.classes, bounds, strict=True)
    }


def check_model(rows: CellRows, sample: str, kind: SampleKind) -> ModelChecks:
    """Check a sample's cells, without the rejected ones, against the bundle's validation cells.

    Args:
        rows: the sample's cells.
        sample: its name.
        kind: origin of its images.
    """
    counted = rows.counted
    unidentified = sum(
        name == UNIDENTIFIED
        for name, counts in zip(rows.predicted_class, counted, strict=True)
        if counts
    )
    return check_applicability(
        ClassifiedCells(
            sample,
            kind,
            rows.probability[counted],
            unidentified,
            rows.classification,
            rows.calibration,
        )
    )


def head_agreement(rows: CellRows) -> tuple[HeadAgreement, ...]:
    """Compare each head with the fused prediction, over the identified cells that are not
    rejected.
    """
    index = {name: position for position, name in enumerate(rows.classes)}
    fused = np.array([index.get(name, -1) for name in rows.predicted_class], dtype=np.intp)
    chosen = rows.counted & (fused >= 0)
    same = rows.head_predictions()[chosen] == fused[chosen, None]  # (n, H)
    highest = rows.probability[chosen].max(axis=2)  # (n, H)
    return tuple(
        HeadAgreement(
            name=name,
            agreement_percent=_percent(same[:, head]),
            class_agreement_percent={
                label: _percent(same[fused[chosen] == position, head])
                for label, position in index.items()
            },
            mean_probability=float(highest[:, head].mean(dtype=np.float64))
            if len(highest)
            else None,
        )
        for head, name in enumerate(rows.heads)
    )


def _percent(same: NDArray[np.bool_]) -> float | None:
    return 100 * float(same.mean()) if same.size else None
