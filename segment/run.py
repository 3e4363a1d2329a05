"""Segment a complete sample: all its fields, several at a time."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING

from wbcpipe.errors import SampleStateError
from wbcpipe.samples.cell_columns import CROP_PIXEL_UM
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.field_status import unrecorded_gaps
from wbcpipe.samples.fields import complete_fields, field_path, fields_on_disk, passes_on_disk
from wbcpipe.samples.freed import refuse_if_freed
from wbcpipe.segment.detection.detectors import OWN
from wbcpipe.segment.parallel import default_jobs, segment_fields_ahead
from wbcpipe.segment.stage import SampleSegmenter
from wbcpipe.system.progress import unreported

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from wbcpipe.samples.sample import Sample
    from wbcpipe.samples.segment_settings.settings import SegmentSettings

__all__ = ["segment_fields", "segment_sample"]

_log = logging.getLogger(__name__)


def segment_sample(
    sample: Sample,
    *,
    pixel_um: float = CROP_PIXEL_UM,
    detector: str = OWN,
    settings: SegmentSettings | None = None,
    jobs: int = 0,
    progress: Callable[[str, int, int], None] = unreported,
) -> CellStore:
    """Find, register and cut out the white cells of every field, and write ``cells.zarr``.

    Fields that were segmented before are not segmented again. The sample is locked meanwhile.

    Args:
        sample: its fields were taken or imported.
        pixel_um: pixel size of the crops, in um; that of the model which shall classify them.
        detector: name of the nucleus detector, see `segment.detection.detectors`.
        settings: of the segmentation; those of the sample if ``None``.
        jobs: number of processes; 0 for the fastest number on this computer.
        progress: called with (task, units done, units in all).

    Returns:
        The cells.

    Raises:
        ConfigError: no such detector, or it failed.
        SampleStateError: no such sample, or it is signed.
        SampleBusyError: another process uses the sample.
        FieldsFreedError: its fields were freed.
        FrameFileError: no field can be read, or none was taken.
        NoCellsError: the fields hold no cell, or all were empty.

    Example:
        ``cells = wbcpipe.segment_sample(wbcpipe.Sample.open("wbc-data", "S001"))``
    """
    sample.record()  # before the lock, which would create the folder
    with sample.lock("segment"):
        return segment_fields(
            sample,
            pixel_um=pixel_um,
            detector=detector,
            settings=settings,
            jobs=jobs,
            progress=progress,
        )


def segment_fields(
    sample: Sample,
    *,
    pixel_um: float,
    detector: str = OWN,
    settings: SegmentSettings | None = None,
    jobs: int = 0,
    progress: Callable[[str, int, int], None] = unreported,
) -> CellStore:
    """Do the work of `segment_sample`, which has the arguments; the caller holds the lock."""
    refuse_if_freed(sample, "segment")
    began_s = time.perf_counter()
    complete = complete_fields(sample.path / "raw")
    lost = _lost_fields(sample, complete)
    for index, path in sorted(lost.items()):
        sample.log("field_lost", field=index)
        _log.warning("field %d: %s is missing, and no record says why", index, path)
    indices = sorted({*complete, *lost})
    jobs = jobs or default_jobs(len(indices))
    _log.info("sample %s: segmenting %d fields, %d processes", sample.name, len(indices), jobs)
    segmenter = SampleSegmenter(
        sample, pixel_um=pixel_um, detector=detector, settings=settings, progress=progress
    )
    segmenter.estimate_statistics(complete)
    ahead = segment_fields_ahead(
        sample,
        indices,
        pixel_um=pixel_um,
        jobs=jobs,
        detector=detector,
        settings=segmenter.settings,
    )
    for done, index in enumerate(ahead, 1):
        segmenter.segment_field(index)
        progress("fields segmented", done, len(indices))
    store = segmenter.write_store(indices)
    seconds = time.perf_counter() - began_s
    _log.info("sample %s: %d cells segmented in %.1f s", sample.name, len(store), seconds)
    return store


def _lost_fields(sample: Sample, complete: Sequence[int]) -> dict[int, Path]:
    """Return the fields whose files are gone, and the file; they are treated as damaged ones.

    No record says why such a field is not there, or ``cells.zarr`` holds its cells.
    """
    raw = sample.path / "raw"
    lost: set[int] = set()
    with contextlib.suppress(SampleStateError):  # a damaged record is found where it is needed
        for name in passes_on_disk(raw):
            lost |= {*unrecorded_gaps(raw / name, fields_on_disk(raw / name))}
    with contextlib.suppress(SampleStateError):
        if complete and sample.cells_path.is_dir():
            lost |= {*CellStore(sample.cells_path).fields()}
    files = (
        (index, field_path(raw / name, index)) for index in lost for name in passes_on_disk(raw)
    )
    return {index: path for index, path in files if not path.exists()}
