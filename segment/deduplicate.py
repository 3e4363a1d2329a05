"""Match cells by their stage position.

Views of one cell in overlapping fields, and cells with their true class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.spatial import cKDTree

from wbcpipe.samples.cell_columns import QcFlag
from wbcpipe.samples.segment_settings.quality import DuplicateSettings
from wbcpipe.samples.truth import read_truth

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["deduplicate", "label_from_truth", "match_positions"]

#: Distance (um) within which truth and labels are of a cell: no setting, as a file states them.
_TRUTH_UM: Final = 3.0
_DEFAULT: Final = DuplicateSettings()
#: Flags of a poor view, the worst first.
_RANK: Final = (QcFlag.BORDER, QcFlag.MISSING_MODALITY, QcFlag.UNREGISTERED, QcFlag.SATURATED)


def deduplicate(
    y_um: NDArray[np.float64],
    x_um: NDArray[np.float64],
    field_index: NDArray[np.int32],
    qc_flags: NDArray[np.uint16],
    off_centre_um: NDArray[np.float64],
    settings: DuplicateSettings = _DEFAULT,
) -> NDArray[np.bool_]:
    """Select from N views the best one of each cell.

    Args:
        y_um: (N,) on the stage.
        x_um: (N,) on the stage.
        field_index: (N,) index of the field.
        qc_flags: (N,) bits of ``QcFlag``.
        off_centre_um: (N,) distance from the middle of the view's field.
        settings: how near two views of one cell are.

    Returns:
        (N,) bool, True for the views to keep.
    """
    kept = np.zeros(len(field_index), bool)
    if not len(field_index):
        return kept
    points = np.stack([y_um, x_um], -1)
    tree = cKDTree(points)
    poor = [(qc_flags & flag) > 0 for flag in _RANK]
    keys = [
        np.arange(len(field_index)),
        field_index,
        np.round(off_centre_um, 3),
        *reversed(poor),
    ]  # the last decides first
    order = np.lexsort(np.array(keys, float))
    cut = poor[0]
    for k in order:
        near = tree.query_ball_point(
            points[k], settings.same_cut_um if cut[k] else settings.same_um
        )
        kept[k] = not any(kept[other] and field_index[other] != field_index[k] for other in near)
    return kept


def label_from_truth(path: Path, y_um: NDArray[np.float64], x_um: NDArray[np.float64]) -> list[str]:
    """Return the class of each of N cells from ``truth.csv``.

    Empty where no true cell that is left is within 3 um.

    Raises:
        SampleStateError: the file is not what the virtual scope writes.
    """
    cells = [row for row in read_truth(path) if row.is_white_cell]
    truth = np.array([(row.y_um, row.x_um) for row in cells]).reshape(-1, 2)
    return [
        "" if true < 0 else cells[true].label
        for true in match_positions(np.stack([y_um, x_um], -1), truth)
    ]


def match_positions(points_um: NDArray[np.float64], known_um: NDArray[np.float64]) -> list[int]:
    """Return for each of N points (N, 2) the nearest of the known ones (M, 2) within 3 um, one to
    one; -1 without one.

    >>> match_positions(np.array([[0.0, 0.0], [0.0, 1.0], [9.0, 9.0]]), np.array([[0.0, 0.9]]))
    [-1, 0, -1]
    """
    found = [-1] * len(points_um)
    if not len(points_um) or not len(known_um):
        return found
    pairs = cKDTree(points_um).sparse_distance_matrix(
        cKDTree(known_um), _TRUTH_UM, output_type="coo_matrix"
    )
    used: set[int] = set()
    for _, point, known in sorted(
        zip(pairs.data.tolist(), pairs.row.tolist(), pairs.col.tolist(), strict=True)
    ):
        if found[point] < 0 and known not in used:
            used.add(known)
            found[point] = known
    return found
