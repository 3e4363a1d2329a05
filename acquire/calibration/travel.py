"""Move the stage by known lengths and measure the image shifts.

Pixel size, affine, backlash, repeatability.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

import numpy as np

from wbcpipe.acquire.calibration.geometry import Move, camera_affine, fit_moves, prepare, register
from wbcpipe.acquire.config.calibration_record import Backlash, GeometryPart
from wbcpipe.errors import HardwareError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wbcpipe.acquire.calibration.geometry import AffineFit
    from wbcpipe.acquire.calibration.microscope_probe import MicroscopeProbe

__all__ = ["measure_geometry"]

_PLACES: Final = 3
#: Lengths of the moves, as parts of the field's shorter side. The first are short enough to be
#: registered with no idea of the pixel size; they predict the longer ones, which then make the
#: figure exact.
_SHORT: Final = (0.04, 0.08)
_LONG: Final = (0.2, 0.4)
#: Side of the camera's middle that is used, in unbinned pixels.
_SIDE_PX: Final = 1024
_DIRECTIONS: Final = ((1, 0), (0, 1), (-1, 0), (0, -1))
_REPEATS: Final = 3


class _View:
    """An image of a place, and the position that the stage reported."""

    def __init__(
        self,
        probe: MicroscopeProbe,
        place_um: tuple[float, float],
        side: tuple[int, int] = (-1, -1),
    ) -> None:
        self.stage_um = probe.go(*place_um, side)
        with probe.microscope.focus_region(_SIDE_PX) as frame_px:
            self.image = prepare(probe.frame(probe.scope.focus.modality, frame_px=frame_px))

    def move_to(self, other: _View, guess_px: NDArray[np.float64]) -> Move | None:
        """Return the move from here to ``other``; ``None`` where the images do not show the same
        area.
        """
        found = register(self.image, other.image, (float(guess_px[0]), float(guess_px[1])))
        if found is None:
            return None
        moved_um = (other.stage_um[0] - self.stage_um[0], other.stage_um[1] - self.stage_um[1])
        return Move(moved_um, found[0], found[1])


def measure_geometry(probe: MicroscopeProbe) -> GeometryPart:
    """Measure how pixels lie on the stage, and how well the stage returns to a place.

    Raises:
        HardwareError: the image does not follow the stage, or the slot shows nothing.
    """
    probe.find_focus()
    # A camera's middle of this size is exact enough, and distorted less than the full frame.
    shorter_um = min(*probe.scope.field_um, _SIDE_PX * probe.scope.camera.pixel_um)
    places: list[tuple[float, float]] = []
    moves: list[Move] = []
    tried = 0
    for x_um, y_um in probe.places(2 * _PLACES, beside_um=_LONG[-1] * shorter_um):
        if len(places) == _PLACES:
            break
        probe.go(x_um, y_um)
        if probe.focus() is None:
            continue
        here = _View(probe, (x_um, y_um))
        new, count = _moves_from(probe, here, (x_um, y_um), shorter_um)
        tried += count
        if new:
            places.append((x_um, y_um))
            moves += new
            probe.progress("known moves, places", len(places), _PLACES)
    if len(moves) < tried / 2 or not moves:
        raise HardwareError(
            f"only {len(moves)} of {tried} moves of the stage could be followed in the image: lay "
            f"a slide with many cells in the slot, see that it is clamped, that 'camera.pixel_um' "
            "is not wrong by a factor, and that "
            "frames are in focus."
        )
    fit = fit_moves(moves)
    return GeometryPart(
        **dict(camera_affine(fit, probe.scope.camera)),
        moves_tried=tried,
        places=len(places),
        similarity=round(float(np.median([move.similarity for move in moves])), 3),
        backlash=_measure_backlash(probe, fit, places[0]),
    )


def _moves_from(
    probe: MicroscopeProbe, here: _View, place_um: tuple[float, float], shorter_um: float
) -> tuple[list[Move], int]:
    """Return the moves that could be registered at one place, and how many were made.

    Short moves first.
    """
    moves: list[Move] = []
    tried = 0
    inverse: NDArray[np.float64] | None = None
    for lengths in (_SHORT, _LONG):
        for length, direction in itertools.product(lengths, _DIRECTIONS):
            step_um = np.array(direction) * length * shorter_um
            there = _View(probe, (place_um[0] + float(step_um[0]), place_um[1] + float(step_um[1])))
            tried += 1
            guess_px = np.zeros(2) if inverse is None else -inverse @ step_um
            if (move := here.move_to(there, guess_px)) is not None:
                moves.append(move)
        if inverse is None:
            if len(moves) < 4:
                return [], tried
            inverse = np.asarray(np.linalg.inv(fit_moves(moves).matrix), np.float64)
    return moves, tried


def _measure_backlash(
    probe: MicroscopeProbe, fit: AffineFit, place_um: tuple[float, float]
) -> Backlash:
    """Return to one place from all sides: measure the distance between sides, and the repeatability
    of one side.
    """
    home = _View(probe, place_um)
    ends: dict[tuple[int, int], list[NDArray[np.float64]]] = {}
    for number in range(_REPEATS):
        probe.progress("coming back to one place", number + 1, _REPEATS)
        for side in ((-1, -1), (1, -1), (-1, 1)):
            view = _View(probe, place_um, side)
            found = register(home.image, view.image)
            if found is not None:
                # Where the stage really stands against its first visit: the specimen moves against
                # it.
                ends.setdefault(side, []).append(-fit.matrix @ np.array(found[0]))
    result: dict[str, float] = {}
    same = np.array(ends.get((-1, -1), []))
    if len(same) >= 2:
        result["repeatability_um"] = round(float(np.sqrt(np.mean(np.square(same).sum(axis=1)))), 4)
    for axis, side in enumerate(((1, -1), (-1, 1))):
        other = np.array(ends.get(side, []))
        if len(same) >= 2 and len(other) >= 2:
            away = other[:, axis].mean() - same[:, axis].mean()
            error = np.sqrt(
                other[:, axis].var(ddof=1) / len(other) + same[:, axis].var(ddof=1) / len(same)
            )
            result[f"{'xy'[axis]}_um"] = round(float(away), 4)
            result[f"{'xy'[axis]}_se_um"] = round(float(error), 4)
    return Backlash(repeats=_REPEATS, **result)
