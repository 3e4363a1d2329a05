"""How ``cells.zarr`` keeps what is large: one chunk a cell, many cells a file, packed so that reading them is cheap.

Files are plain Zarr v3, written by zarr, with codecs of its own specification. Crops are kept at half their side too:
to decode and average whole ones costs a third of what a network does that looks at the half.

zarr's way through the chunks of a shard costs ten times what decoding them does. So a run of cells is also read here:
one read, then each chunk decoded into its place by numcodecs, as zarr does. That is done only with what `ShardWriter`
and older versions write; anything else is left to zarr.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import zarr
from numcodecs import Zstd, blosc
from numcodecs.checksum32 import CRC32C
from zarr.buffer.cpu import NDBuffer
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec, ShardingCodecIndexLocation, ZstdCodec
from zarr.storage import LocalStore, MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from zarr.abc.codec import Codec

__all__ = ["CELLS_PER_SHARD", "HALF", "CropReader", "CropWriter", "ShardWriter", "halved", "open_array"]

CELLS_PER_SHARD: Final = 256
HALF: Final = "images_half"
"""The array of crops at half their side; stores of older versions, and crops of an odd side, have none."""

_QUICK: Final = BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle")
_SMALL: Final = BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")
_WORTH: Final = 0.75
"""``_SMALL`` takes twice as long to read: worth it for a quarter of the bytes, as pictures of 8 bits give."""
_TRIED: Final = 8
_LOW: Final = np.uint32(0xFFFF)


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
        array = open_array(self._group, name)
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


def open_array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """An array of a group.

    Raises:
        TypeError: it is no array.
    """
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise TypeError(f"{name} is not an array")
    return array


class CropReader:
    """Reads runs of cells from an array of crops, from many threads at once if need be.

    Args:
        array: (N, ...) with a chunk for each cell.
    """

    def __init__(self, array: zarr.Array[Any]) -> None:
        self.array = array
        self._decode = _decoder(array)

    def read(self, start: int, stop: int | None, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Cells ``start`` to ``stop``, in ``out`` (n, ...) if it is given: new memory costs as much as decoding.

        Raises:
            OSError: the file cannot be read.
            RuntimeError: a cell cannot be decoded.
            ValueError: a checksum does not hold.
        """
        start, stop, _ = slice(start, stop).indices(self.array.shape[0])
        found = np.empty((max(0, stop - start), *self.array.shape[1:]), self.array.dtype) if out is None else out
        if self._decode is None or not self._runs(start, stop, found):
            self.array.get_basic_selection((slice(start, stop),), out=NDBuffer.from_numpy_array(found))
        return found

    def _runs(self, start: int, stop: int, out: NDArray[Any]) -> bool:
        """Read shard by shard; false where one of them is not as `ShardWriter` leaves it."""
        assert self.array.shards is not None
        at = start
        while at < stop:
            shard, first = divmod(at, self.array.shards[0])
            cells = min(stop - at, self.array.shards[0] - first)
            if not self._run(shard, first, out[at - start : at - start + cells]):
                return False
            at += cells
        return True

    def _run(self, shard: int, first: int, out: NDArray[Any]) -> bool:
        """Read some cells of a shard: chunks, then offset and length of each, then a checksum of these."""
        assert self.array.shards is not None
        assert self._decode is not None
        path = _shard_path(self.array, shard)
        if not path.is_file():
            return False
        size = 16 * self.array.shards[0] + 4
        with path.open("rb") as file:
            file.seek(-size, 2)
            index = np.frombuffer(CRC32C(location="end").decode(file.read(size)), "<u8").reshape(-1, 2)
            places = index[first : first + len(out)].tolist()
            begin, end = places[0][0], sum(places[-1])
            if end - begin != sum(length for _, length in places):  # empty cells are left out; or in another order
                return False
            file.seek(begin)
            packed = memoryview(file.read(end - begin))
        for cell, (offset, length) in zip(out, places, strict=True):
            self._decode(packed[offset - begin : offset - begin + length], cell)
        return True


def _shard_path(array: zarr.Array[Any], shard: int) -> Path:
    assert isinstance(array.store, LocalStore)
    key = array.metadata.encode_chunk_key((shard, *(0 for _ in array.shape[1:])))
    return array.store.root / array.path / key


def _decoder(array: zarr.Array[Any]) -> Callable[[memoryview, NDArray[Any]], None] | None:
    """What decodes a chunk into a cell; ``None`` for an array that only zarr shall read."""
    shards, chunk = array.shards, (1, *array.shape[1:])
    if not isinstance(array.store, LocalStore) or shards is None or shards[1:] != chunk[1:] or array.chunks != chunk:
        return None
    outer: tuple[Codec, ...] = getattr(array.metadata, "codecs", ())
    if len(outer) != 1 or not isinstance(outer[0], ShardingCodec) or array.dtype.byteorder == ">":
        return None
    index = (outer[0].index_location, *outer[0].index_codecs)
    if index != (ShardingCodecIndexLocation.end, BytesCodec(endian="little"), Crc32cCodec()):
        return None
    order, *packing = outer[0].codecs
    if order != BytesCodec(endian="little") or len(packing) != 1:
        return None
    if isinstance(packing[0], BloscCodec):
        return _unpack_blosc
    return _unpack_zstd if isinstance(packing[0], ZstdCodec) else None


def _unpack_blosc(packed: memoryview, cell: NDArray[Any]) -> None:
    if len(packed) < 16 or struct.unpack_from("<III", packed, 4)[::2] != (cell.nbytes, len(packed)):
        raise RuntimeError("a cell's length is not what it says")
    blosc.decompress(packed, cell)


def _unpack_zstd(packed: memoryview, cell: NDArray[Any]) -> None:
    Zstd().decode(packed, cell)
