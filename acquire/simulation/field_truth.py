"""What really lay in the fields of a virtual slide, for ``truth.csv``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wbcpipe.acquire.simulation.specimen.slide import Specimen
from wbcpipe.acquire.simulation.specimen.truth import TruthRow, truth_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.plan import PlannedField
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
    from wbcpipe.samples.fields import FieldInfo

__all__ = ["field_truth"]


def field_truth(
    plan: SpecimenPlan, scope: Scope, fields: Mapping[int, FieldInfo], skipped: Sequence[PlannedField] = ()
) -> list[TruthRow]:
    """What lies in the rectangle around the fields; each object with the field whose centre is nearest, or -1.

    A field that was skipped as empty comes after those taken: what only it shows belongs to it, and was missed.
    """
    index = np.array([*sorted(fields), *(field.index for field in skipped)])
    taken = [fields[at].slide_transform or fields[at] for at in sorted(fields)]
    centre_um = np.array([(place.x_um, place.y_um) for place in (*taken, *skipped)])  # (F, 2)
    passed_over = np.arange(len(index)) >= len(fields)  # (F,)
    half_um = np.array(scope.field_um) / 2
    x0_um, y0_um = (float(value) for value in centre_um.min(axis=0) - half_um)
    x1_um, y1_um = (float(value) for value in centre_um.max(axis=0) + half_um)
    rows = []
    for row in truth_rows(Specimen(plan), x0_um, y0_um, x1_um, y1_um, (), 0.0):
        away_um = np.abs(centre_um - (row.x_um, row.y_um))  # (F, 2)
        shown = (away_um <= half_um).all(axis=1)
        if (shown & ~passed_over).any():
            shown &= ~passed_over
        nearest = np.where(shown, np.square(away_um).sum(axis=1), np.inf)
        rows.append(row._replace(field=int(index[nearest.argmin()]) if shown.any() else -1))
    return rows
