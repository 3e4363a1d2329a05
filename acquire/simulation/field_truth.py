"""The objects in the fields of a virtual slide: ``truth.csv``."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np

from wbcpipe.acquire.simulation.specimen.slide import Specimen
from wbcpipe.errors import FrameFileError
from wbcpipe.samples.field_status import read_skipped
from wbcpipe.samples.fields import fields_on_disk, read_info
from wbcpipe.samples.truth import TruthRow, write_truth

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.plan import PlannedPass
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan

__all__ = ["restore_field_truth", "truth_rows", "write_field_truth"]


def write_field_truth(planned: PlannedPass, specimen: Specimen, scope: Scope) -> None:
    """Write ``truth.csv`` for the fields of a pass on disk and those skipped as empty.

    Without a field, nothing.

    It lists the objects in the rectangle around these fields.
    """
    sample = planned.sample
    infos = {
        index: read_info(path)
        for index, path in fields_on_disk(sample.raw_path(planned.pass_name)).items()
    }
    if not infos:
        return
    # Empty fields are found in the pass that takes bright field.
    first_pass = "brightfield" if planned.pass_name == "fluorescence" else planned.pass_name
    on_slide = {index: info.slide_transform or info for index, info in sorted(infos.items())}
    fields = [(index, position.x_um, position.y_um) for index, position in on_slide.items()]
    positions = planned.plan.fields()
    empty = sorted(set(read_skipped(sample.raw_path(first_pass))) - set(infos))
    skipped = [
        (positions[index].index, positions[index].x_um, positions[index].y_um) for index in empty
    ]
    centre_um = np.array([at_um for _, *at_um in (*fields, *skipped)])  # (F, 2)
    half_um = np.array(scope.field_um) / 2
    x0_um, y0_um = (float(value) for value in centre_um.min(axis=0) - half_um)
    x1_um, y1_um = (float(value) for value in centre_um.max(axis=0) + half_um)
    write_truth(
        sample.truth_path,
        truth_rows(specimen, (x0_um, y0_um, x1_um, y1_um), fields, half_um, skipped),
    )


def restore_field_truth(planned: PlannedPass, specimen: SpecimenPlan, scope: Scope) -> None:
    """Write ``truth.csv`` if it is missing or older than a field: the process that took the field
    was killed.
    """
    paths = fields_on_disk(planned.sample.raw_path(planned.pass_name)).values()
    newest_ns = max((path.stat().st_mtime_ns for path in paths), default=None)
    if newest_ns is None:
        return
    truth = planned.sample.truth_path
    if truth.exists() and truth.stat().st_mtime_ns >= newest_ns:
        return
    with contextlib.suppress(
        FrameFileError
    ):  # a damaged field is taken again, and then the truth is written
        write_field_truth(planned, Specimen(specimen), scope)


def truth_rows(
    specimen: Specimen,
    area_um: tuple[float, float, float, float],
    fields: Sequence[tuple[int, float, float]],
    half_um: float | NDArray[np.float64],
    skipped: Sequence[tuple[int, float, float]] = (),
) -> list[TruthRow]:
    """Return the white cells, platelets and debris of an area, in the specimen's fixed order.

    Args:
        specimen: on the stage.
        area_um: lowest x, lowest y, highest x and highest y, on the slide.
        fields: index and position (x, y) of each field taken; an object belongs to the one whose
            centre is nearest, and to -1 where none shows its centre.
        half_um: half the width and height of a field.
        skipped: the fields skipped as empty; an object that only a skipped field shows belongs to
            it: it was missed.
    """
    index = np.array([number for number, *_ in (*fields, *skipped)])  # (F,)
    centre_um = np.array([at_um for _, *at_um in (*fields, *skipped)])  # (F, 2)
    rows = []
    for item in specimen.objects_in(*area_um):
        away_um = np.abs(centre_um - (item.x_um, item.y_um))  # (F, 2)
        shown = np.asarray((away_um <= half_um).all(axis=1))  # (F,)
        if shown[: len(fields)].any():
            shown[len(fields) :] = False
        nearest = np.where(shown, np.square(away_um).sum(axis=1), np.inf)
        field = int(index[nearest.argmin()]) if shown.any() else -1
        rows.append(TruthRow(item.x_um, item.y_um, field, item.label, item.kind))
    return rows
