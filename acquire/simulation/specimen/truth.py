"""The ground truth of a specimen as rows of ``truth.csv``."""

from collections.abc import Sequence

from wbcpipe.acquire.simulation.specimen.slide import Specimen
from wbcpipe.acquire.slide_relocation.transform import IDENTITY_TRANSFORM, SlideTransform
from wbcpipe.samples.truth import TruthRow

__all__ = ["truth_rows"]


def truth_rows(
    specimen: Specimen,
    area_um: tuple[float, float, float, float],
    fields: Sequence[tuple[int, float, float]] = (),
    half_width_um: float = 0.0,
    *,
    placement: SlideTransform = IDENTITY_TRANSFORM,
) -> list[TruthRow]:
    """Return the white cells, platelets and debris of a scan area.

    Parameters
    ----------
    specimen
        The specimen.
    area_um
        Lowest x, lowest y, highest x and highest y, in the stage's frame.
    fields
        Index and stage position (um) of each field taken.
    half_width_um
        Half the side of a field. An object that several fields show belongs to the one whose centre is nearest.
    placement
        Position of the slide on the stage.

    Returns
    -------
    Rows in the specimen's fixed order; ``field`` is -1 where no field shows the centre.
    """
    x0_um, y0_um, x1_um, y1_um = area_um
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
