"""When the microscope was in use during a batch, from its journal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from wbcpipe.batch.records import JournalEntry

__all__ = ["MicroscopeUse", "idle_seconds", "microscope_use", "used_seconds"]

_BEGIN: Final = frozenset({"scan_started", "stain_started"})
_END: Final = frozenset(
    {
        "scan_finished",
        "stain_finished",
        "attempt_failed",
        "interrupted",
        "quarantined",
        "skipped",
        "held",
    }
)
_NEW_SESSION: Final = frozenset({"batch_started", "batch_resumed"})


@dataclass(frozen=True)
class MicroscopeUse:
    """One sample on the microscope.

    Attributes:
        sample: its name.
        start, end: of the scan or the stain; the end of one that a crash cut short is the last
            entry before the restart.
    """

    sample: str
    start: datetime
    end: datetime


def microscope_use(
    journal: Iterable[JournalEntry], now: datetime | None = None
) -> list[MicroscopeUse]:
    """Return each use of the microscope, in the order of their ends.

    Args:
        journal: of the batch.
        now: end of what is in progress; by default the last entry.
    """
    uses: list[MicroscopeUse] = []
    started: dict[str, datetime] = {}
    last = None
    for entry in journal:
        if entry.event in _NEW_SESSION:
            uses += [MicroscopeUse(name, start, last or start) for name, start in started.items()]
            started.clear()
        elif entry.event in _BEGIN:
            started.setdefault(entry.sample, entry.time)
        elif entry.event in _END and entry.sample in started:
            uses.append(MicroscopeUse(entry.sample, started.pop(entry.sample), entry.time))
        last = entry.time
    end = now or last
    return uses + [MicroscopeUse(name, start, end or start) for name, start in started.items()]


def used_seconds(uses: Sequence[MicroscopeUse]) -> float:
    """Return the time in which the microscope was in use; what overlaps counts once."""
    total, until = 0.0, None
    for use in sorted(uses, key=lambda use: use.start):
        start = use.start if until is None else max(use.start, until)
        total += max((use.end - start).total_seconds(), 0.0)
        until = use.end if until is None else max(use.end, until)
    return total


def idle_seconds(journal: Iterable[JournalEntry]) -> list[float]:
    """Return the idle time of the microscope before each sample, as the supervisor measured it.

    It is the time between the last field of a sample and the first field of the next in which the
    microscope neither focuses nor loads a slide.
    """
    return [entry.figures["idle_s"] for entry in journal if "idle_s" in entry.figures]
