"""The images of a sample's cells.

Made when they are asked for, and ahead of that in a thread of their own.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wbcpipe.errors import WbcpipeError
from wbcpipe.report.cell_thumbnails import illumination_wavelengths, measure_contrast
from wbcpipe.review.images.image_cache import ImageCache
from wbcpipe.review.images.strips import TILE_PX, cell_outlines, make_strip
from wbcpipe.samples.cell_columns import REJECTED
from wbcpipe.samples.cell_store import CELLS_PER_CHUNK
from wbcpipe.samples.records import json_digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from wbcpipe.report.cell_thumbnails import Contrast
    from wbcpipe.samples.cell_store import CellStore
    from wbcpipe.samples.sample import Sample

__all__ = ["CellImages", "images_digest"]

#: Changes whenever the same cells would give other images.
_VERSION: Final = 2
#: Chunks of crops in memory: 13 MB each.
_CHUNKS: Final = 2
#: Strips of 8 kB.
_MAX_IN_MEMORY: Final = 4096
#: Arrays that the images show; the flags say on which cells the contrast is measured.
_SHOWN: Final = ("images", "masks", "qc_flags", "field_index", "y_px", "x_px")


def images_digest(store: CellStore) -> str:
    """Return the SHA-256 of what the images of a store's cells depend on.

    Labels and predictions are left out.
    """
    attributes = store.attributes
    chunks = {name: attributes.chunks[name] for name in _SHOWN}
    return json_digest(
        [_VERSION, TILE_PX, list(attributes.modalities), attributes.pixel_um, chunks]
    )


class CellImages:
    """Strips and outlines of one sample's cells.

    Args:
        sample: the sample.
        store: its cells.

    Attributes:
        digest: of what the images depend on.
    """

    def __init__(self, sample: Sample, store: CellStore) -> None:
        self._sample, self._store = sample, store
        self.digest = images_digest(store)
        self._cache = ImageCache(sample.work_path / "review", self.digest)
        self._new: dict[int, bytes] = {}
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._waiting = 0
        self._idle = threading.Condition()
        self._ended = threading.Event()
        self._maker: threading.Thread | None = None
        self._chunk = functools.lru_cache(_CHUNKS)(self._read_chunk)

    @functools.cached_property
    def contrast(self) -> Contrast:
        """The display range of each modality, measured on the cells that are not rejected."""
        flags = self._store.column("qc_flags")
        good = np.flatnonzero((flags & int(sum(REJECTED))) == 0)
        chosen = good if good.size else np.arange(len(self._store))
        wavelengths_nm = illumination_wavelengths(self._sample)
        return measure_contrast(self._store, chosen.tolist(), wavelengths_nm=wavelengths_nm)

    def _read_chunk(self, chunk: int) -> NDArray[np.uint16]:
        return self._store.images(chunk * CELLS_PER_CHUNK, (chunk + 1) * CELLS_PER_CHUNK)

    def _crop(self, row: int) -> NDArray[np.uint16]:
        with self._reading:
            crop: NDArray[np.uint16] = self._chunk(row // CELLS_PER_CHUNK)[row % CELLS_PER_CHUNK]
        return crop

    def strip(self, row: int) -> bytes:
        """Return a cell's modalities side by side, as WebP; see `make_strip`.

        Raises:
            SampleStateError: the cell's crop is damaged.
        """
        with self._lock:
            found = self._new.get(row)
        found = found or self._cache.get(row)
        if found is None:
            with self.maker_waits():
                found = self._make(row)
        return found

    def full_strip(self, row: int) -> bytes:
        """Return the same with each modality at its stored size; it is not kept."""
        with self.maker_waits():
            return make_strip(self._crop(row), self.contrast, full_size=True)

    def outlines(self, row: int) -> dict[str, Any]:
        """Return the outlines of a cell and its nucleus; see `cell_outlines`."""
        with self._reading:
            mask = self._store.masks(row, row + 1)[0]
        return cell_outlines(mask)

    def _make(self, row: int) -> bytes:
        """Make a strip and keep it."""
        strip = make_strip(self._crop(row), self.contrast)
        with self._lock:
            self._new[row] = strip
            due = len(self._new) % CELLS_PER_CHUNK == 0
        if due:
            self._flush()
        return strip

    def _flush(self) -> None:
        """Keep what was made on the disk.

        As long as that is refused, the last ones stay in memory.
        """
        with self._lock:
            new = dict(self._new)
        stored = self._cache.put(new) if new else True
        with self._lock:
            gone = list(new) if stored else list(self._new)[:-_MAX_IN_MEMORY]
            for row in gone:
                self._new.pop(row, None)

    @contextlib.contextmanager
    def maker_waits(self) -> Iterator[None]:
        """Hold back the strips that are made ahead while a reader waits for something."""
        with self._idle:
            self._waiting += 1
        try:
            yield
        finally:
            with self._idle:
                self._waiting -= 1
                self._idle.notify_all()

    def make_ahead(self, order: Sequence[int]) -> None:
        """Make the strips of all cells in a thread, in about this order of the rows.

        A second call does nothing.
        """
        if self._maker is None:
            arguments = (list(order),)
            self._maker = threading.Thread(
                target=self._make_all, args=arguments, name="wbcpipe-strips", daemon=True
            )
            self._maker.start()

    def _make_all(self, order: list[int]) -> None:
        done = self._cache.numbers()
        missing = [row for row in order if row not in done]
        chunks: dict[int, list[int]] = {}
        for row in missing:
            chunks.setdefault(row // CELLS_PER_CHUNK, []).append(row)
        for rows in chunks.values():
            for row in rows:
                with self._idle:
                    self._idle.wait_for(lambda: not self._waiting or self._ended.is_set())
                if self._ended.is_set():
                    return
                try:
                    self._make(row)
                except WbcpipeError:
                    break  # a damaged chunk: who asks for its cells is told
            self._flush()

    def close(self) -> None:
        """Stop making images, and keep those that are made."""
        self._ended.set()
        with self._idle:
            self._idle.notify_all()
        if self._maker is not None:
            self._maker.join()
        self._flush()
        self._cache.close()
