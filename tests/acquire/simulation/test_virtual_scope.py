"""The light of earlier runs falls where the virtual slide lies now."""

from __future__ import annotations

from pathlib import Path

import pytest

from wbcpipe.acquire.plan import AcquisitionPlan, PlannedPass
from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
from wbcpipe.acquire.simulation.virtual_scope import earlier_exposures, slide_placement
from wbcpipe.acquire.slide_relocation.alignment import add_slide_transform
from wbcpipe.acquire.slide_relocation.transform import IDENTITY_TRANSFORM, SlideTransform
from wbcpipe.samples.fields import FieldInfo, FrameInfo
from wbcpipe.samples.sample import Sample

GLOW_MS = 20.0
BEFORE = SlideTransform(0.5, 40.0, -10.0)


def info_at(x_um: float, y_um: float) -> FieldInfo:
    return FieldInfo(
        3, x_um, y_um, 0.1, (FrameInfo("color1", 5.0), FrameInfo("fluorescence", GLOW_MS))
    )


@pytest.mark.parametrize("error_um", [0.0, 0.7], ids=["exact", "relocated with an error"])
def test_a_slide_that_lies_still_was_lit_where_its_fields_say(error_um: float) -> None:
    stage_um = BEFORE.to_stage_um(1000.0, 500.0)
    estimate = SlideTransform(0.5, 40.0 + error_um, -10.0)
    info = add_slide_transform(info_at(*stage_um), estimate)
    assert list(earlier_exposures([info], BEFORE)) == [(*stage_um, GLOW_MS)]


def test_a_slide_that_was_moved_was_lit_where_that_part_lies_now() -> None:
    after = SlideTransform(-1.0, -130.0, 60.0)
    info = add_slide_transform(info_at(*BEFORE.to_stage_um(1000.0, 500.0)), BEFORE)
    ((x_um, y_um, exposure_ms),) = earlier_exposures([info], after)
    assert (x_um, y_um) == pytest.approx(after.to_stage_um(1000.0, 500.0), abs=0.01)
    assert exposure_ms == GLOW_MS


def test_a_slide_is_taken_off_for_the_stain_only() -> None:
    plan = AcquisitionPlan(
        slot="A", field_width_um=100, field_height_um=100, x_um=(0, 400), y_um=(0, 200)
    )
    sample = Sample("S1", Path("S1"))
    single, bright, stained = (
        slide_placement(SpecimenPlan(7), PlannedPass(sample, plan, name))
        for name in ("single", "brightfield", "fluorescence")
    )
    assert single == bright == IDENTITY_TRANSFORM
    assert stained == slide_placement(SpecimenPlan(7), PlannedPass(sample, plan, "fluorescence"))
    assert stained.rotation_deg != 0.0
    assert slide_placement(SpecimenPlan(8), PlannedPass(sample, plan, "fluorescence")) != stained
