"""Who may use the page: links that work once, and the sessions that they begin."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Sessions"]

_BYTES: Final = 32
#: The oldest session ends when there are more.
_MAX_SESSIONS: Final = 256


@dataclass
class _Session:
    reader: str
    used_s: float


class Sessions:
    """One-time tokens and sessions, in memory alone.

    Both are secrets of 256 bits, kept as their SHA-256.

    Args:
        idle_s: a session that is not used for so long ends; ``None``: none ends before the server
            does.
        clock: in seconds.
    """

    def __init__(
        self, *, idle_s: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._idle_s, self._clock = idle_s, clock
        self._tokens: dict[bytes, str] = {}
        self._sessions: dict[bytes, _Session] = {}
        self._lock = threading.Lock()

    def new_token(self, reader: str) -> str:
        """Return a token that begins one session of a reader."""
        token = secrets.token_urlsafe(_BYTES)
        with self._lock:
            self._tokens[_digest(token)] = reader
        return token

    def exchange(self, token: str) -> str | None:
        """Begin a session with a token, which is used up.

        Return its secret, or ``None`` for no such token.
        """
        with self._lock:
            reader = self._tokens.pop(_digest(token), None)
        return None if reader is None else self.begin(reader)

    def begin(self, reader: str) -> str:
        """Begin a session of a reader and return its secret, for a cookie."""
        secret = secrets.token_urlsafe(_BYTES)
        with self._lock:
            while len(self._sessions) >= _MAX_SESSIONS:
                self._sessions.pop(min(self._sessions, key=lambda key: self._sessions[key].used_s))
            self._sessions[_digest(secret)] = _Session(reader, self._clock())
        return secret

    def reader(self, secret: str) -> str | None:
        """Return whose session a secret is of; ``None`` for no session, or one that ended."""
        key, now_s = _digest(secret), self._clock()
        with self._lock:
            session = self._sessions.get(key)
            if session is None:
                return None
            if self._idle_s is not None and now_s - session.used_s > self._idle_s:
                del self._sessions[key]
                return None
            session.used_s = now_s
            return session.reader

    def end(self, secret: str) -> None:
        """End a session."""
        with self._lock:
            self._sessions.pop(_digest(secret), None)


def _digest(secret: str) -> bytes:
    # The search for a secret takes as long for a nearly right one: what is compared is its hash.
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
