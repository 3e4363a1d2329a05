"""Measures of a crop's technical quality, and the flags that follow from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from wbcpipe.segment.arrays import box_around
from wbcpipe.segment.filters import gaussian
from wbcpipe.segment.masks import NUCLEUS

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SATURATED_SHARE", "blurred", "empty_modality", "focus_measure", "saturated_share"]

#: A cell is blurred when its sharpness is below this share of the median of its sample.
_BLURRED_SHARE: Final = 0.45
#: Gaussian widths (um) that part the picture into a fine and a coarse band.
_BANDS_UM: Final = (0.2, 0.4, 1.0)
#: A cell is saturated when more than this share of its pixels is, in one modality.
SATURATED_SHARE: Final = 0.01


def focus_measure(image: NDArray[np.uint16], mask: NDArray[np.uint8], pixel_um: float) -> float:
    """Sharpness of a nucleus: energy of fine structure relative to that of coarse structure, whatever its brightness.

    Args:
        image: (Y, X) uint16, the nuclear channel.
        mask: (Y, X) uint8, the nucleus is `NUCLEUS`.
        pixel_um: size of a pixel.

    Returns:
        Ratio of the variances between Gaussians of 0.2, 0.4 and 1 um; 0 for an empty mask.
    """
    inside = mask == NUCLEUS
    if not inside.any():
        return 0.0
    box = box_around(inside, int(2 * _BANDS_UM[-1] / pixel_um))
    values, inside = image[box].astype(np.float32), inside[box]
    levels = [gaussian(values, sigma_um / pixel_um) for sigma_um in _BANDS_UM]
    fine = float(np.var((levels[0] - levels[1])[inside]))
    coarse = float(np.var((levels[1] - levels[2])[inside]))
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
    inside = frames[:, top:bottom, left:right] >= saturation
    if not inside.any():
        return 0.0
    y, x = np.ogrid[top:bottom, left:right]
    disk = (y - centre_px[0]) ** 2 + (x - centre_px[1]) ** 2 <= radius_px**2
    if not disk.any():
        return 0.0
    return float(inside[:, disk].mean(axis=1).max())


def empty_modality(frames: NDArray[np.uint16]) -> bool:
    """True when a modality of a field shows nothing: (M, Y, X) uint16 with a plane all but constant."""
    sample = frames[:, ::16, ::16].reshape(len(frames), -1)
    return bool((np.ptp(sample, axis=1) <= 1).any())
