"""Separation of the stain of the nucleus from the other colours of a stained smear.

Laboratories differ in dye lots, staining times, lamps and cameras: the nucleus is violet in one and
light blue in another, red cells are pale grey or dark orange. The cell itself tells how its
nucleus was stained, so each crop is brought to one colour of the nucleus and one of the red cells.

With the optical density d = -ln(light / background) of the planes red (r), green (g) and blue (b),
and n the median density of the nucleus:

- red and green become d_r / n_r and d_g / n_g: the nucleus has density 1 in both;
- blue becomes the residual d_b - d_r n_b / n_r, in which the nucleus vanishes and red cells and
  eosinophilic granules stay, divided by twice its level beside the cell, where red cells are, or
  by the mean of n_r and n_g if that is larger.

By Beer-Lambert's law the densities of dyes add up. Ruifrok and Johnston, Analytical and
Quantitative Cytology and Histology 23 (2001) 291, separate dyes of known colours so; here the
colour is measured on each cell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BACKGROUND_LEVEL", "MIDDLE", "middle_of", "separate_stain"]

BACKGROUND_LEVEL: Final = 40_000
"""Grey level of the background of a separated plane."""
CONTRAST: Final = 1.6
"""Optical density to which the nucleus is brought."""
MIDDLE: Final = 0.45
"""Radius of the middle, where the white cell is, relative to half the side: 5 um of crops of
22.4 um.
"""
BACKGROUND: Final = 0.85
"""Quantile of green above which pixels are background: red cells may cover most of a crop, and
every dye absorbs green. In blue a nucleus may be lighter than the background.
"""
NUCLEUS: Final = 0.75
"""Quantile above which the middle's density in red and green is that of the nucleus."""
SURROUNDINGS: Final = 0.85
"""Quantile of the residual beside the cell that stands for red cells."""
MIN_DENSITY: Final = 0.08
"""A nucleus paler than this is taken to have this density, so that noise is not amplified."""
MIN_RESIDUAL: Final = 0.5
"""The least level beside the cell, relative to the nucleus. A crop may show no red cell, and what
is faint beside a nucleus must not become strong: the granules of a neutrophil would be those of an
eosinophil.
"""
DARKEST: Final = 1 / 256
"""Of the background; nothing is taken to be darker."""
CACHE_BYTES: Final = 1 << 19
"""Size that fits into a core's cache."""


def middle_of(side: int) -> NDArray[np.bool_]:
    """Return the disc (side, side) in the middle of a crop in which the white cell is."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    disc: NDArray[np.bool_] = np.hypot(y, x) < MIDDLE * side / 2
    return disc


def separate_stain(images: NDArray[np.uint16], step: int = 1) -> NDArray[np.uint16]:
    """Return red, green and blue planes with one colour of the nucleus and one of the red cells.

    Args:
        images: (N, 3, side, side) uint16, the planes red, green and blue.
        step: levels are measured on each ``step``-th row and column, for speed.

    Returns:
        (N, 3, side, side) uint16; a background of `BACKGROUND_LEVEL`.
    """
    grid = images[:, :, ::step, ::step]
    flat = grid.reshape(*grid.shape[:2], -1).astype(np.float32)
    background = np.maximum(_median_where(flat, flat[:, 1], BACKGROUND), np.float32(1))[..., None]
    middle = middle_of(grid.shape[-1]).ravel()
    density = _density(flat, background)
    inside = density[:, :, middle]
    red, green, blue = _median_where(inside, inside[:, 0] + inside[:, 1], NUCLEUS).T  # (N,) each
    red, green = np.maximum(red, MIN_DENSITY), np.maximum(green, MIN_DENSITY)
    share = (blue / red)[:, None]
    beside = density[:, 2, ~middle] - share * density[:, 0, ~middle]
    level = np.maximum(_quantile(beside, SURROUNDINGS), MIN_RESIDUAL * (red + green) / 2)
    power = (-CONTRAST / np.stack([red, green, 2 * level], axis=1))[..., None]
    found = np.empty(images.shape, np.uint16)
    # A few cells at a time, so that all steps find them in the processor's cache.
    cells = max(1, CACHE_BYTES // max(1, 12 * images.shape[-1] ** 2))
    for start in range(0, len(images), cells):
        some = slice(start, start + cells)
        values = _density(images[some].reshape(-1, 3, images[0, 0].size), background[some])
        values[:, 2] -= share[some] * values[:, 0]
        values *= power[some]
        np.exp(values, out=values)
        values *= np.float32(BACKGROUND_LEVEL)
        values += np.float32(0.5)
        np.minimum(values, np.float32(65_535), out=values)
        found[some] = values.reshape(-1, *images.shape[1:])
    return found


def _quantile(values: NDArray[np.float32], quantile: float) -> NDArray[np.float32]:
    """Return a quantile along the last axis: the value of that rank, without interpolation."""
    rank = round(quantile * (values.shape[-1] - 1))
    found: NDArray[np.float32] = np.partition(values, rank, axis=-1)[..., rank]
    return found


def _density(
    light: NDArray[np.uint16] | NDArray[np.float32], background: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the optical density of planes (N, C, pixels)."""
    found = light.astype(np.float32)
    np.maximum(found, np.float32(1), out=found)
    found /= background
    np.maximum(found, np.float32(DARKEST), out=found)
    np.log(found, out=found)
    np.negative(found, out=found)
    return found


def _median_where(
    planes: NDArray[np.float32], strength: NDArray[np.float32], quantile: float
) -> NDArray[np.float32]:
    """Return the median (N, C) of the pixels of planes (N, C, pixels) where a strength (N, pixels)
    is above its quantile.
    """
    rank = round(quantile * (strength.shape[-1] - 1))
    chosen = np.argpartition(strength, rank, axis=-1)[:, None, rank:]
    found: NDArray[np.float32] = np.median(np.take_along_axis(planes, chosen, axis=-1), axis=-1)
    return found
