"""The cells of a sample as the page gets them.

One list for each column, which is small for 10,000 cells too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from wbcpipe.samples.cell_columns import UNIDENTIFIED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wbcpipe.report.rows import CellRows

__all__ = ["fused_probability", "machine_columns", "measured_columns"]


def measured_columns(rows: CellRows) -> dict[str, list[Any]]:
    """Return what was measured: field, position, size, flags, and why a cell is excluded,
    ``flagged``: by a flag.
    """
    columns = rows.columns
    return {
        "field": columns["field_index"].tolist(),
        "y_um": _rounded(columns["y_um"], 2),
        "x_um": _rounded(columns["x_um"], 2),
        "area_um2": _rounded(columns["area_um2"], 2),
        "flags": rows.qc_flags.tolist(),
        "flagged": list(rows.exclusion_reason),
        "excluded": list(rows.exclusion_reason),
    }


def machine_columns(rows: CellRows) -> dict[str, list[Any]]:
    """Return what the model says: its class, confidence, disagreement, each head's class, the three
    likeliest.
    """
    index = {name: number for number, name in enumerate(rows.classes)} | {UNIDENTIFIED: -1}
    machine = [index[name] for name in rows.predicted_class]
    probability = fused_probability(rows)
    identified = np.flatnonzero(np.asarray(machine) >= 0)
    probability[identified, np.asarray(machine)[identified]] = (
        2.0  # a stacked model may call another than the mean
    )
    likeliest = np.argsort(-probability, axis=1, kind="stable")[:, :3]
    return {
        "machine": machine,
        "confidence": _rounded(rows.confidence, 4),
        "disagreement": _rounded(rows.disagreement, 4),
        "heads": rows.head_predictions().tolist(),
        "order3": likeliest.tolist(),
    }


def fused_probability(rows: CellRows) -> NDArray[np.float64]:
    """Return the mean (N, K) of the heads' probabilities, with the model's weights."""
    weights = np.asarray(rows.classification.weights or np.ones(len(rows.heads)), np.float64)
    fused: NDArray[np.float64] = np.einsum(
        "nhk,h->nk", rows.probability.astype(np.float64), weights
    )
    return fused / max(float(weights.sum()), 1e-12)


def _rounded(values: NDArray[Any], digits: int) -> list[float | None]:
    """Return numbers for JSON, which has no NaN."""
    return [
        round(value, digits) if np.isfinite(value) else None
        for value in values.astype(np.float64).tolist()
    ]
