"""Samples in a bucket: which are there, and a verified copy of one in a local folder."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from wbcpipe.errors import CorruptObjectError, IncompleteUploadError, SampleNameError
from wbcpipe.remote.file_digest import file_digest
from wbcpipe.remote.records import COMPLETE, RawManifest, parse_record
from wbcpipe.remote.scratch import check_space
from wbcpipe.samples.records import SampleRecord
from wbcpipe.samples.sample import Sample, check_sample_name
from wbcpipe.system.files import make_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from wbcpipe.remote.object_store import ObjectStore
    from wbcpipe.remote.records import StoredFile

__all__ = [
    "RemoteSample",
    "download_files",
    "list_samples",
    "manifest_key",
    "newest_manifest",
    "read_sample_record",
    "require_manifest",
    "stage_sample",
]

_MANIFEST: Final = re.compile(r"raw-([1-9]\d{0,8})\.json")
#: Downloads at a time: one connection does not fill a network with round trips of milliseconds.
_AT_ONCE: Final = 4


@dataclass(frozen=True)
class RemoteSample:
    """A sample in a bucket.

    Attributes:
        name: of the sample.
        state: ``complete`` if its newest manifest says that every raw file is there, ``incomplete``
            if it does not or there is none, ``damaged`` if that manifest is not readable.
        files, size: number and bytes of the raw files that the manifest names.
        raw_digest: see `RawManifest.raw_digest`; empty without a manifest.
        results: ids of the results that have a completion marker.
    """

    name: str
    state: Literal["complete", "incomplete", "damaged"]
    files: int
    size: int
    raw_digest: str
    results: tuple[str, ...]


def manifest_key(name: str, number: int) -> str:
    """Return the key of a manifest."""
    return f"{name}/manifests/raw-{number}.json"


def list_samples(store: ObjectStore) -> list[RemoteSample]:
    """Return the samples of a store by name; names that no sample may have are left out.

    Three requests for each sample, one for all of them. A damaged sample hides no other one.
    """
    return [_remote_sample(store, name) for name in store.folders() if _is_name(name)]


def _is_name(name: str) -> bool:
    try:
        return check_sample_name(name) == name
    except SampleNameError:
        return False


def _remote_sample(store: ObjectStore, name: str) -> RemoteSample:
    try:
        manifest = newest_manifest(store, name)
    except CorruptObjectError:
        return RemoteSample(name, "damaged", 0, 0, "", ())
    folders = store.folders(f"{name}/results")
    results = tuple(one for one in folders if store.head(f"{name}/results/{one}/{COMPLETE}"))
    if manifest is None:
        return RemoteSample(name, "incomplete", 0, 0, "", results)
    return RemoteSample(
        name,
        "complete" if manifest.complete else "incomplete",
        len(manifest.files),
        manifest.size,
        manifest.raw_digest(),
        results,
    )


def newest_manifest(store: ObjectStore, name: str) -> RawManifest | None:
    """Return the manifest in force of a sample; ``None`` if there is none.

    Raises:
        CorruptObjectError: it is damaged, or of another sample.
    """
    keys = store.objects(f"{check_sample_name(name)}/manifests")
    found = [_MANIFEST.fullmatch(key.rpartition("/")[2]) for key in keys]
    number = max((int(match[1]) for match in found if match), default=0)
    if not number:
        return None
    key = manifest_key(name, number)
    manifest = parse_record(RawManifest, store.read(key), store.url(key))
    if (manifest.sample, manifest.number) != (name, number):
        raise CorruptObjectError(
            f"{store.url(key)}: this is manifest {manifest.number} of sample {manifest.sample!r}; "
            f"it was copied here. {RawManifest.remedy.capitalize()}."
        )
    return manifest


def require_manifest(store: ObjectStore, name: str) -> RawManifest:
    """Return the manifest in force of a sample that is complete.

    Raises:
        IncompleteUploadError: the sample is not there, or not all of it.
        CorruptObjectError: its manifest is damaged.
    """
    manifest = newest_manifest(store, name)
    if manifest is None:
        raise IncompleteUploadError(
            f"{store.url(name)}: no sample {name!r} with a manifest is there; upload it with "
            f"`wbcpipe sync {name} --to {store}`."
        )
    if not manifest.complete:
        raise IncompleteUploadError(
            f"{store.url(name)}: the sample is not complete ({len(manifest.files)} files so far); "
            f"wait for the scan to end and for `wbcpipe sync` to upload the rest."
        )
    return manifest


def read_sample_record(store: ObjectStore, name: str) -> SampleRecord:
    """Read ``sample.json`` of a complete sample from the bucket.

    Raises:
        IncompleteUploadError: the sample is not there, or not all of it.
        CorruptObjectError: the manifest or the record is damaged.
    """
    file = require_manifest(store, name).file("sample.json")
    key = f"{name}/{file.key if file else 'raw/sample.json'}"
    return parse_record(SampleRecord, store.read(key, file), store.url(key))


def stage_sample(
    store: ObjectStore,
    name: str,
    scratch: Path,
    *,
    progress: Callable[[str, int, int], None] = lambda _task, _done, _total: None,
) -> Sample:
    """Copy the raw files of a sample into a folder, each of them verified.

    Args:
        store: with the sample.
        name: of the sample.
        scratch: a folder of this task alone, see `scratch_folder`.
        progress: called with (task, files done, files in all).

    Returns:
        The sample in ``scratch``; the stages work on it as on any other.

    Raises:
        IncompleteUploadError: the sample is not there, or not all of it.
        CorruptObjectError: an object is missing, cut short, or not the one of the manifest.
        DiskFullError: the scratch is too small.
    """
    manifest = require_manifest(store, name)
    make_folder(scratch)
    check_space(scratch, manifest.size)
    sample = Sample.open(scratch, name)
    download_files(store, name, manifest.files, sample.path, progress=progress)
    return sample


def download_files(
    store: ObjectStore,
    name: str,
    files: Iterable[StoredFile],
    folder: Path,
    *,
    progress: Callable[[str, int, int], None] = lambda _task, _done, _total: None,
) -> None:
    """Copy some objects of a sample to their paths below a folder, each of them verified.

    Files that are there with the right content are kept. ``sample.json`` comes first: other files
    name the sample by it.

    Raises:
        CorruptObjectError: an object is missing, cut short, or not the one of the manifest.
        DiskFullError: no space left.
    """
    wanted = sorted(files, key=lambda file: (file.path != "sample.json", file.path))
    for parent in sorted({(folder / file.path).parent for file in wanted}):
        make_folder(parent)

    def one(file: StoredFile) -> None:
        path = folder / file.path
        if not (path.is_file() and file_digest(path) == (file.size, file.sha256)):
            store.download(f"{name}/{file.key}", path, file)

    if wanted:
        one(wanted[0])
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="wbcpipe-download") as pool:
        waiting = [pool.submit(one, file) for file in wanted[1:]]
        try:
            for done, task in enumerate(waiting, 2):
                task.result()
                progress("files staged", done, len(wanted))
        except BaseException:
            for task in waiting:
                task.cancel()
            raise
