"""Checks of a sample against the bundle's validation cells: true frequencies, disagreeing heads, an error bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wbcpipe.classify.uncertainty.head_disagreement import check_heads
from wbcpipe.classify.uncertainty.prevalence import correct_counts
from wbcpipe.classify.uncertainty.probability_calibration import fuse
from wbcpipe.samples.differential_record import HeadDisagreement, ModelChecks

if TYPE_CHECKING:
    from wbcpipe.report.rows import CellRows

__all__ = ["ClassShare", "check_model", "corrected_shares"]


@dataclass(frozen=True)
class ClassShare:
    """A class's corrected share, in per cent, with its 95 % interval."""

    percent: float
    interval_percent: tuple[float, float]


def corrected_shares(rows: CellRows) -> dict[str, ClassShare]:
    """Estimate each class's true share of the cells that are not rejected.

    Returns:
        Class name to share; empty if the bundle has not shown that the correction helps, or nothing was counted.
    """
    fitted, probability = rows.calibration, rows.probability[rows.counted]
    if fitted is None or fitted.confusion is None or not len(probability):
        return {}
    if fitted.correction is None or not fitted.correction.helps:
        return {}
    found = correct_counts(fuse(probability, fitted), np.asarray(fitted.confusion))
    bounds = zip(found.share, found.low, found.high, strict=True)
    return {
        name: ClassShare(100 * float(share), (100 * float(low), 100 * float(high)))
        for name, (share, low, high) in zip(rows.classes, bounds, strict=True)
    }


def check_model(rows: CellRows) -> ModelChecks:
    """Check the heads of a sample's cells, without the rejected ones, and state what the bundle says of its error."""
    used, fitted, probability = rows.classification, rows.calibration, rows.probability[rows.counted]
    heads: tuple[HeadDisagreement, ...] = ()
    if fitted is not None and fitted.head_disagreement and len(probability) and not used.excluded_modalities:
        heads = tuple(
            HeadDisagreement(
                head=name,
                beyond_percent=None if check.share is None else 100 * check.share,
                limit_percent=100 * check.limit,
                exceeded=check.exceeded,
            )
            for name, check in zip(rows.heads, check_heads(probability, fitted.head_disagreement), strict=True)
        )
    return ModelChecks(
        head_disagreement=heads,
        risk_control=used.risk_control,
        excluded_modalities=used.excluded_modalities,
        f1_weighted=used.f1_weighted,
    )
