"""From an object's own grid to the sensor's: blur, resample, enlarge."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from wbcpipe.acquire.simulation.specimen.cells import MARGIN_UM
from wbcpipe.acquire.simulation.specimen.textures import GRID_UM

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wbcpipe.acquire.simulation.optics.camera import Window
    from wbcpipe.acquire.simulation.optics.light_path import View

__all__ = ["coarseness", "enlarged", "projected", "split"]


def coarseness(sigma_px: float) -> int:
    """Return how many pixels may be drawn as one under this blur without a visible difference: 1,
    2, 4 or 8.
    """
    return int(2 ** np.clip(np.floor(np.log2(max(sigma_px, 1e-6) / 2.8)), 0, 3))


def projected(
    image: NDArray[np.float32], sigma_um: float, view: View, centre: NDArray[np.float64]
) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """Blur an object's layer and lay it onto the sensor's grid.

    Returns the patch (rows, columns) float32 and the row and column of its first pixel on the
    sensor.
    """
    factor = coarseness(sigma_um / GRID_UM)
    pad = -(-int(np.ceil(3.0 * sigma_um / GRID_UM - MARGIN_UM / GRID_UM)) // 8) * 8
    padded = np.pad(image, pad) if pad > 0 else image
    if factor > 1:
        side = -(-padded.shape[0] // factor) * factor
        extra = side - padded.shape[0]
        padded = np.pad(padded, ((extra // 2, extra - extra // 2),) * 2)
        padded = padded.reshape(side // factor, factor, side // factor, factor).mean(axis=(1, 3))
    blurred = ndimage.gaussian_filter(
        padded, sigma_um / GRID_UM / factor, truncate=3.0, mode="constant"
    )
    grid_um = GRID_UM * factor
    half = int(np.ceil(blurred.shape[0] * grid_um / 2.0 / view.um_per_px)) + 1
    first = np.floor(centre).astype(int) - half  # column, row
    # Grid index (row, column) as a function of patch index: the inverse view, in the grid's units.
    inverse = np.linalg.inv(view.matrix) / grid_um
    offset_xy = inverse @ (first - centre) + (blurred.shape[0] - 1) / 2.0
    matrix = inverse[::-1, ::-1]
    patch: NDArray[np.float32] = ndimage.affine_transform(
        blurred,
        np.diag(matrix) if matrix[0, 1] == 0.0 else matrix,
        offset=offset_xy[::-1],
        output_shape=(2 * half + 1, 2 * half + 1),
        order=1,
    )
    return patch, (int(first[1]), int(first[0]))


def split(at: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return the index of the pixel before each position (N,), and the rest, the weight of the
    pixel after it.
    """
    floor = np.floor(at).astype(np.intp)
    return floor, (at - floor).astype(np.float32)


def enlarged(
    small: NDArray[np.float32], origin: tuple[int, int], window: Window, factor: int
) -> NDArray[np.float32]:
    """Interpolate a coarse plane, whose first pixel is ``origin``, to the window, (rows, columns)
    float32.
    """
    row, below = split((np.arange(window.top, window.bottom) + 0.5) / factor - 0.5 - origin[0])
    column, right = split((np.arange(window.left, window.right) + 0.5) / factor - 0.5 - origin[1])
    across = small[:, column] * (1.0 - right) + small[:, column + 1] * right
    plane: NDArray[np.float32] = across[row] * (1.0 - below)[:, None]
    plane += across[row + 1] * below[:, None]
    return plane
