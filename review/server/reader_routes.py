"""Routes of several readers: blind readings, their agreement, and the library of cells on which readers agreed."""

from __future__ import annotations

import secrets
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from starlette.exceptions import HTTPException
from starlette.routing import Route

from wbcpipe.errors import WbcpipeError
from wbcpipe.report.status import sample_names
from wbcpipe.review.readers.blind import READING_CELLS, start_reading
from wbcpipe.review.readers.calls import ReadSample
from wbcpipe.review.readers.compare import compare_two
from wbcpipe.review.readers.consensus import consensus_of
from wbcpipe.review.server.answers import Json, read_object, refuse
from wbcpipe.review.server.review_answers import answer_with, conflict_answer, open_reading
from wbcpipe.samples.review.journal import JournalConflictError, journal_path
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

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
        self._library: dict[str, tuple[object, list[dict[str, str]]]] = {}

    def routes(self, prefix: str) -> list[BaseRoute]:
        """Return the routes, most of them below ``prefix``, which has the parameter ``name`` of a sample."""
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
        if body.get("mode", "blind") != "blind" or not _is_number(cells, 1) or not _is_number(seed, 0):
            raise HTTPException(400, "`mode` must be blind, `cells` and `seed` numbers.")
        with opened.journal.held():
            state = opened.journal.state()
            if open_reading(state, reader) is not None:
                return refuse(409, "You are in a blind reading: finish it first.")
            read = _read_sample(opened, state)
            apart = bool(body.get("other_cells", False))
            start = start_reading(state, read.name, read.countable, cells=cells, seed=seed, other_cells=apart)
            base = state.head
        try:
            newer = opened.session.append([start], reader=reader, base=base)
        except JournalConflictError as error:
            return Json(conflict_answer(opened, reader, error), status_code=409)
        rows = [opened.row_of[key] for key in start.cells]
        return Json({**answer_with(opened, reader, newer), "reading_id": start.reading, "rows": rows})

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
            return Json(asdict(compare_two(read, first, second)))

    def library(self, _request: Request) -> Response:
        """Cells on which readers agreed, or that were adjudicated, by class; the latest samples first."""
        names = sample_names(self._samples.root)
        paths = {name: journal_path(Sample.open(self._samples.root, name)) for name in names}
        marks = {name: _mark(path) for name, path in paths.items()}
        latest = sorted((name for name in names if marks[name]), key=lambda name: marks[name] or (), reverse=True)
        found: list[dict[str, str]] = []
        for name in latest[:_LIBRARY_SAMPLES]:
            known = self._library.get(name)
            if known is None or known[0] != marks[name]:
                known = self._library[name] = (marks[name], self._library_cells(name))
            found += known[1]
        by_class: dict[str, list[dict[str, str]]] = {}
        for cell in found:
            by_class.setdefault(cell["class"], []).append(cell)
        return Json([cell for cells in by_class.values() for cell in cells[:_PER_CLASS]])

    def _library_cells(self, name: str) -> list[dict[str, str]]:
        try:
            opened = self._samples.get(name)
            with opened.journal.held():
                agreed = consensus_of(_read_sample(opened, opened.journal.state()))
        except WbcpipeError:
            return []  # a damaged sample, or one without readings, has nothing for the library
        return [
            {
                "class": one.to,
                "source": f"{name}, {one.how}{f' by {one.by}' if one.by else ''}: {', '.join(one.calls) or 'no calls'}",
                "url": f"/api/samples/{name}/strips/{opened.row_of[one.cell]}.webp?v={opened.images.digest}",
            }
            for one in agreed
            if one.to and one.cell in opened.row_of
        ]


def _is_number(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < _SEEDS


def _read_sample(sample: OpenSample, state: ReviewState) -> ReadSample:
    return ReadSample(sample.sample.name, sample.rows, tuple(sample.keys), state, sample.not_white)


def _mark(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
