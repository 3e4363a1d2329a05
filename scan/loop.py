"""Stages 1 and 2 at the same time: fields are segmented while the stage moves on, until enough cells are counted."""

from __future__ import annotations

import contextlib
import functools
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, Self

from wbcpipe.acquire.capture.empty_fields import read_empty
from wbcpipe.acquire.capture.field_writer import read_missing
from wbcpipe.errors import AcquisitionError, FrameFileError, HardwareError
from wbcpipe.samples.fields import fields_on_disk, read_info, whole_fields
from wbcpipe.samples.scan_outcome import clock_text, earliest_deadline_s
from wbcpipe.scan.live_count import LiveCount, cells_for_half_width, precision_reached
from wbcpipe.scan.request import CALIBRATION_FIELDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from wbcpipe.acquire.supervise.worker import AcquisitionWorker
    from wbcpipe.classify.models.bundle import Bundle
    from wbcpipe.cli.progress import Reporter
    from wbcpipe.samples.sample import Sample
    from wbcpipe.samples.scan_outcome import ScanOutcome
    from wbcpipe.scan.request import ScanRequest

__all__ = [
    "FieldSource",
    "Segmenter",
    "SlideFields",
    "acquire_and_segment",
    "falls_short",
    "scan_until",
]


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

    def reached(self, wanted: int) -> int:
        """How many of the first ``wanted`` fields are taken, empty or missing."""
        ...


class Segmenter(Protocol):
    """Turns fields into cells."""

    def calibrate(self, indices: Sequence[int], *, keep: bool = True) -> None:
        """Estimate what all fields share, for good or, without ``keep``, for this time."""
        ...

    def process(self, index: int) -> object:
        """Segment one field."""
        ...


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
            progress(source.reached(position), wanted)
        looked_at = wanted
    return done


class SlideFields:
    """Fields of a slide: those on disk at once, the others from a worker that is started when first needed.

    Fields that an earlier run could not take are tried again, once: what hindered it may have been put right.

    Args:
        sample: its lock is held by the caller.
        request: what to take.
        say: told in words what is being done.
        again: try those fields; if not, they stay missing.
    """

    def __init__(self, sample: Sample, request: ScanRequest, say: Callable[[str], None], *, again: bool = True) -> None:
        self._sample = sample
        self._request = request
        self._say = say
        self.ended = False
        self._deadline_s = request.deadline_s
        self._worker: AcquisitionWorker | None = None
        self._closing = contextlib.ExitStack()
        self._raw = sample.raw_path(request.last_pass)
        first = sample.raw_path(request.first_pass)
        without = set(read_empty(first))
        if request.two_pass:  # the slide is stained: what has no bright field will have none
            without |= set(range(request.room)).difference(fields_on_disk(first))
        self._known = dict.fromkeys(without, False) | dict.fromkeys(self._whole(), True)
        self._missing = set(read_missing(self._raw)).difference(self._known)
        if not again:
            self._give_up_missing()

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
                if not self._hear(events, wanted) and not self.ended and index not in self._known:
                    raise AcquisitionError(
                        f"sample {self._sample.name!r}: the acquisition ended without field {index}; run again."
                    )
            yield index if self._known.get(index) else None

    def _hear(self, events: Iterator[bool], wanted: int) -> bool:
        """The next event, if there is one; a failure is none where only what was missing before was to come."""
        try:
            return next(events, False)
        except HardwareError as error:
            if not self._missing.issuperset(index for index in range(wanted) if index not in self._known):
                raise
            self._give_up_missing()
            self._say(f"what was missing stays so: {error}")
            return False

    def reached(self, wanted: int) -> int:
        """See `FieldSource.reached`."""
        return sum(index in self._known for index in range(wanted))

    def _events(self, wanted: int) -> Iterator[bool]:
        from wbcpipe.acquire.supervise.worker import (
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
                self._stop(wanted)
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
                    self._stop(wanted)
                case Progress(text=text):
                    self._say(text)
            yield True

    def _give_up_missing(self) -> None:
        self._known |= dict.fromkeys(self._missing.difference(self._known), False)

    def _stop(self, wanted: int) -> None:
        """The deadline has passed: what was missing before stays so, and is no reason to stop before what is there."""
        assert self._deadline_s is not None
        self._give_up_missing()
        if self.reached(wanted) < wanted and not self.ended:
            self.ended = True
            self._say(f"the deadline, {clock_text(self._deadline_s)}, has passed: no more fields are begun")


def _bright_field(sample: Sample, request: ScanRequest, reporter: Reporter, at_least: int) -> ScanRequest:
    """The first of two passes and the stain; gives back the request for the fields that there are then.

    A slide that is stained gives no more bright field: what the first pass holds is all there can be.

    Raises:
        AcquisitionError: the slide could not be stained before the deadline, or is not worth it; see `stain_between`.
    """
    from wbcpipe.acquire.passes import bright_field_is_over, stain_between, take_pass
    from wbcpipe.acquire.staining.checks import open_checked
    from wbcpipe.acquire.supervise.worker import AcquisitionRequest

    raw = sample.raw_path("brightfield")
    wanted = max(request.estimated_fields(), min(at_least, request.room))
    if not (request.stained or bright_field_is_over(sample)):
        known = {*fields_on_disk(raw), *read_empty(raw)}
        if not known.issuperset(range(wanted)):
            what = AcquisitionRequest(
                sample,
                request.scope,
                request.plan,
                request.specimen,
                deadline_s=request.deadline_s,
                pass_name="brightfield",
                microscope=open_checked,
            )
            if request.fields is None:
                reporter.say(
                    f"{wanted} bright fields, for the {request.likely_cells()} cells that may be needed: none can be "
                    "added after the stain"
                )
            take_pass(what, wanted, reporter)
    hindrance = stain_between(
        sample, request.scope, wanted, deadline_s=request.deadline_s, stained=request.stained, reporter=reporter
    )
    known = {*fields_on_disk(raw), *read_missing(raw), *read_empty(raw)}
    if hindrance:
        request.end(0, wanted, {}, in_time=False).save(sample)
        raise AcquisitionError(
            f"sample {sample.name!r}: {hindrance}. {len(known)} of {wanted} bright fields are done and kept; with a "
            "later deadline the same command goes on."
        )
    return replace(request, available=max(known, default=-1) + 1)


def acquire_and_segment(
    sample: Sample,
    request: ScanRequest | None,
    model: Bundle,
    *,
    device: str = "auto",
    engine: str = "auto",
    reporter: Reporter,
    at_least: int = 0,
) -> ScanOutcome | None:
    """Stages 1 and 2 of a sample: take what is missing, segment it, write ``cells.zarr`` and ``scan.json``.

    Args:
        sample: its lock is held by the caller.
        request: what to take; ``None`` for a sample that was imported.
        model: calls the cells where their number or classes decide; gives the crops' pixel size.
        device: ``auto``, ``cpu`` or ``cuda``.
        engine: what runs the network, see `classify.inference.engine.engine_for`.
        reporter: shows progress.
        at_least: planned fields to have even if fewer seem enough.

    Returns:
        Why the scan ended; ``None`` without ``request``.

    Raises:
        WbcpipeError: see the stages.
    """
    from wbcpipe.acquire.passes import nothing_in_time
    from wbcpipe.segment.stage import SegmentStage, segment_sample

    if request is None:
        if whole_fields(sample.path / "raw"):
            show = functools.partial(reporter.update, "fields segmented")
            segment_sample(sample, pixel_um=model.info.pixel_um, progress=show)
        return None
    request = replace(request, deadline_s=earliest_deadline_s(request.scope, request.deadline_s, time.time()))
    if request.two_pass:
        request = _bright_field(sample, request, reporter, at_least)
    stage = SegmentStage(sample, pixel_um=model.info.pixel_um)
    count = None
    if request.fields is None:
        count = LiveCount(stage, model, sample.work_path, device=device, engine=engine)
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

    with SlideFields(sample, request, reporter.say, again=not at_least) as slide:
        indices = scan_until(slide, count or stage, decide=decide, progress=progress)
        counts = None if count is None else dict(count.tally().counts)
        end = request.end(slide.reached(asked), asked, counts, in_time=not slide.ended)
    end.save(sample)
    if slide.ended and not indices:
        raise nothing_in_time(sample)
    stage.finish(indices)
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


def falls_short(sample: Sample, request: ScanRequest | None, end: ScanOutcome | None) -> str:
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
    from wbcpipe.samples.cell_store import CellStore

    rows = read_rows(CellStore(sample.cells_path))
    counts = count_cells(rows.call, rows.quality, rows.classes).counts
    now = request.end(end.fields_done, end.fields_wanted, counts, in_time=True)
    return "" if now.reason in ("cells", "precision") else now.text
