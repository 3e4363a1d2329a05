"""What lies on the slide: repeatable, and populated as blood is."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest

from wbcpipe.acquire.simulation.field_truth import truth_rows
from wbcpipe.acquire.simulation.specimen.plan import (
    CELL_CLASSES,
    REFERENCE_INTERVALS_PERCENT,
    SpecimenPlan,
    class_frequencies,
)
from wbcpipe.acquire.simulation.specimen.slide import Specimen
from wbcpipe.samples.truth import write_truth

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.acquire.simulation.specimen.plan import Preparation
    from wbcpipe.acquire.simulation.specimen.slide import SpecimenObject

FIELD_UM = 204.8


def white_cells(
    specimen: Specimen, x0: float, y0: float, x1: float, y1: float
) -> list[SpecimenObject]:
    return [item for item in specimen.objects_in(x0, y0, x1, y1) if item.label]


@pytest.mark.parametrize("preparation", ["blood-film", "buffy-coat"])
def test_same_plan_same_objects_in_any_order_of_visits(preparation: Preparation) -> None:
    plan = SpecimenPlan(3, preparation)
    straight, roundabout = Specimen(plan), Specimen(plan)
    for x in (2000.0, -3000.0, 500.0):
        roundabout.objects_in(x, x, x + 300, x + 300)
        roundabout.red_cells_in(x, x, x + 300, x + 300)
    assert straight.objects_in(0, 0, 700, 700) == roundabout.objects_in(0, 0, 700, 700)


def test_parts_make_the_whole() -> None:
    specimen = Specimen(SpecimenPlan(5))
    halves = [*specimen.objects_in(-200, 0, 113, 400), *specimen.objects_in(113, 0, 400, 400)]
    assert set(halves) == set(specimen.objects_in(-200, 0, 400, 400))
    assert len(halves) == len(set(halves))


def test_other_seed_other_objects() -> None:
    first = Specimen(SpecimenPlan(1)).objects_in(0, 0, 400, 400)
    assert first != Specimen(SpecimenPlan(2)).objects_in(0, 0, 400, 400)


@pytest.mark.parametrize("seed", range(25))
def test_class_frequencies_lie_in_the_reference_intervals(seed: int) -> None:
    frequencies = class_frequencies(SpecimenPlan(seed))
    assert tuple(frequencies) == CELL_CLASSES
    assert sum(frequencies.values()) == pytest.approx(1.0)
    for name, (low, high) in REFERENCE_INTERVALS_PERCENT.items():
        assert low <= 100 * frequencies[name] <= high


def test_buffy_coat_holds_every_class_alike_and_many_cells() -> None:
    cells = white_cells(Specimen(SpecimenPlan(4, "buffy-coat")), 0, 0, 2500, 2500)
    per_field = len(cells) / (2500 / FIELD_UM) ** 2
    assert 11 <= per_field <= 17
    counts = Counter(item.label for item in cells)
    assert min(counts.values()) > 0.8 * len(cells) / 5


def per_field_counts(items: list[SpecimenObject]) -> NDArray[np.float64]:
    edges = np.arange(-10, 11) * FIELD_UM, np.arange(-5, 6) * FIELD_UM
    counts: NDArray[np.float64]
    counts, *_ = np.histogram2d([item.x_um for item in items], [item.y_um for item in items], edges)
    return counts


def test_blood_film_density_and_bare_regions() -> None:
    specimen = Specimen(SpecimenPlan(7))
    items = specimen.objects_in(-10 * FIELD_UM, -5 * FIELD_UM, 10 * FIELD_UM, 5 * FIELD_UM)
    white = per_field_counts([item for item in items if item.label])
    assert 3.2 <= white.mean() <= 4.8
    assert np.mean((white >= 2) & (white <= 7)) > 0.7
    bare = np.argwhere(per_field_counts(items) == 0)
    assert 1 <= len(bare) <= 30
    corners = (bare - (10, 5)) * FIELD_UM
    assert any(
        len(specimen.red_cells_in(x, y, x + FIELD_UM, y + FIELD_UM)) == 0 for x, y in corners
    )


def test_red_cells_per_field() -> None:
    specimen = Specimen(SpecimenPlan(7))
    counts = [
        len(specimen.red_cells_in(x, 0, x + FIELD_UM, FIELD_UM)) for x in np.arange(8) * FIELD_UM
    ]
    assert 200 <= np.median(counts) <= 450


def test_doublets_touch_and_others_do_not() -> None:
    cells = white_cells(Specimen(SpecimenPlan(4, "buffy-coat")), 0, 0, 1500, 1500)
    doublets = [item for item in cells if item.kind == "doublet"]
    assert 0.02 < len(doublets) / len(cells) < 0.2
    inner = [item for item in doublets if 40 < item.x_um < 1460 and 40 < item.y_um < 1460]
    for one in inner:
        gaps = [
            np.hypot(one.x_um - other.x_um, one.y_um - other.y_um) - one.radius_um - other.radius_um
            for other in doublets
            if other is not one
        ]
        assert min(gaps) < 0.0


@pytest.mark.parametrize("seed", range(8))
def test_focal_surface_is_gentle_and_within_limits(seed: int) -> None:
    specimen = Specimen(SpecimenPlan(seed))
    z = np.array(
        [
            [specimen.focus_um(x, y) for x in np.linspace(-5e3, 5e3, 11)]
            for y in np.linspace(-5e3, 5e3, 11)
        ]
    )
    assert 1.0 < np.ptp(z) < 12.0
    assert abs(specimen.focus_um(1e6, -1e6)) < 30.0
    assert abs(specimen.focus_um(204.8, 0.0) - specimen.focus_um(0.0, 0.0)) < 0.5


def test_truth_names_the_nearest_field(tmp_path: Path) -> None:
    specimen = Specimen(SpecimenPlan(7))
    fields = [(4, 100.0, 100.0), (9, 280.0, 100.0)]
    rows = truth_rows(specimen, (0, 0, 500, 205), fields, 102.4)
    assert {row.field for row in rows} == {4, 9, -1}
    for row in rows:
        if row.field == -1:
            assert row.x_um > 382.4 or row.y_um > 202.4
        else:
            assert (row.field == 4) == (row.x_um < 190.0)
    write_truth(tmp_path / "truth.csv", rows)
    lines = (tmp_path / "truth.csv").read_text().splitlines()
    assert lines[0] == "x_um,y_um,field,class,kind,crc32c"
    assert len(lines) == len(rows) + 1
    assert not list(tmp_path.glob("*.part"))


def test_plan_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="allowed are blood-film, buffy-coat"):
        SpecimenPlan(1, "marrow")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="an integer from 0 up"):
        SpecimenPlan(-1)
