"""Bring a sample back from a bucket: fields that were freed, or a sample that is not here."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from wbcpipe.errors import DiskFullError, SampleStateError
from wbcpipe.remote.file_digest import file_digest
from wbcpipe.remote.local_files import field_of
from wbcpipe.remote.samples import download_files, require_manifest
from wbcpipe.samples.belonging import sample_identity
from wbcpipe.samples.freed import FreedField, FreedFields, freed_path
from wbcpipe.system.files import make_folder, sync_directory
from wbcpipe.system.storage import patiently

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.remote.object_store import ObjectStore
    from wbcpipe.remote.records import RawManifest, StoredFile
    from wbcpipe.samples.sample import Sample

__all__ = ["RestoreReport", "restore_sample"]


@dataclass(frozen=True)
class RestoreReport:
    """What was brought back.

    Attributes:
        files, size: number and bytes of the files that were copied.
        kept: files here that differ from those in the bucket, and were left as they are.
    """

    files: int
    size: int
    kept: tuple[str, ...]


def restore_sample(
    store: ObjectStore,
    sample: Sample,
    *,
    progress: Callable[[str, int, int], None] = lambda _task, _done, _total: None,
) -> RestoreReport:
    """Copy the raw files of a sample that are not here, each of them verified.

    Nothing that is here is replaced. Until every field is here the sample counts as freed, also if
    this process is killed: no command takes the fields again. The same call goes on.

    Args:
        store: with the sample.
        sample: here, or a new one.
        progress: called with (task, files done, files in all).

    Raises:
        IncompleteUploadError: the sample is not in the bucket, or not all of it.
        CorruptObjectError: an object is missing, cut short, or not the one of the manifest.
        SampleStateError: the sample here is another one of this name, or holds another field.
        DiskFullError: it does not fit.
    """
    manifest = require_manifest(store, sample.name)
    if sample.path.is_symlink():
        raise SampleStateError(f"{sample.path}: a link; a sample is a folder of the data folder.")
    if sample.exists() and sample_identity(sample.info_path) != manifest.identity:
        raise SampleStateError(
            f"{sample.path}: another sample of this name is here; bring it back into another "
            f"folder with --data."
        )
    with sample.lock("sync --from"):
        wanted, kept = _compare(sample, manifest)
        size = sum(file.size for file in wanted)
        free = shutil.disk_usage(sample.path).free
        if free < size:
            raise DiskFullError(
                f"{sample.path}: {free / 1e9:.1f} GB are free, and the files need "
                f"{size / 1e9:.1f} GB; free space and run the same command again."
            )
        if any(field_of(file.path) for file in wanted) and not freed_path(sample).exists():
            _record(store, sample, manifest)
        download_files(store, sample.name, wanted, sample.path, progress=progress)
        if freed_path(sample).exists():
            patiently(freed_path(sample), freed_path(sample).unlink)
            sync_directory(freed_path(sample).parent)
        if wanted:
            sample.log("fields_restored", files=len(wanted), location=str(store.location))
    return RestoreReport(len(wanted), size, kept)


def _compare(sample: Sample, manifest: RawManifest) -> tuple[list[StoredFile], tuple[str, ...]]:
    """Return the files that are not here, and the paths of those that differ.

    Raises:
        SampleStateError: a field differs.
    """
    wanted, kept = [], []
    for file in manifest.files:
        path = sample.path / file.path
        for parent in (path, *path.parents[: file.path.count("/")]):
            if parent.is_symlink():
                raise SampleStateError(f"{parent}: a link; nothing is written through it.")
        if not path.exists():
            wanted.append(file)
        elif file_digest(path) != (file.size, file.sha256):
            if field_of(file.path):
                raise SampleStateError(
                    f"{path}: not the field that is in the bucket; move it away, and run the same "
                    f"command again."
                )
            kept.append(file.path)
    return wanted, tuple(kept)


def _record(store: ObjectStore, sample: Sample, manifest: RawManifest) -> None:
    """Write that the fields are in the bucket, before the first file of the sample is here."""
    fields = [(field_of(file.path), file) for file in manifest.files]
    make_folder(freed_path(sample).parent)
    FreedFields(
        location=str(store.location),
        manifest=manifest.number,
        raw_digest=manifest.raw_digest(),
        freed=datetime.now(UTC).isoformat(timespec="seconds"),
        fields=tuple(
            FreedField(pass_name=field[0], index=field[1], size=file.size, sha256=file.sha256)
            for field, file in fields
            if field
        ),
    ).write(freed_path(sample))
