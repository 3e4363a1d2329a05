from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from wbcpipe.samples.cell_columns import MORPHOMETRY, morphometry_columns
from wbcpipe.segment.detection.masks import CYTOPLASM, NUCLEUS
from wbcpipe.segment.features.morphometry import count_lobes, measure_cell, shape_of, stack_measures
from wbcpipe.segment.importers.fields import import_fields
from wbcpipe.segment.importers.inputs import FieldImport
from wbcpipe.segment.run import segment_sample

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.samples.cell_store import CellStore

SIDE = 224
PIXEL_UM = 0.1


def disc(row: float, column: float, radius: float) -> NDArray[np.bool_]:
    y, x = np.mgrid[:SIDE, :SIDE]
    return np.asarray(np.hypot(y - row, x - column) < radius)


def bar(top: int, bottom: int, left: int, right: int) -> NDArray[np.bool_]:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[top:bottom, left:right] = True
    return mask


DISC = disc(112, 112, 30)
TOUCHING = disc(112, 90, 24) | disc(112, 134, 24)
STRAND = (
    disc(80, 80, 15)
    | disc(80, 132, 15)
    | disc(125, 110, 16)
    | bar(78, 82, 80, 132)
    | bar(80, 125, 108, 112)
)
APART = disc(80, 80, 15) | disc(80, 132, 15) | disc(125, 110, 16)
RING = disc(112, 112, 40) & ~disc(112, 112, 22)
KIDNEY = disc(112, 112, 42) & ~disc(112, 155, 26)


@pytest.mark.parametrize(
    ("nucleus", "lobes"),
    [(DISC, 1), (TOUCHING, 2), (STRAND, 3), (APART, 3), (RING, 1), (KIDNEY, 1), (DISC & False, 0)],
    ids=["disc", "two that touch", "three on strands", "three apart", "ring", "kidney", "nothing"],
)
def test_lobes(nucleus: NDArray[np.bool_], lobes: int) -> None:
    assert count_lobes(nucleus, PIXEL_UM) == lobes


def test_a_speck_beside_the_nucleus_is_no_lobe() -> None:
    assert count_lobes(DISC | disc(112, 160, 4), PIXEL_UM) == 1


@pytest.mark.parametrize("radius", [8.0, 15.3, 30.0, 60.7])
def test_a_disc_is_round(radius: float) -> None:
    roundness, eccentricity = shape_of(disc(111.7, 112.2, radius), PIXEL_UM)
    assert roundness == pytest.approx(1.0, abs=0.03)
    assert eccentricity < 0.2


def test_shapes_that_are_known() -> None:
    y, x = np.mgrid[:SIDE, :SIDE]
    ellipse = ((y - 112) / 20) ** 2 + ((x - 112) / 40) ** 2 < 1
    # Ramanujan's perimeter of an ellipse of half axes 20 and 40 is 193.77.
    assert shape_of(ellipse, PIXEL_UM) == pytest.approx(
        (4 * np.pi * np.pi * 800 / 193.77**2, 0.866), abs=0.03
    )
    square = bar(80, 144, 80, 144)
    assert shape_of(square, PIXEL_UM)[0] == pytest.approx(np.pi / 4, abs=0.05)
    ring = 4 * np.pi * (40**2 - 22**2) * np.pi / (2 * np.pi * 62) ** 2
    assert shape_of(RING, PIXEL_UM)[0] == pytest.approx(ring, abs=0.03)
    assert np.isnan(shape_of(DISC & False, PIXEL_UM)).all()


def planted(granules: float = 0.0) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """A cell of radius 6 um with a nucleus of 3 um, OD 0.3 and 0.1 in two colours, on free dye."""
    cell, nucleus = disc(112, 112, 60), disc(112, 112, 30)
    y, x = np.mgrid[:SIDE, :SIDE]
    speckle = granules * np.sin(y / 1.6) * np.sin(x / 1.6) * (cell & ~nucleus)
    density = 0.1 * cell + 0.2 * nucleus + speckle
    glow = 500 + 700.0 * cell + 9000 * nucleus
    glow[disc(112, 205, 15)] += 8000  # of a neighbour, within what surrounds the cell
    bright = [40000 * 10**-density, 20000 * 10 ** -(2 * density)]
    mask = np.where(nucleus, NUCLEUS, np.where(cell, CYTOPLASM, 0)).astype(np.uint8)
    return np.stack([*bright, glow]).round().astype(np.uint16), mask


def test_what_is_planted_is_measured() -> None:
    image, mask = planted()
    found = measure_cell(image, mask, PIXEL_UM, reference=2)
    assert set(found) == set(morphometry_columns(3, red=False))
    assert found["cytoplasm_area_um2"] == pytest.approx(np.pi * (36 - 9), rel=0.01)
    assert found["nucleus_cytoplasm_ratio"] == pytest.approx(9 / 27, rel=0.02)
    assert found["lobes"] == 1
    assert found["nucleus_fluorescence"] == pytest.approx(9700, rel=0.01)
    assert found["cytoplasm_fluorescence"] == pytest.approx(700, rel=0.02)
    assert found["total_fluorescence"] == pytest.approx(
        700 * np.pi * 36 + 9000 * np.pi * 9, rel=0.02
    )
    assert found["nucleus_absorbance"] == pytest.approx([0.3, 0.6], abs=0.003)
    assert found["cytoplasm_absorbance"] == pytest.approx([0.1, 0.2], abs=0.003)
    assert np.nanmax(found["granularity"]) < 0.003


def test_absorbance_is_against_a_background_that_is_told() -> None:
    image, mask = planted()
    told = measure_cell(image, mask, PIXEL_UM, reference=2, empty=np.array([80000.0, np.nan, 0.0]))
    assert told["nucleus_absorbance"] == pytest.approx([0.3 + np.log10(2), 0.6], abs=0.003)


def test_granules_show_in_proportion_whatever_the_lamp() -> None:
    image, mask = planted(0.03)
    found = measure_cell(image, mask, PIXEL_UM, reference=2)["granularity"]
    dimmer = image.copy()
    dimmer[:2] //= 2
    assert found[1] == pytest.approx(2 * found[0], rel=0.05)
    assert 0.005 < found[0] < 0.03
    assert measure_cell(dimmer, mask, PIXEL_UM, reference=2)["granularity"] == pytest.approx(
        found, rel=0.02
    )


def test_the_ratio_of_red_to_green_where_there_is_a_red_channel() -> None:
    image, mask = planted()
    red = (300 + 350 * (mask > 0)).astype(np.uint16)
    found = measure_cell(np.stack([image[0], red, image[2]]), mask, PIXEL_UM, reference=2, red=1)
    green = 700 * np.pi * 36 + 9000 * np.pi * 9
    assert found["red_green_ratio"] == pytest.approx(350 * np.pi * 36 / green, rel=0.03)
    assert np.isnan(found["nucleus_absorbance"][1])


def test_nothing_to_measure() -> None:
    image, mask = planted()
    empty = measure_cell(image, mask * 0, PIXEL_UM, reference=2)
    assert empty["lobes"] == 0
    assert all(np.isnan(value).all() for name, value in empty.items() if name != "lobes")
    naked = measure_cell(
        image, np.where(mask == NUCLEUS, mask, 0).astype(np.uint8), PIXEL_UM, reference=2
    )
    assert np.isnan(naked["nucleus_cytoplasm_ratio"])
    assert np.isnan(naked["granularity"]).all()
    image[0] = 0
    assert np.isnan(measure_cell(image, mask, PIXEL_UM, reference=2)["nucleus_absorbance"][0])
    none = stack_measures([], 4)
    assert {name: values.shape for name, values in none.items()} == {
        name: (0, *shape) for name, (_, shape) in morphometry_columns(4, red=False).items()
    }


def by_class(
    store: CellStore, column: str, middle: Callable[..., Any] = np.nanmedian
) -> dict[str, Any]:
    labels, whole = np.array(store.labels()), store.column("qc_flags") == 0
    values = store.column(column).astype(float)
    return {
        name: middle(values[whole & (labels == name)], axis=0)
        for name in ("NEU", "LYM", "EOS", "MO")
    }


def test_classes_of_the_virtual_scope_differ_as_they_should(unbroken: CellStore) -> None:
    assert all(
        len(unbroken.column(name)) == len(unbroken) for name in morphometry_columns(4, red=False)
    )
    lobes, ratio = (
        by_class(unbroken, "lobes", np.mean),
        by_class(unbroken, "nucleus_cytoplasm_ratio"),
    )
    assert lobes["NEU"] > 1.5 > 1.2 > lobes["LYM"]
    assert ratio["LYM"] > ratio["NEU"]
    assert (
        by_class(unbroken, "nucleus_roundness")["LYM"]
        > by_class(unbroken, "nucleus_roundness")["NEU"]
    )
    granularity = by_class(unbroken, "granularity")
    assert granularity["EOS"][0] > 2 * max(
        granularity["NEU"][0], granularity["MO"][0]
    )  # dark at 415 nm, and large
    roundness = unbroken.column("cell_roundness")[unbroken.column("qc_flags") == 0]
    assert np.median(roundness) > 0.93
    assert unbroken.column("lobes").dtype == np.uint8


def test_measures_of_an_imported_smear(shared_data: Path, tmp_path: Path) -> None:
    from wbcpipe.samples.sample import Sample

    sample = Sample.open(tmp_path, "smear")
    images = sorted((shared_data / "bccd" / "JPEGImages").glob("*.jpg"))[:6]
    import_fields(images, sample, FieldImport("stained-rgb", 0.075))
    store = segment_sample(sample, pixel_um=0.1)
    absorbance = store.column("nucleus_absorbance")
    # A Giemsa-stained nucleus is blue: red and green light are held back.
    assert np.all(absorbance[:, 2] < absorbance[:, :2].min(1))
    assert np.all(store.column("nucleus_fluorescence") > store.column("cytoplasm_fluorescence"))


def test_every_measure_has_a_unit_or_is_a_number() -> None:
    for name, measure in MORPHOMETRY.items():
        assert measure.unit or name.endswith(("ratio", "lobes", "roundness", "eccentricity"))
        assert ("um2" in measure.unit) == ("area" in name or "total" in name)
