"""Alerts of a batch.

By apprise or a command, at most one of a kind until its cause has ended, and a sign of life.

A thread sends; the batch never waits for it. What failed is tried again. URLs and the answers of
services may hold secrets, so no text of either reaches a log, the journal or an error.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import importlib
import logging
import os
import queue
import subprocess
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from wbcpipe.batch.alerts.config import ALERT_KINDS, AlertSettings, load_alert_settings
from wbcpipe.batch.records import JournalEntry
from wbcpipe.errors import ConfigError, MissingPackageError, WbcpipeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.batch.alerts.config import AlertKind
    from wbcpipe.batch.records import BatchEvent
    from wbcpipe.batch.state.batch_folder import BatchFolder

__all__ = ["ALERTS_VARIABLE", "Alerter"]

#: Environment variable that names the alerts file.
ALERTS_VARIABLE: Final = "WBCPIPE_ALERTS"
#: Pauses before an alert that failed is sent again; the last one is repeated.
RETRY_S: Final = (60.0, 300.0, 900.0)
_CLOSE_S: Final = 10.0


@dataclass(frozen=True)
class _Alert:
    kind: AlertKind
    title: str
    body: str
    channel: int


@dataclass(frozen=True)
class _Outcome:
    """Of an attempt to send an alert, or of a sign of life; ``reason`` is empty if it arrived."""

    kind: str
    reason: str


class Alerter:
    """Sends the alerts of one batch.

    One thread of the batch calls all methods; none of them waits for the network, except `close`.

    Args:
        settings: see `AlertSettings`.
        folder: whose journal keeps which alerts were sent, so that a batch that resumes does not
            send them again; ``None`` keeps no record.

    Raises:
        ConfigError: apprise is missing, or does not know a URL.
    """

    def __init__(self, settings: AlertSettings, folder: BatchFolder | None = None) -> None:
        self._settings, self._folder = settings, folder
        self._channels = _channels(settings)
        self._sent = set() if folder is None else _alerts_in_force(folder.journal())
        self._failed: set[str] = set()  # kinds whose failure is in the journal
        self._next_ping_s = 0.0
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._outcomes: queue.SimpleQueue[_Outcome] = queue.SimpleQueue()
        self._recorded = set(self._sent)  # kinds whose arrival is in the journal
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="alerts", daemon=True)
        self._waiting: list[tuple[float, int, _Alert]] = []
        if self._channels or settings.alive.url or settings.alive.file:
            self._thread.start()

    @classmethod
    def from_file(cls, path: Path | None, folder: BatchFolder | None = None) -> Self:
        """Return the alerter of an alerts file, by default that of ``WBCPIPE_ALERTS``.

        Without one it sends nothing.

        Raises:
            ConfigError: see `load_alert_settings`.
        """
        chosen = path or (Path(named) if (named := os.environ.get(ALERTS_VARIABLE)) else None)
        return cls(
            AlertSettings(kinds=()) if chosen is None else load_alert_settings(chosen), folder
        )

    @property
    def channels(self) -> tuple[str, ...]:
        """Name each channel, without its address: ``urls[0] (Discord)``, ``command``."""
        return tuple(channel.name for channel in self._channels)

    def send(self, kind: AlertKind, title: str, body: str) -> None:
        """Send an alert, unless one of its kind was sent and its cause has not ended.

        Return at once.

        Raises:
            ValueError: no such kind.
        """
        if kind not in ALERT_KINDS:
            raise ValueError(f"no alert {kind!r} (allowed: {', '.join(ALERT_KINDS)})")
        self._record()
        if kind in self._sent or kind not in self._settings.kinds or not self._channels:
            return
        self._sent.add(kind)
        for number in range(len(self._channels)):
            self._tasks.put(functools.partial(self._attempt, _Alert(kind, title, body, number), 0))

    def clear(self, kind: AlertKind) -> None:
        """Say that the cause of a kind has ended: the next one is sent again."""
        self._record()
        self._sent.discard(kind)
        if kind in self._recorded:
            self._recorded.discard(kind)
            self._journal("alert_cleared", kind)

    def alive(self) -> None:
        """Give a sign of life if one is due.

        Call it from the loop whose hang must raise the alarm.
        """
        self._record()
        alive = self._settings.alive
        if time.monotonic() < self._next_ping_s or not (alive.url or alive.file):
            return
        self._next_ping_s = time.monotonic() + 60 * alive.every_min
        self._tasks.put(lambda: self._ping(alive.url, touch=True))

    def close(self, *, in_order: bool = True, wait_s: float | None = None) -> None:
        """Send what waits, and stop.

        Args:
            in_order: the batch has ended, so that no sign of life is expected any more.
            wait_s: longest time to wait for the thread; by default the time limit of an attempt and
                ten seconds.
        """
        if self._thread.is_alive():
            if in_order:
                self._tasks.put(lambda: self._ping(self._settings.alive.end_url, touch=False))
            self._closing.set()
            self._tasks.put(None)
            self._thread.join(self._settings.timeout_s + _CLOSE_S if wait_s is None else wait_s)
        self._record()

    def test(self) -> list[tuple[str, str]]:
        """Send a test to each channel, now.

        Return each one's name and why it failed, ``""`` if it did not.
        """
        text = "This is a test of wbcpipe's alerts. You need not do anything."
        found = [
            (
                channel.name,
                _failure(channel, ("test", "wbcpipe: test alert", text), self._settings),
            )
            for channel in self._channels
        ]
        alive = self._settings.alive
        if alive.url or alive.file:
            found.append(("alive", _give_sign(alive.url, alive.file, self._settings.timeout_s)))
        return found

    # In the thread.

    def _work(self) -> None:
        while True:
            due_s = max(
                min((at for at, _, _ in self._waiting), default=time.monotonic() + 3600)
                - time.monotonic(),
                0,
            )
            try:
                task = self._tasks.get(timeout=due_s)
            except queue.Empty:
                self._retry(time.monotonic())
                continue
            if task is None:
                self._retry(float("inf"))  # a last attempt
                return
            task()

    def _retry(self, until_s: float) -> None:
        due = [entry for entry in self._waiting if entry[0] <= until_s]
        self._waiting = [entry for entry in self._waiting if entry[0] > until_s]
        for _, attempts, alert in due:
            self._attempt(alert, attempts)

    def _attempt(self, alert: _Alert, attempts: int) -> None:
        channel = self._channels[alert.channel]
        reason = _failure(channel, (alert.kind, alert.title, alert.body), self._settings)
        self._outcomes.put(_Outcome(alert.kind, f"{channel.name}: {reason}" if reason else ""))
        if reason:
            pause_s = RETRY_S[min(attempts, len(RETRY_S) - 1)]
            self._waiting.append((time.monotonic() + pause_s, attempts + 1, alert))

    def _ping(self, url: str, *, touch: bool) -> None:
        path = self._settings.alive.file
        reason = _give_sign(url, path if touch else "", self._settings.timeout_s)
        if path and not touch:
            with contextlib.suppress(OSError):
                if Path(path).stat().st_size == 0:  # never a file that holds something
                    Path(path).unlink()
        if reason:
            self._outcomes.put(_Outcome("alive", reason))

    # The journal: in the thread of the batch, its only writer.

    def _record(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                outcome = self._outcomes.get_nowait()
                seen = self._failed if outcome.reason else self._recorded
                if outcome.kind in seen:
                    continue
                seen.add(outcome.kind)
                if outcome.reason:
                    self._journal("alert_failed", f"{outcome.kind}: {outcome.reason}")
                else:
                    self._journal("alert_sent", outcome.kind)

    def _journal(self, event: BatchEvent, reason: str) -> None:
        if self._folder is not None:
            with contextlib.suppress(
                WbcpipeError, OSError
            ):  # on a full disk the alert matters more than its record
                self._folder.append(
                    JournalEntry(time=datetime.now(UTC), event=event, reason=reason)
                )


def _alerts_in_force(journal: list[JournalEntry]) -> set[str]:
    """Return the kinds that were sent and whose cause has not ended."""
    kinds: set[str] = set()
    for entry in journal:
        if entry.event == "alert_sent":
            kinds.add(entry.reason)
        elif entry.event == "alert_cleared":
            kinds.discard(entry.reason)
    return kinds


# Channels.


@dataclass(frozen=True)
class _Channel:
    """One way to send: ``send(kind, title, body)`` returns whether it arrived, or raises."""

    name: str
    send: Callable[[str, str, str], bool]


def _channels(settings: AlertSettings) -> list[_Channel]:
    channels = [_apprise_channel(number, url) for number, url in enumerate(settings.urls)]
    if settings.command:
        channels.append(_Channel("command", lambda *alert: _run_command(settings, alert)))
    return channels


def _apprise_channel(number: int, url: str) -> _Channel:
    try:
        apprise = importlib.import_module("apprise")
    except ImportError as error:
        raise MissingPackageError(
            "alerts to URLs need the package apprise; run `pip install 'wbcpipe[notify]'`, or "
            "give a command instead."
        ) from error
    for name in ("apprise", "urllib3", "requests"):
        # They write addresses, with the secrets in them, to the log.
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    service = apprise.Apprise()
    if not service.add(url):
        raise ConfigError(
            f"key 'alerts.urls[{number}]' is no URL that apprise knows (it is not shown: it may "
            f"hold a secret); see https://github.com/caronc/apprise/wiki."
        )
    names = {f"{server.service_name}" for server in service}
    return _Channel(
        f"urls[{number}] ({', '.join(sorted(names))})",
        lambda _kind, title, body: bool(
            service.notify(title=title, body=body or title)
        ),  # an empty body is refused
    )


def _run_command(settings: AlertSettings, alert: tuple[str, ...]) -> bool:
    kind, title, body = alert
    # Windows takes no NUL in an environment, and at most 32,767 characters of a variable; standard
    # input has it all.
    words = {"KIND": kind, "TITLE": title[:1000], "BODY": body[:8000]}
    done = subprocess.run(
        settings.command,
        input=f"{title}\n\n{body}\n".encode(),
        env=os.environ
        | {f"WBCPIPE_ALERT_{name}": text.replace("\0", " ") for name, text in words.items()},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=settings.timeout_s,
        check=False,
    )
    return done.returncode == 0


def _failure(channel: _Channel, alert: tuple[str, str, str], settings: AlertSettings) -> str:
    """Send; return why it failed, without the text of the error, which may hold a secret."""
    try:
        return "" if channel.send(*alert) else "the service or the command reported a failure"
    except subprocess.TimeoutExpired:
        return f"the command did not end within {settings.timeout_s:g} s"
    except Exception as error:  # noqa: BLE001 - the boundary to a plugin of apprise: nothing may end the thread
        return type(error).__name__


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follow no redirection: the address of a sign of life is a secret."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _give_sign(url: str, file: str, timeout_s: float) -> str:
    """Touch the file and fetch the URL; return why that failed."""
    problems = []
    try:
        if file:
            Path(file).touch()
    except OSError as error:
        problems.append(f"the file cannot be touched ({error.strerror})")
    try:
        if url:
            with urllib.request.build_opener(_HttpsOnly).open(url, timeout=timeout_s):
                pass
    except urllib.error.HTTPError as error:
        problems.append(f"the URL answers {error.code}")
        error.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        problems.append(f"the URL cannot be reached ({type(error).__name__})")
    return "; ".join(problems)
