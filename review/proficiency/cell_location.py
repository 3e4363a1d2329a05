"""The cell-location test: a reader marks the white cells of a slide that the machine missed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.spatial import cKDTree

from wbcpipe.errors import SampleStateError
from wbcpipe.report.differential import interval_percent
from wbcpipe.review.proficiency.records import LocationResult
from wbcpipe.samples.cell_columns import QcFlag
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.fields import complete_fields, read_passes_info
from wbcpipe.samples.review.entries import LocationMark
from wbcpipe.samples.review.journal import read_journal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from wbcpipe.samples.fields import FieldInfo
    from wbcpipe.samples.sample import Sample

__all__ = [
    "FIELDS",
    "LIMIT_PERCENT",
    "LocationCount",
    "count_marks",
    "draw_fields",
    "score_cell_location",
]

FIELDS: Final = 20
"""Fields to look through: about 80 white cells of a blood film."""
LIMIT_PERCENT: Final = 95.0
"""Of the white cells, to be found."""
_TOLERANCE_UM: Final = 4.0
"""As `wbcpipe evaluate` has it: a white cell has a radius of 4 um or more."""


@dataclass(frozen=True)
class LocationCount:
    """The marks of a reader, sorted.

    Attributes:
        missed: places where the machine has no cell; marks of one place count once.
        already_found: marks on a cell that the machine has.
    """

    missed: int
    already_found: int


def count_marks(
    marks_um: NDArray[np.float64],
    cells_um: NDArray[np.float64],
    tolerance_um: float = _TOLERANCE_UM,
) -> LocationCount:
    """Tell marks of missed cells from marks of cells that the machine has.

    Args:
        marks_um: (n, D) positions; a field seen twice, in overlapping fields, has one position on
            the stage.
        cells_um: (m, D) positions of the machine's white cells.
        tolerance_um: largest distance between a mark and its cell, and between two marks of one
            cell.
    """
    if not len(marks_um):
        return LocationCount(0, 0)
    near = np.zeros(len(marks_um), np.bool_)
    if len(cells_um):
        near = np.isfinite(cKDTree(cells_um).query(marks_um, distance_upper_bound=tolerance_um)[0])
    left = marks_um[~near]
    kept: list[NDArray[np.float64]] = []
    for mark in left:
        if all(np.linalg.norm(mark - other) > tolerance_um for other in kept):
            kept.append(mark)
    return LocationCount(len(kept), int(near.sum()))


def draw_fields(sample: str, fields: Sequence[int], count: int, *, day: str) -> list[int]:
    """Draw the fields of a day's test, in their order.

    The same for every reader of a slide on one day.

    Args:
        sample: its name.
        fields: indices of the complete fields.
        count: how many to draw; all where there are fewer.
        day: ISO 8601.
    """
    seed = int.from_bytes(hashlib.sha256(f"{sample} {day}".encode()).digest()[:8], "big")
    drawn = np.random.default_rng(seed).permutation(sorted(fields))[:count]
    return sorted(int(index) for index in drawn)


def score_cell_location(
    sample: Sample,
    reader: str,
    fields: Sequence[int] | None = None,
    *,
    limit_percent: float = LIMIT_PERCENT,
) -> LocationResult:
    """Count a reader's marks on a slide, and the cells that the machine found.

    Args:
        sample: a segmented sample.
        reader: whose marks count, of all days; a mark is an entry of the journal.
        fields: that the reader looked through; all by default. Marks in others do not count.
        limit_percent: from which the test is passed.

    Raises:
        SampleStateError: no such sample or field, no cells, or neither cell nor mark in these
            fields.
    """
    record = sample.record()
    store = CellStore(sample.cells_path)
    raw = sample.path / "raw"
    complete = complete_fields(raw)
    chosen = set(complete if fields is None else fields)
    if unknown := sorted(chosen - set(complete)):
        raise SampleStateError(
            f"{sample.path}: there is no complete field {unknown[0]}; there are {len(complete)}, "
            f"up to {max(complete, default=0)}."
        )
    marks = [
        entry.action
        for entry in read_journal(sample)
        if entry.reader == reader
        and isinstance(entry.action, LocationMark)
        and entry.action.field in chosen
    ]
    own = store.column("field_index").astype(np.int64)
    white = (store.column("qc_flags").astype(np.int64) & QcFlag.DEBRIS.value) == 0
    infos = {
        index: read_passes_info(raw, index) for index in sorted({mark.field for mark in marks})
    }
    if record.kind == "scope":
        places = [_stage_um(mark, infos[mark.field]) for mark in marks]
        cells = np.column_stack([store.column("y_um"), store.column("x_um")])[white]
        counted = count_marks(np.array(places, np.float64).reshape(-1, 2), cells)
    else:  # imported fields have no common stage
        parts = [
            _in_field(index, marks, store, own, white, infos[index].pixel_um) for index in infos
        ]
        counted = LocationCount(
            sum(part.missed for part in parts), sum(part.already_found for part in parts)
        )
    found = int((white & np.isin(own, sorted(chosen))).sum())
    total = found + counted.missed
    if not total:
        raise SampleStateError(
            f"{sample.path}: neither a cell nor a mark in these fields; choose others."
        )
    percent = 100 * found / total
    return LocationResult(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        reader=reader,
        limit_percent=limit_percent,
        passed=percent >= limit_percent,
        sample=sample.name,
        scope=record.scope.name if record.scope else "",
        fields=len(chosen),
        found=found,
        missed=counted.missed,
        percent=percent,
        interval_percent=interval_percent(found, total),
        already_found=counted.already_found,
    )


def _stage_um(mark: LocationMark, info: FieldInfo) -> tuple[float, float]:
    """Return a mark's position on the stage (y, x).

    The few tenths of a um between the modalities do not matter.
    """
    rows, columns = info.shape_px
    return (
        info.y_um + (mark.y_px - (rows - 1) / 2) * info.pixel_um,
        info.x_um + (mark.x_px - (columns - 1) / 2) * info.pixel_um,
    )


def _in_field(
    index: int,
    marks: Sequence[LocationMark],
    store: CellStore,
    own: NDArray[np.int64],
    white: NDArray[np.bool_],
    pixel_um: float,
) -> LocationCount:
    places = [(mark.y_px * pixel_um, mark.x_px * pixel_um) for mark in marks if mark.field == index]
    cells = np.column_stack([store.column("y_px"), store.column("x_px")]).astype(np.float64)[
        white & (own == index)
    ]
    return count_marks(np.array(places, np.float64), cells * pixel_um)
