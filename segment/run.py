"""Segment a complete sample: all its fields, several at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wbcpipe.samples.fields import complete_fields
from wbcpipe.segment.detection.detectors import OWN
from wbcpipe.segment.parallel import default_jobs, segment_fields_ahead
from wbcpipe.segment.stage import SampleSegmenter

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.samples.cell_store import CellStore
    from wbcpipe.samples.sample import Sample

__all__ = ["segment_sample"]


def segment_sample(
    sample: Sample,
    *,
    pixel_um: float,
    progress: Callable[[str, int, int], None] = lambda _task, _done, _total: None,
    jobs: int = 0,
    detector: str = OWN,
) -> CellStore:
    """Segment every field on the disk and write ``cells.zarr``.

    Args:
        sample: the caller holds its lock.
        pixel_um: pixel size of the crops.
        progress: called with (task, units done, units in all).
        jobs: processes; 0 for `default_jobs`.
        detector: name of the nucleus detector, see `segment.detection.detectors`.

    Raises:
        ConfigError: no such detector, or it failed.
        SampleStateError: no such sample.
        FrameFileError: no field can be read.
        NoCellsError: the fields hold no cell.
    """
    indices = complete_fields(sample.path / "raw")
    segmenter = SampleSegmenter(sample, pixel_um=pixel_um, detector=detector, progress=progress)
    segmenter.estimate_statistics(indices)
    jobs = jobs or default_jobs(len(indices))
    ahead = segment_fields_ahead(sample, indices, pixel_um=pixel_um, jobs=jobs, detector=detector)
    for done, index in enumerate(ahead, 1):
        segmenter.segment_field(index)
        progress("fields segmented", done, len(indices))
    return segmenter.write_store(indices)
