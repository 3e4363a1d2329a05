"""How the heads of one network agree with the call they make together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from wbcpipe.report.rows import CellRows

__all__ = ["HeadAgreement", "head_agreement"]


@dataclass(frozen=True)
class HeadAgreement:
    """One head against the fused call, over the identified cells.

    Attributes:
        head: its name.
        percent: share of the cells where the head alone would have called the same class; ``None`` without cells.
        class_percent: the same per called class.
        mean_probability: mean of the head's own highest probability; ``None`` without cells.
    """

    head: str
    percent: float | None
    class_percent: dict[str, float | None]
    mean_probability: float | None


def head_agreement(rows: CellRows) -> list[HeadAgreement]:
    """Compare each head with the fused call on the cells that were counted."""
    index = {name: position for position, name in enumerate(rows.classes)}
    called = np.array([index.get(call, -1) for call in rows.predicted_class], dtype=np.intp)
    chosen = rows.counted & (called >= 0)
    same = rows.head_predictions()[chosen] == called[chosen, None]  # (n, H)
    top = rows.probability[chosen].max(axis=2)  # (n, H)
    return [
        HeadAgreement(
            head=name,
            percent=_percent(same[:, head]),
            class_percent={
                label: _percent(same[called[chosen] == position, head]) for label, position in index.items()
            },
            mean_probability=float(top[:, head].mean(dtype=np.float64)) if len(top) else None,
        )
        for head, name in enumerate(rows.heads)
    ]


def _percent(same: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> float | None:
    return 100 * float(same.mean()) if same.size else None
