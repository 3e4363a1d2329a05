"""Slow variation over the slide: the density of cells, the empty regions, and the focal plane.

Every field is a sum of plane waves, so it is known at any point of an infinite slide without a map.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from wbcpipe.acquire.simulation.specimen.random_streams import Purpose, stream

__all__ = ["Landscape"]

_WAVES: Final = 14


class _WaveField:
    """A smooth stationary random field of mean 0 and variance 1."""

    def __init__(self, rng: np.random.Generator, wavelength_um: float) -> None:
        length_um = wavelength_um * rng.uniform(0.7, 1.6, _WAVES)
        direction = rng.uniform(0.0, 2.0 * np.pi, _WAVES)
        self._kx = 2.0 * np.pi * np.cos(direction) / length_um
        self._ky = 2.0 * np.pi * np.sin(direction) / length_um
        self._phase = rng.uniform(0.0, 2.0 * np.pi, _WAVES)

    def __call__(self, x_um: NDArray[np.float64], y_um: NDArray[np.float64]) -> NDArray[np.float64]:
        phase = x_um[..., None] * self._kx + y_um[..., None] * self._ky + self._phase
        field: NDArray[np.float64] = np.cos(phase).sum(axis=-1) * np.sqrt(2.0 / _WAVES)
        return field


class Landscape:
    """The slowly varying properties of one slide."""

    def __init__(self, seed: int) -> None:
        rng = stream(Purpose.LANDSCAPE, seed)
        self._patchiness = _WaveField(rng, 190.0)
        self._gaps = _WaveField(rng, 2000.0)
        self._roughness = _WaveField(rng, 1500.0)
        self._tilt_direction = rng.uniform(0.0, 2.0 * np.pi)
        self._tilt_um = rng.uniform(8.0, 16.0)
        self._bow_um = rng.choice([-1.0, 1.0]) * rng.uniform(2.0, 4.0)
        self._bow_centre_um = rng.uniform(-4000.0, 4000.0, 2)
        self._offset_um = rng.uniform(-3.0, 3.0)

    def crowding(self, x_um: NDArray[np.float64], y_um: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the local density of cells over the slide's mean, 0 (bare) to 1.5, shaped as
        ``x_um``.
        """
        patches = np.clip(1.0 + 0.24 * self._patchiness(x_um, y_um), 0.5, 1.5)
        # About 5 % of the area is bare, in islands of one to a few fields.
        cover = np.clip((1.7 - self._gaps(x_um, y_um)) / 0.1, 0.0, 1.0)
        density: NDArray[np.float64] = patches * cover
        return density

    def focus_um(self, x_um: float, y_um: float) -> float:
        """Return the Z at which the slide's cells are sharp: tilt, bow and a little roughness.

        Within ±27 um.
        """
        along_um = x_um * np.cos(self._tilt_direction) + y_um * np.sin(self._tilt_direction)
        # The tangent levels off: the plane stays inside any sensible Z limit however far one
        # travels.
        tilt_um = self._tilt_um * np.tanh(along_um / 30_000.0)
        radius_um = np.hypot(x_um - self._bow_centre_um[0], y_um - self._bow_centre_um[1])
        bow_um = self._bow_um * np.exp(-((radius_um / 9_000.0) ** 2))
        rough_um = 0.25 * self._roughness(np.array([x_um]), np.array([y_um]))[0]
        return float(self._offset_um + tilt_um + bow_um + rough_um)
