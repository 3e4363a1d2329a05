"""Red cells: biconcave discs after Evans and Fung, drawn from a one-dimensional table of their
blurred profile.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

if TYPE_CHECKING:
    from wbcpipe.acquire.simulation.optics.light_path import View

__all__ = ["RedCells", "draw_red_cells", "red_cell_profiles", "red_cell_tile"]

RED_CELLS_PER_FIELD: Final = 330.0
_RADIUS_UM: Final = 3.75
_DENSEST: Final = 1.5
_FIELD_UM2: Final = 204.8**2
_CHUNK: Final = 16

# Evans & Fung, Microvasc. Res. 4 (1972) 335, doi:10.1016/0026-2862(72)90069-6, eq. 4 and table 3
# (300 mosmol), c0 + c1 r^2 + c2 r^4 in um with r the radius over its greatest; then swollen, flat
# and stomatocyte-like variants.
_THICKNESS: Final = (
    (0.81, 7.83, -4.39),
    (1.15, 6.40, -3.60),
    (0.55, 8.40, -4.75),
    (1.80, 3.60, -2.10),
)

# A cell tilted or floating a little: each variant lies at its own height.
_HEIGHT_UM: Final = (0.0, 0.35, -0.35, 0.15)

_STEPS: Final = 4096
_PROFILE_UM: Final = 0.1
#: Refractive index of a red cell above plasma's (about 1.40 against 1.35).
_INDEX_STEP: Final = 0.05


@dataclass(frozen=True)
class RedCells:
    """Red cells as columns: (N,) float64 each, but ``variant`` (N,) intp."""

    x_um: NDArray[np.float64]
    y_um: NDArray[np.float64]
    #: Half axes and direction of the first.
    long_um: NDArray[np.float64]
    short_um: NDArray[np.float64]
    angle_rad: NDArray[np.float64]
    #: How pear-shaped the outline is (1/um), along which direction.
    pear: NDArray[np.float64]
    pear_rad: NDArray[np.float64]
    #: Haemoglobin content relative to the mean.
    haemoglobin: NDArray[np.float64]
    variant: NDArray[np.intp]

    @classmethod
    def joined(cls, tiles: Sequence["RedCells"]) -> "RedCells":
        """Return all cells of the tiles, in order."""
        return cls(
            **{
                c.name: np.concatenate([getattr(tile, c.name) for tile in tiles])
                for c in fields(cls)
            }
        )

    def chosen(self, which: NDArray[np.bool_]) -> "RedCells":
        """Return the cells where ``which`` (N,) bool is true, in order."""
        return RedCells(**{c.name: getattr(self, c.name)[which] for c in fields(self)})

    def __len__(self) -> int:
        return len(self.x_um)


def _scattered(
    rng: np.random.Generator,
    tile: tuple[float, float, float],
    crowding: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]],
    per_field: float,
) -> NDArray[np.float64]:
    """Draw centres (N, 2) um that mostly keep a distance, with some short rouleaux."""
    x0_um, y0_um, side_um = tile
    count = int(rng.poisson(1.9 * per_field * _DENSEST * side_um**2 / _FIELD_UM2))
    points = np.column_stack(
        [x0_um + side_um * rng.random(count), y0_um + side_um * rng.random(count)]
    )
    points = points[rng.random(count) * _DENSEST < crowding(points[:, 0], points[:, 1])]
    distance_um = np.where(rng.random(len(points)) < 0.9, 7.3, 4.0)
    gaps = np.hypot(
        points[:, None, 0] - points[None, :, 0], points[:, None, 1] - points[None, :, 1]
    )
    kept: list[int] = []
    nearest_um = np.full(len(points), np.inf)  # of those kept so far
    for i in range(len(points)):
        if nearest_um[i] >= distance_um[i]:
            kept.append(i)
            np.minimum(nearest_um, gaps[i], out=nearest_um)
    points = points[kept]
    chains = [points]
    for start in points[rng.random(len(points)) < 0.05]:
        length = int(rng.integers(1, 5))
        heading = rng.uniform(0.0, 2.0 * np.pi) + np.cumsum(rng.normal(0.0, 0.25, length))
        pace = rng.uniform(2.6, 5.5) * np.ones(length)
        chain = np.column_stack(
            [np.cumsum(pace * np.cos(heading)), np.cumsum(pace * np.sin(heading))]
        )
        chains.append(start + chain)
    return np.concatenate(chains)


def red_cell_tile(
    rng: np.random.Generator,
    tile: tuple[float, float, float],
    crowding: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]],
    occupied: NDArray[np.float64],
    overlaid: NDArray[np.float64],
    *,
    sparse: bool,
) -> RedCells:
    """Return the red cells of one tile.

    Args:
        rng: the tile's stream.
        tile: x0, y0 and side of the tile, um.
        crowding: local density relative to the mean at x, y (um).
        occupied: (M, 3) float64: x, y and radius (um) of white cells, which red cells keep clear
            of.
        overlaid: (K, 3) float64: white cells over which one red cell lies.
        sparse: a buffy coat, where red cells are a third as many.
    """
    x0_um, y0_um, side_um = tile
    points = _scattered(rng, tile, crowding, RED_CELLS_PER_FIELD / (3.0 if sparse else 1.0))
    if len(occupied):
        away = (
            np.hypot(points[:, None, 0] - occupied[:, 0], points[:, None, 1] - occupied[:, 1])
            - occupied[:, 2]
        )
        points = points[away.min(axis=1) > rng.uniform(2.6, 4.0, len(points))]
    for x, y, radius in overlaid:
        # The offset depends on the position of the white cell alone, so that neighbouring tiles
        # agree on it.
        turn, reach = 7.0 * (x + y), radius * (0.45 + 0.4 * ((3.7 * x) % 1.0))
        ox, oy = x + reach * np.cos(turn), y + reach * np.sin(turn)
        if x0_um <= ox < x0_um + side_um and y0_um <= oy < y0_um + side_um:
            points = np.concatenate([points, [(ox, oy)]])
    n = len(points)
    radius_um = np.clip(rng.normal(_RADIUS_UM, 0.28, n), 2.9, 4.7)
    stretch = np.exp(np.abs(rng.normal(0.0, 0.07, n)) + 0.35 * (rng.random(n) < 0.04))
    return RedCells(
        x_um=points[:, 0],
        y_um=points[:, 1],
        long_um=radius_um * np.sqrt(stretch),
        short_um=radius_um / np.sqrt(stretch),
        angle_rad=rng.uniform(0.0, np.pi, n),
        pear=np.abs(rng.normal(0.0, 0.018, n)),
        pear_rad=rng.uniform(0.0, 2.0 * np.pi, n),
        haemoglobin=np.exp(rng.normal(0.0, 0.1, n)),
        variant=rng.choice(4, n, p=[0.5, 0.22, 0.18, 0.10]),
    )


@lru_cache(maxsize=96)
def red_cell_profiles(
    variant: int, sigma_um: float, defocus_um: float, rim: float, bend: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """Return thickness and refraction of a red cell against r^2, both (steps,) float32, and the r^2
    of the last step.

    r is relative to the cell's radius. ``sigma_um`` is the blur, ``defocus_um`` how far the cell is
    out of focus; ``rim`` weighs the light lost at steep edges and ``bend`` the light redistributed
    by defocus.
    """
    reach_um = _RADIUS_UM + 3.0 * sigma_um + 0.5
    half = int(np.ceil(reach_um / _PROFILE_UM))
    axis = np.arange(-half, half + 1) * (_PROFILE_UM / _RADIUS_UM)
    r2 = axis[None, :] ** 2 + axis[:, None] ** 2
    c0, c1, c2 = _THICKNESS[variant]
    thickness = np.sqrt(np.clip(1.0 - r2, 0.0, None)) * (c0 + c1 * r2 + c2 * r2**2)
    path = _INDEX_STEP * ndimage.gaussian_filter(thickness, 0.18 / _PROFILE_UM)
    along_y, along_x = np.gradient(path, _PROFILE_UM)
    refraction = rim * np.hypot(along_x, along_y)
    refraction += bend * (defocus_um + _HEIGHT_UM[variant]) * ndimage.laplace(path) / _PROFILE_UM**2
    grid_sigma = sigma_um / _PROFILE_UM
    r_max = half * _PROFILE_UM / _RADIUS_UM
    steps = np.sqrt(np.linspace(0.0, r_max**2, _STEPS))

    def profile(image: NDArray[np.float64]) -> NDArray[np.float32]:
        middle = ndimage.gaussian_filter1d(image, grid_sigma, axis=0, truncate=3.0)[half]
        blurred = ndimage.gaussian_filter1d(middle, grid_sigma, truncate=3.0)[half:]
        line = np.interp(steps, axis[half:], blurred).astype(np.float32)
        line[-1] = 0.0
        line.flags.writeable = False
        return line

    return profile(thickness), profile(refraction), float(r_max**2)


def draw_red_cells(
    plane: NDArray[np.float32],
    origin: tuple[int, int],
    cells: RedCells,
    centres_px: NDArray[np.float64],
    view: "View",
    tables: Sequence[tuple[NDArray[np.float32], NDArray[np.float32], float]],
) -> None:
    """Add red cells to ``plane``, which is changed.

    Args:
        plane: (rows, columns) float32, a window of the sensor.
        origin: row and column of the window's first pixel on the sensor.
        cells: the N cells.
        centres_px: (N, 2) float64, column and row of the cells on the sensor.
        view: the map from the slide to the sensor.
        tables: per variant, the profile that scales with haemoglobin, the one that does not, and
            the r^2 they end at.
    """
    um_per_px = view.um_per_px
    for variant, (scaled, fixed, r2_max) in enumerate(tables):
        which = np.flatnonzero(cells.variant == variant)
        reach = np.sqrt(r2_max) * float(cells.long_um[which].max(initial=0.0)) / um_per_px
        half = int(np.ceil(reach)) + 1
        offsets = np.arange(-half, half + 1, dtype=np.float32) * np.float32(um_per_px)
        for start in range(0, len(which), _CHUNK):
            chunk = which[start : start + _CHUNK]
            base = np.rint(centres_px[chunk]).astype(np.intp)
            near = (
                (base[:, 0] + half >= origin[1])
                & (base[:, 0] - half < origin[1] + plane.shape[1])
                & (base[:, 1] + half >= origin[0])
                & (base[:, 1] - half < origin[0] + plane.shape[0])
            )
            chunk, base = chunk[near], base[near]
            if not len(chunk):
                continue
            patches = _patches(cells, chunk, centres_px[chunk] - base, offsets, view, r2_max)
            values = cells.haemoglobin[chunk].astype(np.float32)[:, None, None] * scaled[patches]
            values += fixed[patches]
            for patch, (column, row) in zip(values, base, strict=True):
                add_clipped(plane, patch, row - half - origin[0], column - half - origin[1])


def _patches(
    cells: RedCells,
    chunk: NDArray[np.intp],
    fraction_px: NDArray[np.float64],
    offsets_um: NDArray[np.float32],
    view: "View",
    r2_max: float,
) -> NDArray[np.int32]:
    """Return the index into the profile at each pixel around each cell, (n, side, side) int32."""
    um_per_px, rotation_rad = view.um_per_px, view.rotation_rad

    def column(values: NDArray[np.float64]) -> NDArray[np.float32]:
        return values.astype(np.float32)[:, None]

    angle = cells.angle_rad[chunk] + rotation_rad
    long2, short2 = cells.long_um[chunk] ** -2.0, cells.short_um[chunk] ** -2.0
    xx = column(np.cos(angle) ** 2 * long2 + np.sin(angle) ** 2 * short2)
    yy = column(np.sin(angle) ** 2 * long2 + np.cos(angle) ** 2 * short2)
    xy = column(2.0 * np.sin(angle) * np.cos(angle) * (long2 - short2))
    x = offsets_um[None, :] - column(fraction_px[:, 0] * um_per_px)
    y = offsets_um[None, :] - column(fraction_px[:, 1] * um_per_px)
    lean = cells.pear_rad[chunk] + rotation_rad
    # Bounded, since under strong blur the patch reaches far beyond the cell.
    lean_x = np.clip(column(cells.pear[chunk] * np.cos(lean)) * x, -0.3, 0.3)
    lean_y = np.clip(column(cells.pear[chunk] * np.sin(lean)) * y, -0.3, 0.3)
    r2 = (xy * y)[:, :, None] * x[:, None, :]  # (n, side, side)
    r2 += (xx * x * x)[:, None, :]
    r2 += (yy * y * y)[:, :, None]
    r2 *= (1.0 + lean_y)[:, :, None] + lean_x[:, None, :]
    r2 *= np.float32((_STEPS - 1) / r2_max)
    np.minimum(r2, np.float32(_STEPS - 1), out=r2)
    indices: NDArray[np.int32] = r2.astype(np.int32)
    return indices


def add_clipped(
    plane: NDArray[np.float32], patch: NDArray[np.float32], row: int, column: int
) -> None:
    """Add ``patch`` to ``plane`` with its first pixel at (row, column), which may lie outside.

    Both float32.
    """
    top, left = max(row, 0), max(column, 0)
    bottom = min(row + patch.shape[0], plane.shape[0])
    right = min(column + patch.shape[1], plane.shape[1])
    if top < bottom and left < right:
        plane[top:bottom, left:right] += patch[
            top - row : bottom - row, left - column : right - column
        ]
