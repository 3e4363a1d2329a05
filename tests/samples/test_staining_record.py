"""The state of a staining follows from what was recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from wbcpipe.samples.records import StainingRecord
from wbcpipe.samples.sample import Sample
from wbcpipe.samples.staining_record import (
    read_staining,
    staining_path,
    staining_state,
    write_staining,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("times", "state"),
    [
        ({"started": "a"}, "started"),
        ({"started": "a", "reason": "no dye left"}, "started"),
        ({"started": "a", "applied": "b"}, "incubating"),
        ({"applied": "b", "done": "c"}, "stained"),
    ],
)
def test_the_state_is_that_of_the_last_step(
    tmp_path: Path, times: dict[str, Any], state: str
) -> None:
    sample = Sample.open(tmp_path, "S1")
    assert staining_state(sample) == ""
    record = StainingRecord(method="devices", **times)
    write_staining(sample, record)
    assert read_staining(sample) == record
    assert staining_state(sample) == state
    assert staining_path(sample).is_file()
