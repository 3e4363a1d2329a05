"""Alerts: to a listener and to a command, once a kind, never a secret in what is written, never a
wait.
"""

from __future__ import annotations

import http.server
import json
import logging
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from wbcpipe.batch.alerts.alerts import Alerter
from wbcpipe.batch.alerts.config import AlertSettings, AliveSettings, load_alert_settings
from wbcpipe.batch.state.batch_folder import BatchFolder
from wbcpipe.errors import ConfigError
from wbcpipe.pipeline import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = "hunter2-Tr0ub4dor"
pytestmark = pytest.mark.usefixtures("stop_handlers")


class Listener(http.server.ThreadingHTTPServer):
    """Keeps what it is sent; answers ``answer``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[tuple[str, str, bytes]] = []
        self.answer = 200
        self.delay = threading.Event()
        self.delay.set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Listener

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.delay.wait(5)
        self.server.got.append((self.command, self.path, body))
        self.send_response(self.server.answer)
        if self.server.answer == 302:
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        """Stay silent."""


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.delay.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> BatchFolder:
    folder = BatchFolder.open(tmp_path / "data", "night")
    folder.create()
    return folder


def events(folder: BatchFolder) -> list[tuple[str, str]]:
    return [(entry.event, entry.reason) for entry in folder.journal()]


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def test_a_kind_is_sent_once_until_its_cause_has_ended(
    listener: Listener, folder: BatchFolder
) -> None:
    alerter = Alerter(AlertSettings(urls=(f"json://{listener.address}/hook",)), folder)
    for _ in range(3):
        alerter.send("disk_low", "Disk low", "2 GB are free.")
    alerter.send("finished", "12 of 14", "See morning.html")
    alerter.close()
    titles = [json.loads(body)["title"] for _, _, body in listener.got]
    assert titles == ["Disk low", "12 of 14"]
    assert events(folder) == [("alert_sent", "disk_low"), ("alert_sent", "finished")]

    resumed = Alerter(AlertSettings(urls=(f"json://{listener.address}/hook",)), folder)
    resumed.send("disk_low", "Disk low", "again")  # of the same cause, after a restart
    resumed.clear("disk_low")
    resumed.send("disk_low", "Disk low", "another time")
    resumed.close()
    assert [json.loads(body)["message"] for _, _, body in listener.got[2:]] == ["another time"]
    assert ("alert_cleared", "disk_low") in events(folder)


def test_kinds_choose(listener: Listener) -> None:
    alerter = Alerter(AlertSettings(urls=(f"json://{listener.address}",), kinds=("finished",)))
    alerter.send("disk_low", "no", "")
    alerter.send("finished", "yes", "")
    alerter.close()
    assert [json.loads(body)["title"] for _, _, body in listener.got] == ["yes"]
    with pytest.raises(ValueError, match="no alert 'coffee'"):
        alerter.send("coffee", "", "")  # type: ignore[arg-type]


def test_a_command_gets_the_alert_without_a_shell(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    script = (
        "import json, os, sys; names = ['KIND', 'TITLE', 'BODY'];"
        "values = [os.environ['WBCPIPE_ALERT_' + name] for name in names];"
        "open(sys.argv[1], 'w').write(json.dumps([*values, sys.stdin.read()]))"
    )
    alerter = Alerter(AlertSettings(command=(sys.executable, "-c", script, str(out))))
    alerter.send("first_failure", "S1; rm -rf $HOME `id`", "a\nb\0c")
    alerter.close()
    title = "S1; rm -rf $HOME `id`"
    assert json.loads(out.read_text()) == [
        "first_failure",
        title,
        "a\nb c",
        f"{title}\n\na\nb\0c\n",
    ]


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (("/no/such/program",), "command: FileNotFoundError"),
        (
            (sys.executable, "-c", "raise SystemExit(3)"),
            "command: the service or the command reported a failure",
        ),
        (
            (sys.executable, "-c", "import time; time.sleep(60)"),
            "command: the command did not end within 0.3 s",
        ),
    ],
    ids=["absent", "fails", "hangs"],
)
def test_a_failure_is_in_the_journal_once_and_tried_again(
    command: tuple[str, ...], why: str, folder: BatchFolder
) -> None:
    alerter = Alerter(AlertSettings(command=command, timeout_s=0.3), folder)
    before = time.monotonic()
    alerter.send("first_failure", "t", "b")
    alerter.send("first_failure", "t", "b")
    assert time.monotonic() - before < 0.2
    alerter.close()  # the last attempt
    assert events(folder) == [("alert_failed", f"first_failure: {why}")]


def test_a_failed_alert_arrives_later(
    listener: Listener, folder: BatchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wbcpipe.batch.alerts.alerts.RETRY_S", (0.02,))
    listener.answer = 503
    alerter = Alerter(AlertSettings(urls=(f"json://{listener.address}",)), folder)
    alerter.send("finished", "t", "b")
    until = time.monotonic() + 10
    while len(listener.got) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    listener.answer = 200
    alerter.close()
    assert [event for event, _ in events(folder)] == ["alert_failed", "alert_sent"]


def test_a_service_that_does_not_answer_delays_nothing(listener: Listener) -> None:
    listener.delay.clear()
    alerter = Alerter(AlertSettings(urls=(f"json://{listener.address}",)))
    before = time.monotonic()
    alerter.send("finished", "t", "b")
    alerter.alive()
    alerter.close(wait_s=0.1)
    assert time.monotonic() - before < 1


def test_without_a_file_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WBCPIPE_ALERTS", raising=False)
    alerter = Alerter.from_file(None)
    alerter.send("finished", "t", "b")
    alerter.alive()
    alerter.close()
    assert alerter.channels == ()


# The sign of life.


def test_the_sign_of_life_is_given_while_the_batch_calls(
    listener: Listener, tmp_path: Path
) -> None:
    sign = tmp_path / "alive"
    settings = AliveSettings(
        url=f"http://{listener.address}/ping/{SECRET}",
        end_url=f"http://{listener.address}/end",
        file=str(sign),
        every_min=60,
    )
    alerter = Alerter(AlertSettings(alive=settings))
    time.sleep(0.05)
    assert not listener.got  # the thread alone gives none
    alerter.alive()
    alerter.alive()  # not yet due
    until = time.monotonic() + 10
    while not listener.got and time.monotonic() < until:
        time.sleep(0.01)
    assert sign.exists()
    alerter.close()
    assert [(method, path) for method, path, _ in listener.got] == [
        ("GET", f"/ping/{SECRET}"),
        ("GET", "/end"),
    ]
    assert not sign.exists()


def test_after_a_crash_the_sign_of_life_stays_old(tmp_path: Path) -> None:
    sign = tmp_path / "alive"
    alerter = Alerter(AlertSettings(alive=AliveSettings(file=str(sign))))
    alerter.alive()
    alerter.close(in_order=False)
    assert sign.exists()


def test_a_file_of_the_users_is_not_removed(tmp_path: Path) -> None:
    sign = tmp_path / "notes.txt"
    sign.write_text("mine")
    alerter = Alerter(AlertSettings(alive=AliveSettings(file=str(sign))))
    alerter.alive()
    alerter.close()
    assert sign.read_text() == "mine"


def test_a_redirection_is_not_followed(listener: Listener, folder: BatchFolder) -> None:
    listener.answer = 302
    alerter = Alerter(
        AlertSettings(alive=AliveSettings(url=f"http://{listener.address}/{SECRET}")), folder
    )
    alerter.alive()
    alerter.close()
    assert [path for _, path, _ in listener.got] == [f"/{SECRET}"]
    assert events(folder) == [("alert_failed", "alive: the URL answers 302")]


# The file, and its secrets.


def test_the_file_takes_secrets_from_the_environment(tmp_path: Path) -> None:
    path = write(
        tmp_path / "alerts.toml",
        '[alerts]\nurls = ["json://user:${MAIL_PASS}@127.0.0.1"]\nkinds = ["finished"]\n'
        '[alerts.alive]\nurl = "https://hc.example/${PING_ID}"\nevery_min = 2\n',
        0o644,
    )
    settings = load_alert_settings(path, {"MAIL_PASS": SECRET, "PING_ID": "42"})
    assert settings.urls == (f"json://user:{SECRET}@127.0.0.1",)
    assert settings.alive.url == "https://hc.example/42"
    assert SECRET not in repr(settings)
    with pytest.raises(
        ConfigError, match="needs the environment variable MAIL_PASS, which is not set"
    ):
        load_alert_settings(path, {"PING_ID": "42"})


@pytest.mark.skipif(sys.platform == "win32", reason="mode bits say nothing on Windows")
def test_a_url_in_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = write(
        tmp_path / "alerts.toml", f'[alerts]\nurls = ["json://u:{SECRET}@127.0.0.1"]\n', 0o640
    )
    with pytest.raises(
        ConfigError, match=r"other users can read the file \(mode 640\); run `chmod 600"
    ) as failure:
        load_alert_settings(path)
    assert SECRET not in str(failure.value)
    path.chmod(0o600)
    assert load_alert_settings(path).urls


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[alerts]\nurl = ['x']", "key 'alerts.url' is not known, did you mean 'urls'"),
        (f"[alerts]\nurls = 'json://{SECRET}'", "key 'alerts.urls': input should be a valid tuple"),
        (
            f"[alerts]\nkinds = ['{SECRET}']",
            "key 'alerts.kinds.0': input should be 'first_failure'",
        ),
        (f"[alerts]\nurls = [{SECRET}", r"not TOML \(TOMLDecodeError\)"),
        (f"[alerts]\nurls = ['nosuch://{SECRET}@x']", "is no URL that apprise knows"),
        (
            "[alerts]\ncommand = ['notify', '${TOKEN}']",
            "other users can read the arguments of a process",
        ),
        (f"[alerts.alive]\nurl = 'http://hc.example/{SECRET}'", "only https:// is allowed"),
        (f"[alerts.alive]\nurl = 'file:///etc/{SECRET}'", "only https:// is allowed"),
        ("[alerts.alive]\nevery_min = 0", "must be more than 0 and at most 1440 min"),
        ("", "key 'alerts' is missing"),
    ],
    ids=lambda text: None if SECRET in text or "[" in text else text[:20],
)
def test_a_wrong_file_is_refused_without_showing_a_value(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "alerts.toml", text)
    with pytest.raises(ConfigError, match=message):
        Alerter.from_file(path)
    with pytest.raises(SystemExit) as end:
        main(["--debug", "batch", "test-alert", "--alerts", str(path)])
    assert end.value.code == ConfigError.exit_code
    assert SECRET not in "".join(capsys.readouterr())


def test_an_absent_file_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WBCPIPE_ALERTS", str(tmp_path / "none.toml"))
    with pytest.raises(
        ConfigError, match=r"none\.toml: there is no such file; give the path of an alerts file"
    ):
        Alerter.from_file(None)


def test_apprise_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(ConfigError, match=r"pip install 'wbcpipe\[notify\]'"):
        Alerter(AlertSettings(urls=("json://127.0.0.1",)))


def test_no_output_holds_the_secret(
    listener: Listener,
    folder: BatchFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("TOKEN", SECRET)
    listener.answer = 500
    seen = tmp_path / "arguments"
    command = [
        sys.executable,
        "-c",
        "import sys; open(sys.argv[1], 'w').write(repr(sys.argv))",
        str(seen),
    ]
    path = write(
        tmp_path / "alerts.toml",
        f"[alerts]\nurls = "
        f'["json://user:${{TOKEN}}@{listener.address}/${{TOKEN}}?+X-Key=${{TOKEN}}",'
        f' "json://127.0.0.1:1/${{TOKEN}}"]\ncommand = {json.dumps(command)}\n'
        f'[alerts.alive]\nurl = "http://{listener.address}/${{TOKEN}}"\n',
    )
    alerter = Alerter.from_file(path, folder)
    alerter.send("first_failure", "t", "b")
    alerter.alive()
    alerter.close()
    assert any(SECRET in path for _, path, _ in listener.got)
    assert [event for event, _ in events(folder)].count("alert_failed") == 2
    with pytest.raises(SystemExit):
        main(["--debug", "batch", "test-alert", "--alerts", str(path)])
    written = (
        "".join(capfd.readouterr())
        + caplog.text
        + folder.journal_path.read_text()
        + seen.read_text()
    )
    written += f"{alerter.channels}{vars(alerter)}{os.fspath(path)}"
    assert "JSON" in written
    assert SECRET not in written


def test_the_command_tests_every_channel(
    listener: Listener, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sign = json.dumps(str(tmp_path / "alive"))
    path = write(
        tmp_path / "alerts.toml",
        f'[alerts]\nurls = ["json://{listener.address}"]\n[alerts.alive]\nfile = {sign}\n',
    )
    with pytest.raises(SystemExit) as end:
        main(["batch", "test-alert", "--alerts", str(path)])
    assert end.value.code == 0
    assert capsys.readouterr().out == "urls[0] (JSON): sent\nalive: sent\n"
    assert json.loads(listener.got[0][2])["title"] == "wbcpipe: test alert"
    listener.answer = 500
    with pytest.raises(SystemExit) as end:
        main(["batch", "test-alert", "--alerts", str(path), "--json"])
    out = capsys.readouterr()
    assert end.value.code == ConfigError.exit_code
    assert json.loads(out.out)["channels"][0]["problem"]
    assert "1 of 2" in out.err
