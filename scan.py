"""Stages 1 and 2 at the same time: fields are segmented while the stage moves on, until enough cells are counted.

How many fields are taken depends only on what the fields hold, never on timing, so that a run that was broken takes
the same fields as one that was not.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol, Self

from wbcpipe.acquire.ending import ScanEnd, clock_text, earliest_deadline_s
from wbcpipe.acquire.frames import fields_on_disk, read_info, whole_fields
from wbcpipe.acquire.quicklook import read_empty
from wbcpipe.acquire.writer import read_missing
from wbcpipe.counting import LiveCount, cells_for_half_width, precision_reached
from wbcpipe.errors import AcquisitionError, ConfigError, FrameFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from wbcpipe.acquire.config import Scope
    from wbcpipe.acquire.frames import Pass
    from wbcpipe.acquire.plan import AcquisitionPlan
    from wbcpipe.acquire.specimen import SpecimenPlan
    from wbcpipe.acquire.worker import AcquisitionWorker
    from wbcpipe.classify.bundle import Bundle
    from wbcpipe.counting import PrecisionTarget
    from wbcpipe.progress import Reporter
    from wbcpipe.samples import Sample

__all__ = [
    "CALIBRATION_FIELDS",
    "FieldSource",
    "ScanRequest",
    "Segmenter",
    "acquire_and_segment",
    "check_request",
    "falls_short",
    "next_field_count",
    "scan_until",
]

#: Flat-field and registration prior are estimated from this many fields at the beginning of the plan.
CALIBRATION_FIELDS: Final = 16
#: Cells to look at before a precision target says how many it needs: the class may be common or rare.
_FIRST_CELLS: Final = 100
#: So many more fields than expected are taken in a bright-field pass: after the stain there is no adding to them.
_SPARE: Final = 1.25


class FieldSource(Protocol):
    """Takes planned fields, in order.

    Attributes:
        ended: the deadline has passed; fields that are not there will not come.
    """

    ended: bool

    def take(self, wanted: int) -> Iterator[int | None]:
        """See that the first ``wanted`` planned fields are on disk.

        Yields:
            The index of each of them as it becomes available, in order; ``None`` for one that is missing or empty.
        """
        ...


class Segmenter(Protocol):
    """Turns fields into cells."""

    def calibrate(self, indices: Sequence[int], *, keep: bool = True) -> None:
        """Estimate what all fields share, for good or, without ``keep``, for this time."""
        ...

    def process(self, index: int) -> object:
        """Segment one field."""
        ...


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


def scan_until(
    source: FieldSource,
    segmenter: Segmenter,
    *,
    decide: Callable[[int], int],
    progress: Callable[[int, int], None],
) -> list[int]:
    """Take and segment fields until ``decide`` asks for no more.

    Args:
        source: takes the fields.
        segmenter: segments them.
        decide: from the fields looked at so far to the number of fields to have.
        progress: called with fields done and fields wanted.

    Returns:
        The indices of the fields segmented, in order.
    """
    done: list[int] = []
    waiting: list[int] = []
    looked_at, calibrated = 0, False
    while not source.ended and (wanted := decide(looked_at)) > looked_at:
        position = 0
        for index in source.take(wanted):
            position += 1
            if position <= looked_at:
                continue
            if index is not None:
                waiting.append(index)
            enough = len(waiting) >= CALIBRATION_FIELDS
            if not calibrated and waiting and (enough or position >= wanted):
                # From fewer fields than it would have had without the deadline, it holds for this report only.
                segmenter.calibrate(list(waiting), keep=enough or not source.ended)
                calibrated = True
            while calibrated and waiting:
                done.append(waiting.pop(0))
                segmenter.process(done[-1])
            progress(position, wanted)
        looked_at = wanted
    return done


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

    def likely_fields(self) -> int:
        """Fields that are likely needed, before any is known; with two passes some more, for none can be added."""
        if self.fields is not None:
            return min(self.fields, self.room)
        likely = self.wanted_cells({}) / self.scope.expected_cells_per_field
        return min(math.ceil(likely * (_SPARE if self.two_pass else 1)), self.room)

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

    def end(self, done: int, wanted: int, counts: Mapping[str, int] | None, *, in_time: bool) -> ScanEnd:
        """Why a scan ends after ``done`` of ``wanted`` fields with so many identified cells per class."""
        if self.fields is not None or counts is None:
            enough = self.fields is None or self.fields <= self.room
            return ScanEnd(("fields" if enough else "area") if in_time else "deadline", done, wanted)
        total = sum(counts.values())
        reached = precision_reached(self.precision, counts)
        if total >= (self.cells or 0) and all(target.met for target in reached):
            return ScanEnd("precision" if reached else "cells", done, done, total, self.cells, reached)
        return ScanEnd("area" if in_time else "deadline", done, wanted, total, self.cells, reached)


def check_request(sample: Sample, request: ScanRequest) -> None:
    """Refuse what cannot work before anything is written.

    Raises:
        SampleStateError: the sample was begun otherwise.
        ConfigError: a number of fields and a precision; or neither cells, fields nor precision.
        DiskFullError: the fields that are likely needed do not fit on the disk.
    """
    from wbcpipe.acquire.record import check_disk, check_sample

    if request.fields is not None and request.precision:
        raise ConfigError("give --fields or --precision, not both: a number of fields is taken whatever they hold.")
    if request.fields is None and request.cells is None and not request.precision:
        raise ConfigError("nothing says when to stop; give --cells, --precision or --fields.")
    check_sample(sample, request.scope, request.plan, request.specimen, pass_name=request.first_pass)
    if request.two_pass:
        from wbcpipe.acquire.passes import check_staining

        check_staining(sample, request.scope, stained=request.stained)
    for name in dict.fromkeys((request.first_pass, request.last_pass)):
        there = {*fields_on_disk(sample.raw_path(name)), *read_empty(sample.raw_path(name))}
        to_go = sum(index not in there for index in range(request.likely_fields()))
        check_disk(sample.path, request.scope, to_go, pass_name=name)


class _Slide:
    """Fields of a slide: those on disk at once, the others from a worker that is started when first needed."""

    def __init__(self, sample: Sample, request: ScanRequest, say: Callable[[str], None]) -> None:
        self._sample = sample
        self._request = request
        self._say = say
        self.ended = False
        self._deadline_s = earliest_deadline_s(request.scope, request.deadline_s, time.time())
        self._worker: AcquisitionWorker | None = None
        self._closing = contextlib.ExitStack()
        self._raw = sample.raw_path(request.last_pass)
        first = sample.raw_path(request.first_pass)
        without = {*read_missing(first), *read_missing(self._raw), *read_empty(first)}
        self._known = dict.fromkeys(without, False) | dict.fromkeys(self._whole(), True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def _whole(self) -> Iterator[int]:
        for index, path in fields_on_disk(self._raw).items():
            with contextlib.suppress(FrameFileError):  # the session puts it into quarantine and takes it again
                read_info(path)
                yield index

    def take(self, wanted: int) -> Iterator[int | None]:
        """See `FieldSource.take`."""
        events = None
        for index in range(wanted):
            while index not in self._known and not self.ended:
                events = events or self._events(wanted)
                if not next(events, False) and not self.ended:
                    raise AcquisitionError(
                        f"sample {self._sample.name!r}: the acquisition ended without field {index}; run again."
                    )
            yield index if self._known.get(index) else None

    def reached(self, wanted: int) -> int:
        """How many of the first ``wanted`` fields are taken, empty or missing."""
        return sum(index in self._known for index in range(wanted))

    def _events(self, wanted: int) -> Iterator[bool]:
        from wbcpipe.acquire.worker import (
            AcquisitionRequest,
            AcquisitionWorker,
            DeadlinePassed,
            FieldEmpty,
            FieldMissing,
            FieldTaken,
            Progress,
        )

        if self._worker is None:
            request = self._request
            what = AcquisitionRequest(
                self._sample,
                request.scope,
                request.plan,
                request.specimen,
                deadline_s=self._deadline_s,
                pass_name=request.last_pass,
            )
            if not what.in_time():
                self._stop()
                return
            self._worker = self._closing.enter_context(AcquisitionWorker(what))
        self._worker.want(wanted)
        for event in self._worker.events():
            match event:
                case FieldTaken(index=index):
                    self._known[index] = True
                case FieldMissing(index=index, reason=reason):
                    self._known[index] = False
                    self._say(f"field {index} could not be taken: {reason}")
                case FieldEmpty(index=index):
                    self._known[index] = False
                case DeadlinePassed():
                    self._stop()
                case Progress(text=text):
                    self._say(text)
            yield True

    def _stop(self) -> None:
        self.ended = True
        assert self._deadline_s is not None
        self._say(f"the deadline, {clock_text(self._deadline_s)}, has passed: no more fields are begun")


def _bright_field(sample: Sample, request: ScanRequest, reporter: Reporter, at_least: int) -> ScanRequest:
    """The first of two passes and the stain; gives back the request for the fields that there are then.

    A slide that is stained gives no more bright field: what the first pass holds is all there can be.
    """
    from wbcpipe.acquire.passes import bright_field_is_over, stain_between, take_pass
    from wbcpipe.acquire.worker import AcquisitionRequest

    raw = sample.raw_path("brightfield")
    known = {*fields_on_disk(raw), *read_missing(raw), *read_empty(raw)}
    if not bright_field_is_over(sample):
        wanted = max(request.likely_fields(), min(at_least, request.room))
        if not known.issuperset(range(wanted)):
            deadline_s = earliest_deadline_s(request.scope, request.deadline_s, time.time())
            what = AcquisitionRequest(
                sample, request.scope, request.plan, request.specimen, deadline_s=deadline_s, pass_name="brightfield"
            )
            known |= set(take_pass(what, wanted, reporter).settled)
        stain_between(sample, request.scope, stained=request.stained, reporter=reporter)
    return replace(request, available=max(known, default=-1) + 1)


def acquire_and_segment(
    sample: Sample,
    request: ScanRequest | None,
    model: Bundle,
    *,
    device: str = "auto",
    reporter: Reporter,
    at_least: int = 0,
) -> ScanEnd | None:
    """Stages 1 and 2 of a sample: take what is missing, segment it, write ``cells.zarr`` and ``scan.json``.

    Args:
        sample: its lock is held by the caller.
        request: what to take; ``None`` for a sample that was imported.
        model: calls the cells where their number or classes decide; gives the crops' pixel size.
        device: ``auto``, ``cpu`` or ``cuda``.
        reporter: shows progress.
        at_least: planned fields to have even if fewer seem enough.

    Returns:
        Why the scan ended; ``None`` without ``request``.

    Raises:
        WbcpipeError: see the stages.
    """
    from wbcpipe.segment.stage import SegmentStage, segment_sample

    if request is None:
        if whole_fields(sample.path / "raw"):
            show = functools.partial(reporter.update, "fields segmented")
            segment_sample(sample, pixel_um=model.info.pixel_um, progress=show)
        return None
    if request.two_pass:
        request = _bright_field(sample, request, reporter, at_least)
    stage = SegmentStage(sample, pixel_um=model.info.pixel_um)
    count = None if request.fields is not None else LiveCount(stage, model, sample.work_path, device=device)
    asked = 0

    def decide(looked_at: int) -> int:
        nonlocal asked
        counts = {} if count is None else dict(count.tally().counts)
        asked = max(request.decide(looked_at, counts), min(at_least, request.room))
        return asked

    def progress(done: int, wanted: int) -> None:
        reporter.update("fields taken and segmented", done, wanted)
        if count is not None:
            _show_count(request, count.counts(), reporter)

    with _Slide(sample, request, reporter.say) as slide:
        indices = scan_until(slide, count or stage, decide=decide, progress=progress)
        counts = None if count is None else dict(count.tally().counts)
        end = request.end(slide.reached(asked), asked, counts, in_time=not slide.ended)
    if slide.ended and not indices:
        raise AcquisitionError(
            f"sample {sample.name!r}: the deadline passed before any field was taken; run again with a later one."
        )
    stage.finish(indices)
    end.save(sample)
    reporter.say(end.text)
    return end


def _show_count(request: ScanRequest, counts: Mapping[str, int], reporter: Reporter) -> None:
    total = sum(counts.values())
    if request.cells is not None:
        reporter.update("cells counted", min(total, request.cells), request.cells)
    if not total:
        return
    for target, reached in zip(request.precision, precision_reached(request.precision, counts), strict=True):
        needed = cells_for_half_width(counts.get(target.name, 0), total, target.half_width_percent)
        reporter.update(f"precision {target.name}", min(total, needed), needed, text=f"{reached}, cells")


def falls_short(sample: Sample, request: ScanRequest | None, end: ScanEnd | None) -> str:
    """What the classified cells lack of the targets that a scan thought it had reached; empty if nothing.

    The scan counts as the report does, so that this stays empty; it is looked at all the same, for the report is what
    is relied upon.

    Raises:
        SampleStateError: the cells are not classified.
    """
    if request is None or end is None or end.reason not in ("cells", "precision"):
        return ""
    from wbcpipe.report.differential import count_cells
    from wbcpipe.report.rows import read_rows
    from wbcpipe.segment.cells import CellStore

    rows = read_rows(CellStore(sample.cells_path))
    counts = count_cells(rows.call, rows.quality, rows.classes).counts
    now = request.end(end.fields_done, end.fields_wanted, counts, in_time=True)
    return "" if now.reason in ("cells", "precision") else now.text
