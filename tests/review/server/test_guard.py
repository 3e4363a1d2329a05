"""A request is answered if it is for this server, from its own pages, in a session, and small.

Others are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from wbcpipe.review.server.guard import MAX_BODY_BYTES, SECURITY_HEADERS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

PATHS = [
    "/",
    "/samples/S1",
    "/api/samples",
    "/api/samples/S1",
    "/api/samples/S1/strips/0.webp",
    "/api/samples/S1/entries",
    "/api/samples/S1/map",
    "/api/library",
    "/static/main.js",
    "/nowhere",
]


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_answered_without_a_session(
    shared_client: Any, serve: Callable[..., Any], path: str
) -> None:
    nobody = serve("", like=shared_client)
    assert nobody.get(path).status_code == 403
    nobody.secret = "x" * 43
    assert nobody.get(path).status_code == 403
    assert nobody.post("/api/samples/S1/entries", {"base": "", "entries": []}).status_code == 403


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8017",
        "127.0.0.1",
        "127.0.0.1:8018",
        "localhost.evil.example:8017",
        "",
        "127.0.0.1:8017,x",
    ],
)
def test_another_host_is_refused(shared_client: Any, host: str) -> None:
    answer = shared_client.get("/api/samples", {"host": host})
    assert answer.status_code == 403
    assert "http://127.0.0.1:8017" in answer.json()["error"]


@pytest.mark.parametrize(
    "host", ["localhost:8017", "127.0.0.1:8017", "[::1]:8017", "LOCALHOST:8017"]
)
def test_the_names_of_this_computer_are_its_own(shared_client: Any, host: str) -> None:
    assert shared_client.get("/api/samples", {"host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "https://127.0.0.1:8017",
        "http://127.0.0.1",
        "http://127.0.0.1:8017.evil.example",
        "",
    ],
)
def test_another_origin_is_refused(shared_client: Any, origin: str) -> None:
    for answer in (
        shared_client.get("/api/samples", {"origin": origin}),
        shared_client.post(
            "/api/samples/S1/entries", {"base": "", "entries": []}, {"origin": origin}
        ),
    ):
        assert answer.status_code == 403
        assert "another site" in answer.json()["error"]


def test_a_post_says_where_it_comes_from(shared_client: Any) -> None:
    answer = shared_client.request(
        "POST", "/api/samples/S1/entries", json={"base": "", "entries": []}
    )
    assert answer.status_code == 403
    assert "Origin" in answer.json()["error"]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_are_refused(shared_client: Any, method: str) -> None:
    assert (
        shared_client.request(
            method, "/api/samples/S1/entries", headers={"origin": shared_client.origin}
        ).status_code
        == 405
    )


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""],
)
def test_a_form_of_another_site_is_no_edit(shared_client: Any, kind: str) -> None:
    headers = {"origin": shared_client.origin, "content-type": kind}
    answer = shared_client.request(
        "POST", "/api/samples/S1/entries", headers=headers, content=b'{"base":"","entries":[]}'
    )
    assert answer.status_code == 400
    assert "application/json" in answer.json()["error"]


def test_a_large_request_is_refused_whatever_it_says_of_itself(shared_client: Any) -> None:
    taken = 0

    async def many() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(400):
            taken += 1
            yield b"x" * 65536

    headers = {"origin": shared_client.origin, "content-type": "application/json"}
    path = "/api/samples/S1/entries"
    assert (
        shared_client.request(
            "POST", path, headers=headers, content=b"x" * (MAX_BODY_BYTES + 1)
        ).status_code
        == 413
    )
    answer = shared_client.request("POST", path, headers=headers, content=many())
    assert answer.status_code == 413
    assert taken < 3 * MAX_BODY_BYTES / 65536
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"x"', b"\xff", b"NaN", b"[" * 100_000, b'{"base": "\\ud800"}']
)
def test_a_body_that_is_no_object_is_refused(shared_client: Any, body: bytes) -> None:
    headers = {"origin": shared_client.origin, "content-type": "application/json"}
    answer = shared_client.request("POST", "/api/samples/S1/entries", headers=headers, content=body)
    assert answer.status_code == 400
    assert len(answer.json()["error"]) < 400


@pytest.mark.parametrize("path", [*PATHS, "/login"])
def test_every_answer_has_the_security_headers(
    shared_client: Any, serve: Callable[..., Any], path: str
) -> None:
    for browser in (shared_client, serve("", like=shared_client)):
        headers = browser.get(path).headers
        for name, value in SECURITY_HEADERS.items():
            assert name == "cache-control" or headers[name] == value
        assert "server" not in headers
    policy = SECURITY_HEADERS["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_a_link_works_once(shared_client: Any, serve: Callable[..., Any]) -> None:
    nobody = serve("", like=shared_client)
    token = shared_client.options.sessions.new_token("Ada")
    assert (
        nobody.request("HEAD", f"/login?token={token}").status_code == 403
    )  # a preview does not use it up
    assert nobody.get("/login?token=wrong").status_code == 403
    answer = nobody.get(f"/login?token={token}&to=/samples/S1")
    assert (answer.status_code, answer.headers["location"]) == (303, "/samples/S1")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Path=/" in cookie
    assert "expires" not in cookie.lower()
    nobody.secret = cookie.split(";")[0].partition("=")[2]
    assert nobody.sample()["reader"] == "Ada"
    assert serve("", like=shared_client).get(f"/login?token={token}").status_code == 403
    # In the browser that has the session, the same link leads to the page.
    assert nobody.get(f"/login?token={token}").status_code == 303


@pytest.mark.parametrize(
    "target",
    [
        "//evil.example/",
        "https://evil.example",
        "/samples//evil.example",
        "/\\evil",
        "/api/samples",
        "/samples/../x",
    ],
)
def test_a_link_leads_to_pages_of_this_server_alone(
    shared_client: Any, serve: Callable[..., Any], target: str
) -> None:
    token = shared_client.options.sessions.new_token("Ada")
    answer = serve("", like=shared_client).request(
        "GET", "/login", params={"token": token, "to": target}
    )
    assert answer.headers["location"] == "/"


def test_with_https_the_cookie_stays_on_it(serve: Callable[..., Any]) -> None:
    client = serve(tls=True)
    token = client.options.sessions.new_token("Ada")
    cookie = serve("", like=client).get(f"/login?token={token}").headers["set-cookie"]
    assert cookie.startswith("__Host-wbcpipe-8017=")
    assert "Secure" in cookie


def test_a_web_socket_is_closed(shared_client: Any) -> None:
    import asyncio

    sent: list[Any] = []

    async def never() -> Any:
        raise AssertionError("nothing is read of it")

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(
        shared_client.app.asgi({"type": "websocket", "headers": [], "path": "/"}, never, send)
    )
    assert sent == []
