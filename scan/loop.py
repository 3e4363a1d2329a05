"""Acquire and segment at the same time, until enough cells are counted."""

from __future__ import annotations

import contextlib
import functools
import logging
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Protocol, Self

from wbcpipe.acquire.request import earliest_deadline_s
from wbcpipe.errors import AcquisitionError, FrameFileError, HardwareError, MissingPackageError
from wbcpipe.samples.field_status import read_missing, read_skipped
from wbcpipe.samples.fields import complete_fields, fields_on_disk, read_info
from wbcpipe.samples.freed import refuse_if_freed
from wbcpipe.scan.live_count import LiveCount
from wbcpipe.scan.request import STATISTICS_FIELDS
from wbcpipe.scan.targets import cells_for_half_width, precision_reached
from wbcpipe.scan.turn import ScanTurn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from wbcpipe.acquire.request import AcquisitionRequest
    from wbcpipe.acquire.supervise.worker import AcquisitionWorker
    from wbcpipe.samples.sample import Sample
    from wbcpipe.samples.scan_outcome import ScanOutcome
    from wbcpipe.scan.live_count import CountingModel
    from wbcpipe.scan.request import ScanRequest
    from wbcpipe.system.progress import ProgressReporter

__all__ = ["SlideFields", "acquire_and_segment", "scan_until", "take_bright_field", "unmet_targets"]

_log = logging.getLogger(__name__)


class FieldSource(Protocol):
    """Take planned fields, in order.

    Attributes:
        deadline_passed: no further field will be taken.
    """

    deadline_passed: bool

    def take(self, wanted: int) -> Iterator[int | None]:
        """Take those of the first ``wanted`` planned fields that are not on disk.

        Yields: The index of each field when it is available, in order; ``None`` for a missing or
            empty field.
        """

    def settled(self, wanted: int) -> int:
        """Count those of the first ``wanted`` fields that are taken, empty or missing."""

    def tried(self) -> int:
        """Return the number of leading planned fields up to the last one that earlier runs took,
        found empty or missed.
        """


class Segmenter(Protocol):
    """Turn fields into cells."""

    def estimate_statistics(self, indices: Sequence[int], *, keep: bool = True) -> None:
        """Estimate the statistics of the slide; without ``keep`` they are not stored."""

    def segment_field(self, index: int) -> object:
        """Segment one field."""


def scan_until(
    source: FieldSource,
    segmenter: Segmenter,
    *,
    next_target: Callable[[int], int],
    progress: Callable[[int, int], None],
    first_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[int]:
    """Take and segment fields until ``next_target`` asks for no more.

    Fields that an earlier run took beyond the target are segmented too: no field on disk is left
    out of the count.

    Args:
        source: takes the fields.
        segmenter: segments them.
        next_target: maps the number of fields examined so far to the number of fields to have.
        progress: called with fields done and fields wanted.
        first_progress: called with fields segmented and fields taken, of those that waited for the
            slide statistics.

    Returns:
        The indices of the fields segmented, in order.
    """
    done: list[int] = []
    waiting: list[int] = []
    examined, estimated = 0, False
    while True:
        wanted = examined if source.deadline_passed else next_target(examined)
        if wanted <= examined:
            # Only at the end: until then a resumed scan decides as an uninterrupted one.
            wanted = source.tried()
        if wanted <= examined:
            return done
        position = 0
        for index in source.take(wanted):
            position += 1
            if position <= examined:
                continue
            if index is not None:
                waiting.append(index)
            enough = len(waiting) >= STATISTICS_FIELDS
            if not estimated and waiting and (enough or position >= wanted):
                # A deadline that left too few fields gives statistics that hold for this report
                # only.
                segmenter.estimate_statistics(
                    list(waiting), keep=enough or not source.deadline_passed
                )
                estimated = True
            total = len(waiting)
            while estimated and waiting:
                done.append(waiting.pop(0))
                segmenter.segment_field(done[-1])
                if total > 1:
                    first_progress(total - len(waiting), total)
            progress(source.settled(position), wanted)
        examined = wanted


class SlideFields:
    """Fields of a slide: those on disk at once, the others from a worker that starts when it is
    needed.

    The worker process starts, then the turn at the microscope begins, then the worker opens it.

    A field that an earlier run could not take is tried once more: the cause may have been removed.

    Args:
        sample: its lock is held by the caller.
        request: what to take.
        say: receives a line of text for each step.
        turn: at the microscope; begun when it is needed, and left to the caller to end.
        retry_missing: try the missing fields again; otherwise they stay missing.
        before_opening: called before the microscope is opened; it may bring the slide to the stage.
    """

    def __init__(
        self,
        sample: Sample,
        request: ScanRequest,
        say: Callable[[str], None],
        *,
        turn: ScanTurn | None = None,
        retry_missing: bool = True,
        before_opening: Callable[[AcquisitionRequest], None] = lambda _: None,
    ) -> None:
        self._sample = sample
        self._request = request
        self._turn = turn or ScanTurn()
        self._say = say
        self._before_opening = before_opening
        self.deadline_passed = False
        self._worker: AcquisitionWorker | None = None
        self._closing = contextlib.ExitStack()
        self._raw = sample.raw_path(request.last_pass)
        first = sample.raw_path(request.first_pass)
        without = set(read_skipped(first))
        if request.two_pass:  # after the stain no bright field can be added
            without |= set(range(request.max_fields)).difference(fields_on_disk(first))
        self._known = dict.fromkeys(without, False) | dict.fromkeys(self._whole(), True)
        self._missing = set(read_missing(self._raw)).difference(self._known)
        if not retry_missing:
            self._give_up_missing()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def _whole(self) -> Iterator[int]:
        for index, path in fields_on_disk(self._raw).items():
            with contextlib.suppress(
                FrameFileError
            ):  # the session moves a damaged file away and takes the field again
                read_info(path)
                yield index

    def take(self, wanted: int) -> Iterator[int | None]:
        """See `FieldSource.take`."""
        events = None
        for index in range(wanted):
            while index not in self._known and not self.deadline_passed:
                events = events or self._events(wanted)
                if (
                    not self._next_event(events, wanted)
                    and not self.deadline_passed
                    and index not in self._known
                ):
                    raise AcquisitionError(
                        f"sample {self._sample.name!r}: the acquisition ended without field "
                        f"{index}; run again."
                    )
            yield index if self._known.get(index) else None

    def _next_event(self, events: Iterator[bool], wanted: int) -> bool:
        """Wait for the next event.

        A failure does not count where only fields missing before are left.
        """
        try:
            return next(events, False)
        except (HardwareError, MissingPackageError) as error:
            if not self._missing.issuperset(
                index for index in range(wanted) if index not in self._known
            ):
                raise
            self._give_up_missing()
            self._say(f"the missing fields stay missing: {error}")
            return False

    def settled(self, wanted: int) -> int:
        """See `FieldSource.settled`."""
        return sum(index in self._known for index in range(wanted))

    def tried(self) -> int:
        """See `FieldSource.tried`."""
        tried = {*fields_on_disk(self._raw), *read_missing(self._raw)}
        if not self._request.two_pass:  # of a first pass, they are no fields of the last one
            tried |= set(read_skipped(self._raw))
        return min(max(tried, default=-1) + 1, self._request.max_fields)

    def _events(self, wanted: int) -> Iterator[bool]:
        from wbcpipe.acquire.supervise.messages import (
            DeadlinePassed,
            FieldEmpty,
            FieldMissing,
            FieldTaken,
            Progress,
        )
        from wbcpipe.acquire.supervise.worker import AcquisitionWorker

        if self._worker is None:
            acquisition = self._request.acquisition(self._sample, self._request.last_pass)
            if not acquisition.in_time():
                self._stop_at_deadline(wanted)
                return
            self._worker = self._closing.enter_context(AcquisitionWorker(acquisition))
            self._request = _begin(self._request, self._turn)
            self._worker.set_deadline(self._request.deadline_s)
            self._before_opening(acquisition)
        self._worker.request_fields(wanted)
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
                    self._stop_at_deadline(wanted)
                case Progress(text=text):
                    self._say(text)
            yield True

    def _give_up_missing(self) -> None:
        self._known |= dict.fromkeys(self._missing.difference(self._known), False)

    def _stop_at_deadline(self, wanted: int) -> None:
        """Take no further field; those on disk are still segmented."""
        assert self._request.deadline_s is not None
        self._give_up_missing()
        if self.settled(wanted) < wanted and not self.deadline_passed:
            self.deadline_passed = True
            deadline = datetime.fromtimestamp(self._request.deadline_s).strftime(
                "%Y-%m-%d %H:%M:%S"
            )
            self._say(f"the deadline, {deadline}, has passed: no further field is taken")


def _begin(request: ScanRequest, turn: ScanTurn) -> ScanRequest:
    """Wait for the microscope.

    Return the request with the deadline that the scope's time limit gives from now on.
    """
    return replace(
        request, deadline_s=earliest_deadline_s(request.scope, request.deadline_s, turn.begin())
    )


def take_bright_field(
    sample: Sample,
    request: ScanRequest,
    reporter: ProgressReporter,
    turn: ScanTurn,
    *,
    at_least: int = 0,
) -> int:
    """Take the bright-field pass of two passes, unless it is on disk or the slide is stained.

    Args:
        sample: the caller holds its lock.
        request: of two passes.
        reporter: shows progress.
        turn: at the microscope; left to the caller to end.
        at_least: minimum number of planned fields.

    Returns:
        The number of leading fields of the plan that the pass needs.
    """
    from wbcpipe.acquire.open_microscope import open_for_staining
    from wbcpipe.acquire.passes import slide_is_stained, take_pass

    raw = sample.raw_path("brightfield")
    wanted = max(request.estimated_fields(), min(at_least, request.max_fields))
    known = {*fields_on_disk(raw), *read_skipped(raw)}
    if request.already_stained or slide_is_stained(sample) or known.issuperset(range(wanted)):
        return wanted
    acquisition = request.acquisition(sample, "brightfield")
    if acquisition.microscope is None:
        acquisition = replace(acquisition, microscope=open_for_staining)
    if request.fields is None:
        reporter.say(
            f"taking {wanted} bright fields for up to {request.estimated_cells()} cells: no "
            f"bright field can be added after the stain"
        )
    take_pass(acquisition, wanted, reporter, lambda: _begin(request, turn).deadline_s)
    return wanted


def _bright_field(
    sample: Sample, request: ScanRequest, reporter: ProgressReporter, turn: ScanTurn, at_least: int
) -> ScanRequest:
    """Take the bright-field pass and stain the slide.

    Return the request limited to the fields of that pass.

    A stained slide gives no further bright field.

    Raises:
        AcquisitionError: the deadline leaves no time to stain the slide, or the pass is not good
            enough to stain it; see `stain_between_passes`.
    """
    from wbcpipe.acquire.passes import slide_is_stained, stain_between_passes

    raw = sample.raw_path("brightfield")
    wanted = take_bright_field(sample, request, reporter, turn, at_least=at_least)
    if not (request.already_stained or slide_is_stained(sample)):
        request = _begin(request, turn)  # also the devices that stain it are the microscope's
    reason = stain_between_passes(
        request.acquisition(sample, "fluorescence"),
        wanted,
        already_stained=request.already_stained,
        reporter=reporter,
    )
    known = {*fields_on_disk(raw), *read_missing(raw), *read_skipped(raw)}
    if reason:
        request.outcome(0, wanted, {}, in_time=False).save(sample)
        raise AcquisitionError(
            f"sample {sample.name!r}: {reason}. {len(known)} of {wanted} bright fields are done "
            f"and kept; run the same command again with a later deadline."
        )
    return replace(request, available=max(known, default=-1) + 1)


def acquire_and_segment(
    sample: Sample,
    request: ScanRequest | None,
    model: CountingModel,
    *,
    reporter: ProgressReporter,
    turn: ScanTurn | None = None,
    at_least: int = 0,
) -> ScanOutcome | None:
    """Run stages 1 and 2 of a sample: take missing fields, segment them, write ``cells.zarr`` and
    ``scan.json``.

    Args:
        sample: the caller holds its lock.
        request: what to take; ``None`` for an imported sample.
        model: classifies the cells that are counted during the scan; gives the crops' pixel size.
        reporter: shows progress.
        turn: at the microscope; closed when the scan needs no more fields, and left to the caller
            after an error.
        at_least: minimum number of planned fields, even if fewer reach the targets.

    Returns:
        Why the scan stopped; ``None`` without ``request``.

    Raises:
        WbcpipeError: see the stages.
    """
    from wbcpipe.acquire.open_microscope import restore_truth
    from wbcpipe.acquire.passes import load_for, no_field_before_deadline
    from wbcpipe.samples.segment_settings.of_sample import record_scope_settings
    from wbcpipe.segment.run import segment_fields
    from wbcpipe.segment.stage import SampleSegmenter

    refuse_if_freed(sample, "run")
    if request is None:
        if complete_fields(sample.path / "raw"):
            segment_fields(sample, pixel_um=model.bundle.info.pixel_um, progress=reporter.update)
        return None
    turn = turn or ScanTurn()
    restore_truth(request.acquisition(sample, request.first_pass))
    if request.two_pass:
        request = _bright_field(sample, request, reporter, turn, at_least)
    estimated, scope = request.estimated_fields(), request.scope.name
    _log.info("sample %s: scanning about %d fields, scope %s", sample.name, estimated, scope)
    settings = record_scope_settings(sample, request.scope.segment)
    segmenter = SampleSegmenter(
        sample,
        pixel_um=model.bundle.info.pixel_um,
        settings=settings,
        progress=reporter.update,
    )
    count = None
    if request.fields is None:
        count = LiveCount(segmenter, model, sample.work_path)
    asked = 0

    def next_target(examined: int) -> int:
        nonlocal asked
        counts = {} if count is None else dict(count.tally().counts)
        asked = max(request.next_target(examined, counts), min(at_least, request.max_fields))
        if request.fields is not None:  # at once, so that the statistics are those of all fields
            asked = max(asked, slide.tried())
        return asked

    def progress(done: int, wanted: int) -> None:
        reporter.update("fields taken and segmented", done, wanted)
        if count is not None:
            _show_count(request, count.counts(), reporter)

    bring = functools.partial(load_for, reporter=reporter)
    retry = not at_least
    with SlideFields(
        sample, request, reporter.say, turn=turn, retry_missing=retry, before_opening=bring
    ) as slide:
        indices = scan_until(
            slide,
            count or segmenter,
            next_target=next_target,
            progress=progress,
            first_progress=functools.partial(reporter.update, "first fields segmented"),
        )
        counts = None if count is None else dict(count.tally().counts)
        asked = max(asked, slide.tried())
        outcome = request.outcome(
            slide.settled(asked), asked, counts, in_time=not slide.deadline_passed
        )
    turn.close()
    outcome.save(sample)
    if slide.deadline_passed and not indices:
        raise no_field_before_deadline(sample)
    segmenter.write_store(indices)
    reporter.say(outcome.text)
    return outcome


def _show_count(
    request: ScanRequest, counts: Mapping[str, int], reporter: ProgressReporter
) -> None:
    total = sum(counts.values())
    if request.cells is not None:
        reporter.update("cells counted", min(total, request.cells), request.cells)
    if not total:
        return
    for target, reached in zip(
        request.precision, precision_reached(request.precision, counts), strict=True
    ):
        needed = cells_for_half_width(counts.get(target.name, 0), total, target.half_width_percent)
        reporter.update(
            f"precision {target.name}", min(total, needed), needed, text=f"{reached}, cells"
        )


def unmet_targets(sample: Sample, request: ScanRequest | None, outcome: ScanOutcome | None) -> str:
    """Describe the targets that the final count misses although the scan reached them.

    Empty if none.

    The scan and the report count alike, so the text is expected to be empty. The check stays
    because users rely on the report.

    Raises:
        SampleStateError: the cells are not classified.
    """
    if request is None or outcome is None or outcome.reason not in ("cells", "precision"):
        return ""
    from wbcpipe.report.differential import count_cells
    from wbcpipe.report.rows import read_rows
    from wbcpipe.samples.cell_store import CellStore

    rows = read_rows(CellStore(sample.cells_path))
    counts = count_cells(rows.predicted_class, rows.qc_flags, rows.classes).counts
    final = request.outcome(outcome.fields_done, outcome.fields_wanted, counts, in_time=True)
    return "" if final.reason in ("cells", "precision") else final.text
