"""Routes of several readers.

Blind readings, their agreement, and the library of cells on which readers agreed.
"""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from starlette.exceptions import HTTPException
from starlette.routing import Route

from wbcpipe.errors import SampleStateError, WbcpipeError
from wbcpipe.report.status import sample_names
from wbcpipe.review.proficiency.competence import reference_cells
from wbcpipe.review.readers.blind import READING_CELLS, start_reading
from wbcpipe.review.readers.calls import MACHINE, ReadSample, open_read_sample
from wbcpipe.review.readers.compare import compare_two
from wbcpipe.review.readers.reference import build_reference
from wbcpipe.review.server.answers import Json, read_object, refuse
from wbcpipe.review.server.review_answers import answer_with, conflict_answer, open_reading
from wbcpipe.samples.review.journal import JournalConflictError, journal_path
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from wbcpipe.review.proficiency.competence import ReferenceCell
    from wbcpipe.review.readers.compare import ReaderComparison
    from wbcpipe.review.server.open_samples import OpenSample, OpenSamples
    from wbcpipe.samples.review.replay import ReviewState

__all__ = ["ReaderRoutes"]

_SEEDS: Final = 2**31
#: Cells of a class in the library.
_PER_CLASS: Final = 50
#: Samples that are searched for the library, the latest first.
_LIBRARY_SAMPLES: Final = 50


class ReaderRoutes:
    """Answers about readers.

    Args:
        samples: those under review.
    """

    def __init__(self, samples: OpenSamples) -> None:
        self._samples = samples
        self._library: dict[str, _SampleLibrary] = {}

    def routes(self, prefix: str) -> list[BaseRoute]:
        """Return the routes, most of them below ``prefix``, which has the parameter ``name`` of a
        sample.
        """
        return [
            Route(f"{prefix}/readings", read_object(self.begin_reading), methods=["POST"]),
            Route(f"{prefix}/agreement", self.agreement),
            Route("/api/library", self.library),
        ]

    def _opened(self, request: Request) -> OpenSample:
        return self._samples.get(request.path_params["name"])

    def begin_reading(self, request: Request, body: dict[str, Any]) -> Response:
        """Begin a blind reading."""
        opened, reader = self._opened(request), request.state.reader
        cells, seed = body.get("cells", READING_CELLS), body.get("seed", secrets.randbelow(_SEEDS))
        if (
            body.get("mode", "blind") != "blind"
            or not _is_number(cells, 1)
            or not _is_number(seed, 0)
        ):
            raise HTTPException(400, "`mode` must be blind, `cells` and `seed` numbers.")
        with opened.journal.held():
            state = opened.journal.state()
            if open_reading(state, reader) is not None:
                return refuse(409, "You are in a blind reading: finish it first.")
            read = _read_sample(opened, state)
            apart = bool(body.get("other_cells", False))
            start = start_reading(
                state, read.name, read.countable, cells=cells, seed=seed, other_cells=apart
            )
            base = state.head
        try:
            newer = opened.session.append([start], reader=reader, base=base)
        except JournalConflictError as error:
            return Json(conflict_answer(opened, reader, error), status_code=409)
        rows = [opened.row_of[key] for key in start.cells]
        return Json(
            {**answer_with(opened, reader, newer), "reading_id": start.reading, "rows": rows}
        )

    def agreement(self, request: Request) -> Response:
        """The readers of a sample; with ``a`` and ``b``, how far these two agree."""
        opened = self._opened(request)
        first, second = (request.query_params.get(name, "") for name in ("a", "b"))
        with opened.journal.held():
            state = opened.journal.state()
            if open_reading(state, request.state.reader) is not None:
                return refuse(409, "You are in a blind reading: finish it first.")
            read = _read_sample(opened, state)
            if not first and not second:
                return Json({"readers": read.readers})
            found = compare_two(read, first, second)
            return Json({**asdict(found), "reference": _reference(read, found)})

    def library(self, request: Request) -> Response:
        """Cells whose class was decided, by class.

        The latest samples first, without those that are read blind.
        """
        names = sample_names(self._samples.root)
        marks = {name: _mark(Sample.open(self._samples.root, name)) for name in names}
        latest = sorted(
            (name for name in names if marks[name]),
            key=lambda name: marks[name] or (),
            reverse=True,
        )
        by_class: dict[str, list[dict[str, str]]] = {}
        for name in latest[:_LIBRARY_SAMPLES]:
            known = self._library.get(name)
            if known is None or known.mark != marks[name]:
                known = self._library[name] = _read_library(
                    Sample.open(self._samples.root, name), marks[name]
                )
            for cell in known.cells if request.state.reader not in known.reading else ():
                by_class.setdefault(cell["class"], []).append(cell)
        return Json([cell for cells in by_class.values() for cell in cells[:_PER_CLASS]])


@dataclass(frozen=True)
class _SampleLibrary:
    """Cells of one sample whose class was decided, who reads the sample blind now, and the state of
    its files.
    """

    mark: object
    cells: list[dict[str, str]]
    reading: frozenset[str]


def _read_library(sample: Sample, mark: object) -> _SampleLibrary:
    try:
        read = open_read_sample(sample)
    except WbcpipeError:
        return _SampleLibrary(mark, [], frozenset())  # the worklist shows what is wrong with it
    row_of = {key: row for row, key in enumerate(read.keys)}
    cells = [
        {
            "class": one.label,
            "source": f"{sample.name}, {_decided(one)}",
            "url": f"/api/samples/{sample.name}/strips/{row_of[one.cell]}.webp",
        }
        for one in reference_cells([read])
        if one.cell in row_of
    ]
    reading = frozenset(one.reader for one in read.state.readings.values() if not one.finished)
    return _SampleLibrary(mark, cells, reading)


def _decided(cell: ReferenceCell) -> str:
    """Return who decided a cell's class, and why."""
    if cell.by:
        return f"adjudicated by {cell.by}{f': {cell.why}' if cell.why else ''}"
    return f"called alike by {', '.join(cell.readers)}"


def _reference(read: ReadSample, found: ReaderComparison) -> dict[str, Any] | None:
    """Return the reference differential of two blind readers; ``None`` of others, or without a
    white cell.
    """
    if MACHINE in (found.first, found.second) or not found.blind:
        return None
    try:
        return asdict(build_reference(read, (found.first, found.second)))
    except SampleStateError:
        return None


def _is_number(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < _SEEDS


def _read_sample(sample: OpenSample, state: ReviewState) -> ReadSample:
    return ReadSample(sample.sample.name, sample.rows, tuple(sample.keys), state, sample.not_white)


def _mark(sample: Sample) -> tuple[int, ...] | None:
    """Return what changes with a sample's journal and cells, the later the greater; ``None``
    without a journal.
    """
    try:
        found = [path.stat() for path in (journal_path(sample), sample.cells_path / "zarr.json")]
    except OSError:
        return None
    return tuple(number for one in found for number in (one.st_mtime_ns, one.st_size))
