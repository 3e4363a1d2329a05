"""Names of cells that survive a new segmentation.

Field and position, matched again within a few micrometres.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
import scipy
from pydantic import StringConstraints

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

__all__ = ["MATCH_UM", "CellKey", "CellMatch", "cell_keys", "match_keys"]

MATCH_UM: Final = 3.0
"""Cells whose centres are farther apart are different ones.

A white cell has a radius of 4 um or more.
"""
_PATTERN: Final = r"f(-?[0-9]{1,9})y(-?[0-9]{1,12})x(-?[0-9]{1,12})(n[0-9]{1,6})?"
_KEY: Final = re.compile(_PATTERN)
#: The name of a cell in a journal, ``f<field>y<0.1 um>x<0.1 um>``, and ``n2``, ``n3`` where that is
#: not unique.
CellKey = Annotated[str, StringConstraints(pattern=f"^{_PATTERN}$", max_length=48)]


@dataclass(frozen=True)
class CellMatch:
    """Cells of a journal found among those of a new segmentation.

    Attributes:
        matched: earlier name to the name now, where there is such a cell.
        unmatched: earlier names of cells that are there no more, in the order given.
    """

    matched: dict[str, str]
    unmatched: tuple[str, ...]


def cell_keys(field_index: NDArray[Any], y_um: NDArray[Any], x_um: NDArray[Any]) -> list[str]:
    """Return the name of each cell.

    Args:
        field_index: (N,) integers.
        y_um, x_um: (N,) centres on the stage; NaN, as imported cells may have, stands for 0.

    >>> cell_keys(np.array([12, 12]), np.array([34.06, 34.06]), np.array([-5.5, -5.5]))
    ['f12y341x-55', 'f12y341x-55n2']
    """
    tenths = np.rint(np.nan_to_num(np.column_stack([y_um, x_um])) * 10).astype(np.int64)
    seen: Counter[str] = Counter()
    keys = []
    for index, (y, x) in zip(np.asarray(field_index).tolist(), tenths.tolist(), strict=True):
        key = f"f{index}y{y}x{x}"
        seen[key] += 1
        keys.append(key if seen[key] == 1 else f"{key}n{seen[key]}")
    return keys


def match_keys(earlier: Iterable[str], now: Sequence[str]) -> CellMatch:
    """Match cells of a journal one to one to those of a new segmentation, within their fields.

    A name that still exists is the same cell. The others are matched within `MATCH_UM` so that as
    many as possible find a partner, and of those solutions the one of the smallest sum of
    distances.

    Args:
        earlier: names in the journal.
        now: names of all cells of the sample.

    Raises:
        ValueError: a name is none of a cell.
    """
    wanted, present = list(dict.fromkeys(earlier)), set(now)
    matched = {key: key for key in wanted if key in present}
    taken = set(matched.values())
    lost_by_field, free_by_field = defaultdict(list), defaultdict(list)
    for key in wanted:
        if key not in matched:
            lost_by_field[_parse(key)[0]].append(key)
    for key in now:
        if key not in taken and (index := _parse(key)[0]) in lost_by_field:
            free_by_field[index].append(key)
    for index, lost in lost_by_field.items():
        matched.update(_nearest(lost, free_by_field[index]))
    return CellMatch(matched, tuple(key for key in wanted if key not in matched))


def _nearest(lost: list[str], free: list[str]) -> dict[str, str]:
    if not free:
        return {}
    from_um, to_um = (
        np.array([_parse(key)[1:] for key in keys], np.float64) / 10 for keys in (lost, free)
    )
    distance = scipy.spatial.distance.cdist(from_um, to_um)  # (lost, free)
    # A pair out of reach costs more than all pairs in reach together: none of those is given up for
    # it.
    cost = np.where(distance <= MATCH_UM, distance, 1.0 + MATCH_UM * (min(distance.shape) + 1))
    rows, columns = scipy.optimize.linear_sum_assignment(cost)
    return {
        lost[row]: free[column]
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
        if distance[row, column] <= MATCH_UM
    }


def _parse(key: str) -> tuple[int, int, int]:
    found = _KEY.fullmatch(key)
    if found is None:
        raise ValueError(f"{key!r} is no name of a cell; f<field>y<0.1 um>x<0.1 um> is expected")
    return int(found[1]), int(found[2]), int(found[3])
