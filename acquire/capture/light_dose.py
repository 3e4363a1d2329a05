"""Fluorescence light dose at each position of a slide.

Recorded before the exposure, and with every field.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import math
import os
from collections import defaultdict
from typing import TYPE_CHECKING

from wbcpipe.samples.belonging import place_of
from wbcpipe.samples.light_record import light_path, read_exposures
from wbcpipe.samples.records import LightExposure
from wbcpipe.system.files import file_errors, json_line
from wbcpipe.system.storage import patiently

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from wbcpipe.samples.fields import FieldInfo

__all__ = ["DoseLedger"]


class DoseLedger:
    """Fluorescence exposures by their position on the slide; each lights a full camera field.

    Each exposure is appended to ``light.jsonl`` before the light is switched on, so that it counts
    even if its frame is
    lost: the attempt may fail, the process die, the file be damaged. The line is not flushed to the
    disk: it survives its process, not a power cut. Fields on disk without a line count from their
    files.

    Args:
        raw: Folder of the pass.
        field_um: (width, height) of a field.
        fields: Fields on disk.
    """

    def __init__(
        self, raw: Path, field_um: tuple[float, float], fields: Iterable[FieldInfo] = ()
    ) -> None:
        self._path = light_path(raw)
        self._place = place_of(self._path)
        self._width_um, self._height_um = field_um
        self._buckets: dict[tuple[int, int], list[tuple[float, float, float]]] = defaultdict(list)
        self._file = -1
        self._ending = b""
        recorded = set()
        for exposure in read_exposures(raw):
            recorded.add(exposure.field)
            self._add(exposure.x_um, exposure.y_um, exposure.exposure_ms)
        for info in fields:
            if info.index not in recorded:
                position = info.slide_transform or info
                for frame in info.frames:
                    if frame.modality == "fluorescence":
                        self._add(position.x_um, position.y_um, frame.exposure_ms)

    def _bucket(self, x_um: float, y_um: float) -> tuple[int, int]:
        return int(x_um // self._width_um), int(y_um // self._height_um)

    def _add(self, x_um: float, y_um: float, exposure_ms: float) -> None:
        self._buckets[self._bucket(x_um, y_um)].append((x_um, y_um, exposure_ms))

    def record(self, field: int, x_um: float, y_um: float, exposure_ms: float) -> None:
        """Record an exposure that is about to be made at a position of the slide.

        Raises:
            DiskFullError: It cannot be recorded, so it must not be made.
            StorageError: As before; the light is off while the storage is waited for.
        """
        exposure = LightExposure(
            belongs_to=self._place, field=field, x_um=x_um, y_um=y_um, exposure_ms=exposure_ms
        )
        line = json_line(exposure.model_dump(mode="json", exclude_defaults=True))
        with file_errors(self._path, "move it away"):
            patiently(self._path, functools.partial(self._append, line))
        self._add(x_um, y_um, exposure_ms)

    def _append(self, line: bytes) -> None:
        if self._file < 0:
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        content = self._ending + line
        try:
            if os.write(self._file, content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._ending = b""
        except OSError:
            # The handle of a share that was gone stays unusable. A line that was cut short is ended
            # by the next one.
            self._ending = b"\n"
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = -1
            raise

    def dose_ms(self, x_um: float, y_um: float) -> float:
        """Return the dose (ms) so far at a position of the slide, to the microsecond."""
        column, row = self._bucket(x_um, y_um)
        around = itertools.product(range(column - 1, column + 2), range(row - 1, row + 2))
        near = (exposure for bucket in around for exposure in self._buckets.get(bucket, ()))
        half = self._width_um / 2, self._height_um / 2
        return round(
            math.fsum(
                ms for x, y, ms in near if abs(x - x_um) <= half[0] and abs(y - y_um) <= half[1]
            ),
            3,
        )

    def close(self) -> None:
        """Flush and close the file."""
        if self._file >= 0:
            file, self._file = self._file, -1
            try:
                patiently(self._path, functools.partial(os.fsync, file))
            finally:
                os.close(file)
