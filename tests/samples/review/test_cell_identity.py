"""Names of cells: unique, and found again after a new segmentation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wbcpipe.samples.review.cell_identity import MATCH_UM, cell_keys, match_keys
from wbcpipe.samples.review.entries import (
    SYSTEM_READER,
    Assign,
    CellsReplaced,
    Change,
    Comment,
    Entry,
    Look,
)
from wbcpipe.samples.review.replay import replay

TIME = "2026-11-30T06:00:00.000+00:00"
places = st.lists(
    st.tuples(st.integers(0, 3), st.integers(-40, 40), st.integers(-40, 40)),
    min_size=1,
    max_size=12,
)


@given(places)
@settings(deadline=None)
def test_names_are_unique(cells: list[tuple[int, int, int]]) -> None:
    field, y, x = np.array(cells).T
    keys = cell_keys(field, y / 4, x / 4)
    assert len(set(keys)) == len(keys)
    assert match_keys(keys, keys).matched == {key: key for key in keys}


@given(places, st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_cells_that_moved_a_little_are_found(cells: list[tuple[int, int, int]], seed: int) -> None:
    """Cells lie 20 um apart and move by less than the limit, in another order: each one is found as
    itself.
    """
    field, y, x = np.unique(np.array(cells), axis=0).T
    rng = np.random.default_rng(seed)
    shift_um = rng.uniform(-1.9, 1.9, (2, len(y)))
    before = cell_keys(field, 20.0 * y, 20.0 * x)
    after = cell_keys(field, 20.0 * y + shift_um[0], 20.0 * x + shift_um[1])
    found = match_keys(before, list(rng.permutation(after)))
    assert found.matched == dict(zip(before, after, strict=True))
    assert not found.unmatched


def test_a_cell_of_another_field_or_too_far_is_another_one() -> None:
    before = cell_keys(np.array([1, 1, 1]), np.array([0.0, 50.0, 90.0]), np.zeros(3))
    after = cell_keys(
        np.array([2, 1, 1]), np.array([0.0, 50.0 + MATCH_UM + 0.1, 92.9]), np.zeros(3)
    )
    found = match_keys(before, after)
    assert found.matched == {before[2]: after[2]}
    assert found.unmatched == (before[0], before[1])


def test_two_cells_are_matched_so_that_both_find_one() -> None:
    # The nearest pair, 10 to 11, would leave 8 without a partner within reach.
    before = cell_keys(np.array([0, 0]), np.array([10.0, 8.0]), np.zeros(2))
    after = cell_keys(np.array([0, 0]), np.array([11.0, 12.5]), np.zeros(2))
    assert match_keys(before, after).matched == {before[0]: after[1], before[1]: after[0]}


def test_a_name_of_no_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="is no name of a cell"):
        match_keys(["../x"], ["f1y1x1"])


def test_edits_follow_their_cells_and_those_without_are_listed() -> None:
    keys = ["f0y0x0", "f0y100x0", "f0y200x0"]
    edit = Assign(cells=tuple(Change(cell=key, before="NEU", to="LYM") for key in keys))
    replaced = CellsReplaced(new="a" * 64, matched={keys[0]: "f0y2x0"}, unmatched=(keys[1],))
    first = Entry.build(1, "", TIME, "Ada", edit)
    second = Entry.build(2, first.id, TIME, "Ada", Look(cells=(keys[1], keys[2])))
    third = Entry.build(3, second.id, TIME, SYSTEM_READER, replaced)
    state = replay([first, second, third])
    assert {cell: found.to for cell, found in state.assigned().items()} == {
        "f0y2x0": "LYM",
        keys[2]: "LYM",
    }
    assert state.lost() == {first.id: (keys[1],)}
    assert set(state.looked) == {keys[2]}
    again = CellsReplaced(new="b" * 64, matched={"f0y2x0": "f0y4x0"})
    state.apply(Entry.build(4, third.id, TIME, SYSTEM_READER, again))
    assert set(state.assigned()) == {"f0y4x0", keys[2]}


def test_a_name_that_another_cell_takes_over_is_not_mixed_up() -> None:
    """The cell X is called Y after a new segmentation, and after the next one another cell is
    called X.
    """
    x, y, z = "f0y0x0", "f0y20x0", "f0y40x0"
    steps: list[Comment | Assign | CellsReplaced] = [
        Comment(cell=x, text="first"),
        Assign(cells=(Change(cell=x, before="NEU", to="LYM"),)),
        CellsReplaced(new="a" * 64, matched={x: y}),
        Comment(cell=x, text="another cell"),
        Assign(cells=(Change(cell=x, before="NEU", to="MO"),)),
    ]
    entries: list[Entry] = []
    for step in steps:
        reader = SYSTEM_READER if isinstance(step, CellsReplaced) else "Ada"
        entries.append(
            Entry.build(len(entries) + 1, entries[-1].id if entries else "", TIME, reader, step)
        )
    state = replay(entries)
    assert {cell: found.to for cell, found in state.assigned().items()} == {y: "LYM", x: "MO"}
    assert [(comment.cell, comment.text) for comment in state.comments()] == [
        (y, "first"),
        (x, "another cell"),
    ]
    state.apply(
        Entry.build(
            6,
            entries[-1].id,
            TIME,
            SYSTEM_READER,
            CellsReplaced(new="b" * 64, matched={x: z}, unmatched=(y,)),
        )
    )
    assert {cell: found.to for cell, found in state.assigned().items()} == {z: "MO"}
    assert [(comment.cell, comment.text) for comment in state.comments()] == [
        (y, "first"),
        (z, "another cell"),
    ]
    assert state.cells() == {z}
    assert state.lost() == {entries[0].id: (y,), entries[1].id: (y,)}
