"""Fluorescence dose at each position of the slide, and the fraction of dye that is left."""

from collections import defaultdict

import numpy as np

from wbcpipe.acquire.simulation.optics.light_path import BLEACH_MS

__all__ = ["DoseMap"]


class DoseMap:
    """Doses by exposed field: each exposure lights the camera's full field evenly.

    Sums are integers, in microseconds, so that they do not depend on the order of exposures.
    """

    def __init__(self, width_um: float, height_um: float) -> None:
        self._width_um = width_um
        self._height_um = height_um
        #: Bucket of the size of a field -> rounded stage position (0.01 um) -> microseconds.
        self._buckets: dict[tuple[int, int], dict[tuple[int, int], int]] = defaultdict(
            lambda: defaultdict(int)
        )

    def _bucket(self, x_um: float, y_um: float) -> tuple[int, int]:
        return int(np.floor(x_um / self._width_um)), int(np.floor(y_um / self._height_um))

    def add(self, x_um: float, y_um: float, exposure_ms: float) -> None:
        """Expose the field whose centre is at the stage position (um)."""
        position = round(x_um * 100), round(y_um * 100)
        self._buckets[self._bucket(x_um, y_um)][position] += round(exposure_ms * 1000)

    def faded(self, x_um: float, y_um: float) -> list[tuple[float, float, float]]:
        """Return the earlier exposures that reach into the field at the stage position.

        Each as the offset (um) of its field against this one, x and y, and the fraction of emission
        it leaves; in an order that depends on the positions alone.
        """
        column, row = self._bucket(x_um, y_um)
        near = {
            position: dose_us
            for dx in (-1, 0, 1)
            for dy in (-1, 0, 1)
            for position, dose_us in self._buckets.get((column + dx, row + dy), {}).items()
        }
        found = []
        for position, dose_us in sorted(near.items()):
            dx_um = position[0] / 100.0 - round(x_um * 100) / 100.0
            dy_um = position[1] / 100.0 - round(y_um * 100) / 100.0
            if abs(dx_um) < self._width_um and abs(dy_um) < self._height_um:
                found.append((dx_um, dy_um, float(np.exp(-dose_us / 1000.0 / BLEACH_MS))))
        return found
