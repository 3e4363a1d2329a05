"""Where the stages of one result work: in the sample's folder, beside it, or in local scratch."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.fields import complete_fields, passes_digest, pixels_part
from wbcpipe.samples.freed import missing_here, read_freed, refuse_if_freed
from wbcpipe.samples.records import json_digest
from wbcpipe.samples.results import (
    MARKER,
    ResultBasis,
    find_result,
    publish_folder,
    result_path,
    seal_result,
    software_release,
)
from wbcpipe.samples.sample import Sample, data_root
from wbcpipe.segment.detection.detectors import OWN
from wbcpipe.system.files import make_folder, remove_tree, rename
from wbcpipe.system.version import SOFTWARE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from contextlib import AbstractContextManager

    from wbcpipe.cluster.records import SampleTask, Traffic
    from wbcpipe.samples.differential_record import DifferentialRecord

__all__ = [
    "CURRENT",
    "LocalStorage",
    "Storage",
    "Workspace",
    "inputs_digest",
    "is_current_basis",
    "remove_inputs",
    "utc_now",
]

#: Name of the result in the sample's folder.
CURRENT: Final = "current"
#: Files of a sample, beside raw fields and cells, on which the documents rest.
_INPUTS: Final = ("sample.json", "scan.json", "truth.csv")
#: What the stages need and a finished result does not hold.
_NOT_OF_RESULT: Final = ("raw", "work", "cells.zarr.partial", "cells.zarr.old", "cells.zarr.seed")
_PIXEL_TOLERANCE: Final = 1e-6


@dataclass(frozen=True)
class Workspace:
    """Where the stages of one result work.

    Attributes:
        sample: the folder in which they work, as a sample.
        basis: what the result rests on; ``None`` for the current result of the sample, in place.
        finished: whether the result is complete.
        classified: whether cells and classes are to stay as they are.
        sealed: whether all stages have ended, and only the publication is missing.
        lab: the laboratory's file; ``None`` for the one of the data root.
        document: of a finished result that is not on this machine.
    """

    sample: Sample
    basis: ResultBasis | None = None
    finished: bool = False
    classified: bool = False
    sealed: bool = False
    lab: Path | None = None
    document: DifferentialRecord | None = None

    @property
    def result(self) -> str:
        """``current``, or the id of the result."""
        return CURRENT if self.basis is None else self.basis.result_id


class Storage(Protocol):
    """Where samples are kept."""

    def open(self, task: SampleTask) -> AbstractContextManager[Workspace]:
        """Provide the workspace of a task, for this process alone.

        Raises:
            WbcpipeError: there is no such sample, or it cannot be used.
        """

    def publish(self, task: SampleTask, workspace: Workspace) -> None:
        """Make a result visible whose last stage has ended, unless another worker has done so."""

    def close(self, task: SampleTask) -> None:
        """Remove what this process keeps of a sample between its stages."""

    def traffic(self, task: SampleTask) -> Traffic | None:
        """Return what this process asked of a store for a sample since the last call, if any."""


def utc_now() -> str:
    """Return the time, UTC in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def is_current_basis(sample: Sample, task: SampleTask) -> bool:
    """Return whether the cells and classes in a sample's folder are those that a task would give.

    True as well for cells that are not classified: they may still be made.

    Raises:
        SampleStateError: the cells are damaged.
    """
    if not sample.cells_path.is_dir():
        return True
    store = CellStore(sample.cells_path)
    if not store.is_classified():
        return True
    found, bundle = store.classification(), task.bundle
    same_model = (found.sha256, found.calibration_digest) == (
        bundle.sha256,
        bundle.calibration_digest,
    )
    if not same_model or abs(store.pixel_um / bundle.pixel_um - 1) > _PIXEL_TOLERANCE:
        return False
    origin = store.attributes.provenance
    freed = missing_here(sample, read_freed(sample))
    if freed or not complete_fields(sample.path / "raw"):  # a bucket has the fields; imported cells
        return software_release(str(origin.get("software", SOFTWARE))) == software_release()
    stated = origin.get("damaged_fields")
    damaged = stated if isinstance(stated, list) else []
    release = software_release(str(origin.get("software")))
    return (release, origin.get("detector"), origin.get("inputs_sha256")) == (
        software_release(),
        OWN,
        inputs_digest(sample, [index for index in damaged if isinstance(index, int)]),
    )


def inputs_digest(sample: Sample, damaged: Collection[int] = ()) -> str:
    """Return the digest of the raw fields' pixels, as the provenance of cells has it.

    Imported cells have no fields: their store is the input.
    """
    raw = sample.path / "raw"
    indices = sorted({*complete_fields(raw), *damaged})
    if not indices and sample.cells_path.is_dir():
        return CellStore(sample.cells_path).attributes.chunks.get("images", "")
    return json_digest(
        ["" if index in damaged else pixels_part(passes_digest(raw, index)) for index in indices]
    )


class LocalStorage:
    """A data folder, which all workers share.

    The first result of a sample is written in its folder, as `wbcpipe run` does. Another one is
    prepared in ``results/.<id>.partial`` and renamed to ``results/<id>`` when it is complete.
    """

    @contextlib.contextmanager
    def open(self, task: SampleTask) -> Iterator[Workspace]:
        """Hold the sample's lock, and provide the workspace; see `Storage.open`.

        Raises:
            SampleBusyError: another process holds the sample for longer than the task waits.
            SampleStateError: no such sample, or a file of it is damaged.
        """
        sample = Sample.open(data_root(Path(task.data)), task.sample)
        sample.record()  # before the lock, which would create the folder
        with sample.lock("process", wait_s=task.lock_wait_s), sample.log_failure("process"):
            yield self._workspace(sample, task)

    def _workspace(self, sample: Sample, task: SampleTask) -> Workspace:
        if is_current_basis(sample, task):
            classified = sample.cells_path.is_dir() and CellStore(sample.cells_path).is_classified()
            return Workspace(sample, classified=classified)
        refuse_if_freed(sample, "make a further result")
        lab = sample.path.parent / "lab.toml"
        basis = ResultBasis(
            inputs_sha256=inputs_digest(sample),
            bundle=task.bundle.title,
            bundle_sha256=task.bundle.sha256,
            calibration_digest=task.bundle.calibration_digest,
            pixel_um=task.bundle.pixel_um,
            detector=OWN,
            lab_sha256=hashlib.sha256(lab.read_bytes()).hexdigest() if lab.is_file() else "",
            software=software_release(),
        )
        target = result_path(sample, basis.result_id)
        aside = _aside(target)
        if (aside / MARKER).is_file():  # complete, and a worker died before it was renamed
            publish_folder(aside, target)
        if find_result(sample, basis.result_id) is not None:
            remove_tree(aside)
            return Workspace(Sample(sample.name, target), basis, finished=True)
        place = Sample(sample.name, aside)
        _fill(sample, place, task.bundle.pixel_um)
        return Workspace(place, basis, lab=lab if lab.is_file() else None)

    def publish(
        self,
        task: SampleTask,  # noqa: ARG002 - of the protocol
        workspace: Workspace,
    ) -> None:
        """Seal and rename a result beside the current one; see `Storage.publish`."""
        if workspace.basis is None:
            return
        remove_inputs(workspace.sample)
        seal_result(workspace.sample.path, workspace.sample, workspace.basis, utc_now())
        aside = workspace.sample.path
        target = aside.with_name(workspace.basis.result_id)
        if not publish_folder(aside, target):
            remove_tree(aside)

    def close(self, task: SampleTask) -> None:
        """Keep the workspace: it lies with the sample, and another worker may go on with it."""

    def traffic(self, task: SampleTask) -> Traffic | None:  # noqa: ARG002 - of the protocol
        """Return ``None``: files are not counted."""
        return None


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial")


def _fill(sample: Sample, place: Sample, pixel_um: float) -> None:
    """Give a workspace what the stages start from: the raw fields, and what segment has done.

    Fields and intermediate results are hard links where the disk has them: the stages replace
    files, they never write into one. Cells are copied.
    """
    make_folder(place.path.parent)
    for name in _INPUTS:
        if (sample.path / name).is_file():
            make_folder(place.path)
            _link(sample.path / name, place.path / name, copy=True)
    for folder in ("raw", "work/fields", "work"):
        source = sample.path / folder
        for path in sorted(source.rglob("*") if folder == "raw" else source.glob("*")):
            if path.is_file() and "quarantine" not in path.parts:
                _link(path, place.path / path.relative_to(sample.path))
    if place.cells_path.is_dir() or not sample.cells_path.is_dir():
        return
    if abs(CellStore(sample.cells_path).pixel_um / pixel_um - 1) <= _PIXEL_TOLERANCE:
        seed = place.path / "cells.zarr.seed"
        remove_tree(seed)
        shutil.copytree(sample.cells_path, seed)
        rename(seed, place.cells_path)


def _link(source: Path, target: Path, *, copy: bool = False) -> None:
    """Link a file to a second name, or copy it; one that is there stays."""
    if target.exists():
        return
    make_folder(target.parent)
    if not copy:
        # Not on every file system: exFAT and some shares know no hard links.
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    aside = target.with_name(f".{target.name}.partial")
    shutil.copyfile(source, aside)
    rename(aside, target)


def remove_inputs(place: Sample) -> None:
    """Remove what is not of the result from a workspace: raw fields, intermediate results."""
    for name in _NOT_OF_RESULT:
        remove_tree(place.path / name)
    for path in place.path.glob(".*"):
        if path.is_file():
            path.unlink()
