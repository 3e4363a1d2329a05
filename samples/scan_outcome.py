"""``scan.json``: the reason why a scan ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from wbcpipe.samples.records import STRICT, Count, Part, Record
from wbcpipe.system.files import file_errors, parse_json_line

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.samples.sample import Sample

__all__ = [
    "PrecisionReached",
    "ScanEntry",
    "ScanOutcome",
    "StopReason",
    "is_outcome_lost",
    "load_scan_outcome",
]

_EVENT: Final = "scan_ended"

StopReason = Literal["cells", "precision", "fields", "area", "brightfield", "deadline"]


@dataclass(frozen=True, config=STRICT)
class PrecisionReached:
    """The precision of the share of one class.

    Attributes:
        name: of the class.
        percent: its share of the identified cells; ``None`` without cells.
        half_width_percent: half of the 95 % interval, in percentage points.
        target_percent: the half-width requested.
    """

    name: str
    percent: Annotated[float, Field(ge=0, le=100)] | None
    half_width_percent: Annotated[float, Field(ge=0, le=50)]
    target_percent: Annotated[float, Field(ge=0.5, le=49)]

    @property
    def met(self) -> bool:
        """Return whether the requested precision is reached."""
        return self.half_width_percent <= self.target_percent

    def __str__(self) -> str:
        share = "-" if self.percent is None else f"{self.percent:.1f} %"
        return (
            f"{self.name} {share} +- {self.half_width_percent:.1f} (target {self.target_percent:g})"
        )


class _ScanFigures(Part):
    """The reason why a scan ended, and the figures reached.

    Attributes:
        reason: ``cells`` or ``precision`` (the target is reached), ``fields`` (the number
            requested), ``area`` (the plan is used up), ``brightfield`` (the bright-field pass is
            used up), ``deadline``.
        fields_done: planned fields that were taken, skipped as empty, or missing; with those that
            an earlier scan took beyond the number requested.
        fields_wanted: planned fields that the scan would have taken, as far as known.
        cells: counted as in the report; ``None`` if they were not counted.
        cells_wanted: the target; ``None`` without one.
        precision: one entry for each target.
    """

    reason: StopReason
    fields_done: Count
    fields_wanted: Count
    cells: Count | None = None
    cells_wanted: Count | None = None
    precision: tuple[PrecisionReached, ...] = ()


class ScanEntry(_ScanFigures):
    """Why the scan ended, in ``differential.json``; ``met``: the target is reached; ``text``: the
    same for people.
    """

    met: bool
    text: str


class ScanOutcome(_ScanFigures, Record):
    """``scan.json``: the reason why a scan ended, and the figures reached."""

    names_sample: ClassVar[bool] = True

    @property
    def text(self) -> str:
        """Return the outcome as a line for people."""
        cells = "" if self.cells is None else f"{self.cells} cells"
        if cells and self.cells_wanted is not None:
            cells += f" of {self.cells_wanted}"
        figures = ", ".join([part for part in (cells, *map(str, self.precision)) if part])
        fields = f"{self.fields_done} field{'s' * (self.fields_done != 1)}"
        more = self.fields_done > self.fields_wanted
        asked_for = f"more than the {self.fields_wanted} asked for" if more else "as asked for"
        what = {
            "cells": f"enough cells after {fields}",
            "precision": f"precision reached after {fields}",
            "fields": f"{fields}, {asked_for}",
            "area": f"the scan area was used up after {fields}",
            "brightfield": f"the bright-field pass was used up after {fields}, and a stained "
            f"slide gives no more",
            "deadline": f"STOPPED BY THE DEADLINE after {self.fields_done} of "
            f"{self.fields_wanted} fields",
        }[self.reason]
        return f"{what}: {figures}" if figures else what

    def save(self, sample: Sample) -> None:
        """Write ``scan.json`` and log it, unless the file says so already."""
        if load_scan_outcome(sample) == self:
            return
        self.write(_path(sample))
        sample.log(_EVENT, **self.model_dump(mode="json", exclude={"format_version"}))


def _path(sample: Sample) -> Path:
    return sample.path / "scan.json"


def load_scan_outcome(sample: Sample) -> ScanOutcome | None:
    """Read why the sample's scan ended; ``None`` if it was not recorded, as for imported images.

    Raises:
        SampleStateError: ``scan.json`` is damaged.
    """
    return ScanOutcome.read_if_present(_path(sample))


def is_outcome_lost(sample: Sample) -> bool:
    """Return whether ``scan.json`` is missing, though ``log.jsonl`` records the end of the scan."""
    log = sample.path / "log.jsonl"
    if _path(sample).exists() or not log.is_file():
        return False
    with file_errors(log, "restore it"):
        lines = log.read_bytes().split(b"\n")
    return any(_EVENT.encode() in line and _event(line) == _EVENT for line in lines)


def _event(line: bytes) -> object:
    try:
        return parse_json_line(line).get("event")
    except ValueError:  # it is damaged
        return None
