"""Taking fields until enough cells are counted: the same fields whatever the timing or the breaks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from wbcpipe.scan import CALIBRATION_FIELDS, next_field_count, scan_until

if TYPE_CHECKING:
    from collections.abc import Iterator

CELLS = [3, 0, 5, 4, 2, 6, 0, 0] * 40


class Slide:
    """A planted slide whose field ``i`` holds ``CELLS[i]`` cells; fields in ``missing`` cannot be taken."""

    def __init__(self, missing: frozenset[int] = frozenset()) -> None:
        self.missing = missing
        self.calibrated: list[int] | None = None
        self.processed: list[int] = []

    def take(self, wanted: int) -> Iterator[int | None]:
        for index in range(wanted):
            yield None if index in self.missing else index

    def calibrate(self, indices: list[int]) -> None:
        assert self.calibrated is None, "calibrated twice"
        self.calibrated = indices

    def process(self, index: int) -> None:
        assert self.calibrated is not None, "segmented before the calibration"
        self.processed.append(index)

    def count(self) -> int:
        return sum(CELLS[index] for index in self.processed)


def scan(slide: Slide, cells: int, available: int = len(CELLS)) -> list[int]:
    def decide(taken: int, counted: int) -> int:
        return next_field_count(
            taken=taken, cells=counted, wanted_cells=cells, expected_per_field=4.0, available=available
        )

    return scan_until(slide, slide, decide=decide, progress=lambda *_: None)


@pytest.mark.parametrize("cells", [1, 50, 200, 600])
def test_stops_with_enough_cells_and_few_to_spare(cells: int) -> None:
    slide = Slide()
    taken = scan(slide, cells)
    assert taken == slide.processed == list(range(len(taken)))
    assert slide.count() >= cells
    assert slide.count() <= max(cells * 1.2, sum(CELLS[:CALIBRATION_FIELDS])) + 8


def test_missing_fields_are_made_up_for() -> None:
    slide = Slide(missing=frozenset({0, 3, 20}))
    taken = scan(slide, 200)
    assert slide.count() >= 200
    assert not set(taken) & slide.missing
    assert slide.calibrated == [index for index in range(CALIBRATION_FIELDS) if index not in slide.missing]


def test_the_area_ends_the_scan() -> None:
    slide = Slide()
    assert scan(slide, 10_000, available=30) == list(range(30))


def test_fewer_fields_than_a_calibration_wants() -> None:
    slide = Slide()
    assert scan(slide, 10_000, available=5) == list(range(5))
    assert slide.calibrated == list(range(5))
