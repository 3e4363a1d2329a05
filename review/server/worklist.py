"""The worklist: every sample of the data root, its state, and who verified it."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from wbcpipe.errors import SampleStateError, WbcpipeError
from wbcpipe.report.document import document_paths, read_document
from wbcpipe.report.reviewed_cells import review_cells
from wbcpipe.report.rows import read_rows
from wbcpipe.report.status import sample_names, sample_status
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.review.journal import journal_path, read_journal
from wbcpipe.samples.review.replay import replay
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.laboratory.lab_file import Lab
    from wbcpipe.report.status import SampleStatus
    from wbcpipe.samples.review.replay import ReviewState

__all__ = ["Worklist", "WorklistEntry"]

ListState = Literal["ordered", "scanned", "preliminary", "verified", "corrected", "damaged"]
_STATES: Final[dict[str, ListState]] = {
    "created": "ordered",
    "acquiring": "scanned",
    "segmented": "scanned",
    "classified": "preliminary",
    "reported": "preliminary",
    "damaged": "damaged",
}


@dataclass(frozen=True)
class WorklistEntry:
    """One sample of the worklist.

    Attributes:
        sample: its name.
        state: how far it has come; ``damaged`` if a file of it cannot be read.
        counted: identified cells, as readers left them; of a sample that nobody reviewed, those of
            the report, ``None`` before it.
        unidentified: cells of no class, likewise.
        gates_failed: titles of the quality gates that failed.
        changed: cells that do not count as the model said.
        looked: cells that a person looked at, or gave a class.
        cells: found.
        verified_by: who signed; empty if nobody did.
        verified: UTC time of the signature, ISO 8601; empty likewise.
        problem: of a damaged sample, or of a report that is older than its cells.
    """

    sample: str
    state: ListState
    counted: int | None = None
    unidentified: int | None = None
    gates_failed: tuple[str, ...] = ()
    changed: int = 0
    looked: int = 0
    cells: int = 0
    verified_by: str = ""
    verified: str = ""
    problem: str = ""


class Worklist:
    """The samples of a data root; a sample is read again when one of its files has changed.

    Args:
        root: the data root.
        lab: settings of the laboratory.
    """

    def __init__(self, root: Path, lab: Lab) -> None:
        self._root, self._lab = root, lab
        self._known: dict[str, tuple[object, WorklistEntry]] = {}
        self._lock = threading.Lock()

    def entries(self) -> list[dict[str, Any]]:
        """Return the samples by name; see `WorklistEntry`."""
        with self._lock:
            self._known = {name: self._entry(name) for name in sample_names(self._root)}
            return [asdict(entry) for _, entry in self._known.values()]

    def _entry(self, name: str) -> tuple[object, WorklistEntry]:
        sample = Sample.open(self._root, name)
        mark = _mark(sample)
        known = self._known.get(name)
        return (
            known
            if known is not None and known[0] == mark
            else (mark, _read_entry(sample, self._lab))
        )


def _mark(sample: Sample) -> object:
    """Return what changes with the files that an entry is made from."""
    paths = [
        sample.info_path,
        sample.cells_path / "zarr.json",
        document_paths(sample)[0],
        journal_path(sample),
    ]
    paths += [sample.path / "raw" / name for name in ("single", "brightfield", "fluorescence")]
    found: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            entry = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((entry.st_mtime_ns, entry.st_size, entry.st_ino))
    return tuple(found)


def _read_entry(sample: Sample, lab: Lab) -> WorklistEntry:
    try:
        status = sample_status(sample)
        entry = _entry_of(sample, status)
        entries = read_journal(sample)
        return (
            _with_review(entry, sample, replay(entries), lab) if entries and status.cells else entry
        )
    except (WbcpipeError, OSError) as error:
        return WorklistEntry(sample.name, "damaged", problem=str(error))


def _entry_of(sample: Sample, status: SampleStatus) -> WorklistEntry:
    """Return what the sample's last report says of it."""
    document = read_document(sample) if status.state == "reported" else None
    gates = () if document is None else document.quality.gates
    return WorklistEntry(
        sample=sample.name,
        state=_STATES[status.state],
        counted=status.counted,
        unidentified=None if document is None else document.cells.unidentified.count,
        gates_failed=tuple(gate.title for gate in gates if gate.passed is False),
        cells=status.cells or 0,
        problem=status.problem,
    )


def _with_review(
    entry: WorklistEntry, sample: Sample, state: ReviewState, lab: Lab
) -> WorklistEntry:
    """Return the same with what readers did since."""
    store = CellStore(sample.cells_path)
    if not store.is_classified():
        return entry
    signed = state.signed
    rows = read_rows(store)
    extra_classes = signed.sign.basis.extra_classes if signed else lab.per_100_white_cells()
    try:
        reviewed = review_cells(rows, state, extra_classes)
    except SampleStateError as error:  # a class that the laboratory's file lacks
        return replace(entry, problem=str(error))
    tally = reviewed.tally(rows.qc_flags)
    return replace(
        entry,
        state=state.state,
        counted=tally.identified,
        unidentified=tally.unidentified,
        changed=int(reviewed.changed.sum()),
        looked=int(reviewed.looked.sum()),
        verified_by=signed.entry.reader if signed else "",
        verified=signed.entry.time if signed else "",
    )
