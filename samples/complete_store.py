"""Zarr arrays of which every byte is checked.

Metadata by a digest, chunks by a checksum and by their presence.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from typing import TYPE_CHECKING, Any, Final

import google_crc32c

from wbcpipe.errors import SampleStateError, WbcpipeError
from wbcpipe.samples.patient_store import PatientStore
from wbcpipe.system.files import file_errors, read_json
from wbcpipe.system.storage import patiently

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import zarr
    from pydantic import JsonValue
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype
    from zarr.core.chunk_key_encodings import ChunkKeyEncodingLike

    from wbcpipe.samples.cell_attributes import CellAttributes

__all__ = [
    "CHUNK_KEYS",
    "METADATA",
    "CompleteStore",
    "array_digest",
    "check_array",
    "check_chunks",
    "check_chunks_digest",
    "chunks_digest",
    "group_metadata",
    "read_group",
]

METADATA: Final = "zarr.json"
#: Names a chunk ``c.0.0.0``: one directory for each array. With slashes, each chunk would have
#: three of its own.
CHUNK_KEYS: Final[ChunkKeyEncodingLike] = {"name": "default", "separator": "."}
_CHUNK: Final = re.compile(r"c(\.\d+)+")
_REMEDY: Final = "segment or import the sample again"


class CompleteStore(PatientStore):
    """A folder with one array that was written completely: a missing chunk is an error, where zarr
    gives fill values.

    Chunks are read in the thread that asks for them. Zarr's own store passes each read on to
    another thread, which takes longer than to read what the system holds in memory, and copies the
    chunk to memory that is new each time.
    """

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Return the content of a file.

        Raises:
            FileNotFoundError: a chunk is missing.
        """
        if not key.startswith("c.") or byte_range is not None or prototype is None:
            return await super().get(key, prototype, byte_range)
        return prototype.buffer.from_bytes(patiently(self.root / key, (self.root / key).read_bytes))


def array_digest(path: Path) -> str:
    """Return the SHA-256 of the metadata of the array in folder ``path``."""
    with file_errors(path / METADATA, _REMEDY):
        return hashlib.sha256(patiently(path / METADATA, (path / METADATA).read_bytes)).hexdigest()


def check_array(path: Path, digest: str) -> None:
    """Check the metadata of the array in folder ``path``.

    Raises:
        SampleStateError: they are missing, or not those that were written.
    """
    if array_digest(path) != digest:
        raise SampleStateError(
            f"{path / METADATA}: damaged (SHA-256 differs from the one written); {_REMEDY}."
        )


def chunks_digest(path: Path) -> str:
    """Return the SHA-256 of the names and checksums of the chunks of the array in folder ``path``,
    in order.

    Every chunk ends in its CRC-32C, so that only four bytes of each are read.
    """
    found = hashlib.sha256()
    with file_errors(path, _REMEDY):
        for chunk in _chunk_files(path):
            found.update(
                chunk.name.encode()
                + b" "
                + patiently(chunk, functools.partial(_last_bytes, chunk))
                + b"\n"
            )
    return found.hexdigest()


def check_chunks_digest(array: zarr.Array[Any], path: Path, digest: str) -> None:
    """Check that the chunks of an array in folder ``path`` are those that were written, each in its
    place.

    A chunk that is missing or damaged in itself is left to the one who reads it.

    Raises:
        SampleStateError: a chunk was copied from another place or another store.
    """
    if chunks_digest(path) == digest:
        return
    files = _chunk_files(path)
    contents = (patiently(file, file.read_bytes) for file in files)
    sound = all(google_crc32c.value(one[:-4]).to_bytes(4, "little") == one[-4:] for one in contents)
    if sound and len(files) == -(-array.shape[0] // array.chunks[0]):
        raise SampleStateError(
            f"{path}: chunks were copied here from another place or another store; {_REMEDY}."
        )


def _chunk_files(path: Path) -> list[Path]:
    return sorted(chunk for chunk in path.iterdir() if _CHUNK.fullmatch(chunk.name))


def _last_bytes(path: Path) -> bytes:
    with path.open("rb") as handle:
        handle.seek(max(0, handle.seek(0, os.SEEK_END) - 4))
        return handle.read()


def group_metadata(attributes: CellAttributes) -> JsonValue:
    """Return the content of a group's metadata file."""
    content = attributes.with_digest().model_dump(mode="json")
    if content["classified"] is None:
        del content["classified"]
    return {"zarr_format": 3, "node_type": "group", "attributes": content}


def read_group(path: Path) -> JsonValue:
    """Read the attributes of the group in folder ``path``.

    Raises:
        SampleStateError: the metadata are missing, no JSON, or not of a group.
    """
    content = read_json(path / METADATA, remedy=_REMEDY)
    if (
        not isinstance(content, dict)
        or content.get("node_type") != "group"
        or content.get("zarr_format") != 3
    ):
        raise SampleStateError(
            f"{path / METADATA}: not the metadata of a Zarr v3 group; {_REMEDY}."
        )
    attributes: JsonValue = content.get("attributes")
    return attributes


def check_chunks(
    array: zarr.Array[Any],
    path: Path,
    rows: slice,
    remedy: str = _REMEDY,
    progress: Callable[[int], None] = lambda _chunks: None,
) -> None:
    """Read the chunks of some rows, one after the other.

    Args:
        array: chunked along its first axis only.
        path: its folder.
        rows: of the first axis.
        remedy: what the user can do about a damaged chunk.
        progress: called with the number of chunks read so far.

    Raises:
        SampleStateError: a chunk is missing or damaged; the text names its file.
    """
    size, zeros = array.chunks[0], (0,) * (array.ndim - 1)
    for done, chunk in enumerate(range(rows.start // size, -(-rows.stop // size)), 1):
        file = path / array.metadata.encode_chunk_key((chunk, *zeros))
        try:
            array.get_basic_selection(
                (slice(chunk * size, min((chunk + 1) * size, array.shape[0])),)
            )
        except FileNotFoundError as error:
            raise SampleStateError(f"{file}: the file is missing; {remedy}.") from error
        except WbcpipeError:
            raise  # it says what is wrong, or nothing is known of the file
        except (OSError, RuntimeError, ValueError) as error:
            raise SampleStateError(f"{file}: damaged ({_one_line(error)}); {remedy}.") from error
        progress(done)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
