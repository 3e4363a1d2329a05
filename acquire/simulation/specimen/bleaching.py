"""How much fluorescence light each place of the slide has had, and what is left of its dye."""

from collections import defaultdict

import numpy as np

from wbcpipe.acquire.simulation.optics.light_path import BLEACH_MS

__all__ = ["DoseMap"]


class DoseMap:
    """Doses by exposed field: each exposure lights the whole field of the camera evenly.

    Sums are kept in whole microseconds, so that the order of exposures leaves no trace in them.
    """

    def __init__(self, width_um: float, height_um: float) -> None:
        self._width_um = width_um
        self._height_um = height_um
        #: Bucket of the size of a field -> rounded stage position (0.01 um) -> microseconds.
        self._buckets: dict[tuple[int, int], dict[tuple[int, int], int]] = defaultdict(lambda: defaultdict(int))

    def _bucket(self, x_um: float, y_um: float) -> tuple[int, int]:
        return int(np.floor(x_um / self._width_um)), int(np.floor(y_um / self._height_um))

    def add(self, x_um: float, y_um: float, exposure_ms: float) -> None:
        """Expose the field whose centre is at the stage position (um)."""
        place = round(x_um * 100), round(y_um * 100)
        self._buckets[self._bucket(x_um, y_um)][place] += round(exposure_ms * 1000)

    def faded(self, x_um: float, y_um: float) -> list[tuple[float, float, float]]:
        """Return the earlier exposures that reach into the field at the stage position.

        Each as the offset (um) of its field against this one, x and y, and the fraction of emission it leaves; in an
        order that depends on the places alone.
        """
        column, row = self._bucket(x_um, y_um)
        near = {
            place: dose_us
            for dx in (-1, 0, 1)
            for dy in (-1, 0, 1)
            for place, dose_us in self._buckets.get((column + dx, row + dy), {}).items()
        }
        found = []
        for place, dose_us in sorted(near.items()):
            dx_um, dy_um = place[0] / 100.0 - round(x_um * 100) / 100.0, place[1] / 100.0 - round(y_um * 100) / 100.0
            if abs(dx_um) < self._width_um and abs(dy_um) < self._height_um:
                found.append((dx_um, dy_um, float(np.exp(-dose_us / 1000.0 / BLEACH_MS))))
        return found
