"""Whether a bundle's promises hold for a sample: its error bound and its corrected percentages.

Both hold for cells from the distribution of the bundle's test cells. Nothing can prove that of
cells without labels, but three figures can contradict it:

- heads that disagree in more cells than they did in validation (see `head_disagreement`);
- more unidentified cells than among the test cells. Their share under two distributions differs by
  at most the total variation distance of these, so a demonstrated difference d is a lower limit of
  the shift: where d exceeds the error bound itself, the bound says nothing any more. Demonstrated
  is the distance between the exact limits of both;
- too few identified cells: below 1 / bound, a single wrong cell exceeds the bound, and below the
  number that the check of the heads needs, no shift would be noticed.

Where one of them speaks, every promise is withdrawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from wbcpipe.classify.uncertainty.clopper_pearson import clopper_pearson
from wbcpipe.classify.uncertainty.head_disagreement import (
    EXPECTED_FRACTION,
    MIN_CELLS,
    SIGNIFICANCE,
    check_heads,
)
from wbcpipe.samples.differential_record import HeadDisagreement, ModelChecks, ModelDoubt

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wbcpipe.classify.uncertainty.probability_calibration import ProbabilityCalibration
    from wbcpipe.samples.classification_record import Classification
    from wbcpipe.samples.records import SampleKind

__all__ = ["ClassifiedCells", "check_applicability", "min_identified", "unidentified_excess"]

_TOLERANCE: Final = EXPECTED_FRACTION
"""Largest excess of unidentified cells for a bundle without an error bound."""


@dataclass(frozen=True)
class ClassifiedCells:
    """The cells of a sample that are not rejected, and how they were classified.

    Attributes:
        sample: its name.
        kind: origin of its images.
        probability: (N, H, K) calibrated, per head.
        unidentified: number of the N cells whose class the model is not sure of.
        classification: the model and its options.
        calibration: of the model; ``None`` if it was not stored.
    """

    sample: str
    kind: SampleKind
    probability: NDArray[Any]
    unidentified: int
    classification: Classification
    calibration: ProbabilityCalibration | None


def check_applicability(cells: ClassifiedCells) -> ModelChecks:
    """Check a sample against the bundle's validation cells.

    With a doubt there is no error bound.
    """
    used = cells.classification
    heads = _head_disagreement(cells)
    doubts = tuple(
        doubt
        for doubt in (
            _disagreement_doubt(cells, heads),
            _unidentified_doubt(cells),
            _few_doubt(cells),
        )
        if doubt
    )
    return ModelChecks(
        head_disagreement=heads,
        doubts=doubts,
        remedy=_remedy(cells, doubts),
        risk_control=None if doubts else used.risk_control,
        excluded_modalities=used.excluded_modalities,
        f1_weighted=used.f1_weighted,
        trained_on_sample=used.trained_on_sample,
    )


def min_identified(error_bound: float | None) -> int:
    """Return the smallest number of identified cells for which an error bound says something.

    >>> min_identified(0.02), min_identified(0.2), min_identified(None)
    (50, 20, 20)
    """
    return MIN_CELLS if not error_bound else max(MIN_CELLS, math.ceil(1 / error_bound - 1e-9))


def unidentified_excess(unidentified: int, cells: int, expected: float, test_cells: int) -> float:
    """Return how much higher the share of unidentified cells is than among the test cells; 0 if not
    demonstrably.

    The distance between the exact limits of both shares, each with a tail of ``SIGNIFICANCE``.

    Args:
        unidentified: cells of the sample that are unidentified.
        cells: of the sample.
        expected: share of the test cells that is unidentified at the threshold in use.
        test_cells: their number.

    >>> round(unidentified_excess(110, 115, 0.06, 150), 2), unidentified_excess(12, 115, 0.06, 150)
    (0.72, 0.0)
    """
    low = clopper_pearson(unidentified, cells, SIGNIFICANCE)[0]
    high = clopper_pearson(expected * test_cells, test_cells, SIGNIFICANCE)[1]
    return max(0.0, low - high)


def _head_disagreement(cells: ClassifiedCells) -> tuple[HeadDisagreement, ...]:
    fitted, used = cells.calibration, cells.classification
    if (
        fitted is None
        or not fitted.head_disagreement
        or not len(cells.probability)
        or used.excluded_modalities
    ):
        return ()
    return tuple(
        HeadDisagreement(
            head=name,
            beyond_percent=None if check.share is None else 100 * check.share,
            limit_percent=100 * check.limit,
            exceeded=check.exceeded,
        )
        for name, check in zip(
            used.heads, check_heads(cells.probability, fitted.head_disagreement), strict=True
        )
    )


def _disagreement_doubt(
    cells: ClassifiedCells, heads: tuple[HeadDisagreement, ...]
) -> ModelDoubt | None:
    found = [check for check in heads if check.exceeded]
    if not found:
        return None
    names = ", ".join(check.head for check in found)
    shares = ", ".join(f"{check.beyond_percent:.0f} %" for check in found)
    limit = f"expected: 5 %, limit: {found[0].limit_percent:g} %"
    fact = (
        f"against the other heads, {names} disagree{'s' * (len(found) == 1)} in {shares} of "
        f"the cells ({limit})"
    )
    unknown = f"the bundle {cells.classification.bundle!r} does not know this stain or camera"
    if cells.kind == "scope":
        check = f"Check the registration and the lamp of {names}; if both are in order, {unknown}."
        text = f"{fact[0].upper()}{fact[1:]}. {check}"
    else:
        text = f"{unknown[0].upper()}{unknown[1:]}: {fact}."
    return ModelDoubt(reason="heads_disagree", text=text)


def _unidentified_doubt(cells: ClassifiedCells) -> ModelDoubt | None:
    fitted, total = cells.calibration, len(cells.probability)
    if fitted is None or not total:
        return None
    bounds = fitted.risk_bounds
    level = bounds.level_at(fitted.threshold) if bounds else None
    if bounds and level:
        expected, test_cells, tolerance = (
            level.unidentified_fraction,
            bounds.cells,
            level.error_bound,
        )
    else:
        expected, test_cells, tolerance = fitted.unidentified_fraction, fitted.cells, _TOLERANCE
    if (
        not test_cells
        or unidentified_excess(cells.unidentified, total, expected, test_cells) <= tolerance
    ):
        return None
    causes = (
        "focus, exposure or stain differ from its training cells"
        if cells.kind == "scope"
        else "stain or camera"
    )
    share = (
        f"{100 * cells.unidentified / total:.0f} % of the cells are unidentified, "
        f"{100 * expected:.0f} % of the"
    )
    text = (
        f"The bundle {cells.classification.bundle!r} does not know these images ({causes}): "
        f"{share} test cells were."
    )
    return ModelDoubt(reason="unidentified", text=text)


def _few_doubt(cells: ClassifiedCells) -> ModelDoubt | None:
    bound = cells.classification.risk_control
    least, found = (
        min_identified(bound.error_bound if bound else None),
        len(cells.probability) - cells.unidentified,
    )
    if found >= least:
        return None
    text = (
        f"{found} of {len(cells.probability)} cells are identified; a statement on their error "
        f"needs {least}."
    )
    return ModelDoubt(reason="few_identified", text=text)


def _remedy(cells: ClassifiedCells, doubts: tuple[ModelDoubt, ...]) -> str:
    if not doubts:
        return ""
    if all(doubt.reason == "few_identified" for doubt in doubts):
        return "Count more cells."
    sample, bundle = cells.sample, cells.classification.bundle
    return (
        f"Label 10 or more cells of each class (`wbcpipe labels export --sample {sample} --out "
        f"{sample}-labels`, `wbcpipe labels import {sample}-labels --sample {sample}`) and train a "
        f"bundle on them (`wbcpipe train {sample} --init-from {bundle} --out models/{sample}`)."
    )
