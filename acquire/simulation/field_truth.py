"""The objects in the fields of a virtual slide: ``truth.csv``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wbcpipe.acquire.simulation.specimen.truth import truth_rows
from wbcpipe.samples.field_status import read_skipped
from wbcpipe.samples.fields import fields_on_disk, read_info
from wbcpipe.samples.truth import TruthRow, write_truth

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.plan import PlannedField, PlannedPass
    from wbcpipe.acquire.simulation.specimen.slide import Specimen
    from wbcpipe.samples.fields import FieldInfo

__all__ = ["field_truth", "write_field_truth"]


def write_field_truth(planned: PlannedPass, specimen: Specimen, scope: Scope) -> None:
    """Write ``truth.csv`` for the fields of a pass on disk and those skipped as empty; without a field, nothing."""
    sample = planned.sample
    fields = {index: read_info(path) for index, path in fields_on_disk(sample.raw_path(planned.pass_name)).items()}
    if not fields:
        return
    # Empty fields are found in the pass that takes bright field.
    first_pass = "brightfield" if planned.pass_name == "fluorescence" else planned.pass_name
    positions = planned.plan.fields()
    skipped = [positions[index] for index in sorted(read_skipped(sample.raw_path(first_pass))) if index not in fields]
    write_truth(sample.truth_path, field_truth(specimen, scope, fields, skipped))


def field_truth(
    specimen: Specimen, scope: Scope, fields: Mapping[int, FieldInfo], skipped: Sequence[PlannedField] = ()
) -> list[TruthRow]:
    """Return the objects in the rectangle around the fields, each with the field whose centre is nearest, or -1.

    An object that only a skipped field shows belongs to that field: it was missed.
    """
    index = np.array([*sorted(fields), *(field.index for field in skipped)])
    taken = [fields[number].slide_transform or fields[number] for number in sorted(fields)]
    centre_um = np.array([(position.x_um, position.y_um) for position in (*taken, *skipped)])  # (F, 2)
    is_skipped = np.arange(len(index)) >= len(fields)  # (F,)
    half_um = np.array(scope.field_um) / 2
    x0_um, y0_um = (float(value) for value in centre_um.min(axis=0) - half_um)
    x1_um, y1_um = (float(value) for value in centre_um.max(axis=0) + half_um)
    rows = []
    for row in truth_rows(specimen, (x0_um, y0_um, x1_um, y1_um)):
        away_um = np.abs(centre_um - (row.x_um, row.y_um))  # (F, 2)
        shown = (away_um <= half_um).all(axis=1)
        if (shown & ~is_skipped).any():
            shown &= ~is_skipped
        nearest = np.where(shown, np.square(away_um).sum(axis=1), np.inf)
        rows.append(row._replace(field=int(index[nearest.argmin()]) if shown.any() else -1))
    return rows
