"""The ground truth of a specimen as rows of ``truth.csv``."""

from collections.abc import Sequence

from wbcpipe.acquire.simulation.specimen.slide import Specimen
from wbcpipe.samples.truth import TruthRow

__all__ = ["truth_rows"]


def truth_rows(
    specimen: Specimen,
    area_um: tuple[float, float, float, float],
    fields: Sequence[tuple[int, float, float]] = (),
    half_width_um: float = 0.0,
) -> list[TruthRow]:
    """Return the white cells, platelets and debris of a scan area.

    Args:
        specimen: the specimen.
        area_um: lowest x, lowest y, highest x and highest y, on the slide.
        fields: index and position (um) of each field taken.
        half_width_um: half the side of a field. An object that several fields show belongs to the one whose centre is
            nearest.

    Returns:
        Rows in the specimen's fixed order; ``field`` is -1 where no field shows the centre.
    """
    rows: list[TruthRow] = []
    for item in specimen.objects_in(*area_um):
        x, y = item.x_um, item.y_um
        shown = [
            ((x - fx) ** 2 + (y - fy) ** 2, index)
            for index, fx, fy in fields
            if abs(x - fx) <= half_width_um and abs(y - fy) <= half_width_um
        ]
        rows.append(TruthRow(x, y, min(shown)[1] if shown else -1, item.label, item.kind))
    return rows
