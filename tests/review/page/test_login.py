"""A reader logs in with a password in a real browser, and out again."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser

PASSWORD = "correct horse battery"


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server with a password file."""
    uvicorn = pytest.importorskip("uvicorn", reason="the server needs the extra `review`")
    from wbcpipe.review.server import passwords
    from wbcpipe.review.server.address import ServerAddress, listen
    from wbcpipe.review.server.app import ReviewApp
    from wbcpipe.review.server.options import ServerOptions

    monkeypatch.setattr(passwords, "SCRYPT_N", 2**4)
    passwords.set_password(tmp_path / "readers.txt", "anna", PASSWORD)
    root = tmp_path / "data"
    root.mkdir()
    with listen("127.0.0.1", 0) as listening:
        address = ServerAddress("127.0.0.1", listening.getsockname()[1])
        app = ReviewApp(
            ServerOptions(root, address, passwords.PasswordFile(tmp_path / "readers.txt"))
        )
        config = uvicorn.Config(
            app.asgi, http="h11", ws="none", lifespan="off", log_config=None, access_log=False
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        yield address.url
        server.should_exit = True
        thread.join(10)
        app.close()


def test_a_reader_logs_in_and_out(browser: Browser, url: str) -> None:
    context = browser.new_context()
    context.set_default_timeout(10_000)
    page = context.new_page()
    page.goto(url)
    assert page.url == f"{url}/login"
    page.get_by_label("Name").fill("anna")
    page.get_by_label("Password").fill("wrong password")
    page.get_by_role("button", name="Log in").click()
    assert "wrong" in page.get_by_role("alert").inner_text()
    assert page.get_by_label("Name").input_value() == "anna"
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"{url}/")
    assert "anna" in page.inner_text("header")
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url(f"{url}/login")
    page.goto(url)
    assert page.url == f"{url}/login"
    context.close()
