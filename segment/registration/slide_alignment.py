"""Estimate what registration has in common over a slide.

Rotation, scale and typical shift of each modality.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import ndimage

from wbcpipe.imaging.peaks import subpixel_peaks
from wbcpipe.imaging.translation import correlate_pairs, tile_centres
from wbcpipe.samples.segment_settings.registration import RegistrationSettings
from wbcpipe.segment.registration.edges import coarse_factor
from wbcpipe.segment.registration.register import (
    UNKNOWN_SCATTER_PX,
    Alignment,
    connected,
    identity,
    warp,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["estimate_slide_alignment"]

# Constants, no settings: what a variation needs to be estimated.
#: Fields from which the variation between fields is estimated, and its lower bound.
_MIN_FIELDS: Final = 4
_MIN_SCATTER_PX: Final = 0.1
_DEFAULT: Final = RegistrationSettings()


@dataclass(frozen=True)
class _TileShift:
    """The shift of one tile of one pair of modalities in one field, the second against the first.

    Attributes:
        field, first, second: indices of the field and the modalities.
        position: (2,) of the tile, frame pixels from the centre.
        shift: (2,) frame pixels.
        weight: of the tile.
    """

    field: int
    first: int
    second: int
    position: NDArray[np.float64]
    shift: NDArray[np.float64]
    weight: float


@dataclass(frozen=True)
class _TileSearch:
    """A round of the search.

    Attributes:
        pixel_um: size of a frame's pixel.
        reference: index of the reference modality.
        search_um: greatest displacement.
        settings: of the registration.
    """

    pixel_um: float
    reference: int
    search_um: float
    settings: RegistrationSettings

    @property
    def factor(self) -> int:
        """Frame pixels per pixel of an edge map."""
        return coarse_factor(self.pixel_um, self.settings)


def estimate_slide_alignment(
    fields: Sequence[Sequence[NDArray[np.float32]]],
    shape: tuple[int, ...],
    pixel_um: float,
    *,
    reference: int,
    settings: RegistrationSettings = _DEFAULT,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Alignment:
    """Estimate rotation, scale and typical shift of a slide's modalities from several fields
    together.

    Args:
        fields: F fields of M arrays (y, x) from `edge_map`.
        shape: (Y, X) of the frames.
        pixel_um: size of a frame's pixel.
        reference: index of the reference modality.
        settings: how far to search, and what to trust.
        progress: called with (steps done, steps in all); a step registers one field in one round.

    Returns: The slide's alignment; a modality that no field could register keeps the identity and
        is not trusted.
    """
    found = identity(len(fields[0]), shape)
    rounds_um = (settings.slide_search_um, settings.slide_refine_um)
    done, steps = 0, len(rounds_um) * len(fields)

    def registered() -> None:
        nonlocal done
        done += 1
        progress(done, steps)

    progress(done, steps)
    for radius_um in rounds_um:
        around = _TileSearch(pixel_um, reference, radius_um, settings)
        tiles = _measure_tiles(fields, found, around, registered)
        found = _fit(tiles, found, around)
    return found


def _measure_tiles(
    fields: Sequence[Sequence[NDArray[np.float32]]],
    start: Alignment,
    around: _TileSearch,
    registered: Callable[[], None],
) -> list[_TileShift]:
    pixel_um, reference, settings = around.pixel_um, around.reference, around.settings
    factor = around.factor
    smallest = min(fields[0][0].shape)
    search = max(2, min(round(around.search_um / pixel_um / factor), smallest // 6))
    half_px = max(8, round(settings.tile_half_um / pixel_um / factor))
    half = min(half_px, (smallest - 2 * search) // 2)
    centres = tile_centres(fields[0][0].shape, half, search, max(1, half * 3 // 2))
    positions = centres * float(factor) - 0.5 - start.centre_px  # frame pixels from the centre
    found = []
    for edges in fields:
        warped = [
            values if k == reference else warp(values, start, k, factor)
            for k, values in enumerate(edges)
        ]
        found.append(correlate_pairs(warped, centres, half, search))
        registered()
    tiles = []
    for first, second in found[0]:
        together = [
            (field[first, second][0] * field[first, second][1][:, None, None]).sum(0)
            for field in found
        ]
        # The sum over all fields supports a field with few cells: their shifts are much alike.
        everything = np.mean(together, axis=0)
        for index, field in enumerate(found):
            surface, weight = field[first, second]
            smooth = ndimage.gaussian_filter(together[index] + everything, 1.5)
            likely = np.array(np.unravel_index(int(np.argmax(smooth)), smooth.shape)) - search
            shifts, _, prominence = subpixel_peaks(surface)
            deviation_um = np.hypot(*(shifts - likely).T) * factor * pixel_um
            for k in np.flatnonzero(
                (deviation_um <= settings.max_tile_deviation_um)
                & (prominence > settings.slide_min_prominence)
            ):
                trust = float(prominence[k] * weight[k] * len(weight))
                tiles.append(
                    _TileShift(index, first, second, positions[k], shifts[k] * factor, trust)
                )
    return tiles


def _fit(tiles: Sequence[_TileShift], start: Alignment, around: _TileSearch) -> Alignment:
    """Fit rotation and scale per modality and a shift per modality and field to all tiles, by
    robust least squares.
    """
    modalities, reference = len(start.shift_px), around.reference
    trusted = connected(((tile.first, tile.second) for tile in tiles), modalities, reference)
    free = [k for k in np.flatnonzero(trusted).tolist() if k != reference]
    if not free:
        return replace(start, trusted=trusted)
    numbers = {index: row for row, index in enumerate(sorted({tile.field for tile in tiles}))}
    radius = float(np.linalg.norm(start.centre_px))
    used = [s for s in tiles if {s.first, s.second} <= {*free, reference}]
    design = np.zeros((len(used), 2, len(free), 2 + 2 * len(numbers)))
    for row, tile in enumerate(used):
        y, x = tile.position / radius
        for sign, modality in ((-1.0, tile.first), (1.0, tile.second)):
            if modality != reference:
                block = design[row, :, free.index(modality)]
                block[:, :2] = sign * np.array([[y, x], [x, -y]])
                column = 2 + 2 * numbers[tile.field]
                block[:, column : column + 2] = sign * np.eye(2)
    columns = design.reshape(2 * len(used), -1)
    observed = np.array([tile.shift for tile in used]).ravel()
    # Prior standard deviations of the unknowns, in pixels at the corner; shifts are nearly free.
    expected = np.full((len(free), 2 + 2 * len(numbers)), 1e3)
    expected[:, 0] = around.settings.scale_sd * radius
    expected[:, 1] = around.settings.rotation_sd_rad * radius
    weights, floor = np.array([s.weight for s in used]), 0.1 * around.factor
    solution = _robust(columns, observed, weights, expected.ravel(), floor=floor)
    solution = solution.reshape(len(free), -1)
    linear, shift, residual = start.linear.copy(), start.shift_px.copy(), np.zeros(modalities)
    moved = np.full((modalities, len(numbers), 2), np.nan)
    moved[reference] = 0
    for row, modality in enumerate(free):
        scale, turn = solution[row, :2] / radius
        seen = _well_measured([numbers[s.field] for s in used if modality in (s.first, s.second)])
        shifts = solution[row, 2:].reshape(-1, 2)[seen]
        linear[modality] = linear[modality] @ np.array([[1 + scale, turn], [-turn, 1 + scale]])
        shift[modality] += start.linear[modality] @ np.median(shifts, axis=0)
        moved[modality, seen] = shifts - np.median(shifts, axis=0)
        residual[modality] = np.sqrt(np.mean(moved[modality, seen] ** 2))
    return replace(
        start,
        linear=linear,
        shift_px=shift,
        residual_px=residual,
        scatter_px=_scatter(moved),
        trusted=trusted,
    )


def _well_measured(rows: list[int]) -> NDArray[np.intp]:
    """Return the fields with at least 40 % of the tiles of the best.

    A nearly empty field gives a poor shift.
    """
    counts = np.bincount(rows)
    return np.flatnonzero(counts >= 0.4 * counts.max())


def _scatter(moved: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the robust field-to-field variation (M, M) of each pair, from the deviations (M, F, 2)
    of the shifts.
    """
    scatter = np.full((len(moved), len(moved)), UNKNOWN_SCATTER_PX)
    for pair in np.ndindex(*scatter.shape):
        difference = moved[pair[0]] - moved[pair[1]]
        difference = difference[np.isfinite(difference).all(1)]
        if len(difference) >= _MIN_FIELDS:
            scatter[pair] = max(1.4826 * float(np.median(np.abs(difference))), _MIN_SCATTER_PX)
    return scatter


def _robust(
    design: NDArray[np.float64],
    observed: NDArray[np.float64],
    weight: NDArray[np.float64],
    expected: NDArray[np.float64],
    *,
    floor: float,
) -> NDArray[np.float64]:
    """Solve ``design @ x = observed`` with Tukey's biweight on the length of (y, x) residuals and a
    weak prior on x.

    Args:
        design: (2 n, p).
        observed: (2 n,), y and x of each tile.
        weight: (n,) of each tile.
        expected: (p,) prior standard deviation of the unknowns.
        floor: minimum scale of the residuals.
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
