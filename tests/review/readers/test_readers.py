"""Two readers, blind.

Their cells, their agreement, what is adjudicated, and the reference that results.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from wbcpipe.errors import SampleStateError
from wbcpipe.pipeline import cli
from wbcpipe.report.reference_differential import read_reference_differential
from wbcpipe.review.readers.blind import draw_cells, start_reading
from wbcpipe.review.readers.calls import calls_of
from wbcpipe.review.readers.compare import compare_two
from wbcpipe.review.readers.consensus import consensus_of, to_adjudicate
from wbcpipe.review.readers.reference import build_reference
from wbcpipe.samples.cell_columns import QcFlag
from wbcpipe.samples.review.entries import Undo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Create = Callable[..., Any]

CLASSES = ("NEU", "LYM", "EOS", "MO", "BAS")
MACHINE = ["NEU"] * 6 + ["LYM"] * 3 + ["MO"]


def test_readers_are_given_the_same_cells_in_different_order() -> None:
    cells = [f"f{n}y0x0" for n in range(300)]
    ann, ben = (draw_cells("S1", cells, 200, seed=seed) for seed in (1, 2))
    assert set(ann) == set(ben)
    assert ann != ben
    assert ann == draw_cells("S1", cells[::-1], 200, seed=1), (
        "the same again, in whatever order the cells lie"
    )
    assert set(ann) != set(draw_cells("S2", cells, 200, seed=1)), "another sample, another draw"
    assert len(draw_cells("S1", cells, 500, seed=1)) == 300
    assert not set(draw_cells("S1", cells, 200, seed=3, apart_from=ann)) & set(ann)


def test_the_drawn_cells_are_a_fair_sample() -> None:
    cells = [f"f{n}y0x0" for n in range(1000)]
    drawn = [
        int(cell[1:-4]) for name in range(50) for cell in draw_cells(f"S{name}", cells, 100, seed=0)
    ]
    assert 480 < sum(drawn) / len(drawn) < 520


def test_a_reading_of_other_cells_and_none_left(create: Create) -> None:
    desk = create(["NEU"] * 6, flags={5: int(QcFlag.BORDER)})
    read = desk.read
    assert len(read.countable) == 5
    first = start_reading(read.state, "S1", read.countable, cells=3, seed=1)
    desk.write("ann", first)
    read = desk.read
    second = start_reading(read.state, "S1", read.countable, cells=3, seed=2, other_cells=True)
    assert len(second.cells) == 2
    assert not set(second.cells) & set(first.cells)
    assert second.reading != first.reading
    desk.write("ben", second)
    with pytest.raises(SampleStateError, match="no cell is left to read; 5 count and 5 were read"):
        start_reading(desk.read.state, "S1", read.countable, cells=3, seed=3, other_cells=True)


def test_agreement_counts_the_cells_that_both_called(create: Create) -> None:
    desk = create(MACHINE)
    desk.blind("ann", dict(enumerate(["NEU"] * 5 + ["LYM"] * 3)))
    desk.blind("ben", dict(enumerate(["NEU"] * 4 + ["LYM"] * 4 + ["EOS"])), finish=False)
    found = compare_two(desk.read, "ann", "ben")
    assert (found.agreement.cells, found.agreement.agreed, found.cells) == (8, 7, (8, 9))
    assert [(cell.row, cell.first, cell.second) for cell in found.differ] == [(4, "NEU", "LYM")]
    assert (found.blind, found.finished) == (True, False)
    assert found.agreement.confusion[0][1] == 1
    neu = found.counts[0]
    assert (neu.first, neu.second, neu.first_percent) == (5, 4, 62.5)


def test_a_reader_against_the_machine(create: Create) -> None:
    desk = create([*MACHINE, "NEU"], flags={10: int(QcFlag.DEBRIS)})
    desk.blind("ann", dict(enumerate([*MACHINE[:9], "EOS", "NEU"])))
    found = compare_two(desk.read, "ann", "machine")
    assert (found.agreement.cells, found.agreement.agreed) == (10, 9), (
        "excluded cells are no calls of the machine"
    )
    assert [cell.row for cell in found.differ] == [9]


def test_a_later_blind_call_replaces_an_earlier_one(create: Create) -> None:
    desk = create(MACHINE)
    desk.blind("ann", {0: "NEU", 1: "NEU"})
    desk.blind("ann", {1: "LYM"})
    assert list(calls_of(desk.read, "ann").by_cell.values()) == ["NEU", "LYM"]


def test_classes_given_in_view_of_the_machines_are_told_as_not_blind(create: Create) -> None:
    desk = create(MACHINE)
    desk.look("ann", 0, 1)
    desk.assign("ann", 1, "EOS")
    found = calls_of(desk.read, "ann")
    assert list(found.by_cell.values()) == ["NEU", "EOS"]
    assert not found.blind
    with pytest.raises(
        SampleStateError, match="'zoe' called no cell; readers of this sample: 'ann', and 'machine'"
    ):
        calls_of(desk.read, "zoe")


def test_adjudication_decides_what_differs_and_can_be_undone(create: Create) -> None:
    desk = create(MACHINE)
    desk.blind("ann", {0: "NEU", 1: "NEU", 2: "LYM"})
    desk.blind("ben", {0: "NEU", 1: "LYM", 2: "EOS"})
    assert [(item.cell, item.calls) for item in to_adjudicate(desk.read)] == [
        (desk.keys[1], {"ann": "NEU", "ben": "LYM"}),
        (desk.keys[2], {"ann": "LYM", "ben": "EOS"}),
    ]
    desk.adjudicate("chief", 1, "LYM")
    found = {item.cell: (item.to, item.how, item.by) for item in consensus_of(desk.read)}
    assert found == {
        desk.keys[0]: ("NEU", "agreed", ""),
        desk.keys[1]: ("LYM", "adjudicated", "chief"),
        desk.keys[2]: ("", "open", ""),
    }
    desk.write("chief", Undo(target=desk.journal.head()))
    assert len(to_adjudicate(desk.read)) == 2


def test_a_third_reader_decides_by_majority(create: Create) -> None:
    desk = create(MACHINE)
    for reader, calls in {
        "ann": ["NEU", "LYM"],
        "ben": ["LYM", "EOS"],
        "cat": ["LYM", "MO"],
    }.items():
        desk.blind(reader, dict(enumerate(calls)))
    found = consensus_of(desk.read)
    assert [(item.to, item.how) for item in found] == [("LYM", "majority"), ("", "open")]
    assert [item.how for item in consensus_of(desk.read, ["ben", "cat"])] == ["agreed", "open"]


def test_the_reference_of_two_times_200_other_cells(create: Create, tmp_path: Path) -> None:
    desk = create(["NEU"] * 400)
    desk.blind("ann", {row: "NEU" if row < 120 else "LYM" for row in range(200)})
    desk.blind("ben", {row: "NEU" if row < 330 else "LYM" for row in range(200, 400)})
    found = build_reference(desk.read, ["ann", "ben"])
    assert found.white_cells == 400
    neu = found.classes[0]
    assert neu.percent == 62.5  # the mean of 60 and 65
    assert neu.by_reader == (60, 65)
    assert neu.limits_percent == (57, 68)
    assert neu.p_value == pytest.approx(0.35, abs=0.01)
    assert (found.discordant, found.open_cells, found.notes) == ((), (), ())
    path = tmp_path / "reference.json"
    path.write_text(json.dumps(found.file_content("2026-11-30")))
    again = read_reference_differential(path, CLASSES)
    assert again.cells == 400
    assert again.percent["NEU"] == pytest.approx(62.5)
    assert again.source == "blind readings of S1 by ann (200) and ben (200), 2026-11-30"


def test_readers_who_differ_by_more_than_chance_need_a_third(create: Create) -> None:
    desk = create(["NEU"] * 400)
    desk.blind("ann", {row: "NEU" if row < 120 else "LYM" for row in range(200)})
    desk.blind("ben", {row: "NEU" if row < 350 else "LYM" for row in range(200, 400)})
    found = build_reference(desk.read, ["ann", "ben"])
    assert found.discordant == ("NEU", "LYM")
    assert "have a third one read" in found.notes[-1]


def test_adjudicated_cells_of_both_readers_count_as_decided(create: Create) -> None:
    desk = create(["NEU"] * 10)
    desk.blind("ann", dict(enumerate(["NEU"] * 8 + ["artefact", "LYM"])))
    desk.blind("ben", dict(enumerate(["NEU"] * 6 + ["LYM"] * 4)))
    desk.adjudicate("chief", 6, "LYM")
    desk.adjudicate("chief", 7, "LYM")
    desk.adjudicate("chief", 8, "artefact")
    found = build_reference(desk.read, ["ann", "ben"])
    assert [(count.white, count.adjudicated, count.counts["NEU"]) for count in found.readers] == [
        (9, 2, 6),
        (9, 1, 6),
    ]
    assert found.white_cells == 9
    assert found.classes[0].percent == pytest.approx(100 * 6 / 9)
    assert found.classes[0].by_reader == pytest.approx((100 * 8 / 9, 60))
    assert found.open_cells == ()
    assert [note for note in found.notes if "200 are asked for" in note] == list(found.notes[:2])
    assert found.notes[2].startswith("10 cells were read by all")


def test_a_third_reader_decides_for_the_reference(create: Create) -> None:
    desk = create(["NEU"] * 4)
    for reader, calls in {
        "ann": ["NEU"] * 4,
        "ben": ["NEU", "NEU", "MO", "LYM"],
        "cat": ["NEU", "NEU", "MO", "EOS"],
    }.items():
        desk.blind(reader, dict(enumerate(calls)))
    found = build_reference(desk.read, ["ann", "ben", "cat"])
    shares = {entry.name: entry.percent for entry in found.classes}
    # Cell 3 is MO for two of three; on cell 4 all differ, and each counts as read.
    assert shares == pytest.approx(
        {"NEU": 700 / 12, "LYM": 100 / 12, "EOS": 100 / 12, "MO": 25, "BAS": 0}
    )
    assert found.open_cells == (desk.keys[3],)
    assert [count.adjudicated for count in found.readers] == [1, 0, 0]


def test_a_reference_needs_two_blind_readers(create: Create) -> None:
    desk = create(MACHINE)
    desk.blind("ann", {0: "artefact"})
    desk.look("ben", 0)
    desk.blind("cat", {0: "NEU"})
    for readers, message in (
        (["ann"], "a reference needs two"),
        (["ann", "ann"], "two different"),
        (["ann", "ben"], "'ben' did not read blind"),
        (["cat", "ann"], "'ann' called no white cell"),
    ):
        with pytest.raises(SampleStateError, match=message):
            build_reference(desk.read, readers)


def test_the_commands_print_and_write_the_same(create: Create, tmp_path: Path) -> None:
    desk = create(["NEU"] * 20)
    desk.blind("ann", {row: "NEU" if row < 12 else "LYM" for row in range(20)})
    desk.blind("ben", {row: "NEU" if row < 13 else "LYM" for row in range(20)})
    where = ["--sample", "S1", "--data", str(tmp_path / "data")]
    command = ["review", "agreement", *where, "--between", "ann", "ben"]
    shown = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert "19 of 20 cells alike: 95.0 % (75.1 - 99.9); Cohen's kappa 0.89 (" in shown.output
    assert f"Cells that differ: {desk.keys[12]} LYM/NEU" in shown.output
    found = json.loads(CliRunner().invoke(cli, [*command, "--json"]).output)
    assert found["agreement"]["kappa"][0] == pytest.approx(0.8936, abs=1e-4)
    path = tmp_path / "out" / "reference.json"
    shown = CliRunner().invoke(
        cli, ["review", "reference", *where, "--out", str(path)], catch_exceptions=False
    )
    assert "S1: 20 white cells by 2 readers (ann 20, ben 20)" in shown.output
    assert "Not adjudicated: 1 of the cells that the readers call differently" in shown.output
    assert read_reference_differential(path, CLASSES).percent["NEU"] == pytest.approx(62.5)
    shown = CliRunner().invoke(cli, ["evaluate", *where, "--reference-differential", str(path)])
    assert "Reference: blind readings of S1 by ann (20) and ben (20)" in shown.output
    with pytest.raises(SampleStateError, match="'zoe' called no cell"):
        CliRunner().invoke(cli, [*command[:-1], "zoe"], catch_exceptions=False)
