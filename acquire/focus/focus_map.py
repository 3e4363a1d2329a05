"""The focus surface over a slot: a coarse fit over all of it, refined where fields are taken.

Every Z follows from the scan area and the images alone, not from the order of the fields: a run
that is interrupted, resumed or extended finds the same surface and takes the same frames. Drift is
measured by focusing again at points that were focused before.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from wbcpipe.acquire.focus.surface_fit import OUTLIER_UM, fit_drift, fit_local, fit_surface
from wbcpipe.errors import SampleStateError
from wbcpipe.samples.records import DriftCheck, FocusNode, FocusPoint, FocusRecord, ScanArea

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from wbcpipe.acquire.config.policies import Focus
    from wbcpipe.acquire.plan import AcquisitionPlan

__all__ = ["Finder", "FocusSurface", "distance_um", "load_surface"]

#: Where a point shows nothing, its neighbourhood is tried, at these distances in x and y.
_DETOUR_UM: Final = ((0.0, 0.0), (150.0, 0.0), (0.0, 150.0), (-150.0, 0.0), (0.0, -150.0))
#: Number of nodes of the fine grid beyond a cell, along each side, that its local surface uses.
_REACH: Final = 1
#: Number of points focused before at which a drift is measured.
_REFERENCE_POINTS: Final = 9


class Finder(Protocol):
    """Focuses at a stage position; ``near_um`` is a guess of Z, ``wide`` asks for the full
    range.
    """

    def __call__(self, x_um: float, y_um: float, near_um: float, *, wide: bool) -> float | None:
        """Return Z of best focus in um; ``None`` where nothing is visible."""
        ...


@dataclass
class FocusSurface:
    """Focus over the scan area of a plan.

    Attributes:
        plan: whose area it spans.
        policy: of the scope.
        coarse: focused points over the scan area.
        fine: (column, row) of the fine grid to the point focused there or beside it; only those
            needed so far.
        checks: of the drift, in the order in which they were made.
        outdated: a drift was found that no shift and tilt describe: the surface must be measured
            again.
        resumed: read from a file: the microscope may have drifted since it was measured.
        pending: position in um that is being focused, or was when that failed.
    """

    plan: AcquisitionPlan
    policy: Focus
    coarse: list[FocusPoint] = field(default_factory=list)
    fine: dict[tuple[int, int], FocusPoint] = field(default_factory=dict)
    checks: list[DriftCheck] = field(default_factory=list)
    resumed: bool = False
    outdated: bool = False
    pending: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        self._surface = fit_surface(self.coarse) if self.coarse else None
        self._coarse_so_far: list[FocusPoint] = []
        self._given_up: set[tuple[int, int]] = set()
        self._local: dict[tuple[int, int], Callable[[float, float], float]] = {}

    @property
    def fine_shape(self) -> tuple[int, int]:
        """Return (columns, rows) of the fine grid, which spans the scan area."""
        sides = (self.plan.x_um, self.plan.y_um)
        columns, rows = (
            max(math.ceil((high - low) / self.policy.spacing_um), 1) + 1 for low, high in sides
        )
        return columns, rows

    def node_um(self, column: int, row: int) -> tuple[float, float]:
        """Return the stage position of a node of the fine grid."""
        columns, rows = self.fine_shape
        return _between(self.plan.x_um, column, columns), _between(self.plan.y_um, row, rows)

    def _cell(self, x_um: float, y_um: float) -> tuple[int, int]:
        """Return the first column and row of the fine grid's cell around a position."""
        spans_um = (self.plan.x_um, self.plan.y_um)
        column, row = (
            min(max(math.floor((value - low) / (high - low) * (count - 1)), 0), count - 2)
            for value, (low, high), count in zip(
                (x_um, y_um), spans_um, self.fine_shape, strict=True
            )
        )
        return column, row

    def _nodes_around(self, column: int, row: int) -> list[tuple[int, int]]:
        """Return the nodes of the fine grid that the local surface of a cell uses."""
        columns, rows = self.fine_shape
        across = range(max(column - _REACH, 0), min(column + 1 + _REACH, columns - 1) + 1)
        down = range(max(row - _REACH, 0), min(row + 1 + _REACH, rows - 1) + 1)
        return list(itertools.product(across, down))

    def missing_nodes(self, positions_um: Iterable[tuple[float, float]]) -> list[tuple[int, int]]:
        """Return the nodes around the positions that are not focused yet, row by row, back and
        forth.
        """
        cells = {self._cell(x_um, y_um) for x_um, y_um in positions_um}
        nodes = {node for cell in cells for node in self._nodes_around(*cell)}
        return sorted(
            nodes - set(self.fine),
            key=lambda node: (node[1], node[0] if node[1] % 2 == 0 else -node[0]),
        )

    @property
    def points(self) -> int:
        """Return the number of points that were focused or found to show nothing."""
        return len(self.coarse or self._coarse_so_far) + len(self.fine)

    def measure(self, positions_um: Iterable[tuple[float, float]], find: Finder) -> None:
        """Focus the points needed to know Z at the positions.

        After a failure, a second call goes on at `pending`.

        Raises:
            HardwareError: that of the finder, or no point of the slot shows anything.
        """
        if self.policy.method == "fixed":
            return
        if not self.coarse:
            self._measure_coarse(find)
            found, self._coarse_so_far = self._coarse_so_far, []
            self.pending = None
            self._surface = fit_surface(found)
            self.coarse = found
        for node in self.missing_nodes(positions_um):
            if node not in self._given_up:
                self.pending = self.node_um(*node)
                self.fine[node] = self._measure_node(*self.pending, find)
        self.pending = None
        self._given_up.clear()
        self._local.clear()

    def give_up(self) -> None:
        """Skip `pending` in the measurement that follows.

        A later one tries a node of the fine grid again.
        """
        if self.pending is None:
            return
        where, self.pending = self.pending, None
        if not self.coarse:
            self._coarse_so_far.append(FocusPoint(*where, None))
        else:
            self._given_up |= {
                node for node in self.missing_nodes([where]) if self.node_um(*node) == where
            }

    def fall_back(self) -> bool:
        """Use the points measured so far, until `measure` is called again.

        Return false if there are none.
        """
        self._given_up.clear()
        self._local.clear()
        if not self.coarse:
            known = any(point.z_um is not None for point in self._coarse_so_far)
            self._surface = fit_surface(self._coarse_so_far) if known else None
        return self._surface is not None

    def _measure_coarse(self, find: Finder) -> None:
        side = self.policy.coarse_points
        for number in range(len(self._coarse_so_far), side * side):
            row, step = divmod(number, side)
            column = side - 1 - step if row % 2 else step
            x_um, y_um = _between(self.plan.x_um, column, side), _between(self.plan.y_um, row, side)
            self.pending = (x_um, y_um)
            known = [point for point in self._coarse_so_far if point.z_um is not None]
            z_um: float | None = None
            if known:
                nearest = min(
                    known, key=lambda point: math.hypot(point.x_um - x_um, point.y_um - y_um)
                )
                z_um = find(x_um, y_um, nearest.z_um or 0.0, wide=False)
            if z_um is None:
                z_um = find(x_um, y_um, self.policy.fixed_um, wide=True)
            self._coarse_so_far.append(FocusPoint(x_um, y_um, z_um))

    def _measure_node(self, x_um: float, y_um: float, find: Finder) -> FocusPoint:
        """Focus at a node of the fine grid, or beside it.

        Return the focus without the drift seen so far.
        """
        assert self._surface is not None
        for point in self.coarse:
            if (
                point.z_um is not None
                and (point.x_um, point.y_um) == (x_um, y_um)
                and abs(point.z_um - self._surface(x_um, y_um)) <= OUTLIER_UM
            ):
                return point
        for dx_um, dy_um in _DETOUR_UM:
            there = (round(x_um + dx_um, 3), round(y_um + dy_um, 3))
            spans_um = (self.plan.x_um, self.plan.y_um)
            if not all(
                low <= value <= high for value, (low, high) in zip(there, spans_um, strict=True)
            ):
                continue
            expected_um, shift_um = self._surface(*there), self.drift_um(*there)
            found_um = find(*there, round(expected_um + shift_um, 2), wide=False)
            if found_um is not None and abs(found_um - shift_um - expected_um) <= OUTLIER_UM:
                return FocusPoint(*there, round(found_um - shift_um, 3))
        return FocusPoint(x_um, y_um, None)

    def drift_um(self, x_um: float, y_um: float) -> float:
        """Return the drift of the focus at a position since it was measured."""
        return self._drift_of(self.checks[-1], x_um, y_um) if self.checks else 0.0

    def _drift_of(self, check: DriftCheck, x_um: float, y_um: float) -> float:
        """Return the drift at a position that a check describes."""
        dx_mm, dy_mm = (
            (at - sum(span) / 2) / 1000
            for at, span in ((x_um, self.plan.x_um), (y_um, self.plan.y_um))
        )
        return check.shift_um + check.tilt_x_um_mm * dx_mm + check.tilt_y_um_mm * dy_mm

    def z_um(self, x_um: float, y_um: float) -> float:
        """Return Z of best focus at a position now, to the nanometre.

        Call `measure` for it first.
        """
        if self.policy.method == "fixed":
            return self.policy.fixed_um
        return round(self._undrifted_um(x_um, y_um) + self.drift_um(x_um, y_um), 3)

    def _undrifted_um(self, x_um: float, y_um: float) -> float:
        assert self._surface is not None
        cell = self._cell(x_um, y_um)
        if cell not in self._local:
            self._local[cell] = self._fit_cell(*cell)
        return self._surface(x_um, y_um) + self._local[cell](x_um, y_um)

    def _fit_cell(self, column: int, row: int) -> Callable[[float, float], float]:
        """Fit the correction of the coarse surface in a cell of the fine grid, from the points
        around it alone.
        """
        assert self._surface is not None
        around = [self.fine[node] for node in self._nodes_around(column, row) if node in self.fine]
        off = [
            FocusPoint(point.x_um, point.y_um, point.z_um - self._surface(point.x_um, point.y_um))
            for point in around
            if point.z_um is not None
        ]
        local = fit_local(off, self.policy.spacing_um)
        if local is not None:
            return local
        # One or two points give the height, not the slope.
        level_um = float(np.mean([point.z_um for point in off])) if off else 0.0
        return lambda _x_um, _y_um: level_um

    def check_is_due(self, index: int) -> bool:
        """Return whether the drift must be measured before this field: at the first one of every so
        many.
        """
        every = self.policy.drift_check_fields
        if self.policy.method == "fixed" or not every or index < every or not self.coarse:
            return False  # the error of a provisional surface is not drift
        return all(check.field // every != index // every for check in self.checks)

    def check_drift(
        self, index: int, x_um: float, y_um: float, find: Finder, *, keep: bool = True
    ) -> DriftCheck:
        """Measure the drift at a position.

        Beyond the limit, measure it at the reference points too.

        Args:
            index: of the field of the plan that is taken next.
            x_um, y_um: a position whose surface was measured.
            find: focuses.
            keep: also record a check that changes nothing, so that it is not repeated.
        """
        measured_um = self._confirmed_drift(x_um, y_um, find)
        now = self.checks[-1] if self.checks else DriftCheck(index, None, 0.0)
        check = replace(now, field=index, measured_um=measured_um)
        off_um = 0.0 if measured_um is None else measured_um - self.drift_um(x_um, y_um)
        moved = abs(off_um) > self.policy.drift_limit_um
        if measured_um is not None and moved:
            before_um = self.drift_um(x_um, y_um)
            refitted = self._refit(check, FocusPoint(x_um, y_um, measured_um), find)
            self.outdated = refitted is None
            moved = (
                refitted is None
                or abs(self._drift_of(refitted, x_um, y_um) - before_um)
                > self.policy.drift_limit_um
            )
            if moved:
                check = refitted or replace(check, shift_um=round(now.shift_um + off_um, 3))
        # A drift that the reference points do not confirm (dirt, cells on another level) changes
        # nothing.
        if moved or keep:
            self.checks.append(check)
        return check

    def reference_points(self) -> list[FocusPoint]:
        """Return focused points in the order of farthest-point sampling from the middle of the
        area.
        """
        assert self._surface is not None
        good = [
            point
            for point in (*self.coarse, *(self.fine[node] for node in sorted(self.fine)))
            if point.z_um is not None
            and abs(point.z_um - self._surface(point.x_um, point.y_um)) <= OUTLIER_UM
        ]
        middle = FocusPoint(sum(self.plan.x_um) / 2, sum(self.plan.y_um) / 2, None)
        chosen: list[FocusPoint] = []
        away_um = [-distance_um(point, middle) for point in good]
        while good and len(chosen) < _REFERENCE_POINTS and (max(away_um) > 0 or not chosen):
            farthest = good[away_um.index(max(away_um))]
            away_um = [
                min(distance_um(point, farthest), away if chosen else math.inf)
                for point, away in zip(good, away_um, strict=True)
            ]
            chosen.append(farthest)
        return chosen

    def _refit(self, check: DriftCheck, seen: FocusPoint, find: Finder) -> DriftCheck | None:
        """Fit shift and tilt to the drift at the reference points; ``None`` where they do not
        agree.

        Args:
            check: to be filled in.
            seen: the drift at the position of the check.
            find: focuses.
        """
        known, drifts = [seen], []
        for point in sorted(self.reference_points(), key=lambda point: distance_um(point, seen)):
            assert point.z_um is not None
            near = min(known, key=lambda one: distance_um(one, point))
            found_um = find(
                point.x_um, point.y_um, round(point.z_um + (near.z_um or 0.0), 2), wide=False
            )
            if found_um is not None:
                drifts.append(FocusPoint(point.x_um, point.y_um, found_um - point.z_um))
                known.append(drifts[-1])
        plane = fit_drift(drifts, (sum(self.plan.x_um) / 2, sum(self.plan.y_um) / 2))
        if plane is None:
            return None
        shift_um, *tilts_um_mm = (round(term, 4) for term in plane)
        return replace(
            check, shift_um=shift_um, tilt_x_um_mm=tilts_um_mm[0], tilt_y_um_mm=tilts_um_mm[1]
        )

    def _confirmed_drift(self, x_um: float, y_um: float, find: Finder) -> float | None:
        """Return the focus relative to the surface.

        Beyond the limit only if a position beside it confirms it.

        So a particle of dirt shifts nothing. ``None`` where nothing is visible, or the positions
        disagree.
        """
        shift_um = self.drift_um(x_um, y_um)

        def above_um(dx_um: float, guess_um: float, *, wide: bool = False) -> list[float]:
            surface_um = self._undrifted_um(x_um + dx_um, y_um)
            found_um = find(x_um + dx_um, y_um, round(surface_um + guess_um, 2), wide=wide)
            return [] if found_um is None else [round(found_um - surface_um, 3)]

        beside_um = self.plan.field_width_um / 4
        seen_um: list[float] = []
        for dx_um in (0.0, beside_um, -beside_um):
            seen_um += above_um(dx_um, shift_um)
            if seen_um and abs(seen_um[0] - shift_um) <= self.policy.drift_limit_um:
                return seen_um[0]
        if not seen_um:
            seen_um = above_um(0.0, shift_um, wide=True)
            seen_um += [
                one
                for dx_um in (beside_um, -beside_um)
                if seen_um
                for one in above_um(dx_um, seen_um[0])
            ]
        if len(seen_um) < 2:
            return None
        by_distance = sorted(seen_um, key=lambda one: abs(one - shift_um))
        return by_distance[(len(seen_um) - 1) // 2]

    def save(self, path: Path) -> None:
        """Write the surface as JSON, atomically."""
        FocusRecord(
            policy=self.policy.model_dump(mode="json"),
            area=ScanArea(x_um=self.plan.x_um, y_um=self.plan.y_um),
            coarse=tuple(self.coarse),
            fine=tuple(
                FocusNode(*node, **asdict(point)) for node, point in sorted(self.fine.items())
            ),
            drift=tuple(self.checks),
        ).write(path)


def load_surface(path: Path, plan: AcquisitionPlan, policy: Focus) -> FocusSurface:
    """Read the surface stored at ``path``; return an unmeasured one where there is no file.

    Raises:
        SampleStateError: the file is damaged, or of another scan area.
    """
    record = FocusRecord.read_if_present(path)
    if record is None:
        return FocusSurface(plan, policy)
    if (record.area.x_um, record.area.y_um) != (tuple(plan.x_um), tuple(plan.y_um)):
        raise SampleStateError(
            f"{path}: of another scan area than the sample's plan; {record.remedy}."
        )
    fine = {
        (node.column, node.row): FocusPoint(node.x_um, node.y_um, node.z_um) for node in record.fine
    }
    return FocusSurface(plan, policy, list(record.coarse), fine, list(record.drift), resumed=True)


def distance_um(one: FocusPoint, other: FocusPoint) -> float:
    """Return the distance of two points."""
    return math.hypot(one.x_um - other.x_um, one.y_um - other.y_um)


def _between(span_um: tuple[float, float], number: int, count: int) -> float:
    """Return point ``number`` of ``count`` evenly spread over ``span_um``, ends included."""
    return round(span_um[0] + (span_um[1] - span_um[0]) * number / (count - 1), 3)
