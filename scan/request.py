"""Say what to take of a slide: the targets, and how many fields they need.

The number of fields depends only on the content of the fields, never on timing. An interrupted run
therefore takes the same fields as an uninterrupted one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self, TypedDict, Unpack

from wbcpipe.acquire.request import AcquisitionRequest
from wbcpipe.errors import ConfigError
from wbcpipe.samples.scan_outcome import ScanOutcome
from wbcpipe.scan.targets import cells_for_expected_share, cells_for_half_width, precision_reached

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.protocols import Microscope
    from wbcpipe.acquire.loader.workflow import LoadRequest
    from wbcpipe.acquire.plan import AcquisitionPlan, PlannedPass
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
    from wbcpipe.samples.fields import Pass
    from wbcpipe.samples.sample import Sample
    from wbcpipe.samples.scan_outcome import StopReason
    from wbcpipe.scan.targets import PrecisionTarget

__all__ = ["STATISTICS_FIELDS", "ScanRequest", "check_request", "next_field_count"]

#: Flat-field and registration are estimated from this many fields at the start of the plan.
STATISTICS_FIELDS: Final = 16
#: Cells to count before a precision target sets the number of cells: the class may be common or
#: rare.
_FIRST_CELLS: Final = 100
#: Factor by which a bright-field pass exceeds the estimate: after the stain no bright field can be
#: added.
_RESERVE: Final = 1.25


def next_field_count(
    *, taken: int, cells: int, wanted_cells: int, expected_per_field: float, available: int
) -> int:
    """Return how many of the planned fields to take, given the cells in the first ``taken`` of
    them.

    Args:
        taken: planned fields examined so far.
        cells: cells counted in them.
        wanted_cells: the target.
        expected_per_field: estimate of the scope file, used before any field is known.
        available: fields in the plan.

    Returns: The number of leading fields to take; ``taken`` if the target is reached or the plan is
        used up.

    >>> next_field_count(taken=0, cells=0, wanted_cells=200, expected_per_field=4, available=500)
    40
    >>> next_field_count(taken=40, cells=160, wanted_cells=200, expected_per_field=4, available=500)
    50
    >>> next_field_count(taken=50, cells=201, wanted_cells=200, expected_per_field=4, available=500)
    50
    """
    if taken and cells >= wanted_cells:
        return taken
    if not taken:
        # Slightly below the estimate: adding fields costs less than taking fields that nobody
        # needs.
        first = max(STATISTICS_FIELDS, math.ceil(0.8 * wanted_cells / expected_per_field))
        return min(first, available)
    per_field = max(cells / taken, 0.25)
    more = min(max(math.ceil((wanted_cells - cells) / per_field), 1), max(taken, STATISTICS_FIELDS))
    return min(taken + more, available)


class Options(TypedDict, total=False):
    """Options of `ScanRequest.from_scope`; see the attributes of `ScanRequest`."""

    cells: int | None
    fields: int | None
    precision: tuple[PrecisionTarget, ...]
    deadline_s: float | None
    two_pass: bool
    already_stained: bool
    slide: str
    specimen: SpecimenPlan | None


@dataclass(frozen=True)
class ScanRequest:
    """What to take of a slide.

    Attributes:
        scope: the microscope.
        plan: the fields in the slot's scan area, in order.
        specimen: on the virtual scope, the specimen on the stage.
        slide: id of the physical slide, with which its label is compared; the sample's name by
            default.
        cells: number of cells to count; ``None`` for no such target.
        fields: take exactly this many fields instead.
        precision: continue until the share of each of these classes has this precision.
        deadline_s: of `time.time`: start no field after it.
        two_pass: take bright field first, then stain the slide, then take fluorescence.
        already_stained: with ``two_pass``, the operator says that the slide is stained already.
        microscope: opens the microscope, in place of `open_microscope`; see `AcquisitionRequest`.
        load: where the scope has a loader: the slide to bring to the stage.
        operator_answers: an operator can be asked elsewhere than at this process's terminal, as in
            a batch.
        available: number of leading fields of the plan that can be taken; ``None`` for all.
    """

    scope: Scope
    plan: AcquisitionPlan
    specimen: SpecimenPlan | None
    slide: str = ""
    cells: int | None = 200
    fields: int | None = None
    precision: tuple[PrecisionTarget, ...] = ()
    deadline_s: float | None = None
    two_pass: bool = False
    already_stained: bool = False
    microscope: Callable[[Scope, SpecimenPlan | None, PlannedPass | None], Microscope] | None = None
    load: LoadRequest | None = None
    operator_answers: bool = False
    available: int | None = None

    @classmethod
    def from_scope(cls, scope: Scope, slot: str | None = None, **options: Unpack[Options]) -> Self:
        """Return the request to scan one slot of a microscope.

        Args:
            scope: the microscope, as `load_scope` reads it.
            slot: of its stage insert; by default A, or the one that its loader serves.
            options: attributes of the request, by their names: ``cells`` (200 unless a precision is
                given), ``fields``, ``precision``, ``deadline_s``, ``two_pass``,
                ``already_stained``, ``slide``, ``specimen``.

        Raises:
            ConfigError: there is no such slot.

        Example:
            ``ScanRequest.from_scope(load_scope("demo"), "A", cells=400, two_pass=True)``
        """
        from wbcpipe.acquire.loader.checks import slot_for
        from wbcpipe.acquire.open_microscope import specimen_for
        from wbcpipe.acquire.plan import AcquisitionPlan

        plan = AcquisitionPlan.from_scope(scope, slot_for(scope, slot))
        if options.get("precision"):
            options.setdefault("cells", None)
        options.setdefault("specimen", specimen_for(scope, None, None))
        return cls(scope, plan, **options)

    @property
    def max_fields(self) -> int:
        """Maximum number of fields."""
        return self.plan.n_fields if self.available is None else self.available

    @property
    def first_pass(self) -> Pass:
        """The pass that is taken first."""
        return "brightfield" if self.two_pass else "single"

    @property
    def last_pass(self) -> Pass:
        """The pass that completes a field."""
        return "fluorescence" if self.two_pass else "single"

    def acquisition(self, sample: Sample, pass_name: Pass) -> AcquisitionRequest:
        """Return the request of one pass over the slide."""
        return AcquisitionRequest(
            sample,
            self.scope,
            self.plan,
            self.specimen,
            pass_name=pass_name,
            deadline_s=self.deadline_s,
            microscope=self.microscope,
            slide=self.slide,
            load=self.load,
        )

    def estimated_cells(self) -> int:
        """Return the cells that all targets together are expected to need, before any is counted.

        With two passes this is the maximum: a bright-field pass cannot be extended once the slide
        is stained.
        """
        if not self.two_pass:
            return self.wanted_cells({})
        needed = [
            cells_for_expected_share(target.name, target.half_width_percent)
            for target in self.precision
        ]
        return max([self.cells or 0, *needed])

    def estimated_fields(self) -> int:
        """Return the number of fields expected to be needed, with a reserve where two passes are
        taken.
        """
        if self.fields is not None:
            return min(self.fields, self.max_fields)
        estimate = self.estimated_cells() / self.scope.expected_cells_per_field
        return min(
            max(math.ceil(estimate * (_RESERVE if self.two_pass else 1)), STATISTICS_FIELDS),
            self.max_fields,
        )

    def next_target(self, taken: int, counts: Mapping[str, int]) -> int:
        """Return the fields to have after ``taken`` fields with these identified cells per
        class.
        """
        if self.fields is not None:
            return min(self.fields, self.max_fields)
        return next_field_count(
            taken=taken,
            cells=sum(counts.values()),
            wanted_cells=self.wanted_cells(counts),
            expected_per_field=self.scope.expected_cells_per_field,
            available=self.max_fields,
        )

    def wanted_cells(self, counts: Mapping[str, int]) -> int:
        """Return the cells that all targets together need, given the cells counted so far."""
        total = sum(counts.values())
        needed = [
            cells_for_half_width(counts.get(target.name, 0), total, target.half_width_percent)
            for target in self.precision
        ]
        if not total:
            needed = [min(cells, _FIRST_CELLS) for cells in needed]
        return max([self.cells or 0, *needed])

    def outcome(
        self, done: int, wanted: int, counts: Mapping[str, int] | None, *, in_time: bool
    ) -> ScanOutcome:
        """Return why a scan stops after ``done`` of ``wanted`` fields with these identified cells
        per class.

        Where more fields are on disk than ``fields`` asks for, ``done`` is all of them.
        """
        used_up: StopReason = "area" if self.max_fields >= self.plan.n_fields else "brightfield"
        if self.fields is not None or counts is None:
            enough = self.fields is None or self.fields <= self.max_fields
            reason: StopReason = "fields" if enough else used_up
            if in_time and self.fields is not None:
                wanted = min(self.fields, self.max_fields)
            return ScanOutcome(
                reason=reason if in_time else "deadline", fields_done=done, fields_wanted=wanted
            )
        total = sum(counts.values())
        reached = precision_reached(self.precision, counts)
        if total >= (self.cells or 0) and all(target.met for target in reached):
            reason, wanted = "precision" if reached else "cells", done
        else:
            reason = used_up if in_time else "deadline"
        return ScanOutcome(
            reason=reason,
            fields_done=done,
            fields_wanted=wanted,
            cells=total,
            cells_wanted=self.cells,
            precision=reached,
        )


def check_request(sample: Sample, request: ScanRequest) -> None:
    """Refuse a request that cannot work, before anything is written.

    Raises:
        SampleStateError: the sample was started with other settings.
        ConfigError: both a number of fields and a precision are given; or no target at all.
        DiskFullError: the estimated number of fields does not fit on the disk.
        MissingPackageError: the sample is new, and the microscope's core is not installed.
    """
    from wbcpipe.acquire.capture.sample_record import check_sample
    from wbcpipe.acquire.hardware.device_adapters import require_core
    from wbcpipe.acquire.passes import TWO_PASS, check_space_for_passes, passes_to_take
    from wbcpipe.acquire.staining.checks import check_staining

    if request.fields is not None and request.precision:
        raise ConfigError(
            "give --fields or --precision, not both: --fields takes that many fields in any case."
        )
    if request.fields is None and request.cells is None and not request.precision:
        raise ConfigError("the scan has no target; give --cells, --precision or --fields.")
    if request.microscope is None and not sample.exists():
        require_core(request.scope)  # a sample that is there may lack no field
    check_sample(request.acquisition(sample, request.first_pass))
    requested = TWO_PASS if request.two_pass else ("single",)
    passes = passes_to_take(sample, requested, already_stained=request.already_stained)
    if "brightfield" in passes:
        check_staining(request.scope, operator_answers=request.operator_answers)
    check_space_for_passes(sample, request.scope, passes, request.estimated_fields())
