"""The surface of focus over a slot: a coarse fit over all of it, refined where fields are taken.

Every Z follows from the scan area and the images alone, never from which fields were wanted first: a run that is
broken off, resumed or extended finds the same surface and so takes the same frames.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from wbcpipe.errors import HardwareError, SampleStateError
from wbcpipe.samples import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from wbcpipe.acquire.config import Focus
    from wbcpipe.acquire.plan import AcquisitionPlan

__all__ = ["FocusPoint", "FocusSurface", "fit_surface", "load_surface"]

FORMAT_VERSION: Final = 1
#: A point this far from the plane through the others was focused on dirt or the wrong side of the glass.
_OUTLIER_UM: Final = 4.0
#: Where a point shows nothing, its neighbourhood is tried, this far away in x and y.
_DETOUR_UM: Final = ((0.0, 0.0), (150.0, 0.0), (0.0, 150.0), (-150.0, 0.0), (0.0, -150.0))


class _Finder(Protocol):
    """Focuses at a place; ``near_um`` is a guess of Z, ``wide`` asks for the whole range."""

    def __call__(self, x_um: float, y_um: float, near_um: float, *, wide: bool) -> float | None: ...


@dataclass(frozen=True)
class FocusPoint:
    """A focused place; ``z_um`` is ``None`` where there was nothing to see."""

    x_um: float
    y_um: float
    z_um: float | None


def fit_surface(points: Iterable[FocusPoint]) -> Callable[[float, float], float]:
    """A robust surface through focused points: quadratic from 7 good ones, plane from 3, else their median.

    Points more than 4 um off the plane through the others are left out, the worst first.

    Raises:
        HardwareError: no point has a focus.
    """
    good = [(point.x_um, point.y_um, point.z_um) for point in points if point.z_um is not None]
    if not good:
        raise HardwareError(
            "no focus at any point of the slot: is there a slide, is the light on, is 'focus.range_um' wide enough? "
            "Or set 'focus.method' to \"fixed\"."
        )
    data = np.array(good)
    centre = data[:, :2].mean(axis=0)
    scale = max(float(np.abs(data[:, :2] - centre).max()), 1.0)

    def terms(xy: np.ndarray[Any, Any], order: int) -> np.ndarray[Any, Any]:
        u, v = ((xy - centre) / scale).T
        columns = [np.ones_like(u), u, v, u * u, u * v, v * v]
        return np.column_stack(columns[: (1, 3, 6)[order]])

    while len(data) >= 5:
        off = []
        for leave in range(len(data)):
            rest = np.delete(data, leave, axis=0)
            plane = np.linalg.lstsq(terms(rest[:, :2], 1), rest[:, 2], rcond=None)[0]
            off.append(abs(float(terms(data[leave : leave + 1, :2], 1)[0] @ plane - data[leave, 2])))
        if max(off) <= _OUTLIER_UM:
            break
        data = np.delete(data, int(np.argmax(off)), axis=0)
    order = 2 if len(data) >= 7 else 1 if len(data) >= 3 else 0
    if order and np.linalg.matrix_rank(terms(data[:, :2], order), tol=1e-6) < (1, 3, 6)[order]:
        order = 0
    if order:
        weights = np.linalg.lstsq(terms(data[:, :2], order), data[:, 2], rcond=None)[0]
    else:
        weights = np.array([np.median(data[:, 2])])
    return lambda x_um, y_um: float(terms(np.array([[x_um, y_um]]), order)[0] @ weights)


@dataclass
class FocusSurface:
    """Focus over the scan area of a plan.

    Attributes:
        plan: whose area it spans.
        policy: of the scope.
        coarse: focused points over the whole area.
        fine: (column, row) of the fine grid to its point; only those that were needed so far.
    """

    plan: AcquisitionPlan
    policy: Focus
    coarse: list[FocusPoint] = field(default_factory=list)
    fine: dict[tuple[int, int], FocusPoint] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._surface = fit_surface(self.coarse) if self.coarse else None

    @property
    def fine_shape(self) -> tuple[int, int]:
        """(columns, rows) of the fine grid, which spans the scan area."""
        sides = (self.plan.x_um, self.plan.y_um)
        columns, rows = (max(math.ceil((high - low) / self.policy.spacing_um), 1) + 1 for low, high in sides)
        return columns, rows

    def node_um(self, column: int, row: int) -> tuple[float, float]:
        """Where a point of the fine grid lies."""
        columns, rows = self.fine_shape
        return _between(self.plan.x_um, column, columns), _between(self.plan.y_um, row, rows)

    def _cell(self, x_um: float, y_um: float) -> tuple[int, int, float, float]:
        """The fine grid's cell around a place: its first column and row, and how far into it, 0 to 1."""
        parts = []
        spans_um = (self.plan.x_um, self.plan.y_um)
        for value, (low, high), count in zip((x_um, y_um), spans_um, self.fine_shape, strict=True):
            at = (value - low) / (high - low) * (count - 1)
            first = int(min(max(math.floor(at), 0), count - 2))
            parts.append((first, min(max(at - first, 0.0), 1.0)))
        return parts[0][0], parts[1][0], parts[0][1], parts[1][1]

    def missing_nodes(self, places_um: Iterable[tuple[float, float]]) -> list[tuple[int, int]]:
        """The points of the fine grid around the places that are not focused yet, row by row, back and forth."""
        nodes = set()
        for x_um, y_um in places_um:
            column, row, _, _ = self._cell(x_um, y_um)
            nodes |= {(column + right, row + down) for right, down in itertools.product((0, 1), (0, 1))}
        return sorted(nodes - set(self.fine), key=lambda node: (node[1], node[0] if node[1] % 2 == 0 else -node[0]))

    def measure(self, places_um: Iterable[tuple[float, float]], find: _Finder) -> int:
        """Focus where it is needed to know Z at the places; gives back how many points were focused.

        Raises:
            HardwareError: no point of the whole slot shows anything.
        """
        if self.policy.method == "fixed":
            return 0
        count = 0
        if not self.coarse:
            coarse = self._measure_coarse(find)
            self._surface = fit_surface(coarse)
            self.coarse = coarse
            count = len(self.coarse)
        for column, row in self.missing_nodes(places_um):
            x_um, y_um = self.node_um(column, row)
            self.fine[column, row] = FocusPoint(x_um, y_um, self._find_around(x_um, y_um, find))
            count += 1
        return count

    def _measure_coarse(self, find: _Finder) -> list[FocusPoint]:
        side = self.policy.coarse_points
        points: list[FocusPoint] = []
        for row in range(side):
            for step in range(side):
                column = side - 1 - step if row % 2 else step
                x_um, y_um = _between(self.plan.x_um, column, side), _between(self.plan.y_um, row, side)
                known = [point for point in points if point.z_um is not None]
                z_um: float | None = None
                if known:
                    nearest = min(known, key=lambda point: math.hypot(point.x_um - x_um, point.y_um - y_um))
                    z_um = find(x_um, y_um, nearest.z_um or 0.0, wide=False)
                if z_um is None:
                    z_um = find(x_um, y_um, self.policy.fixed_um, wide=True)
                points.append(FocusPoint(x_um, y_um, z_um))
        return points

    def _find_around(self, x_um: float, y_um: float, find: _Finder) -> float | None:
        """Focus at a place, or beside it; carried back to the place along the coarse surface."""
        assert self._surface is not None
        here_um = self._surface(x_um, y_um)
        for dx_um, dy_um in _DETOUR_UM:
            inside = self.plan.x_um[0] <= x_um + dx_um <= self.plan.x_um[1]
            if not inside or not self.plan.y_um[0] <= y_um + dy_um <= self.plan.y_um[1]:
                continue
            there_um = self._surface(x_um + dx_um, y_um + dy_um)
            found_um = find(x_um + dx_um, y_um + dy_um, round(there_um, 2), wide=False)
            if found_um is not None and abs(found_um - there_um) <= _OUTLIER_UM:
                return round(found_um - there_um + here_um, 3)
        return None

    def z_um(self, x_um: float, y_um: float) -> float:
        """Z of best focus at a place, to the nanometre; `measure` must have been asked for it."""
        if self.policy.method == "fixed":
            return self.policy.fixed_um
        assert self._surface is not None
        column, row, right, down = self._cell(x_um, y_um)
        correction_um = 0.0
        for (step_x, weight_x), (step_y, weight_y) in itertools.product(
            ((0, 1 - right), (1, right)), ((0, 1 - down), (1, down))
        ):
            point = self.fine.get((column + step_x, row + step_y))
            if point is not None and point.z_um is not None:
                correction_um += weight_x * weight_y * (point.z_um - self._surface(point.x_um, point.y_um))
        return round(self._surface(x_um, y_um) + correction_um, 3)

    def save(self, path: Path) -> None:
        """Write the surface as JSON, atomically."""
        write_json(
            path,
            {
                "format_version": FORMAT_VERSION,
                "policy": self.policy.model_dump(mode="json"),
                "area": {"x_um": list(self.plan.x_um), "y_um": list(self.plan.y_um)},
                "coarse": [vars(point) for point in self.coarse],
                "fine": [{"column": at[0], "row": at[1], **vars(point)} for at, point in sorted(self.fine.items())],
            },
        )


def load_surface(path: Path, plan: AcquisitionPlan, policy: Focus) -> FocusSurface:
    """The surface stored at ``path``; an unmeasured one where there is none.

    Raises:
        SampleStateError: the file is damaged.
    """
    if not path.is_file():
        return FocusSurface(plan, policy)
    content = read_json(path)
    try:
        if content["format_version"] != FORMAT_VERSION:
            raise SampleStateError(f"{path}: format {content['format_version']!r} is not {FORMAT_VERSION}.")
        coarse = [FocusPoint(**point) for point in content["coarse"]]
        fine = {
            (entry["column"], entry["row"]): FocusPoint(entry["x_um"], entry["y_um"], entry["z_um"])
            for entry in content["fine"]
        }
    except (KeyError, TypeError) as error:
        raise SampleStateError(f"{path}: not a surface of focus ({error}); move it away and run again.") from error
    return FocusSurface(plan, policy, coarse, fine)


def _between(span_um: tuple[float, float], number: int, count: int) -> float:
    """Point ``number`` of ``count`` evenly spread over ``span_um``, ends included."""
    return round(span_um[0] + (span_um[1] - span_um[0]) * number / (count - 1), 3)
