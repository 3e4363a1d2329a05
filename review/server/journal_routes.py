"""Routes of the journal: a sample with its cells, and the edits of readers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from starlette.exceptions import HTTPException
from starlette.routing import Route

from wbcpipe.review.server.answers import Json, read_object, refuse
from wbcpipe.review.server.review_answers import (
    answer_after,
    append_actions,
    conflict_answer,
    sample_answer,
    unknown_cell,
)
from wbcpipe.samples.review.entries import parse_action
from wbcpipe.samples.review.journal import JournalConflictError

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from wbcpipe.review.server.open_samples import OpenSample, OpenSamples
    from wbcpipe.samples.review.entries import Action

__all__ = ["journal_routes"]

#: What a page may write as it is; a signature and a match of cells are made by the server.
_ALLOWED: Final = ("assign", "look", "undo", "redo", "comment", "call", "reading", "adjudicate", "location_mark")
_MAX_ENTRIES: Final = 1000


def journal_routes(samples: OpenSamples, prefix: str) -> list[Route]:
    """Return the routes below ``prefix``, which has the parameter ``name`` of a sample."""

    def sample(request: Request) -> Response:
        opened = _opened(samples, request)
        answer = sample_answer(opened, request.state.reader)
        opened.images.make_ahead(opened.doubt_order())
        return Json(answer)

    def entries(request: Request) -> Response:
        opened, reader = _opened(samples, request), request.state.reader
        return _merged(lambda: answer_after(opened, reader, request.query_params.get("after", "")), opened, reader)

    def append(request: Request, body: dict[str, Any]) -> Response:
        opened, reader = _opened(samples, request), request.state.reader
        base, actions = _base(body), _actions(body)
        if key := unknown_cell(opened, actions):
            return refuse(409, f"The sample has no cell {key}: its cells were replaced; load the page again.")
        return _merged(lambda: append_actions(opened, reader, base, actions), opened, reader)

    return [
        Route(prefix, sample),
        Route(f"{prefix}/entries", entries),
        Route(f"{prefix}/entries", read_object(append), methods=["POST"]),
    ]


def _opened(samples: OpenSamples, request: Request) -> OpenSample:
    return samples.get(request.path_params["name"])


def _merged(answer: Callable[[], dict[str, Any]], sample: OpenSample, reader: str) -> Response:
    """Answer, or with 409 and the newer entries where they concern the same."""
    try:
        return Json(answer())
    except JournalConflictError as error:
        return Json(conflict_answer(sample, reader, error), status_code=409)


def _base(body: dict[str, Any]) -> str:
    base = body.get("base", "")
    if not isinstance(base, str):
        raise HTTPException(400, "`base` must be the id of the last entry that the page knew, or empty.")
    return base


def _actions(body: dict[str, Any]) -> list[Action]:
    given = body.get("entries")
    if not isinstance(given, list) or not 1 <= len(given) <= _MAX_ENTRIES:
        raise HTTPException(400, f"`entries` must be a list of 1 to {_MAX_ENTRIES} entries.")
    actions = []
    for number, content in enumerate(given):
        name = content.get("action") if isinstance(content, dict) else None
        if name not in _ALLOWED:
            raise HTTPException(400, f"entry {number}: `action` must be one of {', '.join(_ALLOWED)}.")
        try:
            actions.append(parse_action(content))
        except ValueError as error:
            raise HTTPException(400, f"entry {number}: {error}.") from error
    return actions
