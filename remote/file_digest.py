"""The size and the SHA-256 of a file."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from wbcpipe.system.files import disk_errors

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["file_digest"]

_CHUNK_BYTES: Final = 1 << 20


def file_digest(path: Path) -> tuple[int, str]:
    """Return the size and the SHA-256 of a file."""
    sha, size = hashlib.sha256(), 0
    with disk_errors(path), path.open("rb") as handle:
        while chunk := handle.read(_CHUNK_BYTES):
            sha.update(chunk)
            size += len(chunk)
    return size, sha.hexdigest()
