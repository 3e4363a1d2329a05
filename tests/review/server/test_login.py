"""Passwords: their file, the login, and the limit on guesses."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from wbcpipe.errors import ConfigError
from wbcpipe.review.server import passwords
from wbcpipe.review.server.passwords import LoginLimit, PasswordFile, set_password
from wbcpipe.review.server.sessions import Sessions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RIGHT = "correct horse battery"


@pytest.fixture(autouse=True)
def _cheap_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hash in a millisecond."""
    monkeypatch.setattr(passwords, "SCRYPT_N", 2**4)


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "readers.txt"
    set_password(path, "Ada", RIGHT)
    set_password(path, "Bo: <b>", "another password")
    return path


def log_in(client: Any, reader: str, password: str) -> Any:
    headers = {"origin": client.origin, "content-type": "application/x-www-form-urlencoded"}
    body = urlencode({"reader": reader, "password": password})
    return client.request("POST", "/login", headers=headers, content=body.encode())


def test_the_file_holds_hashes_that_only_its_owner_reads(password_file: Path) -> None:
    text = password_file.read_text()
    assert RIGHT not in text
    assert os.name != "posix" or password_file.stat().st_mode & 0o777 == 0o600
    known = PasswordFile(password_file)
    assert known.readers == ("Ada", "Bo: <b>")
    assert known.matches("Ada", RIGHT)
    assert known.matches("Bo: <b>", "another password")
    assert not known.matches("Ada", RIGHT + " ")
    assert not known.matches("Ada", "")
    assert not known.matches("Eve", RIGHT)
    set_password(password_file, "Ada", "a newer password")
    assert not PasswordFile(password_file).matches("Ada", RIGHT)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_file_that_others_may_read_is_refused(password_file: Path, mode: int) -> None:
    password_file.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        PasswordFile(password_file)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no reader"),
        ("Ada:plain text", "line 1"),
        ("# a note\nAda:scrypt$16$8$3$AAAA$!!", "line 2"),
        ("Ada:scrypt$1073741824$8$1$AAAA$AAAA", "cost"),
        ("Ada:scrypt$17$8$1$AAAA$AAAA", "cost"),
        ("\x07:scrypt$16$8$3$AAAA$AAAA", "line 1"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "readers.txt"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=reason):
        PasswordFile(path)


@pytest.mark.parametrize(
    ("reader", "password"), [("Ada", "short"), ("", RIGHT), ("a\nb", RIGHT), ("x" * 65, RIGHT)]
)
def test_a_name_or_password_that_is_refused_changes_nothing(
    password_file: Path, reader: str, password: str
) -> None:
    before = password_file.read_bytes()
    with pytest.raises(ConfigError):
        set_password(password_file, reader, password)
    assert password_file.read_bytes() == before


@pytest.mark.usefixtures("planted")
def test_a_reader_logs_in_and_out(serve: Callable[..., Any], password_file: Path) -> None:
    client = serve("", passwords=PasswordFile(password_file))
    assert client.get("/static/login.css").status_code == 200
    page = client.get("/samples/S1")
    assert (page.status_code, page.headers["location"]) == (303, "/login")
    assert client.get("/api/samples").status_code == 403
    assert 'name="password"' in client.get("/login").text
    wrong = log_in(client, "Ada", "wrong password")
    assert wrong.status_code == 403
    assert "wrong" in wrong.text
    assert "set-cookie" not in wrong.headers
    answer = log_in(client, "Bo: <b>", "another password")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    client.secret = answer.headers["set-cookie"].split(";")[0].partition("=")[2]
    assert client.sample()["reader"] == "Bo: <b>"
    assert "&lt;b&gt;" in client.get("/").text
    assert "<b>" not in client.get("/").text
    assert client.post("/logout", {}).status_code == 204
    assert client.get("/api/samples").status_code == 403


def test_a_login_with_script_in_the_name_shows_text(
    serve: Callable[..., Any], password_file: Path
) -> None:
    client = serve("", passwords=PasswordFile(password_file))
    answer = log_in(client, '"><script>alert(1)</script>', "wrong password")
    assert "<script>alert" not in answer.text
    assert "&lt;script&gt;" in answer.text


def test_a_form_of_another_site_does_not_log_in(
    serve: Callable[..., Any], password_file: Path
) -> None:
    client = serve("", passwords=PasswordFile(password_file))
    headers = {"origin": "http://evil.example", "content-type": "application/x-www-form-urlencoded"}
    body = urlencode({"reader": "Ada", "password": RIGHT}).encode()
    assert client.request("POST", "/login", headers=headers, content=body).status_code == 403


def test_a_server_without_passwords_takes_none(serve: Callable[..., Any]) -> None:
    assert log_in(serve(""), "Ada", RIGHT).status_code == 403


def test_guesses_become_slow(serve: Callable[..., Any], password_file: Path) -> None:
    client = serve("", passwords=PasswordFile(password_file))
    found = [log_in(client, "Ada", f"guess number {number}").status_code for number in range(7)]
    assert found == [403] * 5 + [429] * 2
    assert log_in(client, "Ada", RIGHT).status_code == 429


def test_the_limit_doubles_and_ends() -> None:
    now = [0.0]
    limit = LoginLimit(clock=lambda: now[0])
    for _ in range(5):
        assert limit.wait_s("a") == 0
        limit.failed("a")
    assert limit.wait_s("a") == 2
    assert limit.wait_s("b") == 0
    now[0] += 2
    assert limit.wait_s("a") == 0
    limit.failed("a")
    assert limit.wait_s("a") == 4
    for _ in range(30):
        limit.failed("a")
    assert limit.wait_s("a") == 900
    limit.succeeded("a")
    assert limit.wait_s("a") == 0


def test_sessions_end_when_idle_and_are_few() -> None:
    now = [0.0]
    sessions = Sessions(idle_s=10, clock=lambda: now[0])
    first = sessions.begin("Ada")
    now[0] = 9
    assert sessions.reader(first) == "Ada"
    now[0] = 18
    assert sessions.reader(first) == "Ada"
    now[0] = 29
    assert sessions.reader(first) is None
    secrets = []
    for _ in range(300):
        now[0] += 0.001
        secrets.append(sessions.begin("Bo"))
    assert sessions.reader(secrets[-1]) == "Bo"
    assert sessions.reader(secrets[0]) is None
    sessions.end(secrets[-1])
    assert sessions.reader(secrets[-1]) is None
