"""Answers of the server: JSON, images, and errors as one sentence."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response

from wbcpipe.errors import (
    DiskFullError,
    FrameFileError,
    SampleBusyError,
    SampleNameError,
    SampleStateError,
    StorageError,
    WbcpipeError,
)
from wbcpipe.review.server.open_samples import NoSuchSampleError
from wbcpipe.system.files import parse_json

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.requests import Request

__all__ = ["ERROR_HANDLERS", "Json", "image_answer", "read_object", "refuse"]

#: Of the classes of an error, the first that it is one of.
_STATUS: Final[tuple[tuple[type[WbcpipeError], int], ...]] = (
    (SampleNameError, 404),
    (NoSuchSampleError, 404),
    (FrameFileError, 404),
    (SampleBusyError, 423),
    (DiskFullError, 507),
    (StorageError, 503),
    (SampleStateError, 422),
)


class Json(JSONResponse):
    """An answer in JSON; numbers that JSON does not have are a defect."""

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return json.dumps(
            content, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        ).encode()


def image_answer(webp: bytes, *, immutable: bool) -> Response:
    """Return a WebP image.

    Args:
        webp: the image.
        immutable: its address holds the digest of what it shows, so that a browser may keep it.
    """
    cache = "private, max-age=31536000, immutable" if immutable else "private, no-cache"
    return Response(webp, media_type="image/webp", headers={"cache-control": cache})


def refuse(status: int, sentence: str, **more: Any) -> Json:
    """Return an error: a sentence for people, and what a page needs besides."""
    return Json({"error": sentence, **more}, status_code=status)


def read_object(
    route: Callable[[Request, dict[str, Any]], Response],
) -> Callable[[Request], Awaitable[Response]]:
    """Return a route that reads a JSON object from the request and calls ``route`` with it, in a
    thread.

    The guard has limited the size of the body.
    """

    async def reading(request: Request) -> Response:
        try:
            content = parse_json((await request.body()).decode())
        except ValueError as error:
            return refuse(400, f"The body is not JSON: {error}.")
        if not isinstance(content, dict):
            return refuse(400, "The body must be a JSON object.")
        return await run_in_threadpool(route, request, content)

    return reading


def _answer(
    request: Request, status: int, sentence: str, headers: Mapping[str, str] | None = None
) -> Response:
    if request.url.path.startswith("/api/"):
        answer: Response = refuse(status, sentence)
    else:
        answer = PlainTextResponse(f"{sentence}\n", status)
    answer.headers.update(headers or {})
    return answer


def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _answer(request, error.status_code, error.detail, error.headers)


def _on_known_error(request: Request, error: Exception) -> Response:
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 422)
    return _answer(request, status, str(error))


def _on_defect(request: Request, error: Exception) -> Response:
    return _answer(
        request, 500, f"A defect in wbcpipe itself: {type(error).__name__}; please report it."
    )


ERROR_HANDLERS: Final = {
    HTTPException: _on_http_error,
    WbcpipeError: _on_known_error,
    Exception: _on_defect,
}
"""For Starlette: what it answers to an error of each class."""
