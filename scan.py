"""Stages 1 and 2 at the same time: fields are segmented while the stage moves on, until enough cells are counted.

How many fields are taken depends only on what the fields hold, never on timing, so that a run that was broken takes
the same fields as one that was not.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, Self

from wbcpipe.acquire.frames import fields_on_disk, read_info
from wbcpipe.errors import AcquisitionError, FrameFileError
from wbcpipe.samples import read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wbcpipe.acquire.config import Scope
    from wbcpipe.acquire.plan import AcquisitionPlan
    from wbcpipe.acquire.specimen import SpecimenPlan
    from wbcpipe.acquire.worker import AcquisitionWorker
    from wbcpipe.progress import Reporter
    from wbcpipe.samples import Sample

__all__ = [
    "CALIBRATION_FIELDS",
    "FieldSource",
    "ScanRequest",
    "Segmenter",
    "acquire_and_segment",
    "check_request",
    "next_field_count",
    "scan_until",
]

#: Flat-field and registration prior are estimated from this many fields at the beginning of the plan.
CALIBRATION_FIELDS: Final = 16


class FieldSource(Protocol):
    """Takes planned fields, in order."""

    def take(self, wanted: int) -> Iterator[int | None]:
        """See that the first ``wanted`` planned fields are on disk.

        Yields:
            The index of each of them as it becomes available, in order; ``None`` for one recorded missing.
        """
        ...


class Segmenter(Protocol):
    """Turns fields into cells."""

    def calibrate(self, indices: list[int]) -> None:
        """Estimate what all fields share."""
        ...

    def process(self, index: int) -> object:
        """Segment one field."""
        ...

    def count(self) -> int:
        """Cells found so far that would count."""
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
    decide: Callable[[int, int], int],
    progress: Callable[[int, int, int], None],
) -> list[int]:
    """Take and segment fields until ``decide`` asks for no more.

    Args:
        source: takes the fields.
        segmenter: segments them.
        decide: from fields taken and cells counted to the number of fields to have.
        progress: called with fields done, fields wanted and cells counted.

    Returns:
        The indices of the fields segmented, in order.
    """
    done: list[int] = []
    looked_at, waiting, calibrated = 0, [], False
    while (wanted := decide(looked_at, segmenter.count())) > looked_at:
        position = 0
        for index in source.take(wanted):
            position += 1
            if position <= looked_at:
                continue
            if index is not None:
                waiting.append(index)
            if not calibrated and position >= min(CALIBRATION_FIELDS, wanted) and waiting:
                segmenter.calibrate(list(waiting))
                calibrated = True
            while calibrated and waiting:
                done.append(waiting.pop(0))
                segmenter.process(done[-1])
            progress(position, wanted, segmenter.count())
        looked_at = wanted
    return done


@dataclass(frozen=True)
class ScanRequest:
    """What to take of a slide.

    Attributes:
        scope: the microscope.
        plan: the fields that the slot's scan area allows, in order.
        specimen: on a virtual scope, what lies on the stage.
        cells: go on until so many cells are counted.
        fields: take exactly so many fields instead.
    """

    scope: Scope
    plan: AcquisitionPlan
    specimen: SpecimenPlan | None
    cells: int = 200
    fields: int | None = None

    def decide(self, taken: int, cells: int) -> int:
        """Fields to have after ``taken`` fields with ``cells`` cells; see `next_field_count`."""
        available = len(self.plan.fields())
        if self.fields is not None:
            return min(self.fields, available)
        return next_field_count(
            taken=taken,
            cells=cells,
            wanted_cells=self.cells,
            expected_per_field=self.scope.expected_cells_per_field,
            available=available,
        )


def check_request(sample: Sample, request: ScanRequest) -> None:
    """Refuse what cannot work before anything is written.

    Raises:
        SampleStateError: the sample was begun otherwise.
        DiskFullError: the fields that are likely needed do not fit on the disk.
    """
    from wbcpipe.acquire.record import check_disk, check_sample

    check_sample(sample, request.scope, request.plan, request.specimen)
    likely = request.fields or math.ceil(request.cells / request.scope.expected_cells_per_field)
    likely = min(likely, len(request.plan.fields()))
    there = fields_on_disk(sample.raw_path())
    check_disk(sample.path, request.scope, sum(index not in there for index in range(likely)))


class _Slide:
    """Fields of a slide: those on disk at once, the others from a worker that is started when first needed."""

    def __init__(self, sample: Sample, request: ScanRequest, say: Callable[[str], None]) -> None:
        self._sample = sample
        self._request = request
        self._say = say
        self._worker: AcquisitionWorker | None = None
        self._closing = contextlib.ExitStack()
        self._known = dict.fromkeys(self._whole(), True)
        self._known |= dict.fromkeys(_recorded_missing(sample), False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def _whole(self) -> Iterator[int]:
        for index, path in fields_on_disk(self._sample.raw_path()).items():
            with contextlib.suppress(FrameFileError):  # the session puts it into quarantine and takes it again
                read_info(path)
                yield index

    def take(self, wanted: int) -> Iterator[int | None]:
        """See `FieldSource.take`."""
        events = None
        for index in range(wanted):
            while index not in self._known:
                events = events or self._events(wanted)
                if not next(events, False):
                    raise AcquisitionError(
                        f"sample {self._sample.name!r}: the acquisition ended without field {index}; run again."
                    )
            yield index if self._known[index] else None

    def _events(self, wanted: int) -> Iterator[bool]:
        from wbcpipe.acquire.worker import AcquisitionRequest, AcquisitionWorker, FieldMissing, FieldTaken, Progress

        if self._worker is None:
            request = self._request
            what = AcquisitionRequest(self._sample, request.scope, request.plan, request.specimen)
            self._worker = self._closing.enter_context(AcquisitionWorker(what))
        self._worker.want(wanted)
        for event in self._worker.events():
            match event:
                case FieldTaken(index=index):
                    self._known[index] = True
                case FieldMissing(index=index, reason=reason):
                    self._known[index] = False
                    self._say(f"field {index} could not be taken: {reason}")
                case Progress(text=text):
                    self._say(text)
            yield True


def _recorded_missing(sample: Sample) -> list[int]:
    path = sample.raw_path() / "missing.json"
    return [int(index) for index in read_json(path)] if path.is_file() else []


def acquire_and_segment(sample: Sample, request: ScanRequest | None, *, pixel_um: float, reporter: Reporter) -> None:
    """Stages 1 and 2 of a sample: take what is missing, segment it, write ``cells.zarr``.

    Args:
        sample: its lock is held by the caller.
        request: what to take; ``None`` for a sample that was imported.
        pixel_um: pixel size of the crops.
        reporter: shows progress.

    Raises:
        WbcpipeError: see the stages.
    """
    from wbcpipe.segment.stage import SegmentStage, segment_sample

    if request is None:
        if fields_on_disk(sample.raw_path()):
            segment_sample(
                sample, pixel_um=pixel_um, progress=lambda done, total: reporter.update("fields segmented", done, total)
            )
        return
    from wbcpipe.acquire.record import begin_sample

    begin_sample(sample, request.scope, request.plan, request.specimen)
    segmenter = SegmentStage(sample, pixel_um=pixel_um)

    def show(done: int, wanted: int, cells: int) -> None:
        reporter.update("fields taken and segmented", done, wanted)
        if request.fields is None:
            reporter.update("cells found", min(cells, request.cells), request.cells)

    with _Slide(sample, request, reporter.say) as slide:
        indices = scan_until(slide, segmenter, decide=request.decide, progress=show)
    segmenter.finish(indices)
