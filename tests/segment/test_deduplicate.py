from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbcpipe.errors import SampleStateError
from wbcpipe.samples.cell_columns import QcFlag
from wbcpipe.samples.truth import TruthRow, write_truth
from wbcpipe.segment.deduplicate import deduplicate, label_from_truth

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random


def keep(rows: list[tuple[float, float, int, int, float]]) -> list[bool]:
    """Rows of y_um, x_um, field, quality, distance from the field's middle."""
    y, x, field, quality, off = (np.array(column) for column in zip(*rows, strict=True))
    kept = deduplicate(y, x, field.astype(np.int32), quality.astype(np.uint16), off)
    return [bool(flag) for flag in kept]


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        ([(0, 0, 0, 0, 90), (0.5, 0.5, 1, 0, 80)], [False, True]),
        ([(0, 0, 0, QcFlag.BORDER, 10), (1, 1, 1, 0, 95)], [False, True]),
        ([(0, 0, 0, QcFlag.BORDER, 10), (0, 6, 1, 0, 95)], [False, True]),
        ([(0, 0, 0, 0, 50), (0, 3, 0, 0, 50)], [True, True]),
        ([(0, 0, 0, 0, 50), (0, 9, 1, 0, 50)], [True, True]),
        ([(0, 0, 0, QcFlag.UNREGISTERED, 10), (0, 0, 1, 0, 90)], [False, True]),
        ([(0, 0, 3, 0, 50), (0, 0, 2, 0, 50)], [False, True]),
        ([(0, 0, 0, 0, 70), (0, 0, 1, 0, 60), (0, 0, 2, 0, 80)], [False, True, False]),
    ],
    ids=[
        "nearer the middle",
        "whole before cut",
        "the cut part lies off",
        "one field, two cells",
        "two cells",
        "registered first",
        "a tie goes to the earlier field",
        "three views",
    ],
)
def test_the_best_view_is_kept(
    rows: list[tuple[float, float, int, int, float]], kept: list[bool]
) -> None:
    assert keep(rows) == kept
    order = list(range(len(rows)))[::-1]
    assert keep([rows[k] for k in order]) == [kept[k] for k in order]


#: Within a few cells' size of each other, so that many are views of one.
views = st.tuples(
    st.floats(0, 30),
    st.floats(0, 30),
    st.integers(0, 4),
    st.sampled_from([0, QcFlag.BORDER, QcFlag.UNREGISTERED, QcFlag.SATURATED, QcFlag.DOUBLET]).map(
        int
    ),
    st.sampled_from([0.0, 10.0, 10.0004, 55.5]),
)


@given(st.lists(views, min_size=1, max_size=25), st.randoms(use_true_random=False))
def test_what_is_kept_depends_on_no_order_and_stays_when_it_is_done_again(
    rows: list[tuple[float, float, int, int, float]], random: Random
) -> None:
    kept = keep(rows)
    order = list(range(len(rows)))
    random.shuffle(order)
    assert keep([rows[k] for k in order]) == [kept[k] for k in order]
    left = [row for row, is_kept in zip(rows, kept, strict=True) if is_kept]
    assert left, "of each cell a view stays"
    assert all(keep(left))


def test_no_cells() -> None:
    nothing = np.zeros(0)
    assert (
        deduplicate(
            nothing, nothing, nothing.astype(np.int32), nothing.astype(np.uint16), nothing
        ).tolist()
        == []
    )


def test_each_truth_serves_the_nearest_cell_once(tmp_path: Path) -> None:
    path = tmp_path / "truth.csv"
    rows = [
        TruthRow(10, 10, 0, "NEU", "cell"),
        TruthRow(30, 10, 0, "LYM", "doublet"),
        TruthRow(50, 10, 0, "", "debris"),
        TruthRow(70, 10, -1, "", "platelet"),
    ]
    write_truth(path, rows)
    y, x = np.array([10.0, 11.5, 10.0, 10.0]), np.array([10.5, 11.0, 28.0, 50.0])
    assert label_from_truth(path, y, x) == ["NEU", "", "LYM", ""]


def test_another_file_is_not_taken_for_truth(tmp_path: Path) -> None:
    path = tmp_path / "truth.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(SampleStateError, match="column 'x_um' is missing"):
        label_from_truth(path, np.zeros(1), np.zeros(1))
