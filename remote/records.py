"""What a bucket says of itself: the manifest of a sample, and the completion marker of a result."""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, ClassVar, Final, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, StringConstraints, ValidationError, model_validator

from wbcpipe.errors import CorruptObjectError, SampleNameError
from wbcpipe.samples.records import DIGEST, Count, Part, Record, json_digest
from wbcpipe.samples.sample import check_sample_name
from wbcpipe.system.files import parse_json
from wbcpipe.system.validation_messages import explain

__all__ = [
    "COMPLETE",
    "LOG",
    "Check",
    "FileDigest",
    "PublishedResult",
    "RawManifest",
    "ResultId",
    "StoredFile",
    "WrongContentError",
    "parse_record",
    "safe_path",
]

#: Name of the completion marker.
COMPLETE: Final = "COMPLETE.json"
#: The journal of a sample grows with every command, and no result depends on it.
LOG: Final = "log.jsonl"
_MAX_DEPTH: Final = 8
_PART: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_DEVICE: Final = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)

#: How an upload was verified: the store's ETag is the MD5 of the content, or the object was read.
Check = Literal["etag-md5", "read-back"]


def safe_path(path: str) -> str:
    """Return a relative path with slashes that stays below its folder on every system.

    Raises:
        ValueError: it does not.
    """
    parts = path.split("/")
    for part in parts:
        if not _PART.fullmatch(part) or part.endswith(".") or _DEVICE.fullmatch(part):
            raise ValueError(f"{path[:80]!r} is no safe relative path")
    if len(parts) > _MAX_DEPTH:
        raise ValueError(f"{path[:80]!r} is deeper than {_MAX_DEPTH} folders")
    return path


def _sample_name(name: str) -> str:
    try:
        return check_sample_name(name)
    except SampleNameError as error:
        raise ValueError(str(error)) from error


SafePath = Annotated[str, AfterValidator(safe_path)]
SampleName = Annotated[str, AfterValidator(_sample_name)]
ResultId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class WrongContentError(Exception):
    """Something was read that is not what was expected; another try may tell."""


class FileDigest(Part):
    """The size and the SHA-256 of a file.

    Attributes:
        size: bytes.
        sha256: in hexadecimal.
    """

    size: Count
    sha256: Sha256

    @classmethod
    def of(cls, content: bytes) -> Self:
        """Return those of some bytes."""
        return cls(size=len(content), sha256=hashlib.sha256(content).hexdigest())

    def require(self, size: int, sha256: str) -> None:
        """Compare with what was read.

        Raises:
            WrongContentError: it differs, and how.
        """
        if size < self.size:
            raise WrongContentError(f"cut short: {size} of {self.size} bytes")
        if size > self.size:
            raise WrongContentError(f"{size} bytes instead of {self.size}")
        if sha256 != self.sha256:
            raise WrongContentError("its SHA-256 differs")


class StoredFile(FileDigest):
    """A file of a sample or a result, and the object that holds it.

    Attributes:
        path: below the folder of the sample or of the result.
        key: of the object, below the sample's prefix.
    """

    path: SafePath
    key: SafePath


class _FileList(Record):
    """A record that names objects, each path once."""

    files: tuple[StoredFile, ...]

    @model_validator(mode="after")
    def _each_path_once(self) -> Self:
        paths = {file.path.casefold() for file in self.files}
        if len(paths) != len(self.files):
            raise ValueError("two files have one path, as Windows reads it")
        return self

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def file(self, path: str) -> StoredFile | None:
        """Return the file of a path; ``None`` if there is none."""
        return next((file for file in self.files if file.path == path), None)


class RawManifest(_FileList):
    """``manifests/raw-<n>.json``: the raw files of a sample, written after the objects it names.

    Attributes:
        sample: its name.
        identity: name and time of creation, see `samples.belonging`.
        number: ``n``; the highest is in force.
        complete: the scan has ended, and every raw file is there.
        written: UTC time, ISO 8601.
        software: version of wbcpipe that wrote it.
    """

    remedy: ClassVar[str] = "upload the sample again with `wbcpipe sync`"

    sample: SampleName
    identity: str
    number: Annotated[int, Field(ge=1)]
    complete: bool
    written: str
    software: str

    def raw_digest(self) -> str:
        """Return the SHA-256 of the paths and contents on which a result rests.

        The same for the same raw files, whenever they were uploaded; the log of events is left out.
        """
        return json_digest(
            sorted((file.path, file.sha256) for file in self.files if file.path != LOG)
        )


class PublishedResult(_FileList):
    """``results/<result id>/COMPLETE.json``: a result is there; written after its objects.

    Attributes:
        sample: its name.
        result_id: what the result rests on decides it.
        attempt: the folder below the result's with the objects; each writer has its own.
        written: UTC time, ISO 8601.
        software: version of wbcpipe that wrote it.
    """

    remedy: ClassVar[str] = "process the sample again"

    sample: SampleName
    result_id: ResultId
    attempt: ResultId
    written: str
    software: str


RecordT = TypeVar("RecordT", bound=Record)


def parse_record(kind: type[RecordT], content: bytes, where: str) -> RecordT:
    """Parse a record that was read from a bucket.

    Args:
        kind: of record.
        content: of the object.
        where: the object, for messages.

    Raises:
        CorruptObjectError: it is no such record, or was changed since it was written.
    """
    try:
        found = parse_json(content.decode())
        if not isinstance(found, dict):
            raise ValueError("not an object of JSON")
        stated = found.pop(DIGEST, None)
        if stated is not None and stated != json_digest(found):
            raise ValueError("changed since it was written")
        return kind.model_validate(found)
    except ValidationError as error:
        reason = "; ".join(explain(item, kind) for item in error.errors()[:3])
    except ValueError as error:
        reason = str(error)
    raise CorruptObjectError(f"{where}: damaged ({reason}); {kind.remedy}.")
