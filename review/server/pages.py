"""The pages themselves, the login, and the static files."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

import jinja2
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

import wbcpipe.review.page
from wbcpipe.review.server.guard import LOGIN, cookie_name
from wbcpipe.review.server.open_samples import NoSuchSampleError
from wbcpipe.review.server.passwords import LoginLimit
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from wbcpipe.review.server.options import ServerOptions

__all__ = ["STATIC", "PageRoutes"]

STATIC: Final = "/static/"
"""Scripts and styles; they hold nothing of a sample."""
_FOLDER: Final = Path(wbcpipe.review.page.__file__).parent


class _StaticFiles(StaticFiles):
    """Files that a browser keeps and asks for again, so that a new version is used at once."""

    def file_response(self, *args: object, **options: object) -> Response:
        response = super().file_response(*args, **options)  # type: ignore[arg-type]
        response.headers.setdefault("cache-control", "private, no-cache")
        return response


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _page(template: str, *, status: int = 200, **context: object) -> Response:
    return HTMLResponse(_environment().get_template(template).render(**context), status)


class PageRoutes:
    """Answers with pages, and begins and ends sessions.

    Args:
        options: of the server.
    """

    def __init__(self, options: ServerOptions) -> None:
        self._options = options
        self._cookie = cookie_name(options.address)
        self._limit = LoginLimit()

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        return [
            Route("/", self.worklist),
            Route("/samples/{name}", self.review),
            Route(LOGIN, self.login),
            Route(LOGIN, self.log_in, methods=["POST"]),
            Route("/logout", self.log_out, methods=["POST"]),
            Mount(STATIC.rstrip("/"), _StaticFiles(directory=_FOLDER / "static")),
        ]

    @property
    def _can_log_out(self) -> bool:
        return self._options.passwords is not None

    def worklist(self, request: Request) -> Response:
        """The worklist of all samples."""
        return _page("worklist.html.j2", reader=request.state.reader, can_log_out=self._can_log_out)

    def review(self, request: Request) -> Response:
        """The page of one sample."""
        sample = Sample.open(self._options.root, request.path_params["name"])
        if not sample.exists():
            raise NoSuchSampleError(f"There is no sample {sample.name}.")
        return _page(
            "review.html.j2",
            sample=sample.name,
            reader=request.state.reader,
            can_log_out=self._can_log_out,
        )

    def login(self, request: Request) -> Response:
        """Exchange the token of a link for a cookie, or ask for a password."""
        token, target = (
            request.query_params.get("token", ""),
            _target(request.query_params.get("to", "/")),
        )
        secret = (
            self._options.sessions.exchange(token) if token and request.method == "GET" else None
        )
        if secret is not None:
            return self._begin(secret, target)
        if request.state.reader:
            return RedirectResponse(target, 303)
        if self._options.passwords is not None:
            return _page("login.html.j2", status=403 if token else 200, error="", reader="")
        raise HTTPException(
            403,
            "This link was used already, or is of another server: start `wbcpipe review` again.",
        )

    async def log_in(self, request: Request) -> Response:
        """Begin the session of a reader who gives the right password."""
        passwords = self._options.passwords
        if passwords is None:
            raise HTTPException(403, "This server has no passwords: open the link that it printed.")
        form = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=4)
        reader, password = (form.get(name, [""])[0] for name in ("reader", "password"))
        client = request.client.host if request.client else ""
        if wait_s := self._limit.wait_s(client):
            sentence = f"Too many wrong passwords; try again in {wait_s:.0f} s."
            return _page("login.html.j2", status=429, error=sentence, reader=reader)
        if not await run_in_threadpool(passwords.matches, reader, password):
            self._limit.failed(client)
            return _page(
                "login.html.j2",
                status=403,
                error="The name or the password is wrong.",
                reader=reader,
            )
        self._limit.succeeded(client)
        return self._begin(self._options.sessions.begin(reader), "/")

    async def log_out(self, request: Request) -> Response:
        """End the session."""
        self._options.sessions.end(request.cookies.get(self._cookie, ""))
        response = Response(status_code=204)
        response.delete_cookie(
            self._cookie, secure=self._options.address.tls, httponly=True, samesite="strict"
        )
        return response

    def _begin(self, secret: str, target: str) -> Response:
        """Begin a session: the cookie is no script's and no other site's, and ends with the
        browser.
        """
        response = RedirectResponse(target, 303)
        secure = self._options.address.tls
        response.set_cookie(
            self._cookie, secret, path="/", secure=secure, httponly=True, samesite="strict"
        )
        return response


def _target(path: str) -> str:
    """Return a path of a page of this server, or ``/``: a link leads nowhere else.

    >>> _target("/samples/S1"), _target("//evil.example/"), _target("/samples//evil.example")
    ('/samples/S1', '/', '/')
    """
    return path if re.fullmatch(r"/samples/[A-Za-z0-9][A-Za-z0-9._-]*", path) else "/"
