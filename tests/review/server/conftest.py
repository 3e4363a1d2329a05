"""The application of the review server, and a client that sends requests to it as a browser
does.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from wbcpipe.laboratory.lab_file import Lab
from wbcpipe.review.server.address import ServerAddress
from wbcpipe.review.server.app import ReviewApp
from wbcpipe.review.server.guard import cookie_name
from wbcpipe.review.server.options import ServerOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from wbcpipe.samples.sample import Sample

PORT = 8017


@dataclass
class Client:
    """Sends requests of one reader's browser.

    Attributes:
        app: the application.
        options: of the server.
        reader: whose session it has; empty for none.
        secret: of the session.
    """

    app: ReviewApp
    options: ServerOptions
    reader: str = ""
    secret: str = field(default="", init=False)

    def __post_init__(self) -> None:
        if self.reader:
            self.secret = self.options.sessions.begin(self.reader)

    @property
    def origin(self) -> str:
        return self.options.address.url

    def get(self, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        return self.request("GET", path, headers=headers)

    def post(self, path: str, json: Any, headers: dict[str, str] | None = None) -> httpx.Response:
        return self.request(
            "POST", path, headers={"origin": self.origin, **(headers or {})}, json=json
        )

    def request(
        self, method: str, path: str, headers: dict[str, str] | None = None, **content: Any
    ) -> httpx.Response:
        cookie = (
            {"cookie": f"{cookie_name(self.options.address)}={self.secret}"} if self.secret else {}
        )

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app.asgi, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url=self.origin) as client:
                return await client.request(
                    method, path, headers={**cookie, **(headers or {})}, **content
                )

        return asyncio.run(send())

    def sample(self, name: str = "S1") -> dict[str, Any]:
        answer = self.get(f"/api/samples/{name}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def write(
        self, *entries: dict[str, Any], base: str | None = None, name: str = "S1"
    ) -> httpx.Response:
        """Write entries, by default based on the last one of the journal."""
        if base is None:
            base = self.get(f"/api/samples/{name}/entries?after=").json()["head"]
        return self.post(f"/api/samples/{name}/entries", {"base": base, "entries": list(entries)})


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Client]]:
    """Return a client of a server on ``tmp_path / "data"``.

    A second call is another browser, or another server.
    """
    apps: list[ReviewApp] = []

    def start(
        reader: str = "Ada", *, like: Client | None = None, tls: bool = False, **options: Any
    ) -> Client:
        if like is not None:
            return Client(like.app, like.options, reader)
        given = ServerOptions(
            root=tmp_path / "data",
            address=ServerAddress("127.0.0.1", PORT, tls),
            lab=options.pop("lab", Lab()),
            **options,
        )
        apps.append(ReviewApp(given))
        return Client(apps[-1], given, reader)

    yield start
    for app in apps:
        app.close()


@pytest.fixture(scope="module")
def shared_client(
    tmp_path_factory: pytest.TempPathFactory, plant_sample: Callable[..., Sample]
) -> Iterator[Client]:
    """A reader's browser on a server with the sample ``S1``, for tests of a module that write
    nothing.
    """
    root = tmp_path_factory.mktemp("shared") / "data"
    plant_sample(root)
    options = ServerOptions(root=root, address=ServerAddress("127.0.0.1", PORT))
    app = ReviewApp(options)
    yield Client(app, options, "Ada")
    app.close()


@pytest.fixture
def client(
    serve: Callable[..., Client],
    planted: Sample,  # noqa: ARG001 - writes the sample that the server shows
) -> Client:
    """A reader's browser on a server with the sample ``S1``."""
    return serve()
