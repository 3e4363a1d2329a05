"""Agreement of each head with the fused prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wbcpipe.samples.differential_record import HeadAgreement

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wbcpipe.report.rows import CellRows

__all__ = ["head_agreement"]


def head_agreement(rows: CellRows) -> tuple[HeadAgreement, ...]:
    """Compare each head with the fused prediction, over the identified cells that are not rejected."""
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
                label: _percent(same[fused[chosen] == position, head]) for label, position in index.items()
            },
            mean_probability=float(highest[:, head].mean(dtype=np.float64)) if len(highest) else None,
        )
        for head, name in enumerate(rows.heads)
    )


def _percent(same: NDArray[np.bool_]) -> float | None:
    return 100 * float(same.mean()) if same.size else None
