"""What every request must be before a route sees it.

For this server, from its own pages, in a session, and small.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from wbcpipe.review.server.address import ServerAddress
    from wbcpipe.review.server.sessions import Sessions

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]

__all__ = ["FORM", "LOGIN", "MAX_BODY_BYTES", "SECURITY_HEADERS", "Guard", "cookie_name"]

MAX_BODY_BYTES: Final = 2**20
"""Bytes of a request's body."""
LOGIN: Final = "/login"
"""The path that begins a session."""
FORM: Final = "application/x-www-form-urlencoded"
_MAX_FORM_BYTES: Final = 2**13
_BODY_TIMEOUT_S: Final = 30.0
_METHODS: Final = ("GET", "HEAD", "POST")

#: On every answer. Nothing of another site is loaded, no script stands in a page, and no page
#: frames this one. With the referrer policy `no-referrer`, browsers would send the login form with
#: the origin `null`.
SECURITY_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}


def cookie_name(address: ServerAddress) -> str:
    """Return the name of a server's cookie: browsers do not tell the ports of a host apart."""
    return f"__Host-wbcpipe-{address.port}" if address.tls else f"wbcpipe-{address.port}"


@dataclass(frozen=True)
class _Refusal:
    """An answer that no route gives."""

    status: int
    sentence: str


class Guard:
    """Lets requests through to an application that are what they must be.

    The others are refused with one sentence.

    The reader of the session is in ``scope["state"]["reader"]``; it is empty on the way to the
    login.

    Args:
        app: the application.
        address: of this server.
        sessions: of its readers.
        public: paths that need no session; of these, one that ends in ``/`` stands for all below
            it.
        has_passwords: who has no session is led to the login page.
    """

    def __init__(
        self,
        app: App,
        address: ServerAddress,
        sessions: Sessions,
        *,
        public: tuple[str, ...] = (LOGIN,),
        has_passwords: bool = False,
    ) -> None:
        self._app, self._address, self._sessions, self._public = app, address, sessions, public
        self._has_passwords = has_passwords
        self._cookie = cookie_name(address)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # a web socket is closed unanswered
        headers = _Headers(scope["headers"])
        send = _with_headers(send)
        refusal = self._address_refusal(headers) or self._session_refusal(scope, headers)
        refusal = refusal or _content_refusal(scope, headers)
        if refusal is None:
            body = await _read_body(receive, _body_limit(scope))
            if isinstance(body, bytes):
                await self._app(scope, _replay(body, receive), send)
                return
            refusal = body
        if refusal is not None:
            await _refuse(refusal, scope, send)

    def _address_refusal(self, headers: _Headers) -> _Refusal | None:
        """Refuse a page of another site, also one that has got this server's address for its own
        name.
        """
        hosts = headers.all("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._address.hosts:
            return _Refusal(403, f"This server answers under {self._address.url} alone.")
        origins = headers.all("origin")
        if any(origin.lower() not in self._address.origins for origin in origins):
            return _Refusal(403, "A page of another site may not send requests to this server.")
        return None

    def _session_refusal(self, scope: Scope, headers: _Headers) -> _Refusal | None:
        path, method = str(scope["path"]), str(scope["method"])
        if method not in _METHODS:
            return _Refusal(405, "Only GET, HEAD and POST are answered.")
        if method == "POST" and not headers.all("origin"):
            return _Refusal(
                403, "A request that changes something must say which page it comes from (Origin)."
            )
        reader = self._sessions.reader(headers.cookie(self._cookie))
        scope.setdefault("state", {})["reader"] = reader or ""
        if reader is None and not any(
            path == public or (public.endswith("/") and path.startswith(public))
            for public in self._public
        ):
            is_page = method != "POST" and not path.startswith("/api/")
            return _Refusal(
                303 if is_page and self._has_passwords else 403,
                "No session: open the link that `wbcpipe review` printed, or log in again. A link "
                "works once, in one browser.",
            )
        return None


def _content_refusal(scope: Scope, headers: _Headers) -> _Refusal | None:
    if scope["method"] != "POST":
        return None
    kind = headers.get("content-type").partition(";")[0].strip().lower()
    allowed = FORM if scope["path"] == LOGIN else "application/json"
    if kind != allowed:
        return _Refusal(
            400, f"The content type is {kind[:60] or 'missing'}; {allowed} was expected."
        )
    length = headers.get("content-length")
    if length.isdecimal() and int(length[:18]) > _body_limit(scope):
        return _too_large(_body_limit(scope))
    return None


def _body_limit(scope: Scope) -> int:
    return _MAX_FORM_BYTES if scope["path"] == LOGIN else MAX_BODY_BYTES


def _too_large(limit: int) -> _Refusal:
    return _Refusal(413, f"The request is too large: at most {limit // 1024} KiB are accepted.")


async def _read_body(receive: Receive, limit: int) -> bytes | _Refusal | None:
    """Read the body; ``None`` if the client has gone."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limit:
                    return _too_large(limit)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        return _Refusal(408, f"The request was not complete after {_BODY_TIMEOUT_S:g} s.")


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives the body that was read, then what follows."""
    pending = [body]

    async def again() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return again


def _with_headers(send: Send) -> Send:
    """Return a ``send`` that adds the security headers.

    A route may set ``cache-control`` itself.
    """

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = {name.lower() for name, _ in message.get("headers", [])}
            added = [
                (name.encode(), value.encode())
                for name, value in SECURITY_HEADERS.items()
                if name != "cache-control" or name.encode() not in given
            ]
            message = {**message, "headers": [*message.get("headers", []), *added]}
        await send(message)

    return sending


async def _refuse(refusal: _Refusal, scope: Scope, send: Send) -> None:
    if str(scope["path"]).startswith("/api/"):
        kind, content = "application/json", json.dumps({"error": refusal.sentence})
    else:
        kind, content = "text/plain; charset=utf-8", refusal.sentence + "\n"
    body = content.encode()
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
    if refusal.status == 303:
        headers.append((b"location", LOGIN.encode()))
    if refusal.status in (408, 413):
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


class _Headers:
    """The headers of a request."""

    def __init__(self, raw: list[tuple[bytes, bytes]]) -> None:
        self._raw = raw

    def all(self, name: str) -> list[str]:
        """Return every value of a header."""
        return [
            value.decode("latin-1").strip()
            for key, value in self._raw
            if key.lower() == name.encode()
        ]

    def get(self, name: str) -> str:
        """Return the first value of a header; empty without one."""
        return next(iter(self.all(name)), "")

    def cookie(self, name: str) -> str:
        """Return a cookie; empty without one."""
        for value in self.all("cookie"):
            for part in value.split(";"):
                key, _, content = part.strip().partition("=")
                if key == name:
                    return content.strip('"')
        return ""
