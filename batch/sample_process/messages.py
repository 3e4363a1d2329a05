"""What the supervisor and the process of a sample say to each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wbcpipe.batch.records import Phase

__all__ = [
    "Answer",
    "MicroscopeReleased",
    "MicroscopeWanted",
    "OperatorNeeded",
    "PhaseReport",
    "SampleFailed",
    "SampleFinished",
    "SampleMessage",
    "TurnGranted",
]


@dataclass(frozen=True)
class PhaseReport:
    """What the process does.

    Sent when it changes and as it progresses, so that silence means a hang.

    Attributes:
        phase: see `Phase`.
        done, total: fields, cells or steps; 0 where not known.
        cells: counted so far; ``None`` where not known.
        text: the last line about it.
    """

    phase: Phase
    done: int = 0
    total: int = 0
    cells: int | None = None
    text: str = ""


@dataclass(frozen=True)
class MicroscopeWanted:
    """Everything is loaded: the process waits for `TurnGranted`."""


@dataclass(frozen=True)
class MicroscopeReleased:
    """The devices are free.

    Attributes:
        complete: the scan needs no more; not so after an error.
        first_field_s, last_field_s: of `time.monotonic`: when the first field was started and the
            last one was on disk; ``None`` if none was taken.
        figures: seconds by phase so far, and counts.
    """

    complete: bool
    first_field_s: float | None
    last_field_s: float | None
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class OperatorNeeded:
    """The process waits for `Answer`: the operator must do something first."""

    text: str


@dataclass(frozen=True)
class SampleFinished:
    """The part of the sample that the process was started for is complete on disk."""

    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SampleFailed:
    """An error ended the process.

    Attributes:
        error: its class.
        text: in one line.
        figures: as of `SampleFinished`.
    """

    error: str
    text: str
    figures: dict[str, float] = field(default_factory=dict)


SampleMessage = (
    PhaseReport
    | MicroscopeWanted
    | MicroscopeReleased
    | OperatorNeeded
    | SampleFinished
    | SampleFailed
)


@dataclass(frozen=True)
class TurnGranted:
    """From the supervisor: the microscope is yours.

    Attributes:
        slide_is_loaded: the process before left the same slide on the stage.
    """

    slide_is_loaded: bool = False


@dataclass(frozen=True)
class Answer:
    """From the supervisor: the operator has done it."""
