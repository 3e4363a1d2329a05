"""Smooth random textures on the object grid, cut from a small bank made once."""

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wbcpipe.acquire.simulation.specimen.random_streams import Purpose, stream

__all__ = ["GRID_UM", "coordinates", "smoothstep", "spots", "texture"]

GRID_UM: Final = 0.1
"""Spacing of the grid on which objects are drawn, whatever the camera's pixel."""

_BANK: Final = 512


@lru_cache(maxsize=16)
def _bank(grain_um: float) -> NDArray[np.float32]:
    noise = stream(Purpose.TEXTURE, round(grain_um * 1000)).standard_normal(
        (_BANK, _BANK), dtype=np.float32
    )
    smooth = ndimage.gaussian_filter(noise, grain_um / GRID_UM, mode="wrap")
    unit: NDArray[np.float32] = smooth / smooth.std()
    unit.flags.writeable = False
    return unit


def texture(rng: np.random.Generator, grain_um: float, side: int) -> NDArray[np.float32]:
    """Return a (side, side) float32 texture of unit variance and grain ``grain_um``."""
    top, left = rng.integers(0, _BANK, 2)
    flip = int(rng.integers(0, 8))
    rows = np.arange(top, top + side) % _BANK
    columns = np.arange(left, left + side) % _BANK
    cut = _bank(grain_um)[rows[:, None], columns]
    if flip & 1:
        cut = cut[::-1]
    if flip & 2:
        cut = cut[:, ::-1]
    return np.ascontiguousarray(cut.T if flip & 4 else cut)


def coordinates(
    side: int, spacing_um: float = GRID_UM
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return x (1, side) and y (side, 1) in um of a square grid about its centre, float32."""
    axis = ((np.arange(side) - (side - 1) / 2.0) * spacing_um).astype(np.float32)
    return axis[None, :], axis[:, None]


def smoothstep(depth_um: NDArray[np.float32], width_um: float) -> NDArray[np.float32]:
    """Return 0 outside, 1 inside, rising over ``width_um`` where the depth (um) passes 0.

    Float32, same shape.
    """
    step: NDArray[np.float32] = 0.5 + 0.5 * np.tanh(depth_um * np.float32(1.0 / width_um))
    return step


def spots(
    x_um: NDArray[np.float64],
    y_um: NDArray[np.float64],
    weight: NDArray[np.float64],
    radius_um: float,
    side: int,
) -> NDArray[np.float32]:
    """Return a (side, side) float32 image of soft discs of height ``weight`` at the points (um from
    the centre).
    """
    image = np.zeros((side, side), np.float32)
    column = np.rint(x_um / GRID_UM + (side - 1) / 2.0).astype(np.intp)
    row = np.rint(y_um / GRID_UM + (side - 1) / 2.0).astype(np.intp)
    inside = (column >= 0) & (column < side) & (row >= 0) & (row < side)
    np.add.at(image, (row[inside], column[inside]), weight[inside].astype(np.float32))
    sigma = 0.6 * radius_um / GRID_UM
    ndimage.gaussian_filter(image, sigma, output=image, truncate=3.0)
    image *= np.float32(2.0 * np.pi * max(sigma, 0.4) ** 2)
    return image
