"""Measure the technical quality of crops, and derive the flags of cells from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wbcpipe.imaging.arrays import bounding_box
from wbcpipe.imaging.filters import gaussian
from wbcpipe.samples.cell_columns import QcFlag
from wbcpipe.samples.segment_settings.quality import DebrisSettings
from wbcpipe.segment.detection.masks import NUCLEUS

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "empty_modality",
    "find_debris",
    "focus_measure",
    "saturated_share",
]

# Constants, no settings: the definition of a column, and the least that a comparison needs.
#: Gaussian widths (um) that separate a fine and a coarse band.
_BANDS_UM: Final = (0.2, 0.4, 1.0)
#: Bright-field modalities that must all be dense, at least: red cells darken one alone.
_MIN_DENSE_MODALITIES: Final = 2
#: Cells from which medians are taken, at least.
_MIN_CELLS: Final = 8
_DEFAULT: Final = DebrisSettings()


def focus_measure(image: NDArray[np.uint16], mask: NDArray[np.uint8], pixel_um: float) -> float:
    """Measure the sharpness of a nucleus: the energy of fine structure over that of coarse
    structure.

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
    box = bounding_box(inside, int(2 * _BANDS_UM[-1] / pixel_um))
    values, inside = image[box].astype(np.float32), inside[box]
    levels = [gaussian(values, sigma_um / pixel_um) for sigma_um in _BANDS_UM]
    fine = float(np.var((levels[0] - levels[1])[inside]))
    coarse = float(np.var((levels[1] - levels[2])[inside]))
    return fine / coarse if coarse > 0 else 0.0


def find_debris(
    absorbance: NDArray[np.float32],
    fluorescence: NDArray[np.float32],
    quality: NDArray[np.uint16],
    settings: DebrisSettings = _DEFAULT,
) -> NDArray[np.bool_]:
    """Find the objects of one slide that are dirt or smudges: dimmer than its nuclei, and far
    denser or far clearer.

    A nucleus stained by Acridine Orange is bright and transmits light. Dust and precipitate may
    fluoresce enough to be detected, but less than nuclei, and they absorb light of all colours; a
    smudged nucleus is a dim veil that absorbs almost none. Red cells beside or below it add density
    in the blue, so all modalities must be dense, but one clear modality is enough. Dirt on a
    nucleus of typical fluorescence is not found. Medians are those of the bright objects: dirt is
    dim, so that it has no part in them, even if most objects are dirt.

    Args:
        absorbance: (N, M-1) ``nucleus_absorbance``, OD; NaN where there is none.
        fluorescence: (N,) ``nucleus_fluorescence``.
        quality: (N,) bits of `QcFlag`; debris is left out of the medians.
        settings: what is debris.

    Returns:
        (N,) bool; none where fewer than 8 cells can be compared.
    """
    measured = np.isfinite(absorbance).any(axis=1) & np.isfinite(fluorescence)
    compared = measured & ((quality & np.uint16(QcFlag.DEBRIS)) == 0)
    if compared.any():
        bright = np.percentile(fluorescence[compared], settings.bright_percentile)
        compared &= fluorescence >= settings.dim_fraction * bright
    if np.count_nonzero(compared) < _MIN_CELLS:
        return np.zeros(len(quality), np.bool_)
    medians = _medians(absorbance[compared])
    spread = 1.4826 * _medians(np.abs(absorbance[compared] - medians))
    excess = np.maximum(settings.denser_sd * spread, settings.denser_od)
    densest = np.maximum(settings.denser_ratio * medians, medians + excess)
    clearest = np.minimum(medians / settings.clearer_ratio, medians - settings.clearer_sd * spread)
    # A modality that is missing, here or in all cells, is ignored.
    known = np.isfinite(absorbance) & np.isfinite(medians)
    dense = (~known | (absorbance > densest)).all(axis=1) & (
        known.sum(axis=1) >= _MIN_DENSE_MODALITIES
    )
    clear = (known & (absorbance < clearest)).any(axis=1)
    dim = fluorescence < settings.dim_fraction * np.median(fluorescence[compared])
    return np.asarray(measured & dim & (dense | clear), np.bool_)


def _medians(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the median (K,) of the finite values of each column (N, K); NaN for a column without
    any.
    """
    finite = (column[np.isfinite(column)] for column in values.T)
    return np.array([np.median(column) if column.size else np.nan for column in finite])


def saturated_share(
    frames: NDArray[np.uint16], saturation: int, centre_px: tuple[float, float], radius_px: float
) -> float:
    """Measure the largest share of saturated pixels of any modality in a disk around a cell.

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
    """Return whether a modality of a field shows nothing: (M, Y, X) uint16 with a nearly constant
    plane.
    """
    sample = frames[:, ::16, ::16].reshape(len(frames), -1)
    return bool((np.ptp(sample, axis=1) <= 1).any())
