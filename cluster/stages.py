"""One stage of one sample, as a worker runs it: the same code as the commands, and a record."""

from __future__ import annotations

import functools
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from threadpoolctl import threadpool_limits

from wbcpipe.cluster.records import STAGES, StageRecord, Traffic
from wbcpipe.errors import (
    BundleError,
    ClusterError,
    DiskFullError,
    RemoteStorageError,
    StorageError,
    WbcpipeError,
)
from wbcpipe.system.process_limits import return_free_memory, tree_memory
from wbcpipe.system.storage import explained
from wbcpipe.system.version import SOFTWARE

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.classify.models.bundle import Bundle
    from wbcpipe.cluster.records import SampleTask, Stage
    from wbcpipe.cluster.workspace import Storage, Workspace

__all__ = ["STEPS", "is_machine_fault", "run_stage", "storage_of"]

_MIB: Final = 2**20


def run_stage(stage: Stage, task: SampleTask, previous: str | None = None) -> str:
    """Run one stage of a sample on this worker, and those before it that are missing here.

    Args:
        stage: to run.
        task: the sample, and how to process it.
        previous: record of the stage before, as JSON; a failure is passed on.

    Returns:
        A `StageRecord` as JSON. An error of the data is such a record, with its reason.

    Raises:
        ClusterError: this worker runs another version, or has another bundle of that name.
        StorageError, OSError, MemoryError: a fault of the machine; another attempt may succeed.
    """
    if previous is not None and StageRecord.model_validate_json(previous).state != "done":
        return previous
    if task.software != SOFTWARE:
        raise ClusterError(
            f"worker {_worker()} runs {SOFTWARE}, and the command {task.software}; install the "
            f"same version on both."
        )
    began_s, cpu_s = time.perf_counter(), time.process_time()
    storage = storage_of(task.data, task.scratch)
    try:
        record = _run(stage, task, storage)
    except Exception as error:
        known = explained(error)
        if is_machine_fault(known):
            if known is error:  # not its own cause: dask follows the causes to their end
                raise
            raise known from error
        # The boundary of a worker: whatever ends a sample is its record, and the others go on.
        record = _failed(stage, task, known)
    return_free_memory()
    memory = tree_memory(os.getpid())
    record = record.model_copy(
        update={
            "worker": _worker(),
            "seconds": round(time.perf_counter() - began_s, 3),
            "cpu_seconds": round(time.process_time() - cpu_s, 3),
            "peak_mib": round(memory.peak_bytes / _MIB, 1),
            "resident_mib": round(memory.resident_bytes / _MIB, 1),
            "traffic": storage.traffic(task) or Traffic(),
        }
    )
    if stage == STAGES[-1] or record.state != "done":
        storage.close(task)
    return record.model_dump_json()


def is_machine_fault(error: BaseException) -> bool:
    """Return whether another attempt, perhaps on another machine, may end without the error.

    What a store says of a bucket, of credentials or of rights stays as it is.

    >>> from wbcpipe.errors import CredentialsError, NoCellsError, RemoteStorageError
    >>> kinds = (RemoteStorageError, CredentialsError, NoCellsError, ConnectionResetError)
    >>> [is_machine_fault(kind("")) for kind in kinds]
    [True, False, False, True]
    """
    if isinstance(error, WbcpipeError):
        retried = (ClusterError, DiskFullError, StorageError, RemoteStorageError)
        return type(error) in retried
    return isinstance(error, (OSError, MemoryError))


@functools.cache
def storage_of(data: str, scratch: str) -> Storage:
    """Return where the samples of a task are kept; one for each place and process."""
    from wbcpipe.cluster.workspace import LocalStorage
    from wbcpipe.remote.locations import LocalLocation, parse_location

    if isinstance(parse_location(data), LocalLocation):
        return LocalStorage()
    from wbcpipe.cluster.object_storage import ObjectStorage

    return ObjectStorage(Path(scratch) if scratch else _worker_folder())


def _worker_folder() -> Path:
    """Return the folder for scratch of this worker."""
    from distributed import get_worker

    try:
        return Path(get_worker().local_directory) / "wbcpipe"
    except ValueError:  # not in a worker
        return Path(tempfile.gettempdir()) / "wbcpipe-scratch"


def _worker() -> str:
    return f"{platform.node()}:{os.getpid()}"


def _run(stage: Stage, task: SampleTask, storage: Storage) -> StageRecord:
    with storage.open(task) as workspace:
        if workspace.finished:
            return _record(stage, task, workspace, "already")
        complete = workspace.classified and _has_report(workspace)
        if complete:
            return _record(stage, task, workspace, "already")
        if not workspace.sealed:
            with threadpool_limits(task.threads):
                for one in STAGES[: STAGES.index(stage) + 1]:
                    STEPS[one](task, workspace, wanted=one == stage)
        record = _record(stage, task, workspace, "done")
        if stage == STAGES[-1]:
            storage.publish(task, workspace)
        return record


def _segment(task: SampleTask, workspace: Workspace, *, wanted: bool) -> None:
    """Segment the fields; cells that are there before a later stage are those of this task."""
    from wbcpipe.samples.fields import complete_fields
    from wbcpipe.segment.run import segment_fields

    sample = workspace.sample
    there = sample.cells_path.is_dir()
    imported = there and not complete_fields(sample.path / "raw")
    if workspace.classified or imported or (there and not wanted):
        return
    segment_fields(sample, pixel_um=task.bundle.pixel_um, jobs=1)


def _classify(task: SampleTask, workspace: Workspace, *, wanted: bool) -> None:
    """Classify the cells, unless a stage before has."""
    if workspace.classified or (not wanted and _is_classified(task, workspace)):
        return
    import torch

    from wbcpipe.classify.stage import classify_cells

    torch.set_num_threads(task.threads)
    classify_cells(workspace.sample, find_same_bundle(task))


def _report(_task: SampleTask, workspace: Workspace, *, wanted: bool) -> None:
    from wbcpipe.report.reviewed_sample import ReportOptions
    from wbcpipe.report.stage import write_documents

    del wanted
    write_documents(workspace.sample, ReportOptions(lab=workspace.lab))


#: What a worker does at each stage.
STEPS: Final[dict[Stage, Callable[..., None]]] = {
    "segment": _segment,
    "classify": _classify,
    "report": _report,
}


def find_same_bundle(task: SampleTask) -> Bundle:
    """Return the bundle of a task, as the client saw it.

    Raises:
        BundleError: there is none on this worker.
        ClusterError: it is another one.
    """
    from wbcpipe.classify.models.bundle import find_bundle

    wanted = task.bundle
    try:
        found = find_bundle(wanted.name)
    except BundleError as error:
        raise BundleError(
            f"worker {_worker()}: {error} A bundle that is not shipped must lie at the same path "
            f"on every worker."
        ) from error
    if (found.info.sha256, found.calibration_digest) != (
        wanted.sha256,
        wanted.calibration_digest,
    ):
        raise ClusterError(
            f"worker {_worker()}: bundle {wanted.name} is not the one of the command (SHA-256 of "
            f"its weights {found.info.sha256[:16]}, wanted {wanted.sha256[:16]}); copy it again."
        )
    return found


def _is_classified(task: SampleTask, workspace: Workspace) -> bool:
    from wbcpipe.samples.cell_store import CellStore

    store = CellStore(workspace.sample.cells_path)
    if not store.is_classified():
        return False
    found = store.classification()
    return (found.sha256, found.calibration_digest) == (
        task.bundle.sha256,
        task.bundle.calibration_digest,
    )


def _has_report(workspace: Workspace) -> bool:
    """Return whether the sample's report is of its present cells and classes."""
    from wbcpipe.report.status import sample_status

    return sample_status(workspace.sample).state == "reported"


def _record(
    stage: Stage,
    task: SampleTask,
    workspace: Workspace,
    state: Literal["done", "already"],
) -> StageRecord:
    """Describe a workspace after a stage."""
    from wbcpipe.report.document import document_paths, read_document
    from wbcpipe.samples.cell_store import CellStore

    sample = workspace.sample
    cells: int | None = None
    counts: dict[str, int] = {}
    if sample.cells_path.is_dir():
        cells = len(CellStore(sample.cells_path))
    reported = state == "already" or stage == STAGES[-1]
    document = workspace.document
    if document is None and reported and document_paths(sample)[0].is_file():
        document = read_document(sample)
    if document is not None:
        counts = {entry.name: entry.count for entry in document.classes}
        cells = document.cells.found
    return StageRecord(
        sample=task.sample,
        stage=stage,
        state=state,
        result=workspace.result,
        cells=cells,
        counts=counts,
    )


def _failed(stage: Stage, task: SampleTask, error: BaseException) -> StageRecord:
    kind, defect = type(error).__name__, not isinstance(error, WbcpipeError)
    text = " ".join(str(error).split())
    return StageRecord(
        sample=task.sample,
        stage=stage,
        state="failed",
        error=kind,
        reason=f"a defect in wbcpipe itself: {kind}: {text}" if defect else text,
        exit_code=getattr(error, "exit_code", WbcpipeError.exit_code),
    )
