"""What registration has in common all over a slide: rotation and scale of each modality, and its usual shift."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import ndimage

from wbcpipe.imaging.peaks import subpixel_peaks
from wbcpipe.imaging.translation import correlate_pairs, tile_centres
from wbcpipe.segment.registration.edges import coarse_factor
from wbcpipe.segment.registration.register import UNKNOWN_SCATTER_PX, Alignment, identity, warp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["estimate_slide_alignment"]

_TILE_HALF_UM: Final = 19.2
#: Search radii of the first and the second round.
_ROUNDS_UM: Final = (10.0, 2.0)
_LEAST_PROMINENCE: Final = 0.05
#: Variation between fields is known from this many on, and never less than this.
_LEAST_FIELDS: Final = 4
_LEAST_SCATTER_PX: Final = 0.1
#: How far tiles of one field may differ in the first round, through rotation and scale.
_TILES_APART_UM: Final = 3.0
#: What rotation (rad) and scale are unless the tiles say otherwise: standard deviations around none.
_ROTATION_SD: Final = 0.02
_SCALE_SD: Final = 0.004


@dataclass(frozen=True)
class _Sight:
    """One tile of one pair of modalities in one field: where the second shows what the first shows, in frame pixels."""

    field: int
    first: int
    second: int
    place: NDArray[np.float64]
    shift: NDArray[np.float64]
    weight: float


def estimate_slide_alignment(
    fields: Sequence[Sequence[NDArray[np.float32]]],
    shape: tuple[int, ...],
    pixel_um: float,
    *,
    reference: int,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Alignment:
    """Rotation, scale and usual shift of a slide's modalities, from several fields together.

    Args:
        fields: F fields of M arrays (y, x) from `edge_map`.
        shape: (Y, X) of the frames.
        pixel_um: size of a frame's pixel.
        reference: index of the reference modality.
        progress: called with (steps done, steps in all); a step registers one field in one round.

    Returns:
        The usual alignment; a modality that no field could register keeps the identity and is not trusted.
    """
    found = identity(len(fields[0]), shape)
    done, steps = 0, len(_ROUNDS_UM) * len(fields)

    def registered() -> None:
        nonlocal done
        done += 1
        progress(done, steps)

    progress(done, steps)
    for search_um in _ROUNDS_UM:
        sights = _sights(fields, found, pixel_um, reference, search_um, registered)
        found = _fit(sights, found, reference, coarse_factor(pixel_um))
    return found


def _sights(
    fields: Sequence[Sequence[NDArray[np.float32]]],
    usual: Alignment,
    pixel_um: float,
    reference: int,
    search_um: float,
    registered: Callable[[], None],
) -> list[_Sight]:
    factor = coarse_factor(pixel_um)
    smallest = min(fields[0][0].shape)
    search = max(2, min(round(search_um / pixel_um / factor), smallest // 6))
    half = min(max(8, round(_TILE_HALF_UM / pixel_um / factor)), (smallest - 2 * search) // 2)
    centres = tile_centres(fields[0][0].shape, half, search, max(1, half * 3 // 2))
    places = centres * float(factor) - 0.5 - usual.centre_px  # frame pixels from the centre
    found = []
    for edges in fields:
        warped = [values if k == reference else warp(values, usual, k, factor) for k, values in enumerate(edges)]
        found.append(correlate_pairs(warped, centres, half, search))
        registered()
    sights = []
    for first, second in found[0]:
        together = [(field[first, second][0] * field[first, second][1][:, None, None]).sum(0) for field in found]
        # A field with few cells leans on the others: their shifts are much alike.
        everything = np.mean(together, axis=0)
        for index, field in enumerate(found):
            surface, weight = field[first, second]
            blurred = ndimage.gaussian_filter(together[index] + everything, 1.5)
            likely = np.array(np.unravel_index(int(np.argmax(blurred)), blurred.shape)) - search
            shifts, _, prominence = subpixel_peaks(surface)
            apart = np.hypot(*(shifts - likely).T) * factor * pixel_um
            for k in np.flatnonzero((apart <= _TILES_APART_UM) & (prominence > _LEAST_PROMINENCE)):
                trust = float(prominence[k] * weight[k] * len(weight))
                sights.append(_Sight(index, first, second, places[k], shifts[k] * factor, trust))
    return sights


def _fit(sights: Sequence[_Sight], usual: Alignment, reference: int, factor: int) -> Alignment:
    """Robust least squares over all sights: rotation and scale per modality, a shift per modality and field."""
    modalities = len(usual.shift_px)
    free = [k for k in range(modalities) if k != reference and _reached(sights, k, reference)]
    if not free:
        return replace(usual, trusted=np.arange(modalities) == reference)
    numbers = {index: row for row, index in enumerate(sorted({sight.field for sight in sights}))}
    radius = float(np.linalg.norm(usual.centre_px))
    used = [s for s in sights if {s.first, s.second} <= {*free, reference}]
    design = np.zeros((len(used), 2, len(free), 2 + 2 * len(numbers)))
    for row, sight in enumerate(used):
        y, x = sight.place / radius
        for sign, modality in ((-1.0, sight.first), (1.0, sight.second)):
            if modality != reference:
                block = design[row, :, free.index(modality)]
                block[:, :2] = sign * np.array([[y, x], [x, -y]])
                start = 2 + 2 * numbers[sight.field]
                block[:, start : start + 2] = sign * np.eye(2)
    columns = design.reshape(2 * len(used), -1)
    observed = np.array([sight.shift for sight in used]).ravel()
    # Expected size of the unknowns, in pixels at the corner; shifts are all but free.
    expected = np.full((len(free), 2 + 2 * len(numbers)), 1e3)
    expected[:, 0], expected[:, 1] = _SCALE_SD * radius, _ROTATION_SD * radius
    solution = _robust(columns, observed, np.array([s.weight for s in used]), expected.ravel(), floor=0.1 * factor)
    solution = solution.reshape(len(free), -1)
    linear, shift, residual = usual.linear.copy(), usual.shift_px.copy(), np.zeros(modalities)
    moved = np.full((modalities, len(numbers), 2), np.nan)
    moved[reference] = 0
    for row, modality in enumerate(free):
        scale, turn = solution[row, :2] / radius
        seen = _well_seen([numbers[s.field] for s in used if modality in (s.first, s.second)])
        shifts = solution[row, 2:].reshape(-1, 2)[seen]
        linear[modality] = linear[modality] @ np.array([[1 + scale, turn], [-turn, 1 + scale]])
        shift[modality] += usual.linear[modality] @ np.median(shifts, axis=0)
        moved[modality, seen] = shifts - np.median(shifts, axis=0)
        residual[modality] = np.sqrt(np.mean(moved[modality, seen] ** 2))
    trusted = np.isin(np.arange(modalities), [*free, reference])
    return replace(
        usual, linear=linear, shift_px=shift, residual_px=residual, scatter_px=_scatter(moved), trusted=trusted
    )


def _well_seen(rows: list[int]) -> NDArray[np.intp]:
    """Fields with at least 40 % of the sights of the best: the shift of one nearly empty is a guess."""
    counts = np.bincount(rows)
    return np.flatnonzero(counts >= 0.4 * counts.max())


def _scatter(moved: NDArray[np.float64]) -> NDArray[np.float64]:
    """Robust field-to-field variation (M, M) of each pair, from (M, F, 2) shifts against the usual ones."""
    scatter = np.full((len(moved), len(moved)), UNKNOWN_SCATTER_PX)
    for pair in np.ndindex(*scatter.shape):
        apart = moved[pair[0]] - moved[pair[1]]
        apart = apart[np.isfinite(apart).all(1)]
        if len(apart) >= _LEAST_FIELDS:
            scatter[pair] = max(1.4826 * float(np.median(np.abs(apart))), _LEAST_SCATTER_PX)
    return scatter


def _reached(sights: Sequence[_Sight], modality: int, reference: int) -> bool:
    reached = {reference}
    for _ in range(8):
        reached |= {k for s in sights for k in (s.first, s.second) if s.first in reached or s.second in reached}
    return modality in reached


def _robust(
    design: NDArray[np.float64],
    observed: NDArray[np.float64],
    weight: NDArray[np.float64],
    expected: NDArray[np.float64],
    *,
    floor: float,
) -> NDArray[np.float64]:
    """Solve ``design @ x = observed`` with Tukey's biweight on whole (y, x) residuals and a weak prior on x.

    Args:
        design: (2 n, p).
        observed: (2 n,), y and x of each sight in turn.
        weight: (n,) of each sight.
        expected: (p,) standard deviation of the unknowns beforehand.
        floor: least scale of the residuals.
    """
    trust = weight.copy()
    solution = np.zeros(design.shape[1])
    scale = 10 * floor
    for _ in range(12):
        rows = np.sqrt(np.repeat(trust, 2))
        normal = (design * rows[:, None] ** 2).T @ design / scale**2 + np.diag(1 / expected**2)
        solution = np.linalg.solve(normal, (design * rows[:, None] ** 2).T @ observed / scale**2)
        residual = np.linalg.norm((observed - design @ solution).reshape(-1, 2), axis=1)
        scale = max(1.2 * float(np.median(residual)), floor)
        trust = weight * np.maximum(1 - (residual / (4.7 * scale)) ** 2, 0) ** 2
    return solution
