"""A small S3 server in this process, which can fail on request, and samples of a few kilobytes."""

from __future__ import annotations

import hashlib
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import numpy as np
import pytest

from wbcpipe.remote import object_store
from wbcpipe.remote.locations import ObjectLocation
from wbcpipe.remote.object_store import ObjectStore, RetryPolicy
from wbcpipe.samples.fields import MODALITIES, FieldInfo, FrameInfo, field_path, write_field
from wbcpipe.samples.records import SampleRecord
from wbcpipe.samples.sample import Sample
from wbcpipe.samples.scan_outcome import ScanOutcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: Answers with an error of the server or of rights; cuts the connection in the body; sends half of
#: an object as if it were all; carries a write out and drops the connection instead of the answer.
Fault = Literal["503", "403", "cut", "short", "lost"]
BUCKET = "laboratory"
WRITER, READER, SECRET = "WRITERKEYCANARY", "READERKEYCANARY", "SECRETCANARY"


@dataclass
class FakeS3:
    """The state of the server.

    Attributes:
        objects: key to content.
        requests: method and key, in their order.
        fault: returns what goes wrong with a request, given its method and key.
        etags: of objects whose ETag is no MD5.
    """

    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    fault: Callable[[str, str], Fault | None] = lambda _method, _key: None
    etags: dict[str, str] = field(default_factory=dict)
    address: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def etag(self, key: str) -> str:
        """The MD5 of an object, unless another is set."""
        content = self.objects[key]
        return self.etags.get(key) or hashlib.md5(content, usedforsecurity=False).hexdigest()

    def counts(self) -> Counter[str]:
        """The number of requests by method."""
        return Counter(method for method, _ in self.requests)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _go(self) -> None:
        state, parts = self.server.state, urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, True).items()}
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        method = "LIST" if self.command == "GET" and not key else self.command
        with state.lock:
            state.requests.append((method, key or query.get("prefix", "")))
            fault = state.fault(method, key or query.get("prefix", ""))
        found = re.search(r"Credential=([^/]+)/", self.headers.get("Authorization", ""))
        user = found[1] if found else ""
        if fault == "503":
            self._error(503, "SlowDown")
        elif fault == "403":
            self._error(403, "AccessDenied", f"<StringToSign>{SECRET}</StringToSign>")
        elif user not in (WRITER, READER):
            # As S3 does: the answer repeats what must not be shown.
            self._error(403, "InvalidAccessKeyId", f"<AWSAccessKeyId>{user}</AWSAccessKeyId>")
        elif bucket != BUCKET:
            self._error(404, "NoSuchBucket")
        elif method == "PUT" and user == READER:
            self._error(403, "AccessDenied", f"<StringToSign>{SECRET}</StringToSign>")
        elif method == "LIST":
            self._list(query)
        elif method == "PUT":
            self._put(key, body, fault)
        elif key not in state.objects:
            self._error(404, "NoSuchKey")
        else:
            self._get(key, fault)

    do_GET = do_PUT = do_HEAD = do_POST = _go  # noqa: N815 - of the base class

    def _put(self, key: str, body: bytes, fault: Fault | None) -> None:
        state = self.server.state
        with state.lock:
            if self.headers.get("If-None-Match") == "*" and key in state.objects:
                self._error(412, "PreconditionFailed")
                return
            state.objects[key] = body[: len(body) // 2] if fault == "short" else body
        if fault == "lost":
            self.close_connection = True
            return
        self._answer(200, b"", {"ETag": f'"{state.etag(key)}"'})

    def _get(self, key: str, fault: Fault | None) -> None:
        content, etag = self.server.state.objects[key], self.server.state.etag(key)
        headers = {"ETag": f'"{etag}"', "Last-Modified": "Mon, 30 Nov 2026 08:00:00 GMT"}
        status = 200
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop = int(found[1]), int(found[2] or len(content) - 1) + 1
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
            content, status = content[start:stop], 206
        if fault == "short":
            content = content[: len(content) // 2]
        self._answer(status, content, headers, cut=fault == "cut")

    def _list(self, query: dict[str, str]) -> None:
        state, prefix = self.server.state, query.get("prefix", "")
        delimiter, after = query.get("delimiter", ""), query.get("continuation-token", "")
        rows, folders = [], set[str]()
        for key in sorted(state.objects):
            if not key.startswith(prefix) or key <= after:
                continue
            rest = key.removeprefix(prefix)
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
                continue
            rows.append(key)
        page = rows[: int(query.get("max-keys", 1000))]
        more = f"<NextContinuationToken>{escape(page[-1] if page else '')}</NextContinuationToken>"
        content = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(state.objects[key])}</Size>"
            f"<LastModified>2026-11-30T08:00:00.000Z</LastModified>"
            f"<ETag>&quot;{state.etag(key)}&quot;</ETag></Contents>"
            for key in page
        ) + "".join(
            f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>"
            for one in sorted(folders)
        )
        truncated = len(page) < len(rows)
        self._answer(
            200,
            f"<ListBucketResult><IsTruncated>{str(truncated).lower()}</IsTruncated>"
            f"{more if truncated else ''}{content}</ListBucketResult>".encode(),
            {},
        )

    def _error(self, status: int, code: str, more: str = "") -> None:
        self._answer(status, f"<Error><Code>{code}</Code>{more}</Error>".encode(), {})

    def _answer(
        self, status: int, content: bytes, headers: dict[str, str], *, cut: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = self.close_connection or cut


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    state: FakeS3

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that is gone is no error here."""


@pytest.fixture(scope="session")
def s3_server() -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def s3(s3_server: _Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeS3:
    """An empty bucket, and the environment of somebody who may write to it."""
    state = FakeS3(address=f"http://127.0.0.1:{s3_server.server_port}")
    s3_server.state = state
    settings = {
        "AWS_ENDPOINT_URL": state.address,
        "AWS_ACCESS_KEY_ID": WRITER,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(object_store, "time", SimpleNamespace(sleep=lambda _seconds: None))
    return state


@pytest.fixture
def store(s3: FakeS3) -> ObjectStore:
    """The store of a prefix of that bucket."""
    del s3
    return ObjectStore(ObjectLocation("s3", BUCKET, "site-1"), retry=RetryPolicy(attempts=3))


@pytest.fixture
def folder_store(tmp_path: Path) -> ObjectStore:
    """A folder in the layout of a bucket."""
    (tmp_path / "bucket").mkdir()
    return ObjectStore(ObjectLocation("file", "", str(tmp_path / "bucket")))


def _write_sample(root: Path, name: str, fields: int = 3, created: str = "2026-11-30") -> Sample:
    sample = Sample.open(root, name)
    sample.write(SampleRecord(sample=name, created=created, modalities=MODALITIES))
    raw = sample.raw_path()
    raw.mkdir(parents=True)
    frames = tuple(FrameInfo(modality) for modality in MODALITIES)
    for index in range(fields):
        images = np.full((4, 8, 8), index, np.uint16)
        write_field(field_path(raw, index), images, FieldInfo(index, 0, 0, 0.5, frames))
    sample.log("created")
    return sample


def _end_scan(sample: Sample, fields: int = 3) -> None:
    ScanOutcome(reason="fields", fields_done=fields, fields_wanted=fields).save(sample)


@pytest.fixture
def write_sample(tmp_path: Path) -> Callable[..., Sample]:
    """Writes a sample that is being scanned; ``ended`` writes its end too."""

    def write(name: str = "S1", *, ended: bool = True, **given: object) -> Sample:
        sample = _write_sample(tmp_path / "data", name, **given)  # type: ignore[arg-type]
        if ended:
            _end_scan(sample)
        return sample

    return write


@pytest.fixture
def end_scan() -> Callable[[Sample], None]:
    return _end_scan
