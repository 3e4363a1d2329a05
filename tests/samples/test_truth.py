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
        (
            "x_um,y_um,field,class,kind,crc32c\n1,2,three,NEU,cell,\n",
            r"damaged \(invalid literal for int",
        ),
        ("x_um,y_um,field,class,kind,crc32c\n1,2,3,NEU\n", r"damaged \(not enough values"),
        ("x_um,y_um,field,class,kind,crc32c\n1,2,3,NEU,cell,\n", "changed since it was written"),
        ("", r"damaged \(not enough values"),
        (
            'x_um,y_um,field,class,kind,crc32c\n1,2,3,"NEU,cell,\n',
            r"damaged \(unexpected end of data",
        ),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "truth.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SampleStateError, match=rf"truth\.csv: {words}"):
        read_truth(path)


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "truth.csv"
    write_truth(
        path, [TruthRow(1.25, -2.5, 3, "NEU", "doublet"), TruthRow(0.0, 7.125, -1, "", "platelet")]
    )
    content = path.read_bytes()
    for at in range(len(content)):
        for changed in (content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :], content[:at]):
            path.write_bytes(changed)
            if changed != content[: content.index(b"\n") + 1]:  # a table without a row is one
                with pytest.raises(SampleStateError, match="truth"):
                    read_truth(path)
