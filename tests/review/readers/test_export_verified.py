"""Verified cells become a training set.

Whose class counts, what is left out, and that training reads it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner

from wbcpipe.classify.training.data import cell_sources, load_cells
from wbcpipe.errors import ImportDataError, SampleStateError, WbcpipeError
from wbcpipe.labels.export_verified import export_verified
from wbcpipe.pipeline import cli
from wbcpipe.samples.cell_columns import QcFlag
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.training_set import TrainingSet, training_set_path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Create = Callable[..., Any]


def test_each_way_to_verify_a_cell_and_each_reason_to_leave_one_out(
    create: Create, tmp_path: Path
) -> None:
    machine = ["NEU"] * 12
    desk = create(machine, flags={10: int(QcFlag.BORDER)})
    desk.blind("ann", {0: "NEU", 1: "LYM", 2: "LYM", 3: "LYM", 9: "EOS"})
    desk.blind("ben", {0: "NEU", 1: "MO", 2: "EOS", 3: "LYM", 9: "EOS"})
    desk.adjudicate("chief", 1, "MO")
    desk.assign("ann", 3, "BAS")  # after the readings: the last word
    desk.assign("ann", 4, "unidentified")
    desk.assign("ann", 5, "artefact")
    desk.assign("ann", 10, "EOS")
    desk.look("ann", 6, 7)
    before = export_verified([desk.sample], tmp_path / "unsigned", target=2)
    assert before.samples[0].sources == {"agreed": 2, "adjudicated": 1, "assigned": 1}
    desk.sign("ann")
    found = export_verified([desk.sample], tmp_path / "out", target=2)
    (entry,) = found.samples
    assert entry.state == "verified"
    assert entry.sources == {"agreed": 2, "adjudicated": 1, "assigned": 1, "confirmed": 2}
    assert entry.left_out == {
        "blind readers differ": 1,
        "unidentified": 1,
        "artefact": 1,
        "debris or cut by the border": 1,
    }
    assert found.classes == {"NEU": 3, "LYM": 0, "EOS": 1, "MO": 1, "BAS": 1}
    assert found.lacks == {"NEU": 0, "LYM": 2, "EOS": 1, "MO": 1, "BAS": 1}
    source, copy = (
        CellStore(desk.sample.cells_path),
        CellStore(tmp_path / "out" / "S1" / "cells.zarr"),
    )
    assert copy.labels() == ["NEU", "MO", "BAS", "NEU", "NEU", "EOS"]
    rows = [0, 1, 3, 6, 7, 9]
    np.testing.assert_array_equal(copy.images(), source.images()[rows])
    for name in ("x_um", "field_index", "shift_px", "qc_flags"):
        np.testing.assert_array_equal(copy.column(name), source.column(name)[rows])
    assert not copy.is_classified()


def test_a_majority_of_three_readers_counts(create: Create, tmp_path: Path) -> None:
    desk = create(["NEU"] * 2)
    for reader, to in {"ann": "LYM", "ben": "LYM", "cat": "MO"}.items():
        desk.blind(reader, {0: to})
    (entry,) = export_verified([desk.sample], tmp_path / "out").samples
    assert (entry.sources, entry.classes["LYM"], entry.readers) == (
        {"majority": 1},
        1,
        ("ann", "ben", "cat"),
    )


def test_training_reads_the_folder_and_keeps_the_slides_apart(
    create: Create, tmp_path: Path
) -> None:
    for name in ("S1", "S2"):
        desk = create(["NEU", "LYM"] * 10, name=name)
        for row in range(20):
            desk.assign("ann", row, ("LYM", "NEU")[row % 2])
    command = [
        "labels",
        "export",
        "S1",
        "S2",
        "--data",
        str(tmp_path / "data"),
        "--out",
        str(tmp_path / "set"),
    ]
    shown = CliRunner().invoke(
        cli, [*command, "--verified", "--target", "21"], catch_exceptions=False
    )
    assert "S1 (preliminary): 20 cells (20 assigned)" in shown.output
    assert "lacking of 21 cells of each class: NEU 1, LYM 1, EOS 21, MO 21, BAS 21" in shown.output
    cells = load_cells(cell_sources(tmp_path / "data", [str(tmp_path / "set")]), 8)
    assert cells.counts() == {"NEU": 20, "LYM": 20}
    assert cells.samples == ("S1", "S2")
    assert cells.slides is not None
    assert sorted(np.unique(cells.slides)) == [0, 1]
    assert len(np.unique(cells.groups)) == 10
    again = CliRunner().invoke(cli, [*command, "--verified", "--json"], catch_exceptions=False)
    assert json.loads(again.output)["lacks"]["EOS"] == 25


def test_what_is_not_a_training_set_is_neither_overwritten_nor_read(
    create: Create, tmp_path: Path
) -> None:
    desk = create(["NEU"] * 3)
    with pytest.raises(ImportDataError, match="no cell has a class that a person gave"):
        export_verified([desk.sample], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    desk.assign("ann", 0, "LYM")
    with pytest.raises(ImportDataError, match="holds a folder 'S1' that is no training set's"):
        export_verified([desk.sample], tmp_path / "data")
    record = training_set_path(tmp_path / "out")
    export_verified([desk.sample], tmp_path / "out")
    found = TrainingSet.read(record)
    found.model_copy(update={"complete": False}).write(record)
    with pytest.raises(SampleStateError, match=r"the training set is not complete; write it again"):
        cell_sources(tmp_path, [str(tmp_path / "out")])
    entry = found.samples[0].model_copy(update={"sample": "../S1"})
    found.model_copy(update={"samples": (entry,)}).write(record)
    with pytest.raises(WbcpipeError, match=r"sample name '\.\./S1' is refused"):
        cell_sources(tmp_path, [str(tmp_path / "out")])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name a sample"),
        (["S1", "S2"], "several samples need --verified"),
        (["S1", "--target", "3"], "--target needs --verified"),
    ],
)
def test_the_command_says_what_it_needs(tmp_path: Path, words: list[str], message: str) -> None:
    shown = CliRunner().invoke(cli, ["labels", "export", *words, "--out", str(tmp_path / "out")])
    assert shown.exit_code == 2
    assert message in shown.output
