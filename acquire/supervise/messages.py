"""What the two sides of an acquisition process say to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = [
    "TAKING_FIELDS",
    "DeadlinePassed",
    "FieldEmpty",
    "FieldMissing",
    "FieldRequest",
    "FieldStarted",
    "FieldTaken",
    "Progress",
    "RequestDone",
    "WorkerEvent",
]

#: Text of the `Progress` before the first field that a process takes: the microscope is open and
#: focused.
TAKING_FIELDS: Final = "taking fields"


@dataclass(frozen=True)
class FieldRequest:
    """From the parent: take the first ``n_fields`` planned fields, none of them after
    ``deadline_s`` (`time.time`).
    """

    n_fields: int
    deadline_s: float | None


@dataclass(frozen=True)
class FieldTaken:
    """A requested field is complete on disk; ``resumed`` if it was there before this run."""

    index: int
    resumed: bool = False


@dataclass(frozen=True)
class FieldMissing:
    """A requested field could not be taken, and the reason."""

    index: int
    reason: str


@dataclass(frozen=True)
class FieldEmpty:
    """A requested field showed bare glass and was skipped."""

    index: int
    foreground_area_um2: float


@dataclass(frozen=True)
class DeadlinePassed:
    """The deadline came before every requested field had started; the others are not taken."""

    n_fields: int


@dataclass(frozen=True)
class Progress:
    """A line about the current action, for the operator."""

    text: str


@dataclass(frozen=True)
class RequestDone:
    """Every requested field is on disk, empty or missing."""

    n_fields: int


@dataclass(frozen=True)
class FieldStarted:
    """The child starts a field: if the child dies now, this field is the cause.

    For the parent's own account.
    """

    index: int


WorkerEvent = FieldTaken | FieldMissing | FieldEmpty | Progress | DeadlinePassed | RequestDone
