"""How much fluorescence light each place of a slide has had: known when a run is resumed, noted with every field."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from wbcpipe.samples import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from wbcpipe.acquire.frames import FieldInfo

__all__ = ["DoseLedger"]


class DoseLedger:
    """Fluorescence exposures by the place where they were made; each lights a whole field of the camera.

    Exposures whose frames are on disk are known from these; those that were made in vain (an attempt that failed) are
    kept in a small file of their own, for the dye fades all the same.

    Args:
        path: of that file.
        field_um: (width, height) of a field.
    """

    def __init__(self, path: Path, field_um: tuple[float, float]) -> None:
        self._path = path
        self._width_um, self._height_um = field_um
        self._buckets: dict[tuple[int, int], list[tuple[float, float, float]]] = defaultdict(list)
        self._in_vain: list[tuple[float, float, float]] = []
        if path.is_file():
            self._in_vain = [(float(x), float(y), float(ms)) for x, y, ms in read_json(path)]
        for exposure in self._in_vain:
            self._add(*exposure)

    def _bucket(self, x_um: float, y_um: float) -> tuple[int, int]:
        return int(x_um // self._width_um), int(y_um // self._height_um)

    def _add(self, x_um: float, y_um: float, exposure_ms: float) -> None:
        self._buckets[self._bucket(x_um, y_um)].append((x_um, y_um, exposure_ms))

    def add_fields(self, fields: Iterable[FieldInfo]) -> None:
        """Count what gave the fields on disk."""
        for info in fields:
            for frame in info.frames:
                if frame.modality == "fluorescence":
                    self._add(info.x_um, info.y_um, frame.exposure_ms)

    def add_in_vain(self, x_um: float, y_um: float, exposure_ms: float) -> None:
        """Count an exposure of an attempt that failed, and write it down."""
        self._in_vain.append((round(x_um, 3), round(y_um, 3), exposure_ms))
        self._add(*self._in_vain[-1])
        write_json(self._path, self._in_vain)

    def exposures(self) -> Iterator[tuple[float, float, float]]:
        """(x_um, y_um, exposure_ms) of each."""
        for bucket in self._buckets.values():
            yield from bucket

    def at(self, x_um: float, y_um: float) -> float:
        """Dose so far (ms) at a point of the stage."""
        column, row = self._bucket(x_um, y_um)
        near = (
            exposure
            for dx in (-1, 0, 1)
            for dy in (-1, 0, 1)
            for exposure in self._buckets.get((column + dx, row + dy), ())
        )
        half = self._width_um / 2, self._height_um / 2
        return sum(ms for x, y, ms in near if abs(x - x_um) <= half[0] and abs(y - y_um) <= half[1])
