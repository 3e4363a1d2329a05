"""How light is spread over the sensor.

Vignetting, unevenness and dust on the optics, on a coarse lattice.
"""

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wbcpipe.acquire.simulation.optics.camera import Window
from wbcpipe.acquire.simulation.optics.light_path import LIGHTS
from wbcpipe.acquire.simulation.optics.projection import split
from wbcpipe.acquire.simulation.specimen.random_streams import Purpose, stream

__all__ = ["dirty_lattice", "illuminate", "illumination_lattice"]

LATTICE_PX: Final = 16
"""Spacing of the lattice in unbinned pixels."""

_DUST_SPOTS: Final = 5


@lru_cache(maxsize=32)
def illumination_lattice(seed: int, light: str, sensor_px: tuple[int, int]) -> NDArray[np.float32]:
    """Return the relative illumination at every 16th pixel, from pixel 0 on, 1 at the brightest;
    2-D float32.
    """
    bulb = LIGHTS[light]
    rows = np.arange(0, sensor_px[0] + LATTICE_PX, LATTICE_PX, dtype=np.float64)
    columns = np.arange(0, sensor_px[1] + LATTICE_PX, LATTICE_PX, dtype=np.float64)
    y = (rows / (sensor_px[0] - 1) * 2.0 - 1.0)[:, None]
    x = (columns / (sensor_px[1] - 1) * 2.0 - 1.0)[None, :]
    r2 = (x - bulb.brightest[0]) ** 2 + (y - bulb.brightest[1]) ** 2
    gain = (1.0 - bulb.vignetting) ** (r2 / 2.0)
    rng = stream(Purpose.SENSOR, seed, 1 + bulb.index)
    # Dust on the field lens: wide, faint, out of focus, and the same in every frame.
    for _ in range(_DUST_SPOTS):
        px, py = rng.uniform(-1.0, 1.0, 2)
        radius, depth = rng.uniform(0.03, 0.08), rng.uniform(0.006, 0.02)
        distance = np.hypot(x - px, y - py) / radius
        gain = gain * (1.0 - depth * np.exp(-(distance**4)))
    lattice: NDArray[np.float32] = gain.astype(np.float32)
    lattice.flags.writeable = False
    return lattice


def dirty_lattice(lattice: NDArray[np.float32], dirt: float) -> NDArray[np.float32]:
    """Return a lattice with a wide smear, in the lower right quarter, that takes the fraction
    ``dirt`` of the light.
    """
    if not dirt:
        return lattice
    y = np.linspace(-1.0, 1.0, lattice.shape[0])[:, None]
    x = np.linspace(-1.0, 1.0, lattice.shape[1])[None, :]
    smear = np.exp(-(((x - 0.5) ** 2 + (y - 0.5) ** 2) / 0.4**2))
    return np.asarray(lattice * (1.0 - dirt * smear), np.float32)


def illuminate(
    electrons: NDArray[np.float32], lattice: NDArray[np.float32], window: Window, binning: int
) -> None:
    """Multiply ``electrons``, (rows, columns) float32 of a window of the binned sensor, by the
    illumination.
    """
    column, right = split(
        ((np.arange(window.left, window.right) + 0.5) * binning - 0.5) / LATTICE_PX
    )
    row, below = split(((np.arange(window.top, window.bottom) + 0.5) * binning - 0.5) / LATTICE_PX)
    first = int(row[0])
    rows = np.pad(lattice, ((0, 1), (0, 1)), mode="edge")[first : int(row[-1]) + 2]
    across = rows[:, column] * (1.0 - right) + rows[:, column + 1] * right
    # Row by row of the lattice: the strips between two of them stay in the processor's cache.
    for step in range(len(across) - 1):
        start, stop = np.searchsorted(row, [first + step, first + step + 1])
        slope = across[step + 1] - across[step]
        strip = below[start:stop, None] * slope
        strip += across[step]
        electrons[start:stop] *= strip
