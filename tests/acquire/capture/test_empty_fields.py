"""The quick look: bare glass is told from a single cell, whatever the lamp, the focus and the
dirt.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np
import pytest

from wbcpipe.acquire.capture.empty_fields import EMPTY_BELOW_UM2, foreground_area_um2
from wbcpipe.acquire.simulation.optics.light_path import OpticalState
from wbcpipe.acquire.simulation.optics.microscope import VirtualMicroscope
from wbcpipe.acquire.simulation.specimen.plan import CELL_CLASSES, SpecimenPlan
from wbcpipe.acquire.simulation.specimen.slide import Specimen
from wbcpipe.errors import SampleStateError
from wbcpipe.samples.field_status import read_skipped, write_skipped

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.acquire.simulation.specimen.red_cells import RedCells
    from wbcpipe.acquire.simulation.specimen.slide import SpecimenObject

#: Frames are taken at this binning: as many samples as the look takes of a whole frame, at a
#: sixtieth of its cost.
BINNING: Final = 8
PIXEL_UM: Final = 0.1 * BINNING


class BareGlass(Specimen):
    """A slide with nothing on it but, if given, one thing."""

    thing: SpecimenObject | None = None

    def objects_in(
        self, x0_um: float, y0_um: float, x1_um: float, y1_um: float
    ) -> list[SpecimenObject]:
        item = self.thing
        inside = item is not None and x0_um <= item.x_um < x1_um and y0_um <= item.y_um < y1_um
        return [item] if item is not None and inside else []

    def red_cells_in(self, *_box_um: float) -> RedCells:
        some = super().red_cells_in(0.0, 0.0, 1.0, 1.0)
        return some.chosen(np.zeros(len(some), bool))

    def focus_um(self, *_at_um: float) -> float:
        return 0.0


def things(kind: str, number: int) -> list[SpecimenObject]:
    """The first so many things of a class or kind on a buffy-coat slide."""
    found = Specimen(SpecimenPlan(61, "buffy-coat")).objects_in(-400.0, -400.0, 400.0, 400.0)
    return [item for item in found if (item.label or item.kind) == kind][:number]


def frame_of(
    thing: SpecimenObject | None,
    *,
    seed: int = 61,
    z_um: float = 0.0,
    exposure_ms: float = 5.0,
    bits: int = 16,
) -> NDArray[np.uint16]:
    slide = BareGlass(SpecimenPlan(seed, "buffy-coat"))
    slide.thing = thing
    microscope = VirtualMicroscope(slide, bit_depth=bits)
    return microscope.expose(OpticalState(0.0, 0.0, z_um, "color1", exposure_ms, binning=BINNING))


@pytest.mark.parametrize("seed", [61, 62, 63])
@pytest.mark.parametrize(("exposure_ms", "bits"), [(5.0, 16), (0.5, 16), (5.0, 12)])
def test_bare_glass_is_empty_under_vignetting_dust_and_any_lamp(
    seed: int, exposure_ms: float, bits: int
) -> None:
    frame = frame_of(None, seed=seed, exposure_ms=exposure_ms, bits=bits)
    assert foreground_area_um2(frame, PIXEL_UM, 2**bits - 1) < EMPTY_BELOW_UM2 / 4


def test_a_speck_and_platelets_do_not_fill_a_field() -> None:
    for platelet in things("platelet", 4):
        assert (
            foreground_area_um2(frame_of(replace(platelet, x_um=20.0, y_um=-35.0)), PIXEL_UM)
            < EMPTY_BELOW_UM2
        )
    frame = frame_of(None)
    frame[40:42, 60:62] //= 10  # a black grain of 1.6 um
    assert 0 < foreground_area_um2(frame, PIXEL_UM) < EMPTY_BELOW_UM2


@pytest.mark.parametrize("label", CELL_CLASSES)
@pytest.mark.parametrize("z_um", [-5.0, 0.0, 5.0])
@pytest.mark.parametrize("x_um", [-31.0, 101.9], ids=["inside", "half over the edge"])
def test_one_white_cell_is_enough(label: str, z_um: float, x_um: float) -> None:
    for cell in things(label, 3):
        frame = frame_of(replace(cell, x_um=x_um, y_um=47.0), z_um=z_um)
        assert foreground_area_um2(frame, PIXEL_UM) > 1.25 * EMPTY_BELOW_UM2


def test_a_usual_field_and_the_whole_frame_agree() -> None:
    crowded = VirtualMicroscope(Specimen(SpecimenPlan(61)))
    frame = crowded.expose(
        OpticalState(0.0, 0.0, crowded.specimen.focus_um(0.0, 0.0), "color1", 5.0, binning=BINNING)
    )
    assert foreground_area_um2(frame, PIXEL_UM) > 3 * EMPTY_BELOW_UM2
    cell = replace(things("LYM", 1)[0], x_um=-31.0, y_um=47.0)
    slide = BareGlass(SpecimenPlan(61, "buffy-coat"))
    slide.thing = cell
    whole = VirtualMicroscope(slide).expose(OpticalState(0.0, 0.0, 0.0, "color1", 5.0))
    assert foreground_area_um2(whole, 0.1) == pytest.approx(
        foreground_area_um2(frame_of(cell), PIXEL_UM), rel=0.15
    )


@pytest.mark.parametrize(
    "frame",
    [
        np.full((256, 256), 120, np.uint16),
        np.full((256, 256), 65535, np.uint16),
        np.full((8, 256), 30000, np.uint16),
    ],
    ids=["dark lamp", "saturated", "too small"],
)
def test_a_frame_that_tells_nothing_is_not_empty(frame: NDArray[np.uint16]) -> None:
    assert foreground_area_um2(frame, PIXEL_UM) == float("inf")
    assert foreground_area_um2(frame, PIXEL_UM) >= EMPTY_BELOW_UM2


def test_a_damaged_note_is_named(tmp_path: Path) -> None:
    assert read_skipped(tmp_path) == {}
    write_skipped(tmp_path, {3: 1.5})
    assert read_skipped(tmp_path) == {3: 1.5}
    (tmp_path / "skipped_fields.json").write_text('["3"]', encoding="utf-8")
    with pytest.raises(
        SampleStateError, match=r"skipped_fields\.json: key 'format_version' is missing"
    ):
        read_skipped(tmp_path)
