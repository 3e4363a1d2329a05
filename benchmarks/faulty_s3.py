"""An S3 server on loopback behind a proxy that fails some requests, for benchmarks.

The server is moto's, in a virtual environment of its own. The proxy answers a share of the requests
with 503, cuts the body of an answer short, or carries a request out and drops the answer; which of
them follows from a seed. It counts requests and bytes as they go over the wire.

    with faulty_s3(Faults(percent=5, seed=1)) as server:
        subprocess.run([...], env={**os.environ, **server.environment})
        print(server.counts)
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET = "laboratory"
KINDS = ("503", "cut", "lost")


@dataclass
class Faults:
    """Which requests fail.

    Attributes:
        percent: of the requests.
        seed: of the choice.
    """

    percent: float = 5.0
    seed: int = 1

    def __post_init__(self) -> None:
        self._random, self._lock = random.Random(self.seed), threading.Lock()

    def draw(self) -> str:
        """Return the fault of the next request; empty for none."""
        with self._lock:
            if self._random.uniform(0, 100) >= self.percent:
                return ""
            return self._random.choice(KINDS)


@dataclass
class Server:
    """A running server.

    Attributes:
        environment: variables with which a client uses it.
        direct: the same, without the proxy.
        faults: may be changed while it runs.
        counts: requests by method, faults by kind, ``bytes in`` (to the server) and ``bytes out``.
        port: of the server itself.
    """

    environment: dict[str, str]
    direct: dict[str, str]
    faults: Faults
    counts: Counter[str] = field(default_factory=Counter)
    port: int = 0

    def require_credentials(self, action: str = "s3:*") -> dict[str, str]:
        """Have the server check signatures from now on; return the variables of a new user.

        Args:
            action: that the user may take.
        """
        text = {"Content-Type": "text/plain"}
        _ask(self.port, "moto-api/reset-auth", b"inf", text)
        name = secrets.token_hex(4)
        _iam(self.port, Action="CreateUser", UserName=name)
        answer = _iam(self.port, Action="CreateAccessKey", UserName=name)
        allowed = {"Effect": "Allow", "Action": action, "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
        words = {"UserName": name, "PolicyName": "benchmark", "PolicyDocument": policy}
        _iam(self.port, Action="PutUserPolicy", **words)
        _ask(self.port, "moto-api/reset-auth", b"0", text)
        found = [re.search(f"<{tag}>(.+?)<", answer) for tag in ("AccessKeyId", "SecretAccessKey")]
        key, secret = (one[1] for one in found if one)
        return {**self.direct, "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}


def _ask(port: int, path: str, body: bytes, headers: dict[str, str]) -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", body, headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(answer.read().decode())


def _iam(port: int, **words: str) -> str:
    """Ask moto's service for users, which it knows by the scope of a signature."""
    signed = "AWS4-HMAC-SHA256 Credential=benchmark/20260101/us-east-1/iam/aws4_request"
    body = urllib.parse.urlencode({"Version": "2010-05-08", **words}).encode()
    return _ask(port, "", body, {"Authorization": signed})


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Server
    port: int

    def log_message(self, *_: object) -> None:
        pass

    def _go(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.state.faults.draw()
        method = "LIST" if "list-type=2" in self.path else self.command
        self.state.counts.update({method: 1, "bytes in": len(body)})
        if fault:
            self.state.counts[f"fault {fault}"] += 1
        if fault == "503":
            self._answer(503, b"<Error><Code>SlowDown</Code></Error>", [])
            return
        upstream = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(upstream):
            upstream.request(self.command, self.path, body or None, dict(self.headers))
            answer = upstream.getresponse()
            content = answer.read()
        if fault == "lost":
            self.close_connection = True
            return
        headers = [
            (name, value)
            for name, value in answer.getheaders()
            if name.lower() not in ("connection", "transfer-encoding", "date", "server")
        ]
        self._answer(answer.status, content, headers, cut=fault == "cut")

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _go  # noqa: N815

    def _answer(
        self, status: int, content: bytes, headers: list[tuple[str, str]], *, cut: bool = False
    ) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            sent = content[: len(content) // 2] if cut else content
            self.state.counts["bytes out"] += len(sent)
            self.wfile.write(sent)
        self.close_connection = self.close_connection or cut


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """A client that was killed is no error here."""


def moto_server() -> Path:
    """Return the program of moto's server; install it into an environment of its own, once."""
    folder = Path(
        os.environ.get("WBCPIPE_MOTO_ENV") or Path(tempfile.gettempdir()) / "wbcpipe-moto-env"
    )
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    if not list(scripts.glob("moto_server*")):
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        python = next(scripts.glob("python*"))
        subprocess.run([str(python), "-m", "pip", "install", "-q", "moto[server]"], check=True)
    return next(scripts.glob("moto_server*"))


@contextlib.contextmanager
def faulty_s3(faults: Faults) -> Iterator[Server]:
    """Run the server and its proxy, with one empty bucket."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    moto = subprocess.Popen(
        [str(moto_server()), "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _create_bucket(port)
        common = {
            "AWS_ACCESS_KEY_ID": "benchmark",
            "AWS_SECRET_ACCESS_KEY": "benchmark",
            "AWS_REGION": "us-east-1",
        }
        with _Server(("127.0.0.1", 0), _Proxy) as proxy:
            state = Server(
                {**common, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.server_port}"},
                {**common, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"},
                faults,
                port=port,
            )
            _Proxy.state, _Proxy.port = state, port
            threading.Thread(target=proxy.serve_forever, daemon=True).start()
            yield state
            proxy.shutdown()
    finally:
        moto.terminate()
        moto.wait()


def _create_bucket(port: int) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{BUCKET}", method="PUT")
    for _ in range(300):
        try:
            urllib.request.urlopen(request, timeout=10).close()
            return
        except OSError:
            time.sleep(0.2)
    raise SystemExit("moto's server did not start within a minute")
