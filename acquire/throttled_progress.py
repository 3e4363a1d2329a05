"""Progress messages of a long phase, at most one every few seconds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ThrottledProgress"]


class ThrottledProgress:
    """Passes on at most one message every ``every_s`` seconds, the first one that long after its
    creation.

    Args:
        progress: Receives the messages.
        every_s: Seconds between two messages.
    """

    def __init__(self, progress: Callable[[str], None], every_s: float = 5.0) -> None:
        self._progress, self._every_s = progress, every_s
        self._last_s = time.monotonic()

    def __call__(self, text: str) -> None:
        """Pass on ``text`` if it is time for a message."""
        now_s = time.monotonic()
        if now_s - self._last_s >= self._every_s:
            self._last_s = now_s
            self._progress(text)
