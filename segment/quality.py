"""Measures of a crop's technical quality, and the flags that follow from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import ndimage

from wbcpipe.segment.cells import Quality

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["blurred", "empty_modality", "focus_measure", "saturated_share"]

#: A cell is blurred when its sharpness is below this share of the median of its sample.
_BLURRED_SHARE: Final = 0.35
_SATURATED_SHARE: Final = 0.01


def focus_measure(image: NDArray[np.uint16], mask: NDArray[np.uint8], pixel_um: float) -> float:
    """Sharpness of a cell: energy of fine structure relative to that of coarse structure, independent of brightness.

    Args:
        image: (Y, X) uint16, one modality.
        mask: (Y, X) uint8, the cell above 0.
        pixel_um: size of a pixel.

    Returns:
        Ratio of the standard deviations in the bands 0.25 to 0.5 um and 0.5 to 2 um; 0 for an empty mask.
    """
    inside = mask > 0
    if not inside.any():
        return 0.0
    rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    values, inside = image[box].astype(np.float32), inside[box]
    levels = [ndimage.gaussian_filter(values, sigma_um / pixel_um) for sigma_um in (0.12, 0.25, 1.0)]
    fine = float(np.std((levels[0] - levels[1])[inside]))
    coarse = float(np.std((levels[1] - levels[2])[inside]))
    return fine / coarse if coarse > 0 else 0.0


def blurred(focus: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which cells (N,) are far less sharp than the sample's typical cell."""
    sharp = focus[focus > 0]
    return np.asarray(focus < _BLURRED_SHARE * (np.median(sharp) if sharp.size else 0.0))


def saturated_share(
    frames: NDArray[np.uint16], saturation: int, centre_px: tuple[float, float], radius_px: float
) -> float:
    """Largest share of saturated pixels of any modality in a disk around a cell.

    Args:
        frames: (M, Y, X) uint16, as the camera gave them.
        saturation: value from which a pixel counts as saturated.
        centre_px: (y, x).
        radius_px: radius of the disk.
    """
    (top, bottom), (left, right) = (
        (max(0, int(at - radius_px)), min(side, int(at + radius_px) + 1))
        for at, side in zip(centre_px, frames.shape[1:], strict=True)
    )
    y, x = np.ogrid[top:bottom, left:right]
    disk = (y - centre_px[0]) ** 2 + (x - centre_px[1]) ** 2 <= radius_px**2
    if not disk.any():
        return 0.0
    return float((frames[:, top:bottom, left:right] >= saturation)[:, disk].mean(axis=1).max())


def empty_modality(frames: NDArray[np.uint16]) -> bool:
    """True when a modality of a field shows nothing: (M, Y, X) uint16 with a plane all but constant."""
    sample = frames[:, ::16, ::16].reshape(len(frames), -1)
    return bool((np.ptp(sample, axis=1) <= 1).any())


def saturation_flag(share: float) -> Quality:
    """The flag for a share of saturated pixels."""
    return Quality.SATURATED if share > _SATURATED_SHARE else Quality(0)
