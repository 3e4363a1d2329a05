"""Segment fields in several processes, ahead of the process that collects them.

Each process writes its results where `SampleSegmenter.segment_field` finds them. So no result is
lost when a process dies, and the collecting process segments what is missing itself.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Final, TypeVar, TypeVarTuple, Unpack

from wbcpipe.segment.detection.detectors import OWN
from wbcpipe.segment.stage import SampleSegmenter
from wbcpipe.system.child_process import worker_pool
from wbcpipe.system.signals import ignore_stop_signals_in_children

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Executor

    from wbcpipe.samples.sample import Sample
    from wbcpipe.samples.segment_settings.settings import SegmentSettings

__all__ = ["available_cores", "default_jobs", "map_ahead", "segment_fields_ahead"]

_Arguments = TypeVarTuple("_Arguments")
_Result = TypeVar("_Result")

#: A process takes one or two seconds to start: the time of 5 to 20 fields.
_MIN_FIELDS_PER_PROCESS: Final = 16
#: With more processes the disk is the limit.
_MAX_JOBS: Final = 8
#: Tasks that wait for a process, or for being collected.
_AHEAD_PER_PROCESS: Final = 8

_segmenter: SampleSegmenter


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_jobs(tasks: int, min_per_process: int = _MIN_FIELDS_PER_PROCESS) -> int:
    """Return the number of processes that do so many tasks, by default fields to segment, fastest
    on this machine.
    """
    return max(1, min(available_cores(), _MAX_JOBS, tasks // min_per_process))


def map_ahead(
    function: Callable[[Unpack[_Arguments]], _Result],
    tasks: Iterable[tuple[*_Arguments]],
    jobs: int,
) -> Iterator[_Result]:
    """Yield the results of a function in the order of its tasks, computed in processes of their
    own.

    Args:
        function: of a module.
        tasks: its arguments; they are taken a few ahead, so that not all are in memory. Pickled.
        jobs: number of processes; with one, nothing is computed ahead. A task of a process that
            died is done here.
    """
    if jobs <= 1:
        yield from (function(*task) for task in tasks)
        return
    waiting: deque[tuple[tuple[*_Arguments], Future[_Result]]] = deque()
    with worker_pool(jobs, _nothing) as executor:
        for task in tasks:
            with ignore_stop_signals_in_children():
                waiting.append((task, _submitted(executor, function, task)))
            if len(waiting) >= _AHEAD_PER_PROCESS * jobs:
                yield _result(function, *waiting.popleft())
        while waiting:
            yield _result(function, *waiting.popleft())


def _submitted(
    executor: Executor, function: Callable[[Unpack[_Arguments]], _Result], task: tuple[*_Arguments]
) -> Future[_Result]:
    try:
        return executor.submit(function, *task)
    except BrokenProcessPool as error:
        failed: Future[_Result] = Future()
        failed.set_exception(error)
        return failed


def _result(
    function: Callable[[Unpack[_Arguments]], _Result],
    task: tuple[*_Arguments],
    future: Future[_Result],
) -> _Result:
    try:
        return future.result()
    except BrokenProcessPool:
        return function(*task)


def _nothing() -> None:
    """Prepare nothing: the function brings what it needs."""


def segment_fields_ahead(
    sample: Sample,
    indices: Sequence[int],
    *,
    pixel_um: float,
    jobs: int,
    detector: str = OWN,
    settings: SegmentSettings | None = None,
) -> Iterator[int]:
    """Segment fields in processes of their own.

    Args:
        sample: its slide statistics are on the disk; the caller holds its lock.
        indices: the fields.
        pixel_um: pixel size of the crops.
        jobs: number of processes; with one, nothing is segmented ahead.
        detector: name of the nucleus detector.
        settings: of the segmentation; those of the sample if ``None``.

    Yields: Each index, in order, after its field was tried. When a process dies, the rest are
        yielded untried.
    """
    if jobs <= 1:
        yield from indices
        return
    remaining = iter(indices)
    with worker_pool(jobs, _start_process, sample, pixel_um, detector, settings) as executor:
        with contextlib.suppress(BrokenProcessPool):
            with ignore_stop_signals_in_children():
                tried = executor.map(_segment_ahead, indices)
            for _ in tried:
                yield next(remaining)
        yield from remaining


def _start_process(
    sample: Sample, pixel_um: float, detector: str, settings: SegmentSettings | None
) -> None:
    global _segmenter
    _segmenter = SampleSegmenter(sample, pixel_um=pixel_um, detector=detector, settings=settings)
    _segmenter.estimate_statistics([])


def _segment_ahead(index: int) -> None:
    _segmenter.segment_ahead(index)
