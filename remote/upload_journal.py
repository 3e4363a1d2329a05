"""``sync.jsonl`` of a sample: which of its files are verified in which bucket."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from wbcpipe.remote.records import Check, StoredFile
from wbcpipe.system.files import append_line, json_line, parse_json_line

if TYPE_CHECKING:
    from wbcpipe.remote.local_files import LocalFile
    from wbcpipe.samples.sample import Sample

__all__ = ["UploadJournal", "VerifiedUpload"]

_NAME: Final = "sync.jsonl"


class VerifiedUpload(StoredFile):
    """A file whose content was verified in a bucket.

    Attributes:
        to: location of the bucket.
        mtime_ns: of the file when it was read.
        check: how the upload was verified.
    """

    to: str
    mtime_ns: int
    check: Check


class UploadJournal:
    """The verified uploads of a sample to one location.

    A line is appended when an upload is verified. A line that is damaged or cut short is left out:
    its file is compared with the bucket again.

    Args:
        sample: on the disk.
        location: of the bucket.
    """

    def __init__(self, sample: Sample, location: str) -> None:
        self._path = sample.path / _NAME
        self._to = location
        self._found: dict[str, VerifiedUpload] = {}
        with contextlib.suppress(FileNotFoundError):
            for line in self._path.read_bytes().splitlines():
                with contextlib.suppress(ValueError, ValidationError):
                    entry = VerifiedUpload.model_validate(parse_json_line(line))
                    if entry.to == location:
                        self._found[entry.path] = entry

    def find(self, file: LocalFile) -> VerifiedUpload | None:
        """Return the verified upload of a file as it is now; ``None`` if there is none."""
        entry = self._found.get(file.inside)
        if entry is None or (entry.size, entry.mtime_ns) != (file.size, file.mtime_ns):
            return None
        return entry

    def add(self, file: LocalFile, stored: StoredFile, check: Check) -> VerifiedUpload:
        """Append a verified upload, flushed to the disk."""
        entry = VerifiedUpload(
            path=file.inside,
            key=stored.key,
            size=stored.size,
            sha256=stored.sha256,
            to=self._to,
            mtime_ns=file.mtime_ns,
            check=check,
        )
        append_line(self._path, json_line(entry.model_dump(mode="json")).decode().rstrip("\n"))
        self._found[file.inside] = entry
        return entry
