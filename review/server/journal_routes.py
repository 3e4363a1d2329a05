"""Routes of the journal: a sample with its cells, the edits of readers, and the signature."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from starlette.exceptions import HTTPException
from starlette.routing import Route

from wbcpipe.review.server.answers import Json, read_object, refuse
from wbcpipe.review.server.review_answers import (
    answer_after,
    answer_with,
    conflict_answer,
    open_reading,
    sample_answer,
    unknown_cell,
)
from wbcpipe.review.signing.sign import SignRefusedError
from wbcpipe.samples.review.entries import parse_action
from wbcpipe.samples.review.journal import JournalConflictError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from wbcpipe.review.server.open_samples import OpenSample, OpenSamples
    from wbcpipe.samples.review.entries import Action, Entry

__all__ = ["JournalRoutes"]

#: What a page may write as it is; signatures and the start of a reading have routes of their own.
_ALLOWED: Final = (
    "assign",
    "look",
    "undo",
    "redo",
    "comment",
    "call",
    "reading",
    "adjudicate",
    "location_mark",
)
#: What a reader may write in a blind reading.
_BLIND: Final = ("call", "reading")
_MAX_ENTRIES: Final = 1000


class JournalRoutes:
    """Answers about journals.

    Args:
        samples: those under review.
    """

    def __init__(self, samples: OpenSamples) -> None:
        self._samples = samples

    def routes(self, prefix: str) -> list[BaseRoute]:
        """Return the routes below ``prefix``, which has the parameter ``name`` of a sample."""
        return [
            Route(prefix, self.sample),
            Route(f"{prefix}/entries", self.entries),
            Route(f"{prefix}/entries", read_object(self.append), methods=["POST"]),
            Route(f"{prefix}/sign", read_object(self.sign), methods=["POST"]),
            Route(f"{prefix}/unsign", read_object(self.unsign), methods=["POST"]),
            Route(f"{prefix}/amend", read_object(self.amend), methods=["POST"]),
        ]

    def _opened(self, request: Request) -> OpenSample:
        return self._samples.get(request.path_params["name"])

    def sample(self, request: Request) -> Response:
        """A sample with all its cells."""
        opened = self._opened(request)
        answer = sample_answer(opened, request.state.reader)
        opened.images.make_ahead(opened.likely_order())
        return Json(answer)

    def entries(self, request: Request) -> Response:
        """The entries after one."""
        opened, reader = self._opened(request), request.state.reader
        try:
            return Json(answer_after(opened, reader, request.query_params.get("after", "")))
        except JournalConflictError as error:
            return Json(conflict_answer(opened, reader, error), status_code=409)

    def append(self, request: Request, body: dict[str, Any]) -> Response:
        """A reader's edits."""
        opened, reader = self._opened(request), request.state.reader
        actions = _actions(body)
        with opened.journal.held():
            reading = open_reading(opened.journal.state(), reader)
        if reading is not None and any(action.action not in _BLIND for action in actions):
            return refuse(409, "You are in a blind reading: finish it first.")
        if key := unknown_cell(opened, actions):
            return refuse(
                409, f"The sample has no cell {key}: its cells were replaced; load the page again."
            )
        with opened.images.maker_waits():
            return _written(
                opened,
                reader,
                lambda: opened.session.append(actions, reader=reader, base=_base(body)),
            )

    def sign(self, request: Request, body: dict[str, Any]) -> Response:
        """The signature of the differential as it is now."""
        opened, reader = self._opened(request), request.state.reader
        comment = _text(body, "comment")
        return _written(
            opened,
            reader,
            lambda: opened.session.sign(reader=reader, base=_base(body), comment=comment),
        )

    def unsign(self, request: Request, body: dict[str, Any]) -> Response:
        """The withdrawal of a signature."""
        opened, reader = self._opened(request), request.state.reader
        why = _text(body, "why")
        return _written(
            opened, reader, lambda: opened.session.unsign(reader=reader, base=_base(body), why=why)
        )

    def amend(self, request: Request, body: dict[str, Any]) -> Response:
        """The correction of a signed sample."""
        opened, reader = self._opened(request), request.state.reader
        why = _text(body, "why")
        return _written(
            opened, reader, lambda: opened.session.amend(reader=reader, base=_base(body), why=why)
        )


def _written(sample: OpenSample, reader: str, write: Callable[[], Sequence[Entry]]) -> Response:
    """Write, and answer with what follows; 409 with the newer entries, or with the checks that
    failed.
    """
    try:
        return Json(answer_with(sample, reader, write()))
    except JournalConflictError as error:
        return Json(conflict_answer(sample, reader, error), status_code=409)
    except SignRefusedError as error:
        failed = [check.model_dump(mode="json") for check in error.failed]
        return refuse(
            409, "Not signed: a check that the laboratory requires failed.", failed=failed
        )
    except ValueError as error:
        raise HTTPException(400, f"{error}.") from error


def _base(body: dict[str, Any]) -> str:
    return _text(body, "base")


def _text(body: dict[str, Any], name: str) -> str:
    text = body.get(name, "")
    if not isinstance(text, str):
        raise HTTPException(400, f"`{name}` must be a text.")
    return text


def _actions(body: dict[str, Any]) -> list[Action]:
    given = body.get("entries")
    if not isinstance(given, list) or not 1 <= len(given) <= _MAX_ENTRIES:
        raise HTTPException(400, f"`entries` must be a list of 1 to {_MAX_ENTRIES} entries.")
    actions = []
    for number, content in enumerate(given):
        name = content.get("action") if isinstance(content, dict) else None
        if name not in _ALLOWED or (name == "reading" and content.get("event") != "finish"):
            raise HTTPException(
                400, f"entry {number}: `action` must be one of {', '.join(_ALLOWED)}."
            )
        try:
            actions.append(parse_action(content))
        except ValueError as error:
            raise HTTPException(400, f"entry {number}: {error}.") from error
    return actions
