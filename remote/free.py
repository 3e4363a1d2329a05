"""Free local raw fields that are verified in a bucket and no longer needed here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from wbcpipe.errors import SampleBusyError
from wbcpipe.remote.file_digest import file_digest
from wbcpipe.remote.local_files import field_of, raw_files, scan_ended
from wbcpipe.remote.samples import newest_manifest
from wbcpipe.report.status import sample_status
from wbcpipe.samples.belonging import sample_identity
from wbcpipe.samples.fields import complete_fields
from wbcpipe.samples.freed import FreedField, FreedFields, freed_path, read_freed
from wbcpipe.system.files import disk_errors, sync_directory
from wbcpipe.system.storage import patiently

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wbcpipe.remote.local_files import LocalFile
    from wbcpipe.remote.object_store import ObjectInfo, ObjectStore
    from wbcpipe.remote.records import RawManifest, StoredFile
    from wbcpipe.samples.sample import Sample

__all__ = ["FreeReport", "free_sample", "freeable_fields"]


@dataclass(frozen=True)
class FreeReport:
    """What was freed of a sample.

    Attributes:
        freed, freed_bytes: fields that were removed here.
        kept: fields that stay because they are not verified.
        reason: why nothing, or not everything, was freed; empty if all was.
        later: a later call may free them.
    """

    freed: int = 0
    freed_bytes: int = 0
    kept: int = 0
    reason: str = ""
    later: bool = False


def freeable_fields(sample: Sample) -> list[LocalFile]:
    """Return the files of fields that `free_sample` may remove once they are verified.

    The first field that has all passes stays: the report reads the wavelengths of the light from
    it.
    """
    stays = complete_fields(sample.path / "raw")[:1]
    return [
        file
        for file in raw_files(sample).files
        if (field := field_of(file.inside)) and field[1] not in stays
    ]


def free_sample(
    store: ObjectStore,
    sample: Sample,
    *,
    read_back: bool = False,
    progress: Callable[[str, int, int], None] = lambda _task, _done, _total: None,
) -> FreeReport:
    """Remove the raw fields of a sample that a bucket holds, verified, and that nothing here needs.

    Each field is compared with the manifest in force: the file here by its SHA-256, the object by
    its size and, where its ETag is an MD5, by that; where it is none, the object was read back when
    it was uploaded. The record ``raw/freed.json`` is written before the first file is removed.

    Args:
        store: with the sample.
        sample: on the disk; its lock is taken.
        read_back: read each object again before its file is removed.
        progress: called with (task, fields done, fields in all).

    Raises:
        RemoteStorageError: the store cannot be used; nothing more is removed.
        SampleStateError: a record is damaged.
    """
    candidates = freeable_fields(sample)
    if not candidates:
        return FreeReport()
    # Also before the lock is taken: a command that starts then would be refused.
    if reason := _why_needed_here(sample):
        return FreeReport(kept=len(candidates), reason=reason, later=True)
    try:
        with sample.lock("sync --free-local"):
            return _free(store, sample, read_back, progress)
    except SampleBusyError as error:
        return FreeReport(kept=len(candidates), reason=str(error), later=True)


def _free(
    store: ObjectStore, sample: Sample, read_back: bool, progress: Callable[[str, int, int], None]
) -> FreeReport:
    candidates = freeable_fields(sample)
    manifest = newest_manifest(store, sample.name)
    if manifest is None or not manifest.complete:
        reason = "the sample is not complete in the bucket"
        return FreeReport(kept=len(candidates), reason=reason, later=True)
    if manifest.identity != sample_identity(sample.info_path):
        reason = "the bucket has another sample of this name"
        return FreeReport(kept=len(candidates), reason=reason)
    if reason := _why_needed_here(sample):
        return FreeReport(kept=len(candidates), reason=reason, later=True)
    objects = store.objects(f"{sample.name}/raw") | store.objects(f"{sample.name}/versions")
    verified = []
    for done, file in enumerate(candidates, 1):
        stored = manifest.file(file.inside)
        if stored is not None and _is_verified(store, sample, file, stored, objects):
            if read_back:
                store.verify(f"{sample.name}/{stored.key}", stored)
            verified.append((file, stored))
        progress(f"{sample.name}: fields compared", done, len(candidates))
    kept = len(candidates) - len(verified)
    if verified:
        _record(store, sample, manifest, [stored for _, stored in verified])
        for file, _ in verified:
            with disk_errors(file.path):
                patiently(file.path, file.path.unlink)
        for folder in {file.path.parent for file, _ in verified}:
            sync_directory(folder)
        size = sum(stored.size for _, stored in verified)
        sample.log("fields_freed", fields=len(verified), bytes=size, location=str(store.location))
    return FreeReport(
        freed=len(verified),
        freed_bytes=sum(stored.size for _, stored in verified),
        kept=kept,
        reason=f"{kept} fields differ from those in the bucket" if kept else "",
    )


def _why_needed_here(sample: Sample) -> str:
    """Return why the raw fields must stay here, as a clause; empty if they need not."""
    if not scan_ended(sample):
        return "its scan has not ended"
    status = sample_status(sample)
    if status.problem:
        return status.problem
    if status.state in ("segmented", "classified") or (
        status.state == "acquiring" and sample.work_path.exists()
    ):
        return (
            "it is not reported yet, and the stages here need its fields; `wbcpipe run` ends them"
        )
    return ""


def _is_verified(
    store: ObjectStore,
    sample: Sample,
    file: LocalFile,
    stored: StoredFile,
    objects: dict[str, ObjectInfo],
) -> bool:
    """Return whether a file and its object both have the content that the manifest says."""
    found = objects.get(f"{sample.name}/{stored.key}")
    if found is None or found.size != stored.size:
        return False
    if file_digest(file.path) != (stored.size, stored.sha256):
        return False
    if len(found.etag) != 32 or store.location.scheme == "file":
        # No MD5: it was read back when it was uploaded, and objects are never replaced.
        return True
    md5 = hashlib.md5(usedforsecurity=False)
    with disk_errors(file.path), file.path.open("rb") as handle:
        while chunk := handle.read(1 << 20):
            md5.update(chunk)
    if md5.hexdigest() == found.etag:
        return True
    # A store whose ETags of 32 digits are no MD5, as with its own keys for encryption.
    store.verify(f"{sample.name}/{stored.key}", stored)
    return True


def _record(
    store: ObjectStore, sample: Sample, manifest: RawManifest, stored: Sequence[StoredFile]
) -> None:
    """Write which fields will be removed, with those that were before."""
    fields = {(one.pass_name, one.index): one for one in _freed_before(sample)}
    for file in stored:
        found = field_of(file.path)
        assert found is not None
        fields[found] = FreedField(
            pass_name=found[0], index=found[1], size=file.size, sha256=file.sha256
        )
    FreedFields(
        location=str(store.location),
        manifest=manifest.number,
        raw_digest=manifest.raw_digest(),
        freed=datetime.now(UTC).isoformat(timespec="seconds"),
        fields=tuple(fields[key] for key in sorted(fields)),
    ).write(freed_path(sample))


def _freed_before(sample: Sample) -> tuple[FreedField, ...]:
    record = read_freed(sample)
    return record.fields if record else ()
