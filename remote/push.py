"""Push the raw files of a sample to a bucket, while it is scanned or afterwards."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from wbcpipe.errors import SampleStateError
from wbcpipe.remote.file_digest import file_digest
from wbcpipe.remote.local_files import field_of, raw_files, scan_ended
from wbcpipe.remote.object_store import KeyTakenError
from wbcpipe.remote.records import LOG, RawManifest, StoredFile
from wbcpipe.remote.samples import manifest_key, newest_manifest
from wbcpipe.remote.upload_journal import UploadJournal
from wbcpipe.samples.belonging import sample_identity
from wbcpipe.system.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wbcpipe.remote.local_files import LocalFile
    from wbcpipe.remote.object_store import ObjectInfo, ObjectStore, Upload
    from wbcpipe.samples.sample import Sample

__all__ = ["PushReport", "SamplePusher", "Throttle", "push_sample"]

#: Between two manifests of a sample that is being scanned.
_MANIFEST_EVERY_S: Final = 60.0
_MANIFEST_TRIES: Final = 5
State = Literal["complete", "scanning", "nothing"]


class Throttle:
    """Keep an average rate: wait after each upload for as long as it was too fast.

    Args:
        bytes_per_s: allowed; 0 for no limit.
        sleep: waits.
    """

    def __init__(self, bytes_per_s: float = 0.0, sleep: Callable[[float], None] = time.sleep):
        self._rate = bytes_per_s
        self._sleep = sleep
        self._free_s = 0.0

    def spend(self, size: int, started_s: float) -> None:
        """Wait until ``size`` bytes that were begun at ``started_s`` keep the rate.

        Args:
            size: bytes that were sent.
            started_s: of `time.monotonic`.
        """
        if self._rate <= 0:
            return
        self._free_s = max(self._free_s, started_s) + size / self._rate
        if (wait_s := self._free_s - time.monotonic()) > 0:
            self._sleep(wait_s)


@dataclass
class PushReport:
    """What a push of one sample did.

    Attributes:
        sample: its name.
        state: ``complete`` (all raw files are there, and the manifest says so), ``scanning`` (what
            is complete on the disk is there), ``nothing`` (it has no raw files).
        files: raw files that are verified in the bucket.
        sent, sent_bytes: of this push.
        checks: how the files of this push were verified, and how many of them.
        manifest: number of the manifest in force; 0 if there is none.
        refused: links and names that were not pushed, with the reason.
    """

    sample: str
    state: State = "nothing"
    files: int = 0
    sent: int = 0
    sent_bytes: int = 0
    checks: dict[str, int] = field(default_factory=dict)
    manifest: int = 0
    refused: tuple[str, ...] = ()

    def add(self, upload: Upload) -> None:
        """Count an upload."""
        self.sent += upload.sent
        self.sent_bytes += upload.digest.size * upload.sent
        self.checks[upload.check] = self.checks.get(upload.check, 0) + 1


class SamplePusher:
    """Pushes one sample, again and again while it is scanned.

    Args:
        store: receives the sample.
        sample: on the disk.
        throttle: limits the rate.
        progress: called with (task, files done, files in all).
    """

    def __init__(
        self,
        store: ObjectStore,
        sample: Sample,
        *,
        throttle: Throttle | None = None,
        progress: Callable[[str, int, int], None] = lambda _task, _done, _total: None,
    ) -> None:
        self.store = store
        self.sample = sample
        self._throttle = throttle or Throttle()
        self._progress = progress
        self._journal = UploadJournal(sample, str(store.location))
        self._manifest: RawManifest | None = None
        self._asked = False
        self._manifest_s = -_MANIFEST_EVERY_S
        self._there: dict[str, ObjectInfo] | None = None

    def push(self) -> PushReport:
        """Upload what is complete on the disk and not yet verified in the bucket.

        While a scan runs these are the fields and ``sample.json``; records that still change follow
        when it has ended.

        Raises:
            SampleStateError: the bucket has another sample of this name, or a record is damaged.
            RemoteStorageError: the store cannot be used; what was uploaded is kept.
            SampleBusyError: another process pushes this sample.
        """
        with self.sample.lock("sync", name="sync"):
            return self._push()

    def _push(self) -> PushReport:
        report = PushReport(self.sample.name)
        self.sample.record()
        identity = self._identify()
        ended = scan_ended(self.sample)
        found = raw_files(self.sample)
        report.refused = found.refused
        if not any(field_of(file.inside) for file in found.files) and self._manifest is None:
            report.state = "nothing" if ended or self.sample.cells_path.exists() else "scanning"
            return report
        wanted = [file for file in found.files if ended or _never_changes(file.inside)]
        stored = self._upload_all([file for file in wanted if file.inside != LOG], report)
        # Files that came meanwhile are of the next push; then the scan had not ended.
        ended = ended and scan_ended(self.sample) and _unchanged(found.files, self.sample)
        report.state = "complete" if ended else "scanning"
        if self._says_something_new(stored, complete=ended):
            stored += self._upload_all([file for file in wanted if file.inside == LOG], report)
            self._write_manifest(identity, stored, complete=ended)
        report.files = len(stored)
        if self._manifest is not None:
            report.manifest = self._manifest.number
            report.files = max(report.files, len(self._manifest.files))
        return report

    def _identify(self) -> str:
        """Return the sample's identity; find the manifest of an earlier push.

        Raises:
            SampleStateError: the bucket has another sample of this name.
        """
        identity = sample_identity(self.sample.info_path)
        if not self._asked:
            self._manifest = newest_manifest(self.store, self.sample.name)
            self._asked = True
        if self._manifest is not None and self._manifest.identity != identity:
            raise self._other_sample(self._manifest.identity)
        return identity

    def _other_sample(self, identity: str) -> SampleStateError:
        return SampleStateError(
            f"{self.store.url(self.sample.name)}: another sample of this name is there "
            f"({identity or 'of unknown origin'}); give each microscope its own prefix, or rename "
            f"the sample."
        )

    def _upload_all(self, files: Sequence[LocalFile], report: PushReport) -> list[StoredFile]:
        stored: list[StoredFile] = []
        for done, file in enumerate(files, 1):
            entry = self._journal.find(file)
            if entry is None:
                started_s = time.monotonic()
                upload, key = self._upload(file)
                self._throttle.spend(upload.digest.size * upload.sent, started_s)
                report.add(upload)
                digest = upload.digest.model_dump()
                entry = self._journal.add(
                    file, StoredFile(path=file.inside, key=key, **digest), upload.check
                )
            stored.append(
                StoredFile(path=entry.path, key=entry.key, size=entry.size, sha256=entry.sha256)
            )
            self._progress(f"{self.sample.name}: files in the bucket", done, len(files))
        return stored

    def _upload(self, file: LocalFile) -> tuple[Upload, str]:
        """Upload a file to a key of its own; objects are never replaced."""
        name, key = self.sample.name, f"raw/{file.inside}"
        if self._there is None:
            # What a push that was killed has uploaded without a note of it.
            self._there = self.store.objects(f"{name}/raw")
        there = self._there.get(f"{name}/{key}")
        try:
            return self.store.upload(file.path, f"{name}/{key}", there=there), key
        except KeyTakenError:
            if file.inside == "sample.json":
                self._check_same_sample(f"{name}/{key}")
        # A record that has changed, or a field that was taken again.
        key = f"versions/{file_digest(file.path)[1][:32]}/{file.inside}"
        try:
            return self.store.upload(file.path, f"{name}/{key}"), key
        except KeyTakenError:
            raise SampleStateError(
                f"{file.path}: it changed while it was uploaded; run the same command again."
            ) from None

    def _check_same_sample(self, key: str) -> None:
        content: Any = {}
        try:
            content = json.loads(self.store.read(key))
            other = f"sample {content['sample']} of {content['created']}"
        except (ValueError, KeyError, TypeError):
            other = ""
        if other != sample_identity(self.sample.info_path):
            raise self._other_sample(other)

    def _says_something_new(self, stored: Sequence[StoredFile], *, complete: bool) -> bool:
        """Return whether a manifest of these files is worth writing now."""
        before = self._manifest
        if before is None:
            return True
        if complete != before.complete:
            # A complete manifest stays in force until the scan that goes on has ended too.
            return complete
        files = {file.path: file for file in before.files}
        if all(files.get(file.path) == file for file in stored):
            return False
        return complete or time.monotonic() - self._manifest_s >= _MANIFEST_EVERY_S

    def _write_manifest(
        self, identity: str, stored: Sequence[StoredFile], *, complete: bool
    ) -> None:
        """Write a manifest after the objects that it names.

        A file that an earlier manifest names and that is not on the disk is named again: the bucket
        still holds it.
        """
        for _ in range(_MANIFEST_TRIES):
            before = self._manifest
            files = {file.path: file for file in (before.files if before else ())}
            files.update({file.path: file for file in stored})
            manifest = RawManifest(
                sample=self.sample.name,
                identity=identity,
                number=before.number + 1 if before else 1,
                complete=complete,
                written=datetime.now(UTC).isoformat(timespec="milliseconds"),
                software=VERSION,
                files=tuple(files[path] for path in sorted(files)),
            )
            key = manifest_key(self.sample.name, manifest.number)
            if self.store.put_new(key, manifest.to_bytes()):
                self._manifest, self._manifest_s = manifest, time.monotonic()
                return
            self._manifest, self._asked = None, False
            self._identify()
        raise SampleStateError(
            f"{self.store.url(self.sample.name)}: another process writes manifests of this sample; "
            f"run one `wbcpipe sync` at a time."
        )


def _never_changes(inside: str) -> bool:
    return inside == "sample.json" or field_of(inside) is not None


def _unchanged(before: Sequence[LocalFile], sample: Sample) -> bool:
    """Return whether the raw files are those of before, but for the log of events."""

    def facts(files: Sequence[LocalFile]) -> set[LocalFile]:
        return {file for file in files if file.inside != LOG}

    return facts(before) == facts(raw_files(sample).files)


def push_sample(store: ObjectStore, sample: Sample) -> PushReport:
    """Push a sample once; see `SamplePusher.push`."""
    return SamplePusher(store, sample).push()
