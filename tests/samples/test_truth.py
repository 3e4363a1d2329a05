"""Truth reads back as it was written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from wbcpipe.errors import SampleStateError
from wbcpipe.samples.truth import TruthRow, read_truth, write_truth

if TYPE_CHECKING:
    from pathlib import Path


def test_truth_reads_back_as_it_was_written(tmp_path: Path) -> None:
    rows = [TruthRow(1.25, -2.5, 3, "NEU", "doublet"), TruthRow(0.0, 7.125, -1, "", "platelet")]
    write_truth(tmp_path / "truth.csv", rows)
    assert read_truth(tmp_path / "truth.csv") == rows
    assert [row.is_white_cell for row in rows] == [True, False]
    assert [path.name for path in tmp_path.iterdir()] == ["truth.csv"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x_um,y_um,field,kind\n1,2,3,cell\n", "column 'class' is missing"),
        ("x_um,y_um,field,class,kind\n1,2,three,NEU,cell\n", "line 2 is damaged"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "truth.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SampleStateError, match=rf"truth\.csv: {words}"):
        read_truth(path)
