"""Marks of missed cells are told from those of found ones; results are kept and read again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from wbcpipe.errors import SampleStateError
from wbcpipe.review.proficiency.cell_location import count_marks, draw_fields
from wbcpipe.review.proficiency.records import LocationResult, append_result, read_results

if TYPE_CHECKING:
    from pathlib import Path


def test_a_mark_on_a_cell_that_was_found_is_no_missed_one() -> None:
    cells = np.array([[0.0, 0.0], [0.0, 50.0]])
    marks = np.array([[1.0, 1.0], [0.0, 46.5], [0.0, 25.0], [100.0, 0.0]])
    found = count_marks(marks, cells)
    assert (found.missed, found.already_found) == (2, 2)


def test_marks_of_one_cell_in_two_overlapping_fields_count_once() -> None:
    marks = np.array([[10.0, 10.0], [12.0, 11.0], [30.0, 10.0]])
    assert count_marks(marks, np.zeros((0, 2))).missed == 2
    assert count_marks(np.zeros((0, 2)), np.zeros((3, 2))).missed == 0


def test_the_fields_of_a_day_are_the_same_for_all_and_others_the_next_day() -> None:
    today = draw_fields("S1", range(100), 20, day="2026-11-30")
    assert today == draw_fields("S1", range(99, -1, -1), 20, day="2026-11-30")
    assert today != draw_fields("S1", range(100), 20, day="2026-12-01")
    assert len(set(today)) == 20
    assert draw_fields("S1", [4, 2], 20, day="2026-11-30") == [2, 4]


def _result(percent: float) -> LocationResult:
    return LocationResult(
        date="2026-11-30T08:00:00+00:00",
        reader="Ann Ö.",
        limit_percent=95,
        passed=percent >= 95,
        sample="S1",
        scope="demo",
        fields=20,
        found=97,
        missed=3,
        percent=percent,
        interval_percent=(91.5, 99.4),
    )


def test_results_are_kept_in_order_and_a_torn_line_is_left_out(tmp_path: Path) -> None:
    assert read_results(tmp_path, LocationResult) == []
    path = append_result(tmp_path, _result(97))
    append_result(tmp_path, _result(96))
    assert [item.percent for item in read_results(tmp_path, LocationResult)] == [97, 96]
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert [item.percent for item in read_results(tmp_path, LocationResult)] == [97]


@pytest.mark.parametrize("damage", [(b"97.0", b"99.0"), (b"Ann", b"\xff"), (b"demo", b"dem\x00")])
def test_a_damaged_line_is_refused_with_its_number(
    tmp_path: Path, damage: tuple[bytes, bytes]
) -> None:
    append_result(tmp_path, _result(96))
    path = append_result(tmp_path, _result(97))
    path.write_bytes(path.read_bytes().replace(*damage))
    with pytest.raises(
        SampleStateError, match=r"location\.jsonl.*(line [12]|not UTF-8).*restore it from a copy"
    ):
        read_results(tmp_path, LocationResult)
