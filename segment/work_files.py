"""Files of intermediate results in ``work/``: arrays and a typed record, together in one ``.npz``."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from wbcpipe.system.files import disk_errors, write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["read_work_file", "write_work_file"]

_Model = TypeVar("_Model", bound=BaseModel)


def write_work_file(path: Path, record: BaseModel, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays and their record, atomically; the folder is created.

    Raises:
        DiskFullError: no space left; an earlier file stays.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomic(path) as handle:
        np.savez(handle, allow_pickle=False, record=np.array(record.model_dump_json()), **arrays)


def read_work_file(path: Path, model: type[_Model]) -> tuple[_Model, dict[str, NDArray[Any]]] | None:
    """Read a file of `write_work_file`; return ``None`` where it is absent, damaged, or not of this model.

    A result that cannot be read is computed again.
    """
    try:
        # Opened here, because numpy leaves a damaged file open.
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return model.model_validate_json(str(arrays.pop("record"))), arrays
    except (FileNotFoundError, KeyError, ValueError, EOFError, zipfile.BadZipFile, ValidationError):
        return None
