"""Segment a sample that is on the disk: all its fields, several at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wbcpipe.samples.fields import whole_fields
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
    progress: Callable[[int, int], None],
    jobs: int = 0,
    detector: str = OWN,
) -> CellStore:
    """Segment every field on the disk and write ``cells.zarr``.

    Args:
        sample: its lock is held by the caller.
        pixel_um: pixel size of the crops.
        progress: called with (fields done, fields in all).
        jobs: processes; 0 for `default_jobs`.
        detector: name of what finds the nuclei, see `segment.detection.detectors`.

    Raises:
        ConfigError: no such detector, or it failed.
        SampleStateError: no such sample.
        FrameFileError: no field can be read.
        NoCellsError: no cell in any of them.
    """
    indices = whole_fields(sample.path / "raw")
    segmenter = SampleSegmenter(sample, pixel_um=pixel_um, detector=detector)
    segmenter.estimate_statistics(indices)
    jobs = jobs or default_jobs(len(indices))
    ahead = segment_fields_ahead(sample, indices, pixel_um=pixel_um, jobs=jobs, detector=detector)
    for done, index in enumerate(ahead, 1):
        segmenter.segment_field(index)
        progress(done, len(indices))
    return segmenter.write_store(indices)
