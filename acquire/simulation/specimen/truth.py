"""The ground truth of a specimen as rows of ``truth.csv``."""

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from wbcpipe.acquire.simulation.specimen.slide import Specimen
from wbcpipe.acquire.slide_relocation.transform import IDENTITY_TRANSFORM, SlideTransform

__all__ = ["TRUTH_COLUMNS", "TruthRow", "truth_rows", "write_truth"]

TRUTH_COLUMNS = ("x_um", "y_um", "field", "class", "kind")


class TruthRow(NamedTuple):
    """One object: its centre in the stage's frame, the field that shows it, its class and kind."""

    x_um: float
    y_um: float
    field: int
    label: str
    kind: str


def truth_rows(
    specimen: Specimen,
    x0_um: float,
    y0_um: float,
    x1_um: float,
    y1_um: float,
    fields: Sequence[tuple[int, float, float]],
    half_width_um: float,
    *,
    placement: SlideTransform = IDENTITY_TRANSFORM,
) -> list[TruthRow]:
    """Return the white cells, platelets and debris of a scan area.

    Parameters
    ----------
    specimen
        The specimen.
    x0_um, y0_um, x1_um, y1_um
        The area, in the stage's frame.
    fields
        Index and stage position (um) of each field taken.
    half_width_um
        Half the side of a field. An object that several fields show belongs to the one whose centre is nearest.
    placement
        How the slide lies on the stage.

    Returns
    -------
    Rows in the specimen's fixed order; ``field`` is -1 where no field shows the centre.
    """
    corners = [placement.to_slide_um(x, y) for x in (x0_um, x1_um) for y in (y0_um, y1_um)]
    xs, ys = [c[0] for c in corners], [c[1] for c in corners]
    rows: list[TruthRow] = []
    for item in specimen.objects_in(min(xs), min(ys), max(xs), max(ys)):
        x, y = placement.to_stage_um(item.x_um, item.y_um)
        if not (x0_um <= x < x1_um and y0_um <= y < y1_um):
            continue
        shown = [
            ((x - fx) ** 2 + (y - fy) ** 2, index)
            for index, fx, fy in fields
            if abs(x - fx) <= half_width_um and abs(y - fy) <= half_width_um
        ]
        rows.append(TruthRow(x, y, min(shown)[1] if shown else -1, item.label, item.kind))
    return rows


def write_truth(path: Path, rows: Iterable[TruthRow]) -> None:
    """Write ``truth.csv``; the file appears whole or not at all."""
    aside = path.with_name(path.name + ".part")
    with aside.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(TRUTH_COLUMNS)
        for row in rows:
            writer.writerow([f"{row.x_um:.3f}", f"{row.y_um:.3f}", row.field, row.label, row.kind])
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(path)
