"""What to take of a slide: the targets, and how many fields they need.

How many that is depends only on what the fields hold, never on timing, so that a run that was broken takes the same
fields as one that was not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wbcpipe.errors import ConfigError
from wbcpipe.samples.scan_outcome import ScanOutcome
from wbcpipe.scan.live_count import cells_for_half_width, cells_for_likely_share, precision_reached

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.plan import AcquisitionPlan
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
    from wbcpipe.samples.fields import Pass
    from wbcpipe.samples.sample import Sample
    from wbcpipe.samples.scan_outcome import StopReason
    from wbcpipe.scan.live_count import PrecisionTarget

__all__ = ["CALIBRATION_FIELDS", "ScanRequest", "check_request", "next_field_count"]

#: Flat-field and registration prior are estimated from this many fields at the beginning of the plan.
CALIBRATION_FIELDS: Final = 16
#: Cells to look at before a precision target says how many it needs: the class may be common or rare.
_FIRST_CELLS: Final = 100
#: So many more fields than expected are taken in a bright-field pass: after the stain there is no adding to them.
_SPARE: Final = 1.25


def next_field_count(*, taken: int, cells: int, wanted_cells: int, expected_per_field: float, available: int) -> int:
    """How many of the planned fields to have, given what the first ``taken`` of them hold.

    Args:
        taken: planned fields looked at so far.
        cells: cells counted in them.
        wanted_cells: the target.
        expected_per_field: the scope file's guess, used before anything is known.
        available: fields in the plan.

    Returns:
        The number of leading fields to take; ``taken`` when it is enough or the plan is used up.

    >>> next_field_count(taken=0, cells=0, wanted_cells=200, expected_per_field=4.0, available=500)
    40
    >>> next_field_count(taken=40, cells=160, wanted_cells=200, expected_per_field=4.0, available=500)
    50
    >>> next_field_count(taken=50, cells=201, wanted_cells=200, expected_per_field=4.0, available=500)
    50
    """
    if taken and cells >= wanted_cells:
        return taken
    if not taken:
        # A little short of the guess: going on costs less than fields nobody asked for.
        first = max(CALIBRATION_FIELDS, math.ceil(0.8 * wanted_cells / expected_per_field))
        return min(first, available)
    per_field = max(cells / taken, 0.25)
    more = min(max(math.ceil((wanted_cells - cells) / per_field), 1), max(taken, CALIBRATION_FIELDS))
    return min(taken + more, available)


@dataclass(frozen=True)
class ScanRequest:
    """What to take of a slide.

    Attributes:
        scope: the microscope.
        plan: the fields that the slot's scan area allows, in order.
        specimen: on a virtual scope, what lies on the stage.
        cells: go on until so many cells are counted; ``None`` for no such target.
        fields: take exactly so many fields instead.
        precision: go on until the share of each of these classes is known so precisely.
        deadline_s: of `time.time`: begin no field after it.
        two_pass: take bright field first, then the stain, then fluorescence.
        stained: with ``two_pass``, the operator says that the slide is stained already.
        available: so many leading fields of the plan can be had; all of them if ``None``.
    """

    scope: Scope
    plan: AcquisitionPlan
    specimen: SpecimenPlan | None
    cells: int | None = 200
    fields: int | None = None
    precision: tuple[PrecisionTarget, ...] = ()
    deadline_s: float | None = None
    two_pass: bool = False
    stained: bool = False
    available: int | None = None

    @property
    def room(self) -> int:
        """How many fields there can be at most."""
        return len(self.plan.fields()) if self.available is None else self.available

    @property
    def first_pass(self) -> Pass:
        """The pass that is taken first."""
        return "brightfield" if self.two_pass else "single"

    @property
    def last_pass(self) -> Pass:
        """The pass that completes a field."""
        return "fluorescence" if self.two_pass else "single"

    def likely_cells(self) -> int:
        """Cells that all targets together likely need, before any is counted.

        With two passes the most that they may need: fields can be added to a scan, but not to a bright-field pass once
        the slide is stained.
        """
        if not self.two_pass:
            return self.wanted_cells({})
        needed = [cells_for_likely_share(target.name, target.half_width_percent) for target in self.precision]
        return max([self.cells or 0, *needed])

    def estimated_fields(self) -> int:
        """Fields that are likely needed, before any is known; with two passes some more, for none can be added."""
        if self.fields is not None:
            return min(self.fields, self.room)
        likely = self.likely_cells() / self.scope.expected_cells_per_field
        return min(max(math.ceil(likely * (_SPARE if self.two_pass else 1)), CALIBRATION_FIELDS), self.room)

    def decide(self, taken: int, counts: Mapping[str, int]) -> int:
        """Fields to have after ``taken`` fields with so many identified cells per class; see `next_field_count`."""
        available = self.room
        if self.fields is not None:
            return min(self.fields, available)
        return next_field_count(
            taken=taken,
            cells=sum(counts.values()),
            wanted_cells=self.wanted_cells(counts),
            expected_per_field=self.scope.expected_cells_per_field,
            available=available,
        )

    def wanted_cells(self, counts: Mapping[str, int]) -> int:
        """Cells that all targets together need, as far as those counted tell."""
        total = sum(counts.values())
        needed = [
            cells_for_half_width(counts.get(target.name, 0), total, target.half_width_percent)
            for target in self.precision
        ]
        if not total:
            needed = [min(cells, _FIRST_CELLS) for cells in needed]
        return max([self.cells or 0, *needed])

    def end(self, done: int, wanted: int, counts: Mapping[str, int] | None, *, in_time: bool) -> ScanOutcome:
        """Why a scan ends after ``done`` of ``wanted`` fields with so many identified cells per class."""
        used_up: StopReason = "area" if self.room >= len(self.plan.fields()) else "brightfield"
        if self.fields is not None or counts is None:
            enough = self.fields is None or self.fields <= self.room
            return ScanOutcome(("fields" if enough else used_up) if in_time else "deadline", done, wanted)
        total = sum(counts.values())
        reached = precision_reached(self.precision, counts)
        if total >= (self.cells or 0) and all(target.met for target in reached):
            return ScanOutcome("precision" if reached else "cells", done, done, total, self.cells, reached)
        return ScanOutcome(used_up if in_time else "deadline", done, wanted, total, self.cells, reached)


def check_request(sample: Sample, request: ScanRequest) -> None:
    """Refuse what cannot work before anything is written.

    Raises:
        SampleStateError: the sample was begun otherwise.
        ConfigError: a number of fields and a precision; or neither cells, fields nor precision.
        DiskFullError: the fields that are likely needed do not fit on the disk.
    """
    from wbcpipe.acquire.capture.sample_record import check_sample
    from wbcpipe.acquire.passes import check_room, passes_to_take
    from wbcpipe.acquire.staining.checks import check_staining

    if request.fields is not None and request.precision:
        raise ConfigError("give --fields or --precision, not both: a number of fields is taken whatever they hold.")
    if request.fields is None and request.cells is None and not request.precision:
        raise ConfigError("nothing says when to stop; give --cells, --precision or --fields.")
    check_sample(sample, request.scope, request.plan, request.specimen, pass_name=request.first_pass)
    passes = passes_to_take(sample, "both" if request.two_pass else "single", stained=request.stained)
    if "brightfield" in passes:
        check_staining(request.scope)
    check_room(sample, request.scope, passes, request.estimated_fields())
