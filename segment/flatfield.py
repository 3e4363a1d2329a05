"""Estimate the uneven illumination of each modality from the run's own fields.

Bright field: the empty background is the bright part of every tile, in enough fields. Fluorescence:
free dye glows between the cells; its glow shows the illumination, and is subtracted from the cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import ndimage

from wbcpipe.imaging.arrays import row_percentiles
from wbcpipe.imaging.robust_surface import fit_surface
from wbcpipe.samples.segment_settings.registration import FlatfieldSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

__all__ = [
    "EMPTY_LEVEL",
    "PEDESTAL",
    "FlatField",
    "estimate_flatfield",
    "no_flatfield",
    "smooth_levels",
    "tile_levels",
]

# Constants, no settings: bundles were trained with these levels; the grid is a resolution.
#: Value of the empty background in corrected bright-field frames: transmission 1, with room for
#: bright rims.
EMPTY_LEVEL: Final = 40000.0
#: Value of the background in corrected fluorescence frames, so that noise is not cut off at 0.
PEDESTAL: Final = 256.0
_GRID: Final = 32
_DEFAULT: Final = FlatfieldSettings()


@dataclass(frozen=True)
class FlatField:
    """Illumination on a coarse grid of (rows, columns) equal tiles, for each of M modalities.

    Attributes:
        gain: (M, rows, columns) float32; a corrected pixel is ``(raw - dark) * gain + base``.
        dark: (M, rows, columns) float32.
        base: (M,) float32.
        shading: (M, rows, columns) float32; the illumination itself, in counts.
        empty: (M,) float32; the value of a corrected frame's empty background, NaN where it is not
            known.
    """

    gain: NDArray[np.float32]
    dark: NDArray[np.float32]
    base: NDArray[np.float32]
    shading: NDArray[np.float32]
    empty: NDArray[np.float32]


def no_flatfield(modalities: int) -> FlatField:
    """Return the flat-field of frames that need no correction."""
    ones = np.ones((modalities, 1, 1), np.float32)
    return FlatField(
        ones,
        np.zeros_like(ones),
        np.zeros(modalities, np.float32),
        ones,
        np.full(modalities, np.nan, np.float32),
    )


def tile_levels(
    coarse: NDArray[np.float32], *, bright: bool, settings: FlatfieldSettings = _DEFAULT
) -> NDArray[np.float32]:
    """Measure the level of the background in each tile of one frame.

    Args:
        coarse: (y, x) float32, block means of a frame.
        bright: the background is the bright part (bright field), not the dark part (fluorescence).
        settings: which part of a tile is background.

    Returns:
        (rows, columns) float32.
    """
    rows, columns = (max(1, min(_GRID, side // 8)) for side in coarse.shape)
    percentile = settings.bright_percentile if bright else settings.dark_percentile
    levels = np.empty((rows, columns), np.float32)
    # As of numpy.array_split: the first tiles are one pixel longer. Tiles of one size are measured
    # together.
    for down, (top, tall, high) in _equal_parts(coarse.shape[0], rows):
        for across, (left, wide, broad) in _equal_parts(coarse.shape[1], columns):
            part = coarse[top : top + tall * high, left : left + wide * broad]
            tiles = (
                part.reshape(tall, high, wide, broad)
                .swapaxes(1, 2)
                .reshape(tall, wide, high * broad)
            )
            levels[down, across] = row_percentiles(tiles, percentile)
    return levels


def _equal_parts(length: int, count: int) -> Iterator[tuple[slice, tuple[int, int, int]]]:
    """Yield the parts of an axis of one size: which of ``count``, and their start, their number and
    their length.
    """
    side, longer = divmod(length, count)
    if longer:
        yield slice(0, longer), (0, longer, side + 1)
    yield slice(longer, count), (longer * (side + 1), count - longer, side)


def estimate_flatfield(
    fields: Sequence[Sequence[NDArray[np.float32]]],
    bright: Sequence[bool],
    settings: FlatfieldSettings = _DEFAULT,
) -> FlatField:
    """Estimate the illumination of every modality.

    Args:
        fields: for each field its M frames (y, x) float32, block means.
        bright: for each modality, whether its background is bright.
        settings: which part of a tile is background.
    """
    levels = [
        [
            tile_levels(frame, bright=b, settings=settings)
            for frame, b in zip(frames, bright, strict=True)
        ]
        for frames in fields
    ]
    smooth = [smooth_levels(np.median(stack, axis=0)) for stack in zip(*levels, strict=True)]
    shading = np.maximum(smooth, 1.0)  # (M, rows, columns)
    middle = np.median(shading, axis=(1, 2), keepdims=True)
    seen = np.array(bright)[:, None, None]
    return FlatField(
        gain=np.where(seen, EMPTY_LEVEL / shading, middle / shading).astype(np.float32),
        dark=np.where(seen, 0.0, shading).astype(np.float32),
        base=np.where(np.array(bright), 0.0, PEDESTAL).astype(np.float32),
        shading=shading.astype(np.float32),
        empty=np.where(np.array(bright), EMPTY_LEVEL, PEDESTAL).astype(np.float32),
    )


def smooth_levels(
    levels: NDArray[np.float32], degree: int = 4, *, residual: bool = True
) -> NDArray[np.float32]:
    """Fit a smooth surface to the levels of tiles; tiles full of cells count little.

    Args:
        levels: (rows, columns) float32.
        degree: of the polynomial, fitted with reweighting.
        residual: add the residual of the polynomial, blurred.

    Returns:
        (rows, columns) float32.
    """
    surface, weight, _ = fit_surface(levels, degree)
    if residual:
        remainder = np.where(weight > 0.2, levels.astype(float) - surface, 0.0)
        surface = surface + ndimage.gaussian_filter(remainder, 2.0, mode="nearest")
    return np.asarray(surface, np.float32)
