"""Why a scan ended: ``scan.json``, beside what was taken, for whoever reads the report later."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from wbcpipe.errors import SampleStateError
from wbcpipe.system.files import read_json, write_json

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.samples.sample import Sample

__all__ = [
    "FORMAT_VERSION",
    "PrecisionReached",
    "ScanOutcome",
    "StopReason",
    "clock_text",
    "earliest_deadline_s",
    "load_scan_outcome",
]

FORMAT_VERSION: Final = 1
StopReason = Literal["cells", "precision", "fields", "area", "brightfield", "deadline"]


@dataclass(frozen=True)
class PrecisionReached:
    """How precisely the share of one class is known.

    Attributes:
        name: of the class.
        percent: its share of the identified cells; ``None`` without cells.
        half_width_percent: half of the 95 % interval, in percentage points.
        target_percent: the half-width asked for.
    """

    name: str
    percent: float | None
    half_width_percent: float
    target_percent: float

    @property
    def met(self) -> bool:
        """True when it is as precise as asked for."""
        return self.half_width_percent <= self.target_percent

    def __str__(self) -> str:
        share = "-" if self.percent is None else f"{self.percent:.1f} %"
        return f"{self.name} {share} +- {self.half_width_percent:.1f} (target {self.target_percent:g})"


@dataclass(frozen=True)
class ScanOutcome:
    """Why a scan ended, and with what.

    Attributes:
        reason: ``cells`` or ``precision`` (the target is reached), ``fields`` (as many as asked for), ``area`` (the
            plan is used up), ``brightfield`` (what was taken of it before the stain is used up), ``deadline``.
        fields_done: planned fields that were taken, found empty, or given up.
        fields_wanted: planned fields that would have been looked at, as far as was known.
        cells: counted, as the report counts; ``None`` where nobody counted.
        cells_wanted: the target; ``None`` without one.
        precision: one entry for each target.
    """

    reason: StopReason
    fields_done: int
    fields_wanted: int
    cells: int | None = None
    cells_wanted: int | None = None
    precision: tuple[PrecisionReached, ...] = ()

    @property
    def text(self) -> str:
        """The same in a line for people."""
        cells = "" if self.cells is None else f"{self.cells} cells"
        if cells and self.cells_wanted is not None:
            cells += f" of {self.cells_wanted}"
        figures = ", ".join([part for part in (cells, *map(str, self.precision)) if part])
        fields = f"{self.fields_done} field{'s' * (self.fields_done != 1)}"
        what = {
            "cells": f"enough cells after {fields}",
            "precision": f"precision reached after {fields}",
            "fields": f"{fields}, as asked for",
            "area": f"the scan area was used up after {fields}",
            "brightfield": f"the bright-field pass was used up after {fields}, and a stained slide gives no more",
            "deadline": f"STOPPED BY THE DEADLINE after {self.fields_done} of {self.fields_wanted} fields",
        }[self.reason]
        return f"{what}: {figures}" if figures else what

    def to_json(self) -> dict[str, Any]:
        """As ``scan.json`` and the report hold it."""
        return {"format_version": FORMAT_VERSION, **asdict(self), "precision": [asdict(it) for it in self.precision]}

    def save(self, sample: Sample) -> None:
        """Write ``scan.json`` and log it, unless it says so already."""
        path = _path(sample)
        if path.is_file() and load_scan_outcome(sample) == self:
            return
        write_json(path, self.to_json())
        sample.log("scan ended", **{name: value for name, value in self.to_json().items() if name != "format_version"})


def _path(sample: Sample) -> Path:
    return sample.path / "scan.json"


def load_scan_outcome(sample: Sample) -> ScanOutcome | None:
    """Why the sample's scan ended; ``None`` where that was not noted, as for imported pictures.

    Raises:
        SampleStateError: ``scan.json`` is damaged, or of a format that is not known.
    """
    path = _path(sample)
    if not path.is_file():
        return None
    content = read_json(path)
    try:
        if content.pop("format_version") != FORMAT_VERSION:
            raise ValueError(f"format {FORMAT_VERSION} was expected")
        precision = tuple(PrecisionReached(**entry) for entry in content.pop("precision"))
        end = ScanOutcome(**content, precision=precision)
        return end if end.text else None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SampleStateError(f"{path}: damaged ({error}); move the file away and run again.") from error


def earliest_deadline_s(scope: Scope, asked_s: float | None, started_s: float) -> float | None:
    """The deadline of one slide: what the user asked for or the scope file allows, whichever comes first.

    Args:
        scope: for ``reliability.slide_time_limit_s``.
        asked_s: of `time.time`; ``None`` if the user gave none.
        started_s: of `time.time`, when this slide was begun.
    """
    limit_s = scope.reliability.slide_time_limit_s
    own_s = started_s + limit_s if limit_s else None
    return min((at for at in (asked_s, own_s) if at is not None), default=None)


def clock_text(deadline_s: float) -> str:
    """A deadline as local time for people."""
    return datetime.fromtimestamp(deadline_s).astimezone().strftime("%Y-%m-%d %H:%M:%S")
