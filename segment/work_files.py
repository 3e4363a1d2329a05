"""Files of intermediate results in ``work/``.

Arrays and a typed record, together in one ``.npz``.
"""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any, Final, TypeVar

import google_crc32c
import numpy as np
from pydantic import BaseModel

from wbcpipe.system.files import make_folder, write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["check_work_file", "read_work_file", "write_work_file"]

_TRAILER_BYTES: Final = 15

_Model = TypeVar("_Model", bound=BaseModel)


def write_work_file(path: Path, record: BaseModel, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays and their record with a checksum, atomically; the folder is created.

    Raises:
        DiskFullError: no space left; an earlier file stays.
    """
    make_folder(path.parent)
    with write_atomic(path) as handle:
        np.savez(handle, allow_pickle=False, record=np.array(record.model_dump_json()), **arrays)
        handle.seek(0)
        trailer = _trailer(handle.read())
        handle.seek(0, 2)
        handle.write(trailer)


def read_work_file(
    path: Path, model: type[_Model]
) -> tuple[_Model, dict[str, NDArray[Any]]] | None:
    """Read a file of `write_work_file`.

    Return ``None`` where it is absent, damaged, or not of this model.

    A result that cannot be read is computed again.
    """
    content = check_work_file(path)
    if content is None:
        return None
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return model.model_validate_json(str(arrays.pop("record"))), arrays
    except (KeyError, ValueError, zipfile.BadZipFile):
        return None  # of another version


def check_work_file(path: Path) -> bytes | None:
    """Return the ``.npz`` of a file; ``None`` where it is absent or not as it was written."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    archive = content[:-_TRAILER_BYTES]
    return archive if content[-_TRAILER_BYTES:] == _trailer(archive) else None


def _trailer(archive: bytes) -> bytes:
    """Return what follows the ``.npz``, which other programs ignore: numpy and zip find the end of
    the archive.
    """
    return b"crc32c:%08x" % google_crc32c.value(archive)
