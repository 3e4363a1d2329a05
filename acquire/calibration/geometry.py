"""Fit the affine map from camera pixels to the stage.

From known moves and the image shifts that they cause.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import ndimage
from scipy.optimize import least_squares

from wbcpipe.acquire.config.calibration_record import CameraAffine
from wbcpipe.errors import HardwareError
from wbcpipe.imaging.translation import measure_translation, registered_correlation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wbcpipe.acquire.config.scope import Camera

__all__ = ["AffineFit", "Move", "camera_affine", "file_matrix", "fit_moves", "prepare", "register"]

#: Band of detail used, standard deviations in pixels of the two Gaussians whose difference it is.
_FINE_PX: Final = 1.0
_COARSE_PX: Final = 6.0
#: Two cut-outs that correlate less do not show the same place.
_MIN_SIMILARITY: Final = 0.5
_UPSAMPLING: Final = 200
#: Residuals beyond this many pixels lose weight in the fit.
_ROBUST_PX: Final = 0.1


@dataclass(frozen=True)
class Move:
    """A move of the stage and the image shift that it caused.

    Attributes:
        stage_um: (x, y) by which the stage says that the image's centre moved over the specimen.
        shift_px: (x, y) by which the specimen moved in the frame, to the right and down.
        similarity: correlation of the two images where they overlap after the shift.
    """

    stage_um: tuple[float, float]
    shift_px: tuple[float, float]
    similarity: float


@dataclass(frozen=True)
class AffineFit:
    """The map from pixels of a frame to the stage: ``stage_um = matrix @ (right, down)``.

    Attributes:
        matrix: (2, 2) float64, um per pixel of the frame.
        covariance: (4, 4) float64, of its elements row by row.
        rms_px: residual of the moves.
        moves: how many were fitted.
    """

    matrix: NDArray[np.float64]
    covariance: NDArray[np.float64]
    rms_px: float
    moves: int


def prepare(frame: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Keep the detail of a frame (y, x) that moves with the specimen.

    Uneven light and hot pixels stay with the camera.

    Returns:
        (y, x) float32.
    """
    # In logarithms uneven light adds instead of multiplying, and a narrow band leaves nothing of
    # it. What a wide one left drew the shift towards none, by six parts in ten thousand on a small
    # sensor.
    level = np.log(np.maximum(ndimage.median_filter(frame, 3), 1).astype(np.float32))
    fine, coarse = (
        ndimage.gaussian_filter(level, side_px, mode="reflect")
        for side_px in (_FINE_PX, _COARSE_PX)
    )
    return np.asarray(fine - coarse, np.float32)


def register(
    reference: NDArray[np.float32],
    moved: NDArray[np.float32],
    guess_px: tuple[float, float] = (0.0, 0.0),
) -> tuple[tuple[float, float], float] | None:
    """Return by how much the specimen moved from one prepared frame (y, x) to the other.

    Cut out the common part by the guess, register the cut-outs to 1/200 pixel, and repeat with the
    result until it is stable.

    Args:
        reference, moved: of `prepare`, of the same shape.
        guess_px: (x, y) of the shift, to within a third of what then overlaps.

    Returns: The shift (x, y) in pixels and the similarity, or ``None`` where the frames do not show
        the same place.
    """
    offset_px = (round(guess_px[0]), round(guess_px[1]))
    found: tuple[tuple[float, float], float] | None = None
    for _ in range(4):
        cuts = _common(reference, moved, offset_px)
        if cuts is None:
            return None
        window = np.outer(*(np.hanning(side + 2)[1:-1] for side in cuts[0].shape))
        here, there = (np.asarray((cut - cut.mean()) * window) for cut in cuts)
        if not here.any() or not there.any():
            return None
        down, right = measure_translation(here, there, _UPSAMPLING)
        shift_px = (offset_px[0] + right, offset_px[1] + down)
        found = shift_px, registered_correlation(reference, moved, shift_px[::-1])
        if max(abs(right), abs(down)) <= 0.5:
            break
        offset_px = (offset_px[0] + round(right), offset_px[1] + round(down))
    return found if found is not None and found[1] >= _MIN_SIMILARITY else None


def _common(
    reference: NDArray[np.float32], moved: NDArray[np.float32], shift_px: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Return the parts of both frames that show the same area for a shift (x, y); ``None`` if too
    little.
    """
    rows, columns = reference.shape
    right, down = shift_px
    height, width = rows - abs(down), columns - abs(right)
    if min(height, width) < 32:
        return None
    top, left = max(-down, 0), max(-right, 0)
    here = reference[top : top + height, left : left + width]
    there = moved[top + down : top + down + height, left + right : left + right + width]
    return here, there


def fit_moves(moves: list[Move]) -> AffineFit:
    """Fit the map from pixels to the stage by robust least squares.

    The stage's moves count as exact and the registered shifts as the measurement: the inverse map
    is fitted and then inverted; standard errors follow to first order.

    Args:
        moves: at least four, not all along one line.

    Raises:
        HardwareError: the moves do not determine the map.
    """
    stage = np.array([move.stage_um for move in moves])  # (N, 2)
    shift = np.array([move.shift_px for move in moves])  # (N, 2)
    if len(moves) < 4 or np.linalg.cond(stage) > 1e4:
        raise HardwareError(
            f"{len(moves)} moves could be registered; they do not show how pixels lie on the stage."
        )
    # The specimen moves against the stage: shift = -inverse @ stage.
    start = np.linalg.lstsq(-stage, shift, rcond=None)[0].T  # (2, 2)

    def residuals(terms: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray((-stage @ terms.reshape(2, 2).T - shift).ravel())  # (N, 2) -> (2 N,)

    found = least_squares(residuals, start.ravel(), loss="soft_l1", f_scale=_ROBUST_PX)
    inverse = found.x.reshape(2, 2)
    if abs(np.linalg.det(inverse)) < 1e-6:
        raise HardwareError(
            "the image does not follow the stage's moves: is the specimen fixed to the stage?"
        )
    rest = residuals(found.x)
    # The scatter of the good moves: the outliers were given up already. No shift is known better
    # than its last step.
    sigma = max(1.4826 * float(np.median(np.abs(rest))), 1 / _UPSAMPLING) * math.sqrt(
        len(rest) / (len(rest) - 4)
    )
    normal = np.kron(np.eye(2), stage.T @ stage)  # of the inverse's elements, row by row
    covariance = sigma**2 * np.linalg.inv(normal)
    matrix = np.asarray(np.linalg.inv(inverse), np.float64)
    # d(A^-1) = -A^-1 dA A^-1
    jacobian = -np.kron(matrix, matrix.T)
    return AffineFit(
        matrix=matrix,
        covariance=jacobian @ covariance @ jacobian.T,
        rms_px=float(np.sqrt(np.mean(np.square(rest)) * 2)),
        moves=len(moves),
    )


def file_matrix(camera: Camera) -> NDArray[np.float64]:
    """Return the flip or turn that aligns frames with the stage: frame pixels are this (2, 2) times
    the camera's.
    """
    return np.array(camera.stage_affine, np.float64).round()


def camera_affine(fit: AffineFit, camera: Camera) -> CameraAffine:
    """The fit in the terms of the scope file: ``pixel_um`` unbinned and ``stage_affine`` of the
    camera's own pixels.
    """

    def terms(flat: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the figures of a matrix, row by row: side, 4 x affine, right, down, turn, skew."""
        matrix = flat.reshape(2, 2) @ file_matrix(camera) / camera.binning
        side = math.sqrt(abs(float(np.linalg.det(matrix))))
        (a, b), (c, d) = matrix
        # Turn: by how much the camera is off the nearest flip or quarter turn. Skew: its axes'
        # angle off the right one.
        right, down = math.atan2(c, a), math.atan2(d, b)
        skew = _nearest_quarter(down - right)
        turn = (_nearest_quarter(right) + _nearest_quarter(down)) / 2
        return np.array(
            [
                side,
                *(matrix / side).ravel(),
                math.hypot(a, c),
                math.hypot(b, d),
                math.degrees(turn),
                math.degrees(skew),
            ]
        )

    flat = fit.matrix.ravel()
    values = terms(flat)
    step = 1e-6 * float(np.abs(flat).max())
    jacobian = np.stack(
        [
            (terms(flat + step * unit) - terms(flat - step * unit)) / (2 * step)
            for unit in np.eye(4)
        ],
        1,
    )
    errors = np.sqrt(np.maximum(np.diag(jacobian @ fit.covariance @ jacobian.T), 0.0))
    return CameraAffine(
        pixel_um=round(float(values[0]), 6),
        pixel_um_se=float(f"{errors[0]:.2g}"),
        stage_affine=_as_rows(np.round(values[1:5].reshape(2, 2), 5)),
        stage_affine_se=_as_rows(errors[1:5].reshape(2, 2), digits=2),
        pixel_right_um=round(float(values[5]), 6),
        pixel_down_um=round(float(values[6]), 6),
        turn_deg=round(float(values[7]), 4),
        turn_deg_se=float(f"{errors[7]:.2g}"),
        skew_deg=round(float(values[8]), 4),
        skew_deg_se=float(f"{errors[8]:.2g}"),
        mirrored=bool(np.linalg.det(fit.matrix @ file_matrix(camera)) < 0),
        residual_rms_px=round(fit.rms_px, 4),
        moves=fit.moves,
    )


def _as_rows(
    matrix: NDArray[np.float64], digits: int | None = None
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return a (2, 2) matrix as rows, with ``digits`` significant digits if given."""
    (a, b), (c, d) = (
        matrix if digits is None else [[float(f"{x:.{digits}g}") for x in row] for row in matrix]
    )
    return (float(a), float(b)), (float(c), float(d))


def _nearest_quarter(angle: float) -> float:
    """Return an angle minus the nearest multiple of a right angle."""
    return angle - round(angle / (math.pi / 2)) * math.pi / 2
