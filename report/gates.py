"""Quality gates: figures of a sample against limits, so that an unreliable count is marked as
such.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import numpy as np

from wbcpipe.samples.cell_columns import QcFlag
from wbcpipe.samples.differential_record import FailedField, Quality, QualityGate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wbcpipe.report.differential import Tally
    from wbcpipe.report.rows import CellRows
    from wbcpipe.samples.differential_record import FieldCounts, GateName, ModelChecks

__all__ = ["LIMITS", "check_quality", "failed_fields", "limits_of"]

Comparison = Literal[">=", "<="]
#: One entry per field: a number, one number per modality, or ``None`` where nothing was measured.
FieldFigures = Mapping[str, Sequence[float | list[float | None] | None]]


class Limit(NamedTuple):
    """A gate: what it measures, how the figure must compare with the limit, the default limit, and
    its unit.

    The title is shown without the other gates: it must be clear without them.
    """

    title: str
    comparison: Comparison
    limit: float
    unit: Literal["cells", "%", "um", "px", "um2", "/mm2", ""]


#: A manual differential counts at least 100 cells (CLSI H20-A2: 200 by each of two examiners for a
#: reference). The limits of white cells are those of hyperleukocytosis, 100 * 10^9 cells per litre
#: (C. Roellig and G. Ehninger, Blood 125 (2015) 3246, doi:10.1182/blood-2014-10-551507), at 4 *
#: 10^12 red cells per litre, of which 22,000 of 45 um2 cover a mm2. The others are wbcpipe's own.
LIMITS: Final[dict[GateName, Limit]] = {
    "cells_counted": Limit("Cells counted", ">=", 100, "cells"),
    "unidentified_percent": Limit("Unidentified cells", "<=", 10, "%"),
    "blurred_percent": Limit("Blurred cells", "<=", 10, "%"),
    "unregistered_percent": Limit("Cells whose channels could not be registered", "<=", 10, "%"),
    "saturated_cells_percent": Limit("Saturated cells", "<=", 10, "%"),
    "doublets_percent": Limit("Cells touching another white cell", "<=", 20, "%"),
    "missing_fields_percent": Limit("Fields that could not be acquired", "<=", 5, "%"),
    "head_disagreement": Limit("Median disagreement of the heads (0 to 1)", "<=", 0.25, ""),
    "accepted_percent": Limit("Complete white cells of all objects found", ">=", 50, "%"),
    "min_nucleus_um2": Limit("Median area of nuclei (lower limit)", ">=", 20, "um2"),
    "max_nucleus_um2": Limit("Median area of nuclei (upper limit)", "<=", 140, "um2"),
    "failed_fields_percent": Limit("Fields with a figure beyond its limit", "<=", 10, "%"),
    "blur_um": Limit("Blur (edge width of the nuclei)", "<=", 0.6, "um"),
    "saturated_percent": Limit("Saturated pixels of a field", "<=", 1, "%"),
    "residual_px": Limit("Estimated registration error", "<=", 1, "px"),
    "nuclear_contrast_percent": Limit(
        "Nuclear contrast (of the camera's full range)", ">=", 1, "%"
    ),
    "nucleus_cytoplasm_contrast_ratio": Limit("Nuclear over cytoplasmic contrast", ">=", 1.5, ""),
    "red_cover_percent": Limit("Area covered by red cells", "<=", 85, "%"),
    "light_drift_percent": Limit("Drift of the bright-field illumination", "<=", 10, "%"),
    "error_bound_percent": Limit("Upper bound of the model's error", "<=", 10, "%"),
    "clumps_percent": Limit("Clumps of white cells that could not be parted", "<=", 5, "%"),
    "cells_per_mm2": Limit(
        "White cells per mm2 (without the first of each field)", "<=", 550, "/mm2"
    ),
    "white_per_100_red": Limit(
        "White cells per 100 red cells (without the first of each field)", "<=", 2.5, ""
    ),
    "unassigned_fluorescence_percent": Limit(
        "Area as bright as nuclei that belongs to no cell", "<=", 2, "%"
    ),
}
#: Without a figure these fail: a model whose error is not known gives no count to rely on. As many
#: cells may be wrong as may be unidentified.
_MUST_BE_KNOWN: Final[frozenset[GateName]] = frozenset({"error_bound_percent"})
#: Limits that each field must meet as well; see `FIELD_FIGURES` for their meaning.
_OF_FIELDS: Final[tuple[GateName, ...]] = (
    "blur_um",
    "saturated_percent",
    "residual_px",
    "nuclear_contrast_percent",
    "nucleus_cytoplasm_contrast_ratio",
    "red_cover_percent",
    "cells_per_mm2",
    "white_per_100_red",
    "unassigned_fluorescence_percent",
)
#: The drift is the width of the range that holds this share of the fields.
_DRIFT_SHARE: Final = 0.9
#: Number of nuclei from which their size is judged.
_MIN_NUCLEI: Final = 10


def limits_of(given: Mapping[str, float]) -> dict[GateName, float]:
    """Return the limit of each gate; ``given`` holds those that a scope file sets differently."""
    return {name: given.get(name, gate.limit) for name, gate in LIMITS.items()}


def failed_fields(
    figures: FieldFigures, limits: Mapping[GateName, float]
) -> tuple[FailedField, ...]:
    """Find the fields beyond the limits, in the order of the figures.

    Args:
        figures: ``field_quality`` of ``cells.zarr``.
        limits: of `limits_of`.
    """
    light = _relative_light(figures)
    failed = []
    for row, index in enumerate(figures.get("field_index", ())):
        reasons = []
        for name in _OF_FIELDS:
            title, comparison, _, unit = LIMITS[name]
            value = _worst(figures[name][row], comparison) if name in figures else None
            if value is not None and not _holds(value, comparison, limits[name]):
                limit = f"{comparison} {limits[name]:g} {unit}".rstrip()
                reasons.append(f"{title.lower()} {value:.3g} (limit {limit})")
        if figures["unregistered_modalities"][row]:
            reasons.append("registration failed")
        if (
            light is not None
            and np.nanmax(np.abs(light[row]), initial=0) > limits["light_drift_percent"]
        ):
            difference = light[row][np.nanargmax(np.abs(light[row]))]
            reasons.append(f"light {difference:+.3g} % (limit {limits['light_drift_percent']:g} %)")
        if reasons:
            failed.append(FailedField.model_validate({"index": index, "reasons": reasons}))
    return tuple(failed)


def check_quality(
    rows: CellRows,
    tally: Tally,
    checks: ModelChecks,
    fields: FieldCounts,
    figures: FieldFigures,
    given_limits: Mapping[str, float],
) -> Quality:
    """Compare a sample with every limit.

    Blurred, unregistered, saturated, touching and clumped cells are percentages of all cells that
    are not debris. A figure that each field has is the median over the fields. The drift of the
    light is the width of the middle 90 % of the fields about their median, of the modality in which
    it is largest.

    Args:
        rows: the sample's cells.
        tally: the same cells, counted.
        checks: of the model.
        fields: of the sample.
        figures: ``field_quality`` of ``cells.zarr``; empty for imported cells.
        given_limits: see `limits_of`.
    """
    limits = limits_of(given_limits)
    failed = failed_fields(figures, limits)
    found = {**_cell_figures(rows, tally), **_field_figures(figures)}
    missing = len(fields.missing)
    found["missing_fields_percent"] = _percent(missing, fields.taken + missing)
    found["error_bound_percent"] = (
        100 * bound.error_bound if (bound := checks.risk_control) else None
    )
    found["failed_fields_percent"] = _percent(len(failed), len(figures.get("field_index", ())))
    gates = tuple(
        QualityGate(
            name=name,
            title=gate.title,
            figure=(figure := found[name]),
            comparison=gate.comparison,
            limit=limits[name],
            unit=gate.unit,
            passed=_passed(name, figure, limits[name]),
        )
        for name, gate in LIMITS.items()
    )
    return Quality(
        passed=all(gate.passed is not False for gate in gates), gates=gates, failed_fields=failed
    )


def _cell_figures(rows: CellRows, tally: Tally) -> dict[GateName, float | None]:
    not_debris = (rows.qc_flags & QcFlag.DEBRIS.value) == 0
    complete = (rows.qc_flags & (QcFlag.DEBRIS | QcFlag.BORDER).value) == 0
    differing = rows.disagreement[rows.counted] if len(rows.heads) > 1 else rows.disagreement[:0]

    def flagged(flag: QcFlag) -> float | None:
        return _percent(
            int(np.count_nonzero(rows.qc_flags[not_debris] & flag.value)), int(not_debris.sum())
        )

    return {
        "cells_counted": float(tally.identified),
        "unidentified_percent": _percent(tally.unidentified, tally.identified + tally.unidentified),
        "blurred_percent": flagged(QcFlag.BLURRED),
        "unregistered_percent": flagged(QcFlag.UNREGISTERED),
        "saturated_cells_percent": flagged(QcFlag.SATURATED),
        "doublets_percent": flagged(QcFlag.DOUBLET),
        "clumps_percent": flagged(QcFlag.CLUMP),
        "head_disagreement": float(np.median(differing.astype(np.float64)))
        if len(differing)
        else None,
        "accepted_percent": _percent(int(complete.sum()), len(rows)),
        "min_nucleus_um2": (nucleus_um2 := _median_nucleus_um2(rows)),
        "max_nucleus_um2": nucleus_um2,
    }


def _median_nucleus_um2(rows: CellRows) -> float | None:
    """Return the median over whole single cells; a wrong pixel size shows in it."""
    other = (QcFlag.DEBRIS | QcFlag.BORDER | QcFlag.CLUMP | QcFlag.DOUBLET).value
    area = rows.columns["nucleus_area_um2"][(rows.qc_flags & other) == 0]
    area = area[area > 0]
    return float(np.median(area)) if len(area) >= _MIN_NUCLEI else None


def _field_figures(figures: FieldFigures) -> dict[GateName, float | None]:
    found: dict[GateName, float | None] = {"light_drift_percent": _drift(_relative_light(figures))}
    for name in _OF_FIELDS:
        values = [_worst(entry, LIMITS[name].comparison) for entry in figures.get(name, ())]
        known = [value for value in values if value is not None]
        found[name] = float(np.median(known)) if known else None
    return found


def _passed(name: GateName, figure: float | None, limit: float) -> bool | None:
    if figure is None:
        return False if name in _MUST_BE_KNOWN else None
    return _holds(figure, LIMITS[name].comparison, limit)


def _percent(part: int, total: int) -> float | None:
    return 100 * part / total if total else None


def _holds(figure: float, comparison: Comparison, limit: float) -> bool:
    return figure >= limit if comparison == ">=" else figure <= limit


def _worst(entry: float | list[float | None] | None, comparison: Comparison) -> float | None:
    """Return the figure of a field, of several modalities the worst; ``None`` where nothing was
    measured.
    """
    entries = [
        value for value in (entry if isinstance(entry, list) else [entry]) if value is not None
    ]
    return (min if comparison == ">=" else max)(entries, default=None)


def _relative_light(figures: FieldFigures) -> NDArray[np.float64] | None:
    """Return the difference (%) of the background from its median, (fields, bright modalities); NaN
    where unknown.
    """
    if not figures.get("background_percent"):
        return None
    light = np.array(figures["background_percent"], float)  # (F, M)
    light = light[:, ~np.isnan(light).all(axis=0)]
    return 100 * (light / np.nanmedian(light, axis=0) - 1) if light.size else None


def _drift(light: NDArray[np.float64] | None) -> float | None:
    if light is None:
        return None
    low, high = np.nanquantile(light, [(1 - _DRIFT_SHARE) / 2, (1 + _DRIFT_SHARE) / 2], axis=0)
    return float(np.max(high - low))
