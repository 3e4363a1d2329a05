"""The worklist: every sample of the data root, its state, and who verified it."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from wbcpipe.errors import WbcpipeError
from wbcpipe.report.document import document_paths, read_document
from wbcpipe.report.status import sample_names, sample_status
from wbcpipe.samples.review.journal import journal_path, read_journal
from wbcpipe.samples.review.replay import replay
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.report.status import SampleStatus

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
        counted: identified cells in the report; ``None`` before the report.
        unidentified: cells of no class, likewise.
        gates_failed: names of the quality gates that failed.
        changed: cells to which a person gave another class than the model.
        looked: cells that a person looked at.
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
    """

    def __init__(self, root: Path) -> None:
        self._root = root
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
        return known if known is not None and known[0] == mark else (mark, _read_entry(sample))


def _mark(sample: Sample) -> object:
    """Return what changes with the files that an entry is made from."""
    paths = [sample.info_path, sample.cells_path / "zarr.json", document_paths(sample)[0], journal_path(sample)]
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


def _read_entry(sample: Sample) -> WorklistEntry:
    try:
        status = sample_status(sample)
        return _with_review(sample, status)
    except (WbcpipeError, OSError) as error:
        return WorklistEntry(sample.name, "damaged", problem=str(error))


def _with_review(sample: Sample, status: SampleStatus) -> WorklistEntry:
    state = replay(read_journal(sample))
    signed = state.signed
    document = read_document(sample) if status.state == "reported" else None
    return WorklistEntry(
        sample=sample.name,
        state=state.state if signed and status.state != "damaged" else _STATES[status.state],
        counted=status.counted,
        unidentified=None if document is None else document.cells.unidentified.count,
        gates_failed=()
        if document is None
        else tuple(gate.name for gate in document.quality.gates if gate.passed is False),
        changed=len(state.assigned()),
        looked=len(state.looked),
        cells=status.cells or 0,
        verified_by=signed.entry.reader if signed else "",
        verified=signed.entry.time if signed else "",
        problem=status.problem,
    )
