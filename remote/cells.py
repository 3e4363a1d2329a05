"""Read ``cells.zarr`` of a published result from the bucket, without a local copy."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import zarr
from zarr.storage import ObjectStore as ZarrObjectStore

from wbcpipe.errors import CorruptObjectError, SampleStateError
from wbcpipe.remote.connect import connect
from wbcpipe.remote.results import read_result_file
from wbcpipe.samples.cell_attributes import CellAttributes
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.complete_store import METADATA
from wbcpipe.system.files import parse_json

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

    from wbcpipe.remote.object_store import ObjectStore
    from wbcpipe.remote.records import PublishedResult

__all__ = ["PublishedCells"]

_CELLS = "cells.zarr"


class _VerifiedArray(ZarrObjectStore[Any]):
    """zarr's `ObjectStore` of one array: each object is compared with the completion marker."""

    def __init__(self, store: ObjectStore, record: PublishedResult, path: str) -> None:
        root = f"{record.sample}/results/{record.result_id}/{record.attempt}/{path}"
        super().__init__(connect(store.location.below(root)), read_only=True)
        self._store, self._record, self._path = store, record, path

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the content of an object.

        Raises:
            CorruptObjectError: it is missing, cut short, or not the one of the marker.
        """
        assert byte_range is None, "chunks are read completely: the arrays have no shards"
        if key != METADATA and not key.startswith("c."):
            return None  # zarr asks for metadata of other formats
        path = f"{self._path}/{key}"
        content = await asyncio.to_thread(read_result_file, self._store, self._record, path)
        return prototype.buffer.from_bytes(content)


class PublishedCells(CellStore):
    """The cells of a published result, read as those of a local sample.

    Only the objects that are asked for are read, and each of them is verified.

    Args:
        store: with the result.
        record: of the result.

    Raises:
        CorruptObjectError: the result has no cells, or an object is damaged.
        SampleStateError: the attributes are of another format.
    """

    def __init__(self, store: ObjectStore, record: PublishedResult) -> None:
        self._store, self._record = store, record
        # For messages alone.
        self.path = Path(record.sample, "results", record.result_id, _CELLS)
        self._load()

    def _load(self) -> None:
        text = read_result_file(self._store, self._record, f"{_CELLS}/{METADATA}")
        try:
            content = parse_json(text.decode())["attributes"]
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptObjectError(
                f"{self.path / METADATA}: not the metadata of a Zarr v3 group; process the sample "
                f"again."
            ) from error
        self.attributes = CellAttributes.parse(content, self.path / METADATA)
        self.attributes.check_digest(self.path / METADATA)
        self._opened = {}

    def _open(self, name: str) -> zarr.Array[Any]:
        array = _VerifiedArray(self._store, self._record, f"{_CELLS}/{name}")
        return zarr.open_array(array, mode="r", zarr_format=3)

    def _write_attributes(
        self,
        attributes: CellAttributes,  # noqa: ARG002 - as the method that it replaces
    ) -> NoReturn:
        raise SampleStateError(
            f"{self.path}: a published result is not changed; process the sample again."
        )
