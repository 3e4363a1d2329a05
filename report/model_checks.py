"""What the bundle's held-out cells say of a sample: true frequencies, contradicting heads, and a bounded error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wbcpipe.classify.uncertainty.head_disagreement import check_heads
from wbcpipe.classify.uncertainty.prevalence import correct_counts
from wbcpipe.classify.uncertainty.probability_calibration import fuse

if TYPE_CHECKING:
    from wbcpipe.classify.uncertainty.head_disagreement import HeadCheck
    from wbcpipe.report.rows import CellRows

__all__ = ["ClassShare", "ModelChecks", "check_model"]


@dataclass(frozen=True)
class ClassShare:
    """A class's corrected share, in per cent, with its 95 % interval."""

    percent: float
    interval_percent: tuple[float, float]


@dataclass(frozen=True)
class ModelChecks:
    """What is known beyond the calls.

    Attributes:
        corrected: class name to its share, corrected for the calls' usual errors; empty where the bundle has not shown
            that this helps, or nothing was counted.
        heads: head name to its check; empty where the bundle has no limits for these modalities.
        risk_control: the error bound at the threshold in use; ``None`` without one.
        excluded_modalities: modalities that were left out.
        f1_weighted: of the bundle with ``all_modalities`` and with the ``remaining_modalities``; ``None`` where no
            modality was excluded.
    """

    corrected: dict[str, ClassShare]
    heads: dict[str, HeadCheck]
    risk_control: dict[str, Any] | None
    excluded_modalities: tuple[str, ...]
    f1_weighted: dict[str, float | None] | None


def check_model(rows: CellRows) -> ModelChecks:
    """Judge a sample's classified cells; rejected ones have no say, unidentified ones do."""
    classified, fitted = rows.classified, rows.calibration
    probability = rows.probability[rows.counted]
    excluded = tuple(str(name) for name in classified.get("excluded_modalities") or ())
    corrected: dict[str, ClassShare] = {}
    heads: dict[str, HeadCheck] = {}
    if fitted is not None and len(probability):
        if fitted.confusion is not None and fitted.correction is not None and fitted.correction.helps:
            found = correct_counts(fuse(probability, fitted), np.asarray(fitted.confusion))
            bounds = zip(found.share, found.low, found.high, strict=True)
            corrected = {
                name: ClassShare(100 * float(share), (100 * float(low), 100 * float(high)))
                for name, (share, low, high) in zip(rows.classes, bounds, strict=True)
            }
        if fitted.head_disagreement is not None and not excluded:
            heads = dict(zip(rows.heads, check_heads(probability, fitted.head_disagreement), strict=True))
    return ModelChecks(corrected, heads, classified.get("risk_control"), excluded, classified.get("f1_weighted"))
