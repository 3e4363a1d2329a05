"""The server as a process of its own.

Its end, large and raw requests, and edits that survive a kill.
"""

from __future__ import annotations

import _thread
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import uvicorn

from wbcpipe.review.server.address import ServerAddress, is_loopback, listen
from wbcpipe.review.server.app import ReviewApp
from wbcpipe.review.server.options import ServerOptions
from wbcpipe.review.server.passwords import PasswordFile, set_password
from wbcpipe.review.server.serve import TlsFiles, serve
from wbcpipe.samples.review.journal import read_journal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wbcpipe.samples.sample import Sample

ROOT = Path(__file__).parents[4]


EDITS = 30


@dataclass
class Server:
    """A running `wbcpipe review`."""

    process: subprocess.Popen[str]
    port: int
    cookie: str

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {
            "cookie": self.cookie,
            "content-type": "application/json",
            "origin": f"http://127.0.0.1:{self.port}",
        }
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, json.loads(content)

    def raw(self, request: bytes) -> bytes:
        """Send bytes as they are, and return the first of the answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(request)
            return connection.recv(65536)

    def head(self, method: str, path: str, *lines: str) -> bytes:
        all_lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: 127.0.0.1:{self.port}",
            f"Cookie: {self.cookie}",
            *lines,
        ]
        return ("\r\n".join(all_lines) + "\r\n\r\n").encode()


@pytest.fixture
def start(planted: Sample) -> Iterator[Callable[..., Server]]:
    """Start `wbcpipe review` and log in by the link that it prints."""
    running: list[subprocess.Popen[str]] = []

    def begin() -> Server:
        words = [
            "review",
            "--data",
            str(planted.path.parent),
            "--sample",
            "S1",
            "--port",
            "0",
            "--no-browser",
        ]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "wbcpipe", *words, "--reader", "Ada"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=planted.path.parent,
            env=environment,
        )
        running.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.fullmatch(
            r"review: http://127\.0\.0\.1:(\d+)(/login\?token=[\w-]{43}&to=/samples/S1)\n", line
        )
        assert match, line
        connection = HTTPConnection("127.0.0.1", int(match[1]), timeout=30)
        connection.request("GET", match[2])
        answer = connection.getresponse()
        cookie = (answer.getheader("set-cookie") or "").split(";")[0]
        connection.close()
        return Server(process, int(match[1]), cookie)

    yield begin
    for process in running:
        process.kill()
        process.communicate()


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(start: Callable[[], Server], number: signal.Signals) -> None:
    server = start()
    assert server.request("GET", "/api/samples/S1")[0] == 200
    idle = socket.create_connection(("127.0.0.1", server.port))  # a browser keeps its connections
    server.process.send_signal(number)
    _, errors = server.process.communicate(timeout=120)
    idle.close()
    assert server.process.returncode == 0
    assert "Traceback" not in errors
    assert "review ended" in errors


def test_a_signal_leaves_the_socket_open_until_the_server_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    open_at_end: list[bool] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def run(server: uvicorn.Server, sockets: Any) -> None:  # noqa: ARG001
            server.started = True
            while not server.should_exit:
                threading.Event().wait(0.01)
            threading.Event().wait(0.2)  # open requests end
            open_at_end.append(listening.fileno() != -1)

        monkeypatch.setattr(uvicorn.Server, "run", run)
        interrupt = threading.Timer(0.1, _thread.interrupt_main)

        async def app(*_: Any) -> None:
            """Answer nothing: the server is replaced."""

        serve(app, listening, None, started=interrupt.start)
    assert open_at_end == [True]


def test_an_edit_that_was_answered_survives_a_kill(
    start: Callable[[], Server], planted: Sample
) -> None:
    """Kill the server while edits arrive: each one that it answered is there, and the journal is
    intact.
    """
    server = start()
    keys = server.request("GET", "/api/samples/S1")[1]["cells"]["key"]
    answered: list[str] = []
    head = ""
    while True:
        key = keys[len(answered) % len(keys)]
        cells = [{"cell": key, "from": "", "to": "EOS" if len(answered) % 2 else "MO"}]
        body = {"base": head, "entries": [{"action": "assign", "cells": cells}]}
        connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
        headers = {"cookie": server.cookie, "content-type": "application/json"}
        headers["origin"] = f"http://127.0.0.1:{server.port}"
        connection.request("POST", "/api/samples/S1/entries", json.dumps(body), headers)
        if len(answered) == EDITS:
            server.process.kill()  # the last one is under way
            break
        head = json.loads(connection.getresponse().read())["head"]
        connection.close()
        answered.append(head)
    server.process.wait()
    connection.close()
    again = start()
    status, found = again.request("GET", "/api/samples/S1/entries?after=")
    assert status == 200
    assert [entry["id"] for entry in found["newer"]][: len(answered)] == answered
    assert len(found["newer"]) - len(answered) in (0, 1)
    assert (
        again.request(
            "POST",
            "/api/samples/S1/entries",
            {"base": found["head"], "entries": [{"action": "look", "cells": keys[:1]}]},
        )[0]
        == 200
    )
    assert len(read_journal(planted)) == len(found["newer"]) + 1


def test_100_megabytes_are_refused_unread(start: Callable[[], Server]) -> None:
    server = start()
    origin = f"Origin: http://127.0.0.1:{server.port}"
    before = psutil.Process(server.process.pid).memory_info().rss
    declared = server.head(
        "POST",
        "/api/samples/S1/entries",
        origin,
        "Content-Type: application/json",
        f"Content-Length: {10**8}",
    )
    assert server.raw(declared).startswith(b"HTTP/1.1 413")
    sent = 0
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(
            server.head(
                "POST",
                "/api/samples/S1/entries",
                origin,
                "Content-Type: application/json",
                "Transfer-Encoding: chunked",
            )
        )
        try:
            while sent < 10**8:
                connection.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                sent += 65536
        except OSError:
            pass  # the server has closed the connection
    assert sent < 10**8
    assert psutil.Process(server.process.pid).memory_info().rss - before < 50e6
    assert server.request("GET", "/api/samples")[0] == 200


PATHS_OUT = (
    "/static/../server/guard.py",
    "/static/%2e%2e/%2e%2e/cli.py",
    "/static/..%2f..%2fcli.py",
    "/static//etc/passwd",
    "/static/..\\..\\cli.py",
    "/samples/../../etc/passwd",
    "/api/samples/../../../etc/passwd",
    "/api/samples/S1/strips/../../../sample.json",
    "//etc/passwd",
    "/../../../../etc/passwd",
)


NO_REQUESTS = (
    b"GET /api/samples HTTP/1.1\r\n\r\n",
    b"GET /api/samples HTTP/1.0\r\n\r\n",
    b"GET /api/samples HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nHost: evil.example\r\nCookie: "
    b"{cookie}\r\n\r\n",
    b"GET http://evil.example/api/samples HTTP/1.1\r\nHost: evil.example\r\nCookie: "
    b"{cookie}\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\n",
)


def test_no_path_leads_out_and_no_nonsense_stops_it(start: Callable[[], Server]) -> None:
    server = start()
    for path in PATHS_OUT:
        answer = server.raw(server.head("GET", path))
        assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400")), (path, answer)
        assert b"root:" not in answer
        assert b"import" not in answer
    for request in NO_REQUESTS:
        filled = request.replace(b"{port}", str(server.port).encode()).replace(
            b"{cookie}", server.cookie.encode()
        )
        try:
            answer = server.raw(filled)
        except ConnectionError:
            answer = b""
        assert not answer or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 403")), (
            request[:80],
            answer,
        )
    assert server.request("GET", "/api/samples")[0] == 200


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_readers_of_other_computers_log_in_over_https(planted: Sample, tmp_path: Path) -> None:
    key, certificate, passwords = (
        tmp_path / name for name in ("lab.key", "lab.pem", "readers.txt")
    )
    words = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=127.0.0.1",
    ]
    words += [
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    subprocess.run(words, check=True, capture_output=True)
    set_password(passwords, "Ada", "correct horse battery")
    tls = TlsFiles(certificate, key)
    tls.check()
    with listen("127.0.0.1", 0) as listening:
        address = ServerAddress("127.0.0.1", listening.getsockname()[1], tls=True)
        options = ServerOptions(
            root=planted.path.parent, address=address, passwords=PasswordFile(passwords)
        )
        app = ReviewApp(options)
        answers: list[tuple[int, str]] = []

        def browse() -> None:
            """Send requests once the server answers; then stop it as a signal does."""
            try:
                context = ssl.create_default_context(cafile=str(certificate))
                connection = HTTPSConnection("127.0.0.1", address.port, timeout=30, context=context)
                headers = {
                    "origin": address.url,
                    "content-type": "application/x-www-form-urlencoded",
                }
                connection.request(
                    "POST", "/login", "reader=Ada&password=correct+horse+battery", headers
                )
                answer = connection.getresponse()
                answer.read()
                cookie = answer.getheader("set-cookie") or ""
                answers.append((answer.status, cookie))
                connection.request("GET", "/api/samples", headers={"cookie": cookie.split(";")[0]})
                answer = connection.getresponse()
                answers.append((answer.status, answer.read().decode()))
                connection.close()
            finally:
                _thread.interrupt_main()

        serve(app.asgi, listening, tls, started=lambda: threading.Thread(target=browse).start())
        app.close()
    assert answers[0][0] == 303
    assert answers[0][1].startswith(f"__Host-wbcpipe-{address.port}=")
    assert "Secure" in answers[0][1]
    assert answers[1][0] == 200
    assert '"sample":"S1"' in answers[1][1]


def test_a_key_that_is_not_the_certificates_is_refused(tmp_path: Path) -> None:
    for name in ("a.pem", "a.key"):
        (tmp_path / name).write_text("nonsense")
    with pytest.raises(ValueError, match=r"a\.pem.*not a PEM certificate"):
        TlsFiles(tmp_path / "a.pem", tmp_path / "a.key").check()


def test_small_answers_are_sent_at_once() -> None:
    """Without this option of TCP each answer takes 40 ms."""
    with listen("127.0.0.1", 0) as listening:
        assert (
            listening.proto == socket.IPPROTO_TCP
        )  # asyncio sets TCP_NODELAY on such sockets alone


def test_a_port_in_use_is_named_or_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port}"):
            listen("127.0.0.1", port)
        monkeypatch.setattr("wbcpipe.review.server.address.DEFAULT_PORT", port)
        with listen("127.0.0.1", None) as other:
            assert other.getsockname()[1] != port


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "*", "[::]"])
def test_every_address_at_once_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match="every address"):
        is_loopback(host)


def test_loopback_is_told_from_other_addresses() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "127.9.9.9")] == [
        True
    ] * 4
    assert not is_loopback("192.0.2.1")
    assert not is_loopback("2001:db8::1")


@pytest.mark.parametrize(
    ("address", "url", "host"),
    [
        (ServerAddress("127.0.0.1", 8017), "http://127.0.0.1:8017", "localhost:8017"),
        (ServerAddress("::1", 8017), "http://[::1]:8017", "[::1]:8017"),
        (ServerAddress("192.0.2.1", 443, tls=True), "https://192.0.2.1", "192.0.2.1"),
    ],
)
def test_an_address_knows_its_names(address: ServerAddress, url: str, host: str) -> None:
    assert address.url == url
    assert host in address.hosts
    assert url in address.origins
