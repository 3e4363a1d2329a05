"""A power cut loses no file that a stage has reported as written.

The system's calls are recorded while each kind of file is written, here alone with the real flush:
which bytes were on the disk when a file was flushed and when it was renamed, and which folders were
flushed after a name in them was new. Bytes that were flushed are the bytes that were renamed, so
every write came before the flush.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from wbcpipe.acquire.config.scope import load_scope
from wbcpipe.acquire.focus.focus_map import load_surface
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.batch.records import BatchRecord, Command, JournalEntry
from wbcpipe.batch.state.batch_folder import BatchFolder
from wbcpipe.classify.models.bundle import load_bundle, write_bundle
from wbcpipe.report.stage import write_report
from wbcpipe.samples.cell_attributes import CellAttributes, LabelImport
from wbcpipe.samples.cell_columns import COLUMNS, entry_shape
from wbcpipe.samples.cell_store import CellBlock, CellStore
from wbcpipe.samples.classification_record import Classification
from wbcpipe.samples.field_status import write_missing
from wbcpipe.samples.fields import MODALITIES, FieldInfo, FrameInfo, field_path, write_field
from wbcpipe.samples.records import SampleRecord
from wbcpipe.samples.review.entries import Comment
from wbcpipe.samples.review.journal import Journal
from wbcpipe.samples.sample import Sample
from wbcpipe.samples.truth import TruthRow, write_truth
from wbcpipe.segment.work_files import write_work_file
from wbcpipe.system import files

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="Windows flushes no directory, and names no open file"
)

#: The real one: during the tests of the session it does nothing, to spare them the disk.
_FLUSH = os.fsync
TIME = datetime(2026, 11, 30, 6, tzinfo=UTC)
CLASSES = ("NEU", "LYM", "EOS", "MO", "BAS")
#: Worth nothing after a power cut, and named so where they are written.
#: Files within a store, which its ``zarr.json`` makes valid later.
ZARR_ASIDE = re.compile(r".+\.[0-9a-f]{32}\.partial")
UNFLUSHED = {"log.jsonl", "light.jsonl", "heartbeat.json"}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass
class Disk:
    """What a power cut would leave below a folder.

    Attributes:
        root: the folder; what was there before counts as durable.
        flushed: digest of the bytes that were last flushed, by file.
        durable: paths whose name is on the disk.
        early: what was not flushed when a rename made it valid.
        calls: each flush and rename, in order.
    """

    root: Path
    flushed: dict[Path, str] = field(default_factory=dict)
    durable: set[Path] = field(default_factory=set)
    early: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._flush, self._rename = os.fsync, os.replace
        for path in self.root.rglob("*"):
            self.durable.add(path)
            if path.is_file():
                self.flushed[path] = _digest(path)

    def flush(self, handle: Any) -> None:
        number = handle if isinstance(handle, int) else handle.fileno()
        path = Path(f"/proc/self/fd/{number}").readlink()
        self._flush(number)
        self.calls.append(f"flush {path.name}")
        if path.is_dir():
            self.durable |= set(path.iterdir())
        else:
            self.flushed[path] = _digest(path)

    def rename(self, source: Any, target: Any) -> None:
        source, target = Path(source), Path(target)
        inside = [source, *source.rglob("*")] if source.is_dir() else [source]
        if not ZARR_ASIDE.fullmatch(source.name):
            self.early += [f"{target.name} appeared: {text}" for text in self._missing(inside)]
        if target.parts[-2:] == ("cells.zarr", "zarr.json"):
            parts = [path for path in target.parent.rglob("*") if path not in (source, target)]
            self.early += [f"cells.zarr names its parts: {text}" for text in self._missing(parts)]
        self._rename(source, target)
        self.calls.append(f"rename {source.name} {target.name}")
        self.durable.discard(target)
        for path in inside:
            moved = target / path.relative_to(source)
            if path in self.flushed:
                self.flushed[moved] = self.flushed.pop(path)
            if path in self.durable:
                self.durable.discard(path)
                if path != source:
                    self.durable.add(moved)

    def lost(self) -> list[str]:
        """What a power cut now would lose or leave with other bytes, or might have left so."""
        paths = sorted(self.root.rglob("*"))
        return self.early + self._missing([self.root, *paths])

    def _missing(self, paths: list[Path]) -> list[str]:
        """Which files are not on the disk; the name of the first path does not count."""
        found = []
        for path in paths:
            if path.name in UNFLUSHED or path.suffix in {".lock", ".holder"}:
                continue
            name = path.relative_to(self.root).as_posix()
            if path != paths[0] and path not in self.durable:
                found.append(f"the folder of {name} was not flushed")
            if path.is_file() and self.flushed.get(path) != _digest(path):
                found.append(f"{name} was not flushed")
        return found


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Disk]:
    """Records the calls below a folder from here on."""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("the name of an open file is read from /proc")

    def record(root: Path) -> Disk:
        monkeypatch.setattr(os, "fsync", _FLUSH)
        disk = Disk(root)
        monkeypatch.setattr(os, "fsync", disk.flush)
        monkeypatch.setattr(os, "replace", disk.rename)
        monkeypatch.setattr(os, "rename", disk.rename)
        return disk

    return record


def _block(cells: int) -> CellBlock:
    rng = np.random.default_rng(cells)
    columns = {
        name: rng.integers(0, 2, (cells, *entry_shape(column, 4))).astype(column.dtype)
        for name, column in COLUMNS.items()
    }
    columns["qc_flags"][:] = 0
    images = rng.integers(0, 4000, (cells, 4, 24, 24)).astype(np.uint16)
    return CellBlock(images, np.zeros((cells, 24, 24), np.uint8), columns, [""] * cells)


def _store(sample: Sample) -> CellStore:
    attributes = CellAttributes(
        modalities=MODALITIES, pixel_um=0.1, classes=CLASSES, provenance={"software": "test"}
    )
    return CellStore.create(sample.cells_path, [_block(6)], attributes)


def _classify(sample: Sample) -> None:
    probability = np.full((6, 4, 5), 0.025, np.float32)
    probability[..., 0] = 0.9
    CellStore(sample.cells_path).write_predictions(
        probability,
        ["NEU"] * 6,
        np.full(6, 0.9, np.float32),
        np.zeros(6, np.float32),
        classification=Classification(
            bundle="b", sha256="c" * 64, classes=CLASSES, heads=MODALITIES, threshold=0.5
        ),
    )


def _label(sample: Sample) -> None:
    record = LabelImport(source="x", sha256="0" * 64, cells=6, date="")
    CellStore(sample.cells_path).write_labels(["NEU"] * 6, ("NEU",), record)


def _write_field(sample: Sample) -> None:
    files.make_folder(sample.raw_path())
    frames = tuple(FrameInfo(name) for name in MODALITIES)
    images = np.arange(4 * 16 * 16, dtype=np.uint16).reshape(4, 16, 16)
    write_field(field_path(sample.raw_path(), 0), images, FieldInfo(0, 1.0, 2.0, 0.1, frames))


def _write_focus(sample: Sample) -> None:
    files.make_folder(sample.raw_path())
    scope = load_scope("demo")
    path = sample.raw_path() / "focus.json"
    load_surface(path, AcquisitionPlan.from_scope(scope, "A"), scope.focus).save(path)


def _write_missing(sample: Sample) -> None:
    files.make_folder(sample.raw_path())
    write_missing(sample.raw_path(), {3: "the camera timed out"})


def _review(sample: Sample) -> None:
    journal = Journal(sample.path / "review.jsonl")
    for text in ("one", "two"):
        journal.append([Comment(cell=None, text=text)], reader="a reader", base=journal.head())


def _batch(sample: Sample) -> None:
    folder = BatchFolder("night", sample.path.parent)
    folder.write(BatchRecord(name="night", created=TIME, worklist_sha256="0" * 64, rows=()))
    for event in ("scan_started", "scan_finished"):
        entry = {"time": TIME, "event": event, "sample": "S1"}
        folder.append(JournalEntry.model_validate(entry))
    folder.post(Command(kind="confirm", time=TIME))


def _bundle(sample: Sample) -> None:
    shipped = load_bundle("virtual-shufflenet")
    write_bundle(sample.path.parent / "mine", shipped.info, shipped.network())


def _export_anndata(sample: Sample) -> None:
    from wbcpipe.exchange.images.anndata_file import export_anndata

    export_anndata(sample, sample.path.parent / "cells.h5ad")


def _truth(sample: Sample) -> None:
    write_truth(sample.truth_path, [TruthRow(1.0, 2.0, 0, "NEU", "cell")])


def _segment_work(sample: Sample) -> None:
    path = sample.work_path / "fields" / "field_00000.npz"
    files.make_folder(path.parent)
    write_work_file(path, SampleRecord(sample="S1"), {"a": np.arange(3)})


#: Kind of file, to what must be there before, and what writes it.
WRITERS: dict[str, tuple[tuple[Callable[[Sample], Any], ...], Callable[[Sample], Any]]] = {
    "sample record": ((), lambda sample: sample.write(SampleRecord(sample="S1"))),
    "field": ((), _write_field),
    "missing fields": ((), _write_missing),
    "focus": ((), _write_focus),
    "truth": ((), _truth),
    "work file": ((), _segment_work),
    "cells": ((), _store),
    "cells again": ((_store,), _store),
    "predictions": ((_store,), _classify),
    "predictions again": ((_store, _classify), _classify),
    "labels": ((_store,), _label),
    "review journal": ((), _review),
    "report": ((_store, _classify), write_report),
    "batch": ((), _batch),
    "bundle": ((), _bundle),
    "AnnData": ((_store, _classify), _export_anndata),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_what_is_written_survives_a_power_cut(
    tmp_path: Path, recorded: Callable[[Path], Disk], kind: str
) -> None:
    sample = Sample.open(tmp_path / "data", "S1")
    files.make_folder(sample.path)
    sample.write(SampleRecord(sample="S1", modalities=MODALITIES))
    before, write = WRITERS[kind]
    for prepare in before:
        prepare(sample)
    disk = recorded(tmp_path)
    write(sample)
    assert disk.calls, "nothing was flushed"
    assert disk.lost() == []


def _rename_unflushed(folder: Path) -> None:
    (folder / "aside").write_bytes(b"content")
    (folder / "aside").replace(folder / "file")
    files.sync_directory(folder)


def _write_after_the_flush(folder: Path) -> None:
    with (folder / "file").open("wb") as handle:
        handle.write(b"content")
        handle.flush()
        os.fsync(handle.fileno())
        handle.write(b"more")
    files.sync_directory(folder)


def _rename_last(folder: Path) -> None:
    (folder / "aside").write_bytes(b"content")
    files.sync_file(folder / "aside")
    files.sync_directory(folder)
    (folder / "aside").replace(folder / "file")


@pytest.mark.parametrize(
    ("write", "lost"),
    [
        (_rename_unflushed, "file appeared: aside was not flushed"),
        (_write_after_the_flush, "file was not flushed"),
        (_rename_last, "the folder of file was not flushed"),
    ],
)
def test_a_step_that_is_missing_is_seen(
    tmp_path: Path,
    recorded: Callable[[Path], Disk],
    write: Callable[[Path], None],
    lost: str,
) -> None:
    disk = recorded(tmp_path)
    write(tmp_path)
    assert lost in disk.lost()


def test_a_record_is_flushed_renamed_and_its_folder_flushed(
    tmp_path: Path, recorded: Callable[[Path], Disk]
) -> None:
    disk = recorded(tmp_path)
    files.write_json(tmp_path / "a.json", {"a": 1})
    assert disk.calls == [
        "flush .a.json.partial",
        "rename .a.json.partial a.json",
        f"flush {tmp_path.name}",
    ]
