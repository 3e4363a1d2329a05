"""The deadline of a slide."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wbcpipe.acquire.config.scope import Scope

__all__ = ["clock_text", "earliest_deadline_s"]


def earliest_deadline_s(scope: Scope, asked_s: float | None, started_s: float) -> float | None:
    """Return the earlier of the user's deadline and the scope file's time limit for a slide.

    Args:
        scope: for ``reliability.slide_time_limit_s``.
        asked_s: as `time.time` gives it; ``None`` if the user gave none.
        started_s: as `time.time` gives it, when the slide was started.
    """
    limit_s = scope.reliability.slide_time_limit_s
    own_s = started_s + limit_s if limit_s else None
    return min((at for at in (asked_s, own_s) if at is not None), default=None)


def clock_text(deadline_s: float) -> str:
    """Return a deadline as local time for people."""
    return datetime.fromtimestamp(deadline_s).astimezone().strftime("%Y-%m-%d %H:%M:%S")
