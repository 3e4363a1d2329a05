"""How counts changed: values that were computed by hand."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import pytest

from wbcpipe.cluster.changes import ClassChange, CountedResult, changes_csv, make_table
from wbcpipe.cluster.read_results import read_local_result

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.cluster.records import SampleTask
    from wbcpipe.samples.sample import Sample


@pytest.fixture
def result(
    tmp_path: Path,
    plant: Callable[[Path, str], Sample],
    fake_task: Callable[..., SampleTask],
    run_all: Callable[[SampleTask], str],
    fake_classify: None,  # noqa: ARG001 - it replaces the network
) -> CountedResult:
    sample = plant(tmp_path, "S1")
    run_all(fake_task(sample))
    return read_local_result(sample, "current")


def with_counts(result: CountedResult, calls: list[tuple[str, int]]) -> CountedResult:
    """The result with other classes: a document of these counts, and a cell for each of them."""
    document, total = result.document, sum(number for _, number in calls)
    classes = tuple(
        entry.model_copy(
            update={
                "count": (number := dict(calls).get(entry.name, 0)),
                "percent": 100 * number / total,
            }
        )
        for entry in document.classes
    )
    names = [name for name, number in calls for _ in range(number)]
    header = "field_index,y_px,x_px,area_um2,predicted_class\n"
    rows = "".join(f"0,{index},5,80,{name}\n" for index, name in enumerate(names))
    changed = document.model_copy(update={"classes": classes})
    return CountedResult(result.result, changed, (header + rows).encode())


def test_the_same_cells_are_compared_in_pairs(result: CountedResult) -> None:
    earlier = with_counts(result, [("NEU", 6), ("LYM", 4)])
    later = with_counts(result, [("NEU", 1), ("EOS", 5), ("LYM", 4)])
    table = make_table([("S1", earlier, later)])
    rows = {row.name: row for row in table.rows}
    assert (table.cells, table.cells_changed) == (10, 5)
    assert (rows["NEU"].only_earlier, rows["NEU"].only_later) == (5, 0)
    assert (rows["EOS"].only_earlier, rows["EOS"].only_later) == (0, 5)
    assert rows["NEU"].p_value == pytest.approx(2 * 0.5**5)
    assert rows["LYM"].p_value == 1.0
    assert (rows["NEU"].earlier_percent, rows["NEU"].later_percent) == (60.0, 10.0)


def test_other_cells_are_not(result: CountedResult) -> None:
    earlier = with_counts(result, [("NEU", 6)])
    later = with_counts(result, [("NEU", 7)])
    table = make_table([("S1", earlier, later)])
    assert table.cells == 0
    assert all(row.only_earlier is None and row.p_value is None for row in table.rows)


def test_each_sample_is_one_pair_of_the_summary(result: CountedResult) -> None:
    def pair(name: str, before: int, after: int) -> tuple[str, CountedResult, CountedResult]:
        return (
            name,
            with_counts(result, [("NEU", before), ("LYM", 100 - before)]),
            with_counts(result, [("NEU", after), ("LYM", 100 - after)]),
        )

    table = make_table([pair("S1", 50, 52), pair("S2", 60, 64), pair("S3", 70, 76)])
    summary = {one.name: one for one in table.summary}
    neutrophils = summary["NEU"]
    assert (neutrophils.samples, neutrophils.mean_points) == (3, 4.0)
    # 2, 4 and 6 points: a standard error of 2 / sqrt(3), and t(0.975, 2) = 4.3027.
    assert neutrophils.low_points == pytest.approx(4 - 4.3027 * 2 / 3**0.5, abs=1e-3)
    assert neutrophils.largest_points == 6.0
    assert neutrophils.p_value == pytest.approx(0.25)
    assert summary["EOS"].p_value is None


def test_the_table_is_written_as_csv(result: CountedResult) -> None:
    table = make_table([("S1", result, result)])
    rows = list(csv.DictReader(io.StringIO(changes_csv(table).decode())))
    assert len(rows) == len(table.rows)
    assert rows[0]["sample"] == "S1"
    assert set(rows[0]) == {*ClassChange.model_fields, "class"} - {"name"}
    assert table.cells_changed == 0
    assert table.cells > 0
