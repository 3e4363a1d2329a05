"""Samples in a bucket: staged to local scratch, processed there, and their results published."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from wbcpipe.cluster.read_results import read_remote_document
from wbcpipe.cluster.records import Traffic
from wbcpipe.cluster.workspace import Workspace, remove_inputs, utc_now
from wbcpipe.remote.locations import ObjectLocation, parse_location
from wbcpipe.remote.object_store import open_store
from wbcpipe.remote.results import publish_result, result_record
from wbcpipe.remote.samples import require_manifest, stage_sample
from wbcpipe.remote.scratch import scratch_folder
from wbcpipe.samples.results import MARKER, ResultBasis, seal_result, software_release
from wbcpipe.samples.sample import Sample
from wbcpipe.segment.detection.detectors import OWN
from wbcpipe.system.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from wbcpipe.cluster.records import SampleTask
    from wbcpipe.remote.object_store import ObjectStore

__all__ = ["ObjectStorage", "basis_of_upload"]

#: Staged samples that a process keeps: that of the stage that runs, and one whose next stage went
#: to another worker.
_MAX_STAGED: Final = 2


def basis_of_upload(task: SampleTask, raw_digest: str) -> ResultBasis:
    """Return what a result of an uploaded sample rests on.

    Args:
        task: the bundle and the laboratory's file.
        raw_digest: of the sample's manifest.
    """
    return ResultBasis(
        inputs_sha256=raw_digest,
        bundle=task.bundle.title,
        bundle_sha256=task.bundle.sha256,
        calibration_digest=task.bundle.calibration_digest,
        pixel_um=task.bundle.pixel_um,
        detector=OWN,
        lab_sha256=hashlib.sha256(task.lab.encode()).hexdigest() if task.lab else "",
        software=software_release(),
    )


@dataclass
class _Staged:
    """What a process keeps of one sample between its stages."""

    store: ObjectStore
    counted: Traffic = field(default_factory=Traffic)
    folder: Path | None = None
    resources: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


class ObjectStorage:
    """A prefix of a bucket.

    A worker keeps the staged sample for its next stage. A stage that runs on another worker stages
    the sample there, and does the stages before it again.

    Args:
        scratch: folder for staged samples on this machine.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._staged: dict[tuple[str, str, str], _Staged] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def open(self, task: SampleTask) -> Iterator[Workspace]:
        """Stage the sample, unless this process has done so; see `Storage.open`.

        Raises:
            IncompleteUploadError: the sample is not there, or not all of it.
            CorruptObjectError: an object is missing, cut short, or not the one of the manifest.
            RemoteStorageError: the store cannot be reached, or refuses the access.
        """
        staged = self._entry(task)
        manifest = require_manifest(staged.store, task.sample)
        basis = basis_of_upload(task, manifest.raw_digest())
        published = result_record(staged.store, task.sample, basis.result_id)
        if published is not None:
            document = read_remote_document(staged.store, published)
            nowhere = Sample(task.sample, self._scratch)
            yield Workspace(nowhere, basis, finished=True, document=document)
            return
        if staged.folder is None:
            staged.folder = staged.resources.enter_context(scratch_folder(self._scratch))
            if task.lab:
                with write_atomic(staged.folder / "lab.toml") as handle:
                    handle.write(task.lab.encode())
        sample = Sample.open(staged.folder, task.sample)
        sealed = (sample.path / MARKER).is_file()
        if not sealed:
            stage_sample(staged.store, task.sample, staged.folder)
        yield Workspace(sample, basis, sealed=sealed)

    def publish(self, task: SampleTask, workspace: Workspace) -> None:
        """Upload the result, its marker last; see `Storage.publish`."""
        if workspace.basis is None:
            return
        sample = workspace.sample
        if not (sample.path / MARKER).is_file():
            remove_inputs(sample)
            seal_result(sample.path, sample, workspace.basis, utc_now())
        publish_result(self._entry(task).store, task.sample, workspace.result, sample.path)

    def close(self, task: SampleTask) -> None:
        """Remove the staged sample."""
        with self._lock:
            staged = self._staged.pop(_key(task), None)
        if staged is not None:
            staged.resources.close()

    def traffic(self, task: SampleTask) -> Traffic | None:
        """Return the requests and bytes since the last call."""
        with self._lock:
            staged = self._staged.get(_key(task))
        if staged is None:
            return None
        total = _traffic(staged.store)
        since = Traffic(
            requests=total.requests - staged.counted.requests,
            bytes_down=total.bytes_down - staged.counted.bytes_down,
            bytes_up=total.bytes_up - staged.counted.bytes_up,
        )
        staged.counted = total
        return since

    def _entry(self, task: SampleTask) -> _Staged:
        key = _key(task)
        superfluous: list[_Staged] = []
        with self._lock:
            if key not in self._staged:
                location = parse_location(task.data)
                assert isinstance(location, ObjectLocation), "the caller asked for a bucket"
                self._staged[key] = _Staged(open_store(location))
                too_many = list(self._staged)[:-_MAX_STAGED]
                superfluous = [self._staged.pop(other) for other in too_many]
            staged = self._staged[key]
        for old in superfluous:
            old.resources.close()
        return staged


def _key(task: SampleTask) -> tuple[str, str, str]:
    return task.data, task.sample, task.bundle.sha256 + task.bundle.calibration_digest


def _traffic(store: ObjectStore) -> Traffic:
    counts = store.counts
    return Traffic(
        requests=counts.gets + counts.puts + counts.lists + counts.heads,
        bytes_down=counts.bytes_read,
        bytes_up=counts.bytes_written,
    )
