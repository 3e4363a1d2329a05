"""Missing and skipped fields read back in the order of their index."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wbcpipe.samples.field_status import read_missing, read_skipped, write_missing, write_skipped

if TYPE_CHECKING:
    from pathlib import Path


def test_fields_without_frames_read_back_in_order(tmp_path: Path) -> None:
    assert (read_missing(tmp_path), read_skipped(tmp_path)) == ({}, {})
    write_missing(tmp_path, {12: "time-out", 3: "the lamp was dark."})
    write_skipped(tmp_path, {11: 2.5, 4: 0.0})
    assert list(read_missing(tmp_path).items()) == [(3, "the lamp was dark."), (12, "time-out")]
    assert list(read_skipped(tmp_path).items()) == [(4, 0.0), (11, 2.5)]
