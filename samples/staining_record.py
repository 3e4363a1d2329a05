"""``raw/staining.json``: the progress of the staining between two passes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from wbcpipe.samples.records import StainingRecord
from wbcpipe.system.files import make_folder

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.samples.sample import Sample

__all__ = ["StainingState", "read_staining", "staining_path", "staining_state", "write_staining"]

#: Empty before the staining; ``started`` where its end was not recorded.
StainingState = Literal["", "started", "incubating", "stained"]


def staining_path(sample: Sample) -> Path:
    """Return the path of ``staining.json``."""
    return sample.path / "raw" / "staining.json"


def read_staining(sample: Sample) -> StainingRecord | None:
    """Read the record; ``None`` before the staining.

    Raises:
        SampleStateError: the file is damaged.
    """
    return StainingRecord.read_if_present(staining_path(sample))


def write_staining(sample: Sample, record: StainingRecord) -> None:
    """Write the record, atomically."""
    path = staining_path(sample)
    make_folder(path.parent)
    record.write(path)


def staining_state(sample: Sample) -> StainingState:
    """Return the state of a sample's staining.

    Raises:
        SampleStateError: the file is damaged.
    """
    record = read_staining(sample)
    if record is None:
        return ""
    return "stained" if record.done else "incubating" if record.applied else "started"
