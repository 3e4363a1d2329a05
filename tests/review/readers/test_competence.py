"""A reader is tested on cells that others decided; the test changes nothing about the cells."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from wbcpipe.errors import SampleStateError
from wbcpipe.pipeline import cli
from wbcpipe.review.proficiency.competence import (
    begin_competence,
    reference_cells,
    score_competence,
)
from wbcpipe.review.readers.compare import compare_two
from wbcpipe.samples.review.entries import Call, Reading

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Create = Callable[..., Any]


@pytest.fixture
def desk(create: Create) -> Any:
    """Twenty cells, of which two readers call 16 alike; three of the others are adjudicated."""
    made = create(["NEU"] * 20)
    calls = ["NEU"] * 12 + ["LYM"] * 4
    made.blind("ann", dict(enumerate([*calls, *["NEU"] * 4])))
    made.blind("ben", dict(enumerate([*calls, *["MO"] * 4])))
    for row in (16, 17, 18):
        made.adjudicate("chief", row, "BAS")
    return made


def test_the_library_has_what_was_decided(desk: Any) -> None:
    found = reference_cells([desk.read])
    assert [item.label for item in found] == ["NEU"] * 12 + ["LYM"] * 4 + ["BAS"] * 3
    assert [item.how for item in found] == ["agreed"] * 16 + ["adjudicated"] * 3
    assert (found[-1].by, found[-1].why, found[-1].readers) == ("chief", "nucleus", ("ann", "ben"))


def test_every_class_is_tested_and_own_cells_are_not(desk: Any) -> None:
    drawn = begin_competence(desk.read, "cat", cells=9, seed=1)
    labels = {item.cell: item.label for item in reference_cells([desk.read])}
    assert sorted(labels[cell] for cell in drawn.cells) == ["BAS"] * 3 + ["LYM"] * 3 + ["NEU"] * 3
    assert begin_competence(desk.read, "cat", cells=99, seed=1).cells != drawn.cells
    with pytest.raises(SampleStateError, match="no cell was decided by others than ann"):
        begin_competence(desk.read, "ann", cells=9, seed=1)


def test_a_test_is_scored_once_and_decides_nothing(desk: Any, tmp_path: Path) -> None:
    where = ["--data", str(tmp_path / "data")]
    begun = CliRunner().invoke(
        cli,
        [
            "review",
            "competence",
            "--reader",
            "cat",
            "--begin",
            "S1",
            "--cells",
            "9",
            "--seed",
            "1",
            "--json",
            *where,
        ],
        catch_exceptions=False,
    )
    reading = json.loads(begun.output)
    before = compare_two(desk.read, "ann", "ben")
    with pytest.raises(SampleStateError, match="no finished competence test"):
        score_competence([desk.read], "cat")
    labels = {item.cell: item.label for item in reference_cells([desk.read])}
    right = [
        Call(reading=reading["reading"], cell=cell, to=labels[cell])
        for cell in reading["cells"][:8]
    ]
    desk.write(
        "cat", *right, Reading(event="finish", reading=reading["reading"])
    )  # the ninth is not called
    assert compare_two(desk.read, "ann", "ben") == before
    assert [item.readers for item in reference_cells([desk.read])] == [("ann", "ben")] * 19
    shown = CliRunner().invoke(
        cli, ["review", "competence", "--reader", "cat", *where], catch_exceptions=False
    )
    assert "cat: 8 of 9 cells right, 88.9 %" in shown.output
    assert "FAILED (limit 90 %); no trend can be told from 1 tests" in shown.output
    with pytest.raises(SampleStateError, match="no finished competence test that was not scored"):
        CliRunner().invoke(
            cli, ["review", "competence", "--reader", "cat", *where], catch_exceptions=False
        )
    shown = CliRunner().invoke(cli, ["review", "library", *where], catch_exceptions=False)
    assert (
        "19 reference cells of 1 samples: BAS 3, LYM 4, NEU 12 (16 agreed, 3 adjudicated)"
        in shown.output
    )
