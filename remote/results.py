"""Results in a bucket: published under a new prefix, visible by a marker that is written last."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from pydantic import TypeAdapter, ValidationError

from wbcpipe.errors import CorruptObjectError, SampleStateError
from wbcpipe.remote.records import (
    COMPLETE,
    PublishedResult,
    ResultId,
    StoredFile,
    parse_record,
    safe_path,
)
from wbcpipe.remote.samples import download_files
from wbcpipe.samples.sample import check_sample_name
from wbcpipe.system.version import VERSION

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.remote.object_store import ObjectStore

__all__ = [
    "completed_results",
    "fetch_result",
    "publish_result",
    "read_result_file",
    "result_record",
    "result_root",
]

_AT_ONCE: Final = 4
_RESULT_ID: Final[TypeAdapter[str]] = TypeAdapter(ResultId)


def _check_id(result_id: str) -> str:
    try:
        return _RESULT_ID.validate_python(result_id)
    except ValidationError:
        raise SampleStateError(
            f"result id {result_id[:80]!r} is refused: use 1 to 128 letters, digits, '-' or '_'."
        ) from None


def result_root(name: str, result_id: str) -> str:
    """Return the prefix of a result, below the store's."""
    return f"{check_sample_name(name)}/results/{_check_id(result_id)}"


def result_record(store: ObjectStore, name: str, result_id: str) -> PublishedResult | None:
    """Return the completion marker of a result; ``None`` where there is none: no such result.

    Raises:
        CorruptObjectError: it is damaged, or of another result.
    """
    key = f"{result_root(name, result_id)}/{COMPLETE}"
    if store.head(key) is None:
        return None
    record = parse_record(PublishedResult, store.read(key), store.url(key))
    if (record.sample, record.result_id) != (name, result_id):
        raise CorruptObjectError(
            f"{store.url(key)}: this is the marker of result {record.result_id} of sample "
            f"{record.sample!r}; it was copied here. {PublishedResult.remedy.capitalize()}."
        )
    return record


def completed_results(store: ObjectStore, name: str) -> list[PublishedResult]:
    """Return the results of a sample that are complete, in the order in which they were written.

    Raises:
        CorruptObjectError: a marker is damaged.
    """
    found = [
        result_record(store, name, one)
        for one in store.folders(f"{check_sample_name(name)}/results")
        if _RESULT_ID.validator.isinstance_python(one)
    ]
    return sorted((one for one in found if one is not None), key=lambda one: one.written)


def publish_result(store: ObjectStore, name: str, result_id: str, folder: Path) -> bool:
    """Upload a result and make it visible, unless it was complete already.

    Each call writes objects below a prefix of its own, so that two workers on one sample never mix.
    The marker is created last, and only if there is none: exactly one of them makes it, and the
    objects of the other stay unused.

    Args:
        store: receives the result.
        name: of the sample.
        result_id: decided by what the result rests on.
        folder: with all files of the result; names that begin with a dot are left out.

    Returns:
        Whether this call made the result visible.

    Raises:
        SampleStateError: the folder is empty, or holds a link or a name that is not allowed.
        RemotePermissionError, RemoteStorageError: the store refuses it; the result is not visible.
    """
    root = result_root(name, result_id)
    if store.head(f"{root}/{COMPLETE}") is not None:
        return False
    paths = _files_below(folder)
    attempt = uuid.uuid4().hex

    def one(path: str) -> StoredFile:
        key = f"results/{result_id}/{attempt}/{path}"
        sent = store.upload(folder / path, f"{name}/{key}")
        return StoredFile(path=path, key=key, size=sent.digest.size, sha256=sent.digest.sha256)

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="wbcpipe-upload") as pool:
        files = tuple(pool.map(one, paths))
    record = PublishedResult(
        sample=name,
        result_id=result_id,
        attempt=attempt,
        written=datetime.now(UTC).isoformat(timespec="microseconds"),
        software=VERSION,
        files=files,
    )
    return store.put_new(f"{root}/{COMPLETE}", record.to_bytes())


def _files_below(folder: Path) -> list[str]:
    """Return the paths of the files below a folder, with slashes."""
    found = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).as_posix()
        if any(part.startswith(".") for part in inside.split("/")):
            continue
        if path.is_symlink():
            raise SampleStateError(f"{path}: a link; a result holds files alone.")
        if path.is_file():
            try:
                found.append(safe_path(inside))
            except ValueError as error:
                raise SampleStateError(f"{path}: {error}; rename it.") from error
    if not found:
        raise SampleStateError(f"{folder}: there is no file of a result.")
    return found


def fetch_result(store: ObjectStore, record: PublishedResult, folder: Path) -> None:
    """Copy a result into a folder, each file verified.

    Raises:
        CorruptObjectError: an object is missing, cut short, or not the one of the marker.
        DiskFullError: no space left.
    """
    download_files(store, record.sample, record.files, folder)


def read_result_file(store: ObjectStore, record: PublishedResult, path: str) -> bytes:
    """Return the content of one file of a result, verified.

    Args:
        store: with the result.
        record: of the result.
        path: of the file in the result, such as ``differential.json``.

    Raises:
        CorruptObjectError: the result has no such file, or it is damaged.
    """
    file = record.file(path)
    if file is None:
        raise CorruptObjectError(
            f"{store.url(result_root(record.sample, record.result_id))}: the result has no {path}; "
            f"{record.remedy}."
        )
    return store.read(f"{record.sample}/{file.key}", file)
