"""Quality gates: figures of a sample against limits, so that a count nobody should trust says so itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from wbcpipe.samples.cell_columns import QcFlag

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from wbcpipe.report.differential import Tally
    from wbcpipe.report.rows import CellRows

__all__ = ["LIMITS", "FailedField", "Gate", "failed_fields", "limits_of", "quality_gates"]

#: Gate name to (what it says, comparison, limit, unit). 100 cells are the least a manual differential counts
#: (CLSI H20-A2 counts 200 by each of two examiners for a reference); the fractions are wbcpipe's own.
LIMITS: Final[dict[str, tuple[str, Literal[">=", "<="], float, str]]] = {
    "cells_counted": ("Cells counted", ">=", 100, "cells"),
    "unidentified_percent": ("Unidentified cells", "<=", 10, "%"),
    "blurred_percent": ("Blurred cells", "<=", 10, "%"),
    "unregistered_percent": ("Cells whose channels could not be aligned", "<=", 10, "%"),
    "saturated_cells_percent": ("Overexposed cells", "<=", 10, "%"),
    "doublets_percent": ("Cells touching another white cell", "<=", 20, "%"),
    "missing_fields_percent": ("Fields that could not be taken", "<=", 5, "%"),
    "head_disagreement": ("Median disagreement of the heads (0 to 1)", "<=", 0.25, ""),
    "accepted_percent": ("Whole white cells among what was found", ">=", 50, "%"),
    "failed_fields_percent": ("Fields that fail a check of their own", "<=", 10, "%"),
    "blur_um": ("Width of the edges of nuclei", "<=", 0.6, "um"),
    "saturated_percent": ("Overexposed pixels of a field", "<=", 1, "%"),
    "residual_px": ("Estimated error of the registration", "<=", 1, "px"),
    "nuclear_contrast_percent": ("Stain of nuclei, of the full range", ">=", 1, "%"),
    "nucleus_cytoplasm_contrast_ratio": ("Stain of nuclei over that of cytoplasm", ">=", 1.5, ""),
    "red_cover_percent": ("Bright field covered by red cells", "<=", 85, "%"),
    "light_drift_percent": ("Drift of the bright-field light", "<=", 10, "%"),
}
#: Those that each field is held to as well; `FIELD_FIGURES` says what they are.
_OF_FIELDS: Final = (
    "blur_um",
    "saturated_percent",
    "residual_px",
    "nuclear_contrast_percent",
    "nucleus_cytoplasm_contrast_ratio",
    "red_cover_percent",
)
#: Share of the fields whose light lies within the drift.
_DRIFT_SHARE: Final = 0.9


@dataclass(frozen=True)
class Gate:
    """One figure and its limit.

    Attributes:
        name: key in ``LIMITS``.
        title: for people.
        figure: ``None`` when there is nothing to measure (no fields, no cells, one head).
        comparison: ``>=`` or ``<=``: how the figure must lie to the limit.
        limit: the limit.
        unit: ``cells``, ``%``, ``um``, ``px`` or empty.
    """

    name: str
    title: str
    figure: float | None
    comparison: Literal[">=", "<="]
    limit: float
    unit: str

    @property
    def passed(self) -> bool | None:
        """``None`` when there is no figure."""
        if self.figure is None:
            return None
        return _holds(self.figure, self.comparison, self.limit)


@dataclass(frozen=True)
class FailedField:
    """A field beyond the limits.

    Attributes:
        index: of the field.
        reasons: for people, such as ``blur_um 0.71 (limit <= 0.6)``.
    """

    index: int
    reasons: tuple[str, ...]


def limits_of(given: Mapping[str, float]) -> dict[str, float]:
    """Return the limit of each gate in ``LIMITS``; ``given`` holds those that a scope file sets differently."""
    return {name: given.get(name, limit) for name, (_, _, limit, _) in LIMITS.items()}


def failed_fields(figures: Mapping[str, Sequence[Any]], limits: Mapping[str, float]) -> list[FailedField]:
    """The fields beyond the limits, in the figures' order.

    Args:
        figures: ``field_quality`` of ``cells.zarr``: name to one entry for each field.
        limits: of `limits_of`.
    """
    light = _relative_light(figures)
    failed = []
    for row, index in enumerate(figures.get("field", ())):
        reasons = []
        for name in _OF_FIELDS:
            comparison = LIMITS[name][1]
            value = _worst(figures[name][row], comparison)
            if value is not None and not _holds(value, comparison, limits[name]):
                reasons.append(f"{name} {value:.3g} (limit {comparison} {limits[name]:g})")
        if figures["unregistered"][row]:
            reasons.append("registration is not trusted")
        if light is not None and np.nanmax(np.abs(light[row]), initial=0) > limits["light_drift_percent"]:
            away = light[row][np.nanargmax(np.abs(light[row]))]
            reasons.append(f"light {away:+.3g} % (limit {limits['light_drift_percent']:g} %)")
        if reasons:
            failed.append(FailedField(int(index), tuple(reasons)))
    return failed


def quality_gates(
    rows: CellRows,
    tally: Tally,
    *,
    fields_taken: int,
    fields_missing: int,
    figures: Mapping[str, Sequence[Any]] | None = None,
    limits: Mapping[str, float] | None = None,
    failed: int = 0,
) -> list[Gate]:
    """Measure a sample against every limit.

    Blurred, unaligned, overexposed and touching cells are percentages of all cells that are not debris. A figure that
    each field has is the median of the fields'; the light's drift is the width of the middle 90 % of the fields about
    their median, of the modality in which it is largest.

    Args:
        rows: the sample's cells.
        tally: the same, counted.
        fields_taken: on the disk.
        fields_missing: could not be taken.
        figures: ``field_quality`` of ``cells.zarr``; none of a store that an older version wrote.
        limits: of `limits_of`; ours if ``None``.
        failed: how many fields `failed_fields` found.
    """
    limits = limits_of({}) if limits is None else limits
    figures = figures or {}
    white = (rows.qc_flags & QcFlag.DEBRIS.value) == 0
    whole = (rows.qc_flags & (QcFlag.DEBRIS | QcFlag.BORDER).value) == 0

    def flagged(flag: QcFlag) -> float | None:
        return _percent(int(np.count_nonzero(rows.qc_flags[white] & flag.value)), int(np.count_nonzero(white)))

    apart = rows.disagreement[rows.counted] if len(rows.heads) > 1 else rows.disagreement[:0]
    seen = len(figures.get("field", ()))
    found: dict[str, float | None] = {
        "cells_counted": float(tally.identified),
        "unidentified_percent": _percent(tally.unidentified, tally.identified + tally.unidentified),
        "blurred_percent": flagged(QcFlag.BLURRED),
        "unregistered_percent": flagged(QcFlag.UNREGISTERED),
        "saturated_cells_percent": flagged(QcFlag.SATURATED),
        "doublets_percent": flagged(QcFlag.DOUBLET),
        "missing_fields_percent": _percent(fields_missing, fields_taken + fields_missing),
        "head_disagreement": float(np.median(apart.astype(np.float64))) if len(apart) else None,
        "accepted_percent": _percent(int(np.count_nonzero(whole)), len(rows)),
        "failed_fields_percent": _percent(failed, seen),
        "light_drift_percent": _drift(_relative_light(figures)),
    }
    for name in _OF_FIELDS:
        values = [_worst(entry, LIMITS[name][1]) for entry in figures.get(name, ())]
        known = [value for value in values if value is not None]
        found[name] = float(np.median(known)) if known else None
    return [
        Gate(name, title, found[name], comparison, limits[name], unit)
        for name, (title, comparison, _, unit) in LIMITS.items()
    ]


def _percent(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None


def _holds(figure: float, comparison: Literal[">=", "<="], limit: float) -> bool:
    return figure >= limit if comparison == ">=" else figure <= limit


def _worst(entry: Any, comparison: Literal[">=", "<="]) -> float | None:
    """A field's figure; of one for each modality the worst; ``None`` where there is none."""
    entries = [value for value in (entry if isinstance(entry, list) else [entry]) if value is not None]
    return (min if comparison == ">=" else max)(entries, default=None)


def _relative_light(figures: Mapping[str, Sequence[Any]]) -> NDArray[np.float64] | None:
    """Background's difference (%) from its median, (fields, modalities that have light); NaN where unknown."""
    if not figures.get("background"):
        return None
    light = np.array(figures["background"], float)  # (F, M)
    light = light[:, ~np.isnan(light).all(axis=0)]
    return 100 * (light / np.nanmedian(light, axis=0) - 1) if light.size else None


def _drift(light: NDArray[np.float64] | None) -> float | None:
    if light is None:
        return None
    low, high = np.nanquantile(light, [(1 - _DRIFT_SHARE) / 2, (1 + _DRIFT_SHARE) / 2], axis=0)
    return float(np.max(high - low))
