"""The objects on an infinite slide.

White cells, platelets and debris, generated tile by tile on demand.
"""

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from wbcpipe.acquire.simulation.specimen.biology import BIOLOGY
from wbcpipe.acquire.simulation.specimen.landscape import Landscape
from wbcpipe.acquire.simulation.specimen.plan import CELL_CLASSES, SpecimenPlan, class_frequencies
from wbcpipe.acquire.simulation.specimen.random_streams import Purpose, stream
from wbcpipe.acquire.simulation.specimen.red_cells import RedCells, red_cell_tile

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LARGEST_RADIUS_UM", "ObjectKind", "Specimen", "SpecimenObject"]

ObjectKind = Literal["cell", "doublet", "debris", "platelet"]

TILE_UM: Final = 102.4
LARGEST_RADIUS_UM: Final = 34.0
"""No object reaches farther from its centre than this."""

_FIELD_UM2: Final = 204.8**2
_CELLS_PER_FIELD: Final = {"blood-film": 4.2, "buffy-coat": 14.5}
_PLATELETS_PER_FIELD: Final = {"blood-film": 16.0, "buffy-coat": 24.0}
_DEBRIS_PER_FIELD: Final = 1.3
_APART_UM: Final = 24.0
_DENSEST: Final = 1.5


@dataclass(frozen=True)
class SpecimenObject:
    """One thing on the slide, in the slide's own frame.

    ``label`` is the class of a white cell and empty for anything else; a ``doublet`` is a white
    cell that touches another, and both are listed.
    """

    x_um: float
    y_um: float
    label: str
    kind: ObjectKind
    radius_um: float
    height_um: float = field(repr=False)
    shape_seed: int = field(repr=False)


@dataclass(frozen=True)
class _Candidate:
    """A white cell, unless one of higher priority is too near."""

    x_um: float
    y_um: float
    priority: float
    seed: int


def _tiles(x0_um: float, y0_um: float, x1_um: float, y1_um: float) -> list[tuple[int, int]]:
    """Return (column, row) of an area's tiles and of those around: a doublet's partner may lie
    outside its tile.
    """
    columns, rows = (
        range(int(np.floor(low_um / TILE_UM)) - 1, int(np.floor(high_um / TILE_UM)) + 2)
        for low_um, high_um in ((x0_um, x1_um), (y0_um, y1_um))
    )
    return [(column, row) for row in rows for column in columns]


class Specimen:
    """A specimen without edges, generated from its plan.

    Tiles are generated when they are asked for. Everything at a point depends on the plan and the
    point alone, never on the order of calls, and any number of threads may call at once.
    """

    def __init__(self, plan: SpecimenPlan) -> None:
        self.plan = plan
        self.frequencies = class_frequencies(plan)
        self._landscape = Landscape(plan.seed)
        self._candidates = lru_cache(maxsize=1024)(self._make_candidates)
        self._objects = lru_cache(maxsize=1024)(self._make_objects)
        self._red_cells = lru_cache(maxsize=512)(self._make_red_cells)

    def focus_um(self, x_um: float, y_um: float) -> float:
        """Return the Z (um) at which the point is in focus; within ±27 um everywhere."""
        return self._landscape.focus_um(x_um, y_um)

    def objects_in(
        self, x0_um: float, y0_um: float, x1_um: float, y1_um: float
    ) -> list[SpecimenObject]:
        """Return the white cells, platelets and debris with their centres in ``[x0, x1) x [y0,
        y1)``, um.

        Red cells are not listed. The order is fixed: by tile, and within a tile by creation.
        """
        return [
            item
            for column, row in _tiles(x0_um, y0_um, x1_um, y1_um)
            for item in self._objects(column, row)
            if x0_um <= item.x_um < x1_um and y0_um <= item.y_um < y1_um
        ]

    def red_cells_in(self, x0_um: float, y0_um: float, x1_um: float, y1_um: float) -> RedCells:
        """Return the red cells with their centres in ``[x0, x1) x [y0, y1)``, um, in a fixed
        order.
        """
        everything = RedCells.joined(
            [self._red_cells(*tile) for tile in _tiles(x0_um, y0_um, x1_um, y1_um)]
        )
        x, y = everything.x_um, everything.y_um
        return everything.chosen((x >= x0_um) & (x < x1_um) & (y >= y0_um) & (y < y1_um))

    def _make_candidates(self, column: int, row: int) -> tuple[_Candidate, ...]:
        rng = stream(Purpose.WHITE_CELLS, self.plan.seed, column, row)
        target = _CELLS_PER_FIELD[self.plan.preparation] / _FIELD_UM2
        # Thinning by distance (Matern II) leaves (1 - exp(-n c)) / c of a density n, with c the
        # excluded area.
        excluded_um2 = np.pi * _APART_UM**2
        before = -np.log(1.0 - target * excluded_um2) / excluded_um2
        count = int(rng.poisson(before * _DENSEST * TILE_UM**2))
        x = (column + rng.random(count)) * TILE_UM
        y = (row + rng.random(count)) * TILE_UM
        kept = rng.random(count) * _DENSEST < self._landscape.crowding(x, y)
        priority = rng.random(count)
        seeds = rng.integers(0, 2**62, count)
        return tuple(
            _Candidate(float(x[i]), float(y[i]), float(priority[i]), int(seeds[i]))
            for i in np.flatnonzero(kept)
        )

    def _survivors(self, column: int, row: int) -> list[_Candidate]:
        around = [
            other
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
            for other in self._candidates(column + dx, row + dy)
        ]
        return [
            one
            for one in self._candidates(column, row)
            if not any(
                other.priority > one.priority
                and np.hypot(other.x_um - one.x_um, other.y_um - one.y_um) < _APART_UM
                for other in around
            )
        ]

    def _white_cell(
        self, x_um: float, y_um: float, kind: ObjectKind, rng: np.random.Generator
    ) -> SpecimenObject:
        label = str(rng.choice(CELL_CLASSES, p=[self.frequencies[name] for name in CELL_CLASSES]))
        mean, sd, least, greatest = BIOLOGY.classes[label].diameter_um
        diameter = float(np.clip(rng.normal(mean, sd), least, greatest))
        height = float(rng.normal(0.0, BIOLOGY.height_sd_um))
        return SpecimenObject(
            x_um, y_um, label, kind, diameter / 2.0, height, int(rng.integers(0, 2**62))
        )

    def _make_objects(self, column: int, row: int) -> tuple[SpecimenObject, ...]:
        primaries = self._survivors(column, row)
        found: list[SpecimenObject] = []
        for one in primaries:
            rng = stream(one.seed)
            is_doublet = rng.random() < BIOLOGY.doublet_rate
            cell = self._white_cell(one.x_um, one.y_um, "doublet" if is_doublet else "cell", rng)
            found.append(cell)
            if is_doublet:
                angle = rng.uniform(0.0, 2.0 * np.pi)
                partner = self._white_cell(0.0, 0.0, "doublet", rng)
                reach = 0.97 * (cell.radius_um + partner.radius_um)
                x_um, y_um = (
                    cell.x_um + reach * float(np.cos(angle)),
                    cell.y_um + reach * float(np.sin(angle)),
                )
                found.append(replace(partner, x_um=x_um, y_um=y_um))
        return (*found, *self._particles(column, row, found))

    def _particles(
        self, column: int, row: int, cells: list[SpecimenObject]
    ) -> list[SpecimenObject]:
        rng = stream(Purpose.PARTICLES, self.plan.seed, column, row)
        found: list[SpecimenObject] = []
        kinds: tuple[tuple[ObjectKind, float], ...] = (
            ("platelet", _PLATELETS_PER_FIELD[self.plan.preparation]),
            ("debris", _DEBRIS_PER_FIELD),
        )
        for kind, per_field in kinds:
            count = int(rng.poisson(per_field * _DENSEST * TILE_UM**2 / _FIELD_UM2))
            x = (column + rng.random(count)) * TILE_UM
            y = (row + rng.random(count)) * TILE_UM
            kept = rng.random(count) * _DENSEST < self._landscape.crowding(x, y)
            radius = (
                rng.uniform(0.9, 1.5, count)
                if kind == "platelet"
                else rng.gamma(3.0, 0.8, count) + 1.2
            )
            height = rng.normal(0.0, 0.6, count)
            seeds = rng.integers(0, 2**62, count)
            for i in np.flatnonzero(kept):
                here = float(x[i]), float(y[i])
                size = float(min(radius[i], 7.0))
                if any(
                    np.hypot(here[0] - c.x_um, here[1] - c.y_um) < c.radius_um + size + 0.6
                    for c in cells
                ):
                    continue
                found.append(SpecimenObject(*here, "", kind, size, float(height[i]), int(seeds[i])))
        return found

    def _make_red_cells(self, column: int, row: int) -> RedCells:
        x0, y0 = column * TILE_UM, row * TILE_UM
        near = self.objects_in(x0 - 16.0, y0 - 16.0, x0 + TILE_UM + 16.0, y0 + TILE_UM + 16.0)
        cells = [item for item in near if item.label]
        occupied: NDArray[np.float64] = np.array(
            [(c.x_um, c.y_um, c.radius_um) for c in cells]
        ).reshape(-1, 3)
        overlaid = [
            c
            for c in cells
            if stream(c.shape_seed, Purpose.RED_CELLS).random() < BIOLOGY.overlaid_rate
        ]
        above: NDArray[np.float64] = np.array(
            [(c.x_um, c.y_um, c.radius_um) for c in overlaid]
        ).reshape(-1, 3)
        return red_cell_tile(
            stream(Purpose.RED_CELLS, self.plan.seed, column, row),
            (x0, y0, TILE_UM),
            self._landscape.crowding,
            occupied,
            above,
            sparse=self.plan.preparation == "buffy-coat",
        )
