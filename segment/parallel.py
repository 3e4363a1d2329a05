"""Segment fields in several processes, ahead of the process that collects them.

Each process writes its results where `SampleSegmenter.segment_field` finds them. So no result is lost when a process
dies, and the collecting process segments what is missing itself.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Final

from wbcpipe.samples.sample import Sample
from wbcpipe.segment.detection.detectors import OWN
from wbcpipe.system.signals import ignore_stop_signals, ignore_stop_signals_in_children

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wbcpipe.segment.stage import SampleSegmenter

__all__ = ["available_cores", "default_jobs", "segment_fields_ahead"]

#: A process takes a second or two to start, which is 5 to 20 fields' time.
_FIELDS_WORTH_A_PROCESS: Final = 16
#: Beyond this the disk decides.
_MOST_JOBS: Final = 8

_stage: SampleSegmenter


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_jobs(fields: int) -> int:
    """How many processes so many fields are worth here."""
    return max(1, min(available_cores(), _MOST_JOBS, fields // _FIELDS_WORTH_A_PROCESS))


def segment_fields_ahead(
    sample: Sample, indices: Sequence[int], *, pixel_um: float, jobs: int, detector: str = OWN
) -> Iterator[int]:
    """Segment fields of a statistics sample in processes of their own; the caller holds the sample's lock.

    Args:
        sample: its statistics is on the disk.
        indices: the fields.
        pixel_um: pixel size of the crops.
        jobs: processes; with one nothing is done ahead.
        detector: name of what finds the nuclei.

    Yields:
        Each index, in order, once the field has been tried. When a process dies, the rest follow without being tried.
    """
    if jobs <= 1:
        yield from indices
        return
    place = (str(sample.path.parent), sample.name, pixel_um, detector)
    executor = ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_begin, initargs=place
    )
    remaining = iter(indices)
    try:
        with contextlib.suppress(BrokenProcessPool):
            with ignore_stop_signals_in_children():
                tried = executor.map(_prepare, indices)
            for _ in tried:
                yield next(remaining)
        yield from remaining
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _begin(root: str, name: str, pixel_um: float, detector: str) -> None:
    """Make ready one process: Ctrl-C is the gatherer's, and without a gatherer there is nothing to do."""
    from pathlib import Path

    from wbcpipe.segment.stage import SampleSegmenter

    global _stage
    ignore_stop_signals(but_sigterm=True)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    place = Sample.open(Path(root), name)
    _stage = SampleSegmenter(place, pixel_um=pixel_um, detector=detector)
    _stage.estimate_statistics([])


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _prepare(index: int) -> None:
    _stage.segment_ahead(index)
