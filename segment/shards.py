"""How ``cells.zarr`` keeps what is large: one chunk a cell, many cells a file, packed so that reading them is cheap.

Files stay plain Zarr v3 with codecs of its own specification. Crops are kept at half their side too, because averaging
a crop again each time it is read costs more than a network does that works at that side.
"""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import zarr
from zarr.buffer.cpu import NDBuffer
from zarr.codecs import BloscCodec
from zarr.storage import MemoryStore

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CELLS_PER_SHARD", "HALF", "CropWriter", "ShardWriter", "halved", "open_array", "read"]

CELLS_PER_SHARD: Final = 256
HALF: Final = "images_half"
"""The array of crops at half their side; stores of older versions, and crops of an odd side, have none."""

_QUICK: Final = BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle")
_SMALL: Final = BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")
_WORTH: Final = 0.75
"""``_SMALL`` takes twice as long to read: worth it for a quarter of the bytes, as pictures of 8 bits give."""
_TRIED: Final = 8
_LOW: Final = np.uint32(0xFFFF)

_opening = threading.Lock()


@functools.cache
def _fast() -> dict[str, str]:
    """Setting of zarr that lets ``zarrs`` read; none where it is not installed."""
    try:
        import zarrs  # noqa: F401
    except ImportError:
        return {}
    return {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}


class ShardWriter:
    """Fills one shard in place and writes it when it is full: memory does not grow with the number of cells.

    Args:
        group: where the array is made, with the first cells.
        name: of the array.
        shape: of one cell.
        dtype: of the array.
    """

    def __init__(self, group: zarr.Group, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        self._group, self._name = group, name
        self._shard: NDArray[Any] = np.empty((CELLS_PER_SHARD, *shape), dtype)
        self._filled = 0
        self._written = 0

    def append(self, cells: NDArray[Any]) -> None:
        """Take cells (n, *shape)."""
        while len(cells):
            some = cells[: CELLS_PER_SHARD - self._filled]
            self._shard[self._filled : self._filled + len(some)] = some
            self._filled += len(some)
            cells = cells[len(some) :]
            if self._filled == CELLS_PER_SHARD:
                self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if self._filled:
            self._write(self._shard[: self._filled])
            self._written += self._filled
            self._filled = 0

    def _write(self, cells: NDArray[Any]) -> None:
        self._put(self._name, cells, "auto")

    def _put(self, name: str, cells: NDArray[Any], codec: BloscCodec | str) -> None:
        shape = cells.shape[1:]
        if self._written == 0:
            self._group.create_array(
                name,
                shape=(0, *shape),
                dtype=cells.dtype,
                chunks=(1, *shape),
                shards=(CELLS_PER_SHARD, *shape),
                compressors=codec,  # type: ignore[arg-type]
            )
        array = open_array(self._group, name, fast=False)
        stop = self._written + len(cells)
        array.resize((stop, *shape))
        array[self._written : stop] = cells


class CropWriter(ShardWriter):
    """Writes crops (n, M, side, side) uint16, and what they are at half their side."""

    def __init__(self, group: zarr.Group, name: str, shape: tuple[int, int, int]) -> None:
        super().__init__(group, name, shape, np.uint16)
        self._codecs: dict[str, BloscCodec] = {}

    def _write(self, cells: NDArray[np.uint16]) -> None:
        if cells.shape[-1] % 2 == 0 and cells.shape[-2] % 2 == 0:
            self._pack(HALF, halved(cells))
        self._pack(self._name, cells)

    def _pack(self, name: str, cells: NDArray[np.uint16]) -> None:
        if name not in self._codecs:
            self._codecs[name] = _codec_for(cells)
        self._put(name, cells, self._codecs[name])


def _codec_for(cells: NDArray[np.uint16]) -> BloscCodec:
    """The codec that suits a store's first shard."""
    some = cells[:: -(-len(cells) // _TRIED)]
    small, quick = (
        zarr.create_array(
            MemoryStore(), data=some, chunks=(1, *some.shape[1:]), compressors=codec, zarr_format=3
        ).nbytes_stored()
        for codec in (_SMALL, _QUICK)
    )
    return _SMALL if small < _WORTH * quick else _QUICK


def halved(images: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Means of 2 x 2 pixels, rounded half up.

    Two neighbours are added as the halves of one uint32, cell by cell so that all stays in the processor's cache.

    Args:
        images: (N, C, S, S) uint16, S even.

    Returns:
        (N, C, S / 2, S / 2) uint16.
    """
    count, channels, height, width = images.shape
    found = np.empty((count, channels, height // 2, width // 2), np.uint16)
    total, part = np.empty((2, *found.shape[1:]), np.uint32)
    for cell, small in zip(images, found, strict=True):
        pairs = np.ascontiguousarray(cell).view(np.uint32)  # (C, S, S / 2)
        upper, lower = pairs[:, 0::2], pairs[:, 1::2]
        np.bitwise_and(upper, _LOW, out=total)
        total += np.right_shift(upper, 16, out=part)
        total += np.bitwise_and(lower, _LOW, out=part)
        total += np.right_shift(lower, 16, out=part)
        total += np.uint32(2)
        total >>= np.uint32(2)
        small[...] = total
    return found


def open_array(group: zarr.Group, name: str, *, fast: bool = True) -> zarr.Array[Any]:
    """An array of a group.

    zarr's own way through the chunks of a shard costs several times what decoding them does. The package ``zarrs``
    takes its place where it is installed, and hands back what it does not know.

    Args:
        group: the store.
        name: of the array.
        fast: read by ``zarrs`` if it is here. Writing is left to zarr, so that files do not depend on it.

    Raises:
        TypeError: it is no array.
    """
    with _opening, zarr.config.set(_fast() if fast else {}):
        array = group[name]
    if not isinstance(array, zarr.Array):
        raise TypeError(f"{name} is not an array")
    return array


def read(array: zarr.Array[Any], start: int, stop: int | None, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Cells ``start`` to ``stop``, into ``out`` (n, ...) if it is given: new memory costs as much as decoding does."""
    if out is None:
        return np.asarray(array[start:stop])
    array.get_basic_selection((slice(start, stop),), out=NDBuffer.from_numpy_array(out))
    return out
