"""Shapes of white-cell nuclei: tapered tubes blended into lobes, bands, kidneys and discs."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from wbcpipe.acquire.simulation.specimen.biology import BIOLOGY
from wbcpipe.acquire.simulation.specimen.textures import GRID_UM, coordinates, texture

__all__ = ["doubled", "nucleus_depth_um"]

_Tube = tuple[float, float, float, float, float, float]
"""x0, y0, x1, y1, radius at the start, radius at the end, all in um."""


def _pick(rng: np.random.Generator, weights: Mapping[int, float]) -> int:
    values = np.array(list(weights.values()))
    return int(rng.choice(list(weights), p=values / values.sum()))


def _segmented(
    rng: np.random.Generator, lobes: int, cell_um: float, plumpness: float
) -> list[_Tube]:
    """Lobes on an arc, joined by thin strands."""
    area = plumpness * cell_um**2
    arc_um = cell_um * (0.46 if lobes == 2 else rng.uniform(0.50, 0.58))
    span = (lobes - 1) * rng.uniform(1.05, 1.5) if lobes > 2 else rng.uniform(2.0, 3.0)
    turn = rng.uniform(0.0, 2.0 * np.pi)
    sizes = rng.uniform(0.65, 1.3, lobes)
    inner = int(rng.integers(0, lobes))
    radii = np.sqrt(area * sizes / sizes.sum() / 1.35)
    points: list[tuple[float, float]] = []
    tubes: list[_Tube] = []
    for i in range(lobes):
        angle = turn + span * (i - (lobes - 1) / 2.0) / (lobes - 1) + rng.normal(0.0, 0.12)
        r = arc_um * rng.uniform(0.8, 1.15)
        # Of four or five lobes, one is often near the centre.
        if lobes > 3 and i == inner:
            r *= rng.uniform(0.05, 0.5)
        x, y = r * np.cos(angle), r * np.sin(angle)
        lean = angle + np.pi / 2 + rng.normal(0.0, 0.6)
        half = 0.32 * radii[i] * rng.uniform(0.5, 1.5)
        dx, dy = half * np.cos(lean), half * np.sin(lean)
        taper = rng.uniform(0.8, 1.0)
        tubes.append((x - dx, y - dy, x + dx, y + dy, float(radii[i]), float(radii[i] * taper)))
        points.append((x, y))
    for (x0, y0), (x1, y1) in pairwise(points):
        strand = rng.uniform(0.25, 0.5)
        tubes.append((x0, y0, x1, y1, strand, strand))
    return tubes


def _arc(
    rng: np.random.Generator,
    arc_um: float,
    span: float,
    radius_um: float,
    swell: float,
    steps: int = 6,
) -> list[_Tube]:
    """Return the tubes of a bent sausage: band, kidney or horseshoe."""
    turn = rng.uniform(0.0, 2.0 * np.pi)
    angles = turn + span * (np.linspace(0.0, 1.0, steps) - 0.5)
    r = arc_um * (1.0 + rng.normal(0.0, 0.05, steps))
    radii = radius_um * (1.0 + swell * rng.normal(0.0, 1.0, steps))
    # The centre of the arc's mass, not of its circle, goes to the middle of the cell.
    x = r * np.cos(angles) - 0.55 * arc_um * np.sinc(span / (2 * np.pi)) * np.cos(turn)
    y = r * np.sin(angles) - 0.55 * arc_um * np.sinc(span / (2 * np.pi)) * np.sin(turn)
    return [
        (
            float(x[i]),
            float(y[i]),
            float(x[i + 1]),
            float(y[i + 1]),
            float(radii[i]),
            float(radii[i + 1]),
        )
        for i in range(steps - 1)
    ]


def _tubes(label: str, rng: np.random.Generator, cell_um: float) -> tuple[list[_Tube], float]:
    """Return the tubes of a nucleus, and the width over which they blend, um."""
    if label == "NEU" and rng.random() < BIOLOGY.band_rate:
        return _arc(rng, 0.5 * cell_um, rng.uniform(3.0, 4.6), 0.23 * cell_um, 0.08), 0.3
    if label == "NEU":
        return _segmented(
            rng, _pick(rng, BIOLOGY.neutrophil_lobes), cell_um, rng.uniform(0.26, 0.35)
        ), 0.17
    if label == "EOS":
        return _segmented(
            rng, _pick(rng, BIOLOGY.eosinophil_lobes), cell_um, rng.uniform(0.33, 0.43)
        ), 0.22
    if label == "MO":
        span = rng.uniform(1.2, 4.4)
        return _arc(rng, 0.42 * cell_um, span, rng.uniform(0.32, 0.40) * cell_um, 0.09), 0.5
    if label == "BAS":
        return _segmented(
            rng, int(rng.integers(2, 4)), 0.82 * cell_um, rng.uniform(0.50, 0.68)
        ), 0.7
    share = rng.uniform(0.74, 0.88) if cell_um < 5.2 else rng.uniform(0.62, 0.8)
    off = rng.normal(0.0, 0.05 * cell_um, 4)
    radius = share * cell_um * 0.96
    return [(off[0], off[1], off[0] + off[2], off[1] + off[3], radius, radius * 0.97)], 0.3


def _centred(tubes: list[_Tube]) -> list[_Tube]:
    """Move the nucleus most of the way to the middle of its cell: a lobed nucleus keeps a slight
    eccentricity.
    """
    shape = np.array(tubes)
    length = np.hypot(shape[:, 2] - shape[:, 0], shape[:, 3] - shape[:, 1])
    radius = (shape[:, 4] + shape[:, 5]) / 2.0
    area = np.pi * radius**2 + 2.0 * radius * length
    x = float(0.75 * np.average((shape[:, 0] + shape[:, 2]) / 2.0, weights=area))
    y = float(0.75 * np.average((shape[:, 1] + shape[:, 3]) / 2.0, weights=area))
    return [(x0 - x, y0 - y, x1 - x, y1 - y, r0, r1) for x0, y0, x1, y1, r0, r1 in tubes]


def _union_um(
    tubes: list[_Tube], blend_um: float, x: NDArray[np.float32], y: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Depth below the surface of the smooth union of the tubes, um; negative outside."""
    total = np.zeros(x.shape, np.float32)
    for x0, y0, x1, y1, r0, r1 in tubes:
        ax, ay = np.float32(x1 - x0), np.float32(y1 - y0)
        length2 = max(float(ax * ax + ay * ay), 1e-4)
        px, py = x - np.float32(x0), y - np.float32(y0)
        along = np.clip((px * ax + py * ay) * np.float32(1.0 / length2), 0.0, 1.0)
        px -= along * ax
        py -= along * ay
        depth = np.float32(r0) + along * np.float32(r1 - r0) - np.sqrt(px * px + py * py)
        total += np.exp(depth * np.float32(1.0 / blend_um))
    union: NDArray[np.float32] = np.float32(blend_um) * np.log(total + np.float32(1e-12))
    return union


def nucleus_depth_um(
    label: str, rng: np.random.Generator, cell_um: float, side: int
) -> NDArray[np.float32]:
    """Return the depth of each grid point inside the nucleus.

    Args:
        label: class whose nucleus it is.
        rng: the cell's stream.
        cell_um: radius of the cell, um.
        side: of the object grid, even.

    Returns:
        (side, side) float32, um; negative outside.
    """
    # Half the grid's resolution is enough for a smooth depth and four times cheaper.
    coarse = side // 2
    x_axis, y_axis = coordinates(coarse, 2 * GRID_UM)
    sway_um = 0.045 * cell_um
    x = x_axis + sway_um * texture(rng, 2.0, side)[::2, ::2]
    y = y_axis + sway_um * texture(rng, 2.0, side)[::2, ::2]
    tubes, blend_um = _tubes(label, rng, cell_um)
    depth = _union_um(_centred(tubes), blend_um, x, y)
    if label == "LYM" and rng.random() < BIOLOGY.indented_rate:
        angle = rng.uniform(0.0, 2.0 * np.pi)
        reach = cell_um * rng.uniform(0.85, 1.1)
        notch = _union_um(
            [(reach * np.cos(angle), reach * np.sin(angle)) * 2 + (0.45 * cell_um, 0.45 * cell_um)],
            0.3,
            x,
            y,
        )
        depth = np.minimum(depth, -notch)
    if label == "MO":
        # Folds: shallow grooves where a slow texture passes zero.
        fold = texture(rng, 2.0, side)[::2, ::2]
        depth = depth - 0.9 * np.exp(-((fold / 0.12) ** 2)) * (depth > 0)
    return doubled(depth)


def doubled(coarse: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (2h, 2w) from (h, w) by linear interpolation between cell centres."""
    padded = np.pad(coarse, 1, mode="edge")
    rows = np.empty((2 * coarse.shape[0], padded.shape[1]), np.float32)
    rows[0::2] = 0.25 * padded[:-2] + 0.75 * padded[1:-1]
    rows[1::2] = 0.75 * padded[1:-1] + 0.25 * padded[2:]
    fine = np.empty((rows.shape[0], 2 * coarse.shape[1]), np.float32)
    fine[:, 0::2] = 0.25 * rows[:, :-2] + 0.75 * rows[:, 1:-1]
    fine[:, 1::2] = 0.75 * rows[:, 1:-1] + 0.25 * rows[:, 2:]
    return fine
