"""How ``cells.zarr`` keeps what is large: one chunk a cell, many cells a file, so that reading them is cheap.

Files are plain Zarr v3 with codecs of its own specification: zarr makes the arrays, and reads them as any other does.
Each chunk ends with a checksum, by which a damaged one is told (older stores have none). Crops with a camera's noise
are not packed: it would save a quarter of the bytes, and unpacking them costs three to six times what reading does.
They are kept at half their side too: to read and average whole ones costs a fifth of what a network does that looks at
the half.

zarr's way to the chunks of a shard costs ten times what decoding them does, and to write one it holds 256 cells three
times. So `ShardWriter` writes each cell as it comes, and `CropReader` reads a run of cells at once, chunks packed and
unpacked by numcodecs as in zarr. A shard is its chunks, then 16 bytes for each that say where it begins and how long it
is, then a checksum of these (https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/). What is not as
`ShardWriter` and older versions leave it, zarr reads.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import zarr
from numcodecs import Blosc, Zstd, blosc
from numcodecs.checksum32 import CRC32C
from zarr.buffer.cpu import NDBuffer
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec, ShardingCodecIndexLocation, ZstdCodec
from zarr.storage import LocalStore

from wbcpipe.imaging.arrays import bin_2x2

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import BufferedReader
    from pathlib import Path

    from numpy.typing import NDArray
    from zarr.abc.codec import Codec

__all__ = ["CELLS_PER_SHARD", "HALF", "CropReader", "CropWriter", "ShardWriter", "open_array"]

CELLS_PER_SHARD: Final = 256
HALF: Final = "images_half"
"""The array of crops at half their side; stores of older versions, and crops of an odd side, have none."""


class _Packing(NamedTuple):
    """A way to pack a cell, in zarr's words and in numcodecs'."""

    codecs: tuple[BloscCodec | ZstdCodec, ...]
    encode: Callable[[NDArray[Any]], bytes]


class _Unpacking(NamedTuple):
    """How a chunk becomes a cell."""

    decode: Callable[[memoryview, NDArray[Any]], None] | None
    """``None`` for one that is not packed."""
    is_checked: bool
    """Whether a checksum follows it."""


_PLAIN: Final = _Packing((ZstdCodec(),), Zstd(level=0).encode)
_RAW: Final = _Packing((), bytes)
_SMALL: Final = _Packing(
    (BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"),), Blosc("zstd", 3, Blosc.SHUFFLE).encode
)
_WORTH: Final = 0.5
"""Unpacking takes six times as long as reading what is not packed: worth it for half of the bytes, as pictures of 8
bits give, not for a quarter, as those with a camera's noise in 16 bits do."""
_TRIED: Final = 8
_EMPTY: Final = 2**64 - 1
_CHECKSUM: Final = 4
"""Bytes."""


class ShardWriter:
    """Writes cells into shards as they come; its memory is that of one cell.

    Args:
        group: where the array is made, with the first cells.
        name: of the array.
    """

    def __init__(self, group: zarr.Group, name: str) -> None:
        self._group, self._name = group, name
        self._array: zarr.Array[Any] | None = None
        self._index = np.full((CELLS_PER_SHARD, 2), _EMPTY, "<u8")
        self._count = 0

    def append(self, cells: NDArray[Any]) -> None:
        """Write cells (n, ...)."""
        if self._array is None and len(cells):
            self._array = self._begin(cells)
        while len(cells):
            first = self._count % CELLS_PER_SHARD
            some = cells[: CELLS_PER_SHARD - first]
            path = self._shard()
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                for row, cell in enumerate(some, first):
                    packed = self._encode(np.ascontiguousarray(cell))
                    self._index[row] = file.tell(), len(packed) + _CHECKSUM
                    file.write(packed)
                    file.write(_checksum(packed))
            if first + len(some) == CELLS_PER_SHARD:
                self._end_shard()
            self._count += len(some)
            cells = cells[len(some) :]

    def finish(self) -> None:
        """End the last shard, and tell the array how many cells there are."""
        if self._array is None:
            return
        if self._count % CELLS_PER_SHARD:
            self._end_shard()
        self._array.resize((self._count, *self._array.shape[1:]))

    def _shard(self) -> Path:
        assert self._array is not None
        return _shard_path(self._array, self._count // CELLS_PER_SHARD)

    def _end_shard(self) -> None:
        with self._shard().open("ab") as file:
            file.write(CRC32C(location="end").encode(self._index.tobytes()))
        self._index[:] = _EMPTY

    def _begin(self, cells: NDArray[Any]) -> zarr.Array[Any]:
        shape = cells.shape[1:]
        packing = self._packing(cells)
        self._encode = packing.encode
        return self._group.create_array(
            self._name,
            shape=(0, *shape),
            dtype=cells.dtype.newbyteorder("<"),
            chunks=(1, *shape),
            shards=(CELLS_PER_SHARD, *shape),
            compressors=(*packing.codecs, Crc32cCodec()),
        )

    def _packing(self, cells: NDArray[Any]) -> _Packing:
        return _PLAIN


class CropWriter(ShardWriter):
    """Writes crops (n, M, side, side) uint16, packed as suits the first of them, at their side and at half of it."""

    def __init__(self, group: zarr.Group, name: str) -> None:
        super().__init__(group, name)
        self._half = _HalfWriter(group, HALF)

    def append(self, cells: NDArray[np.uint16]) -> None:
        """Write crops (n, M, side, side)."""
        super().append(cells)
        if cells.shape[-1] % 2 == 0 and cells.shape[-2] % 2 == 0:
            self._half.append(bin_2x2(cells))

    def finish(self) -> None:
        """End both arrays."""
        super().finish()
        self._half.finish()

    def _packing(self, cells: NDArray[np.uint16]) -> _Packing:
        tried = cells[:_TRIED].copy()
        return _SMALL if sum(len(_SMALL.encode(cell)) for cell in tried) < _WORTH * tried.nbytes else _RAW


class _HalfWriter(ShardWriter):
    """Small crops as they are: a network calls one in the time of 20 unpackings, and packing saves a tenth to half."""

    def _packing(self, cells: NDArray[np.uint16]) -> _Packing:
        return _RAW


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
        self._unpacking = _unpacking(array)

    def read(self, start: int, stop: int | None, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Cells ``start`` to ``stop``, in ``out`` (n, ...) if it is given: new memory costs as much as decoding.

        Raises:
            OSError: the file cannot be read.
            RuntimeError: a cell cannot be decoded.
            ValueError: a checksum does not hold.
        """
        start, stop, _ = slice(start, stop).indices(self.array.shape[0])
        found = np.empty((max(0, stop - start), *self.array.shape[1:]), self.array.dtype) if out is None else out
        if self._unpacking is None or not found.flags.c_contiguous or not self._runs(start, stop, found):
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
        assert self._unpacking is not None
        path = _shard_path(self.array, shard)
        if not path.is_file():
            if self._unpacking.is_checked:  # zarr takes it for one that holds nothing but zeros
                raise RuntimeError(f"file {self.array.path}/{_shard_key(self.array, shard)} is gone")
            return False
        size = 16 * self.array.shards[0] + 4
        with path.open("rb") as file:
            file.seek(-size, 2)
            index = np.frombuffer(CRC32C(location="end").decode(file.read(size)), "<u8").reshape(-1, 2)
            places = index[first : first + len(out)].tolist()
            at = places[0][0]
            for offset, length in places:
                if offset != at or offset == _EMPTY:  # in another order; or zarr left an empty cell out
                    return False
                at += length
            file.seek(places[0][0])
            for cell, (_, length) in zip(out, places, strict=True):
                _read_chunk(file, length, cell, self._unpacking)
        return True


def _read_chunk(file: BufferedReader, length: int, cell: NDArray[Any], how: _Unpacking) -> None:
    """Read the next ``length`` bytes of a file into a cell, and see that they are those that were written."""
    size = length - _CHECKSUM if how.is_checked else length
    if how.decode is None:
        chunk = cell.data.cast("B")
        if not chunk.nbytes == size == file.readinto(chunk):
            raise RuntimeError("a cell's length is not what it should be")
    else:
        chunk = memoryview(file.read(size))
    if how.is_checked and file.read(_CHECKSUM) != _checksum(chunk):
        raise RuntimeError("the checksum of a cell does not hold")
    if how.decode is not None:
        how.decode(chunk, cell)


def _checksum(chunk: bytes | memoryview) -> bytes:
    found: int = CRC32C.checksum(np.frombuffer(chunk, np.uint8))
    return found.to_bytes(_CHECKSUM, "little")


def _shard_path(array: zarr.Array[Any], shard: int) -> Path:
    assert isinstance(array.store, LocalStore)
    return array.store.root / array.path / _shard_key(array, shard)


def _shard_key(array: zarr.Array[Any], shard: int) -> str:
    return array.metadata.encode_chunk_key((shard, *(0 for _ in array.shape[1:])))


def _unpacking(array: zarr.Array[Any]) -> _Unpacking | None:
    """How chunks of an array become cells; ``None`` for one that only zarr shall read."""
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
    is_checked = bool(packing) and packing[-1] == Crc32cCodec()
    if is_checked:
        packing.pop()
    known = BytesCodec(endian="little" if array.dtype.itemsize > 1 else None)
    if order not in (known, BytesCodec(endian="little")) or len(packing) > 1:
        return None
    if not packing:
        return _Unpacking(None, is_checked)
    if isinstance(packing[0], BloscCodec):
        return _Unpacking(_unpack_blosc, is_checked)
    return _Unpacking(_unpack_zstd, is_checked) if isinstance(packing[0], ZstdCodec) else None


def _unpack_blosc(packed: memoryview, cell: NDArray[Any]) -> None:
    if len(packed) < 16 or struct.unpack_from("<III", packed, 4)[::2] != (cell.nbytes, len(packed)):
        raise RuntimeError("a cell's length is not what it says")
    blosc.decompress(packed, cell)


def _unpack_zstd(packed: memoryview, cell: NDArray[Any]) -> None:
    Zstd().decode(packed, cell)
