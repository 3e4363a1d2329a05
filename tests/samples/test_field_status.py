"""Missing and skipped fields read back in the order of their index."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wbcpipe.samples.field_status import read_missing, read_skipped, write_missing, write_skipped

if TYPE_CHECKING:
    from pathlib import Path


def test_fields_without_frames_read_back_in_order(tmp_path: Path) -> None:
    assert (read_missing(tmp_path), read_skipped(tmp_path)) == ({}, {})
    write_missing(tmp_path, {12: "time-out", 3: "the lamp was dark."})
    write_skipped(tmp_path, {11: 2.5, 4: 0.0})
    assert list(read_missing(tmp_path).items()) == [(3, "the lamp was dark."), (12, "time-out")]
    assert list(read_skipped(tmp_path).items()) == [(4, 0.0), (11, 2.5)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    missing=st.dictionaries(
        st.integers(0, 99_999), st.text(st.characters(codec="utf-8"), min_size=1), max_size=6
    ),
    skipped=st.dictionaries(st.integers(0, 99_999), st.floats(0, 1e9), max_size=6),
)
def test_any_reason_and_area_is_read_as_it_was_written(
    tmp_path: Path, missing: dict[int, str], skipped: dict[int, float]
) -> None:
    write_missing(tmp_path, missing)
    write_skipped(tmp_path, skipped)
    assert read_missing(tmp_path) == missing
    assert read_skipped(tmp_path) == skipped
